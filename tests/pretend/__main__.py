"""What a round costs by the two-clock model, and what sees each planted fault: `python -m tests.pretend`.

A model and no measurement: the operations are those of the real loops and graphs on as many layers, with tiny
matrices; a kernel takes as long as the real matrix takes at the memory bandwidth of the data sheet, or as the
smallest kernel. Caches of keys and values are left out.

`--readme` also writes the tables into the README beside this file.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
import yaml
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM

from bench.decoding.rules import Sampler
from bench.decoding.torch_engine import TorchEngine
from bench.device import open_device
from bench.device.graphs import shared_capture
from bench.models.draft_config import EagleConfig, default_feature_layers
from bench.models.eagle import EagleDraft
from bench.models.eagle_body import EagleBody
from bench.models.target import Target
from bench.variant import Variant
from bench.vocab.draft_vocab import DraftVocab
from tests.pretend.cuda import CUDA, Costs, World, pretend_cuda
from tests.pretend.test_rounds import FAULTS, Rounds

README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- model: generated -->", "<!-- model: end -->"
CONF = Path(__file__).parents[2] / "conf" / "gpu"

GPUS = {"H100": "h100-sxm", "A100": "a100-80gb-sxm", "L4": "l4"}
GAMMA, MAX_NEW, PROMPT = 3, 24, list(range(2, 35))

# Sizes of the matrices that are computed. No two dimensions are equal, so that each stands for one real one.
_HEAD_DIM, _INTERMEDIATE, _VOCAB, _SMALL = 8, 40, 97, 13

# Between two kernels, of a graph or of a queue.
_GAP_US = 0.7

_PRODUCTS = ("mm", "addmm", "linear", "matmul", "bmm")


@dataclass(frozen=True)
class Shape:
    """A pair with an EAGLE-3 draft; `small` is the trimmed vocabulary."""

    name: str
    layers: int
    heads: int
    kv_heads: int
    hidden: int
    head_dim: int
    intermediate: int
    vocab: int
    small: int

    def real(self) -> dict[int, int]:
        """Real size of every dimension that is computed."""
        tiny, kv, real_kv = self.heads * _HEAD_DIM, self.kv_heads * _HEAD_DIM, self.kv_heads * self.head_dim
        found = {
            tiny: self.hidden, 2 * tiny: 2 * self.hidden, 3 * tiny: 3 * self.hidden,
            kv: real_kv, tiny + 2 * kv: self.hidden + 2 * real_kv,
            _INTERMEDIATE: self.intermediate, 2 * _INTERMEDIATE: 2 * self.intermediate,
            _VOCAB: self.vocab, _SMALL: self.small,
        }  # fmt: skip
        assert len(found) == 9 and self.heads * self.head_dim == self.hidden
        return found


SHAPES = [
    Shape("SmolLM2-135M", 30, 9, 3, 576, 64, 1536, 49_152, 1024),
    Shape("Llama-3.1-8B", 32, 32, 8, 4096, 128, 14_336, 128_256, 8192),
]


def pair_of(shape: Shape) -> tuple[Target, EagleDraft]:
    """With random weights, in bfloat16 as on a GPU."""
    torch.manual_seed(0)
    hidden = shape.heads * _HEAD_DIM
    sizes = {
        "hidden_size": hidden, "intermediate_size": _INTERMEDIATE, "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads, "head_dim": _HEAD_DIM, "vocab_size": _VOCAB,
        "max_position_embeddings": 256,
    }  # fmt: skip
    config = LlamaConfig(**sizes, num_hidden_layers=shape.layers, tie_word_embeddings=False)
    model = LlamaForCausalLM(config).eval().requires_grad_(False).to(torch.bfloat16).to(CUDA)
    # Nothing ends an answer.
    target = Target(model, SimpleNamespace(eos_token_id=None, all_special_ids=[]))
    target.model.generation_config.eos_token_id = None
    target.keep_features(default_feature_layers(shape.layers))
    body = EagleBody(EagleConfig(**sizes, draft_vocab_size=_VOCAB, rms_norm_eps=1e-6)).eval()
    body = body.requires_grad_(False).to(torch.bfloat16).to(CUDA)
    vocab = DraftVocab(np.arange(_VOCAB), _VOCAB)
    return target, EagleDraft(vocab, target.head_weight, body, target.embedding_weight, target.feature_layers)


def bytes_of(shape: Shape) -> Callable[[str, Any, list[torch.Tensor]], int]:
    """Of the real matrix that a product reads; other kernels are the smallest."""
    real = shape.real()

    def num_bytes(name: str, given: Any, made: list[torch.Tensor]) -> int:
        if name not in _PRODUCTS:
            return 0
        matrices = [x.shape for x in tree_leaves(given) if isinstance(x, torch.Tensor) and x.dim() == 2]
        return max((2 * real[a] * real[b] for a, b in matrices if a in real and b in real), default=0)

    return num_bytes


@dataclass(frozen=True)
class Round:
    """Of one round, in the mean of several."""

    launches: float
    graphs: float
    waits: float
    busy_ms: float
    ms: float


def round_of(world: World, engine: TorchEngine, variant: Variant) -> Round:
    """A round costs what three cost more than one."""
    found = []
    for num_rounds in (1, 3):
        engine.reseed("model")
        prepared = engine.prepare(PROMPT)
        engine.load(variant, [prepared])
        world.forget()
        decoded = engine.decode(prepared, variant, num_rounds, with_laps=False)
        rounds = len(decoded.accepted) or len(decoded.token_ids) - 1
        assert rounds == num_rounds
        counts = world.num_launches, world.num_replays, world.num_waits, world.busy_us / 1e3
        found.append(np.array([*counts, decoded.decode_ms]))
    return Round(*((found[1] - found[0]) / 2).tolist())


@contextmanager
def engine_on(shape: Shape, gpu: str, as_graphs: bool, sampler: Sampler | None = None) -> Iterator[Any]:
    """The pretend device and an engine on it."""
    spec = yaml.safe_load((CONF / f"{GPUS[gpu]}.yaml").read_text("utf-8"))["spec"]
    with pretend_cuda(
        Costs(gap=_GAP_US, graph_gap=_GAP_US, bytes_per_us=spec["memory_bandwidth_gb_per_s"] * 1e3)
    ) as world:
        world.num_bytes = bytes_of(shape)
        device = open_device("cuda:0")
        capture = shared_capture(device) if as_graphs else None
        engine = TorchEngine(device, *pair_of(shape), MAX_NEW, 0, sampler, capture)
        engine.use_order(np.arange(_VOCAB))
        yield world, engine


def rounds_table() -> list[str]:
    """Times of a round, of the plain loop and of both vocabularies."""
    lines = [
        f"| pair, gamma = {GAMMA} | GPU | execution | launches | waits | plain, ms a token "
        "| full vocabulary, ms a round | trimmed | the device works |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for shape in SHAPES:
        for gpu in GPUS:
            for as_graphs in (False, True):
                with engine_on(shape, gpu, as_graphs) as (world, engine):
                    plain, full, small = (
                        round_of(world, engine, Variant(size, gamma))
                        for size, gamma in ((_VOCAB, 0), (_VOCAB, GAMMA), (_SMALL, GAMMA))
                    )
                launches = f"{small.launches:,.0f}" + (f" and {small.graphs:.0f} graphs" if as_graphs else "")
                lines.append(
                    f"| {shape.name}, {shape.vocab:,} to {shape.small:,} tokens | {gpu} "
                    f"| {'graphs' if as_graphs else 'loops'} | {launches} | {small.waits:.1f} "
                    f"| {plain.ms:.2f} | {full.ms:.2f} | {small.ms:.2f} | {small.busy_ms / small.ms:.0%} |"
                )
    return lines


def sampled_line() -> str:
    """Waits of a sampled round."""
    waits = []
    for as_graphs in (False, True):
        with engine_on(SHAPES[0], "H100", as_graphs, Sampler(0.8)) as (world, engine):
            waits.append(round_of(world, engine, Variant(_SMALL, GAMMA)).waits)
    return (
        f"Sampled at temperature 0.8, the host waits {waits[0]:.1f} times a round of loops "
        f"and {waits[1]:.1f} of graphs."
    )


def faults_table() -> list[str]:
    """What a check of captured rounds says of each planted fault."""
    lines = ["| planted fault | what sees it |", "|---|---|"]
    for owner, name, fault in FAULTS:
        with pretend_cuda() as gpu, mock.patch.object(owner, name, fault):
            seen = "**NOT SEEN**"
            try:
                Rounds(gpu).check()
            except Exception as error:
                said = " ".join(str(error).split())[:110].replace("|", "\\|")
                seen = f"{type(error).__name__}: {said}"
        what = fault.__name__.replace("_", " ")
        lines.append(f"| `{owner.__name__}.{name}` {what} | {seen} |")
    return lines


def main(arguments: list[str]) -> int:
    """Prints the tables; 1 if a fault is not seen."""
    torch.set_num_threads(1)
    faults = faults_table()
    text = "\n".join([*rounds_table(), "", sampled_line(), "", *faults])
    print(text)
    if "--readme" in arguments:
        before, _, rest = README.read_text("utf-8").partition(BEGIN)
        README.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}", "utf-8")
    return int(any("NOT SEEN" in line for line in faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
