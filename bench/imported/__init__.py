"""Result files of other benchmark tools. A new tool is one module here and one line in `_READERS`."""

from pathlib import Path

from bench.errors import ResultFileError
from bench.imported import aiperf, guidellm, sglang, specdec_bench, vllm
from bench.imported.fields import read_json
from bench.imported.result import Result

__all__ = ["TOOLS", "Result", "content_of", "read_results"]

_READERS = (vllm, sglang, aiperf)

TOOLS = (vllm.TOOL, guidellm.TOOL, aiperf.TOOL, specdec_bench.TOOL, sglang.TOOL)


def read_results(path: Path) -> list[Result]:
    """Every benchmark of a result file, or of a folder of specdec_bench.

    Raises:
        ResultFileError: it is damaged, of another version, or of no tool that is known.
    """
    if path.is_dir():
        return specdec_bench.read_folder(path)
    values = read_json(path)
    if specdec_bench.is_one(values[0]):
        return specdec_bench.read_folder(path.parent)
    if guidellm.is_one(values[0]):
        return guidellm.read(values[0], str(path))
    results = []
    for place, value in enumerate(values, start=1):
        reader = next((reader for reader in _READERS if reader.is_one(value)), None)
        if reader is None:
            raise ResultFileError(f"{path}: {_what(value)} is no result of {', '.join(TOOLS)}")
        where = f"{path}{f', benchmark {place}' if len(values) > 1 else ''}"
        results.append(reader.read(value, where))
    return results


def content_of(path: Path) -> bytes:
    """What identifies a result: the content of its file, or of all files of a folder that are read."""
    if path.is_dir() or path.name in (specdec_bench.TIMING, specdec_bench.ACCEPTANCE):
        folder = path if path.is_dir() else path.parent
        names = (specdec_bench.TIMING, specdec_bench.ACCEPTANCE, specdec_bench.CONFIGURATION)
        return b"\n".join((folder / name).read_bytes() for name in names if (folder / name).is_file())
    return path.read_bytes()


def _what(value: object) -> str:
    """A JSON value in a word or two."""
    if isinstance(value, dict):
        if value.keys() >= {"schema", "kind"}:
            return "a record of this program (name its folder in runs=)"
        names = ", ".join(map(str, list(value)[:3]))
        return f"an object with the fields {names or '(none)'}"
    return f"a {'list' if isinstance(value, list) else type(value).__name__}"
