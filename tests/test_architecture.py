"""The import rule of `bench/__init__.py`, and files that stay readable."""

import ast
import re
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent / "bench"
FILES = sorted(BENCH.rglob("*.py"))

MEASURING = ("torch", "transformers", "bench.models", "bench.decoding", "bench.device", "bench.runs.run")
FORBIDDEN = {
    "report": (*MEASURING, "bench.report.of_devices", "bench.report.page"),
    "compare": (*MEASURING, "bench.report.page"),
    "page": MEASURING,
    "decoding": ("bench.measure", "bench.report", "bench.runs.run", "bench.device"),
    "vocab": ("torch", "bench.models", "bench.decoding", "bench.device", "bench.measure", "bench.runs.run"),
    "models": ("bench.decoding", "bench.measure", "bench.report", "bench.runs.run"),
    "device": ("bench.models", "bench.decoding", "bench.measure", "bench.runs.run"),
    "domains": ("torch", "bench.models", "bench.decoding", "bench.measure", "bench.runs.run"),
    "cost": ("torch", "bench.models", "bench.text", "bench.select", "bench.runs.run"),
    "corpus": ("torch", "bench.models", "bench.decoding", "bench.measure", "bench.select", "bench.runs.run"),
    "export": ("bench.models", "bench.text", "bench.select", "bench.runs.run"),
    "acceptance": ("torch", "bench.models", "bench.decoding", "bench.measure", "bench.records"),
    "surface": ("torch", "bench.models", "bench.decoding", "bench.measure", "bench.report", "bench.runs.run"),
    "measure": ("bench.report", "bench.runs.run", "bench.training"),
}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def reaches(names: set[str], package: str) -> bool:
    return any(name == package or name.startswith(package + ".") for name in names)


@pytest.mark.parametrize("room", FORBIDDEN)
def test_data_flows_one_way(room):
    files = sorted((BENCH / room).glob("*.py"))
    assert files
    for path in files:
        for package in FORBIDDEN[room]:
            assert not reaches(imports(path), package), f"{path.name} imports {package}"


def test_only_the_command_line_knows_hydra():
    users = {p.name for p in FILES if reaches(imports(p), "hydra") or reaches(imports(p), "omegaconf")}
    assert users == {"cli.py"}


def test_nothing_imports_the_command_line():
    assert {p.name for p in FILES if reaches(imports(p), "bench.cli")} == {"__main__.py"}


def test_files_stay_short():
    lengths = {p.relative_to(BENCH): len(p.read_text("utf-8").splitlines()) for p in FILES}
    assert {path: n for path, n in lengths.items() if n > 260} == {}


@pytest.mark.parametrize("package", [BENCH, BENCH / "fit"], ids=["bench", "fit"])
def test_maps_name_what_is_there(package):
    text = (package / "__init__.py").read_text("utf-8")
    rooms = {f"{path.name}/" for path in package.iterdir() if (path / "__init__.py").exists()}
    files = {path.name for path in package.glob("*.py") if not path.name.startswith("__")}
    if package != BENCH:
        assert {name for name in files if name not in text} == set()
    assert {room for room in rooms if room not in text} == set()
    named = {word for word in re.findall(r"[\w/]+\.py\b", text) if not (package / word).exists()}
    assert named == set()


def test_contributors_are_sent_to_files_that_exist():
    root = BENCH.parent
    named = re.findall(r"`((?:bench|conf|tests)/[\w/.]*)`", (root / "CONTRIBUTING.md").read_text("utf-8"))
    assert named and [path for path in named if not (root / path).exists()] == []
