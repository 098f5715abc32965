"""What an import really brings in: rules by name miss what arrives through another module."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "hydra", "bench.models", "bench.decoding", "bench.device")
LIGHT = (
    *("bench.records", "bench.config", "bench.vocab.coverage", "bench.text", "bench.report.console"),
    *("bench.report.page", "bench.report.tasks"),
)


@pytest.fixture(scope="module")
def brought_in() -> dict[str, str]:
    """Heavy modules that are loaded after each import, from one fresh interpreter."""
    code = (
        "import importlib, sys\n"
        f"for name in {LIGHT}:\n"
        "    importlib.import_module(name)\n"
        f"    print(name, *[heavy for heavy in {HEAVY} if heavy in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {line.split()[0]: line.partition(" ")[2] for line in done.stdout.splitlines()}


@pytest.mark.parametrize("name", LIGHT)
def test_no_model_code_comes_along(brought_in, name):
    assert brought_in[name] == ""
