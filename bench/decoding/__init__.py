"""Plain and speculative decoding, and replay.

engine.py        what every engine can do; `measure` speaks to nothing else
torch_engine.py  this package's own engine: the loops on the clock of one device
decoder.py       the loops themselves: plain, and a chain that is drafted and verified
static.py        the same in memory that stays, so that rounds can be captured
rules.py         how tokens are chosen: greedily or by sampling
parts.py         the parts of a round as calls that can be repeated; those of any draft without a target
replay.py        one pass over an answer: what drafts of every size would have had accepted
rounds.py        laps of a round, and random orders of variants
answers.py       the target's own answers: shipped, cached, or written in batches
"""
