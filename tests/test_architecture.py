"""The import rule of `bench/__init__.py`, and files that stay readable."""

import ast
import re
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent / "bench"
FILES = sorted(BENCH.rglob("*.py"))

TORCH = ("torch", "transformers")
GROUND = ("errors", "variant", "config", "stats", "vocab", "cost", "acceptance", "gpu_tables")
MATERIAL = ("text", "records", "imported", "device", "models", "telemetry", "export")
WORK = ("decoding", "measure")
FINDINGS = ("surface", "fit", "analysis", "report")
TASKS = ("runs", "select", "predict", "training", "sweep", "tasks", "cli")


def rooms(*names: str) -> tuple[str, ...]:
    return tuple(f"bench.{name}" for name in names)


# What each room must not import, directly.
FORBIDDEN = {
    **dict.fromkeys(GROUND, (*TORCH, *rooms(*MATERIAL, *WORK, *FINDINGS, *TASKS))),
    **dict.fromkeys(MATERIAL, rooms(*WORK, *FINDINGS, *TASKS)),
    "text": ("torch", *rooms("models", "records", "device", *WORK, *FINDINGS, *TASKS)),
    "records": (*TORCH, *rooms("models", "device", "text", *WORK, *FINDINGS, *TASKS)),
    "imported": (*TORCH, *rooms("models", "device", "text", *WORK, *FINDINGS, *TASKS)),
    "decoding": rooms("measure", "device", "records", *FINDINGS, *TASKS),
    "measure": rooms("report", "analysis", "fit", *TASKS),
    "surface": (*TORCH, *rooms("models", "device", *WORK, "analysis", "report", *TASKS)),
    "fit": (*TORCH, *rooms("models", "device", *WORK, "analysis", "report", *TASKS)),
    "analysis": (*TORCH, *rooms("models", "device", *WORK, "report", *TASKS), "matplotlib", "seaborn"),
    # Rendering never computes: it knows findings, and nothing that they are made of.
    "report": (
        *TORCH,
        *rooms("models", "device", "stats", "vocab", "cost", "acceptance", "records", "telemetry"),
        *rooms("surface", "fit", "export", "text", *WORK, *TASKS),
    ),
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
    files = sorted((BENCH / room).rglob("*.py")) or [BENCH / f"{room}.py"]
    for path in files:
        for package in FORBIDDEN[room]:
            assert not reaches(imports(path), package), f"{path.name} imports {package}"


def test_only_the_command_line_knows_hydra():
    users = {p.name for p in FILES if reaches(imports(p), "hydra") or reaches(imports(p), "omegaconf")}
    assert users == {"cli.py"}


def test_nothing_imports_the_command_line():
    assert {p.name for p in FILES if reaches(imports(p), "bench.cli")} == {"__main__.py"}


def test_files_have_one_reason_to_change():
    """A proxy: what is longer than this has had two so far."""
    lengths = {p.relative_to(BENCH): len(p.read_text("utf-8").splitlines()) for p in FILES}
    assert {path: n for path, n in lengths.items() if n > 480} == {}


MAPS = [path.parent for path in sorted(BENCH.rglob("__init__.py")) if ".py " in path.read_text("utf-8")]


@pytest.mark.parametrize("package", MAPS, ids=lambda path: path.name)
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
