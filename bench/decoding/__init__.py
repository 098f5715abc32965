"""Plain and speculative decoding, and replay.

engine.py        the interface of every engine; `measure` uses nothing else
torch_engine.py  this package's own engine: the loops, timed on one device
vllm_engine.py   decoding in vLLM, in a process and an environment of its own
vllm_worker.py   that process
vllm_scopes.py   times the parts of its steps
vllm_server.py   decoding in `vllm serve`, loaded by `vllm bench serve`
vllm_cli.py      the command line of both
decoder.py       the loops themselves: plain, and a chain that is drafted and verified
static.py        the same at fixed addresses, so that rounds can be captured as graphs
rules.py         how tokens are chosen: greedily or by sampling
parts.py         the parts of a round, and of a draft without a target, as repeatable calls
replay.py        one pass over an answer: which tokens a draft of every size has accepted
rounds.py        laps of a round, and random orders of variants
answers.py       the target's own answers: shipped, cached, or written in batches
"""
