"""Small tables in the layout of the pinned wheel; latencies follow a formula, so that look-ups are known."""

from pathlib import Path

import numpy as np
import pandas as pd

GPU, ENGINE, VERSION = "h100_sxm", "vllm", "0.24.0"
SIZES = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
WIDTHS = (256, 512, 1024, 2048, 4096, 8192, 12288)
TOKENS = (1, 2, 4, 8, 16, 64, 256)

DENSE = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096,
    "intermediate_size": 8192, "num_hidden_layers": 2, "num_attention_heads": 32, "num_key_value_heads": 8,
    "vocab_size": 65536, "tie_word_embeddings": False,
}  # fmt: skip

EAGLE3 = {
    **DENSE, "architectures": ["LlamaForCausalLMEagle3"], "num_hidden_layers": 1, "draft_vocab_size": 65536,
}  # fmt: skip

T0_MS, BYTES_PER_S, MEMORY_BYTES_PER_S = 0.004, 2.5e12, 3.35e12


def product_ms(m, n, k, weight_bytes=2.0):
    """t0 + B/W, exactly."""
    moved = n * k * weight_bytes + 2.0 * m * (n + k)
    return T0_MS + 1e3 * moved / BYTES_PER_S


def attention_ms(batch, query_heads, key_value_heads, head_dim, context):
    """t0 and keys and values at the memory's rate, whatever the number of query heads."""
    moved = 4.0 * batch * (context + 1) * key_value_heads * head_dim
    return 0.010 + 1e3 * moved / BYTES_PER_S


def products(dtypes=("bfloat16", "fp8"), noise=0.0, seed=0):
    """Rows as the wheel has them."""
    rng = np.random.default_rng(seed)
    rows = []
    for dtype in dtypes:
        weight_bytes = 2.0 if dtype == "bfloat16" else 1.0
        for m in TOKENS:
            for n in SIZES:
                for k in WIDTHS:
                    ms = product_ms(m, n, k, weight_bytes) * np.exp(noise * rng.standard_normal())
                    rows.append((dtype, m, n, k, ms))
    table = pd.DataFrame(rows, columns=["gemm_dtype", "m", "n", "k", "latency"])
    device = "NVIDIA H100 80GB HBM3"
    return table.assign(framework="VLLM", version=VERSION, device=device, kernel_source="linear")


def attention(is_context=False):
    """Rows as the wheel has them, without those that would not fit into memory."""
    rows = []
    for query, key_value, width in ((32, 8, 128), (64, 8, 128), (8, 2, 64), (16, 4, 64)):
        for batch in (1, 4, 16, 64):
            for power in range(1, 16):
                if batch * 2**power > 2**18:
                    continue
                ms = attention_ms(batch, query, key_value, width, 2**power - 1)
                rows.append((batch, query, key_value, width, 2**power - (0 if is_context else 1), ms))
    length = "isl" if is_context else "step"
    names = ["batch_size", "num_heads", "num_key_value_heads", "head_dim", length, "latency"]
    table = pd.DataFrame(rows, columns=names)
    return table.assign(
        kernel_source="flash", attn_dtype="bfloat16", kv_cache_dtype="bfloat16", window_size=0.0
    )


def write_folder(folder: Path, table=None) -> Path:
    """A folder as the pinned wheel is unpacked to, with one GPU and engine."""
    data = folder / "data" / GPU
    gemm = data / "gemm" / ENGINE / VERSION
    heads = data / "attention" / ENGINE / VERSION
    for path in (gemm, heads):
        path.mkdir(parents=True)
    (products() if table is None else table).to_parquet(gemm / "gemm_perf.parquet")
    attention().to_parquet(heads / "generation_attention_perf.parquet")
    attention(is_context=True).to_parquet(heads / "context_attention_perf.parquet")
    rates = (
        f"gpu:\n  mem_bw: {MEMORY_BYTES_PER_S:.0f}\n  mem_capacity: 85899345920\n"
        "  bfloat16_tc_flops: 989000000000000\n  fp8_tc_flops: 1978000000000000\n"
    )
    (folder / f"{GPU}.yaml").write_text(rates)
    return folder
