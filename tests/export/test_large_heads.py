"""A head of 248,320 tokens of 5,120 dimensions, as Qwen3.5 has: trimmed in parts, never whole in memory."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

V, H, K = 248_320, 5_120, 32_768

# Rows by their number, so that a wrong one shows: (tensor, type, its width, bytes of an element).
HEADS = {
    "bfloat16": [("lm_head.weight", "BF16", H, 2)],
    "int8": [("lm_head.weight", "I8", H, 1), ("lm_head.weight_scale", "BF16", 1, 2)],
    "int4": [("lm_head.weight_packed", "I32", H // 8, 4), ("lm_head.weight_scale", "BF16", H // 128, 2)],
}

# What a process trims, and how much more memory it had at its most than before.
CODE = """
import json, resource, sys
from pathlib import Path
import numpy as np
from bench.export.checkpoint import trim_lm_head
from bench.vocab.draft_vocab import DraftVocab

def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

ids = np.sort(np.random.default_rng(0).permutation(%d)[:%d])
before = peak()
trim_lm_head(Path(sys.argv[1]), DraftVocab(ids, %d), Path(sys.argv[2]))
print(json.dumps(peak() - before))
"""


def write_head(folder, parts):
    """Writes the file a few rows at a time; every row is its number, over and over."""
    header, start = {}, 0
    for name, kind, width, size in parts:
        header[name] = {"dtype": kind, "shape": [V, width], "data_offsets": [start, start + V * width * size]}
        start += V * width * size
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, _, width, size in parts:
            for first in range(0, V, 4096):
                rows = np.arange(first, min(first + 4096, V), dtype="<u4") % 251
                file.write(np.repeat(rows.astype(np.uint8), width * size).tobytes())
    return start


@pytest.mark.slow
@pytest.mark.parametrize("kind", HEADS)
def test_a_large_head_is_trimmed_with_less_memory_than_it_has(kind, tmp_path):
    num_bytes = write_head(tmp_path, HEADS[kind])
    command = [sys.executable, "-c", CODE % (V, K, V), str(tmp_path), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) < 1.5 * num_bytes
    found = load_file(tmp_path / "out" / "lm_head.safetensors")
    ids = np.sort(np.random.default_rng(0).permutation(V)[:K])
    assert (np.arange(K) + found["d2t"].numpy()).tolist() == ids.tolist()
    for name, _, width, size in HEADS[kind]:
        rows = found[name].contiguous().view(-1).view(torch.uint8).numpy()
        assert (rows.reshape(K, width * size) == (ids % 251)[:, None]).all()
