"""The documents for users: generated tables are up to date, and paths, links, targets and keys exist.

`python -m tests.test_documentation` writes the generated tables again.
"""

import inspect
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from bench.analysis.figures import OVER_FULL, OVER_FULL_BEST, OVER_PLAIN
from bench.cli import arrange
from bench.cli import jobs_of as sweep_jobs
from bench.config import Config, Task
from bench.export.vocab_maps import exported_files
from bench.records.kinds import KINDS

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "results" / "example"
OF_GPU = ROOT / "results" / "example-h200"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
PAGES += sorted(path for room in ("bench", "conf", "results") for path in (ROOT / room).rglob("README.md"))


def attributes(schema: type) -> dict[str, str]:
    """What the `Attributes:` of a class and its bases say, by name."""
    found: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        _, _, part = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")
        name = ""
        for line in part.partition("\n\n")[0].splitlines():
            start = re.match(r" {4}(\w+): (.+)", line)
            if start:
                name = start[1]
            found[name] = start[2] if start else f"{found[name]} {line.strip()}"
    return found


def section_of(item: Field[Any]) -> type | None:
    """The dataclass that a key holds, if its value is a group of further keys."""
    kinds = [item.type, *get_args(item.type)]
    return next((kind for kind in kinds if is_dataclass(kind) and isinstance(kind, type)), None)


def sections(schema: type, prefix: str = "") -> Iterator[tuple[str, type]]:
    """Every dataclass of the configuration with its prefix: ("", Config), ("pair.", PairConfig), ..."""
    yield prefix, schema
    for item in fields(schema):
        inner = section_of(item)
        if inner and not str(item.type).startswith("dict"):
            yield from sections(inner, f"{prefix}{item.name}.")


def keys(schema: type, prefix: str) -> Iterator[tuple[str, Field[Any]]]:
    for item in fields(schema):
        if section_of(item) is None or str(item.type).startswith("dict"):
            yield f"{prefix}{item.name}", item


def default_of(key: str, item: Field[Any], values: Any) -> str:
    value = OmegaConf.select(values, key, default=MISSING)
    if value is MISSING:
        value = item.default if item.default_factory is MISSING else item.default_factory()
    if value is MISSING:
        return "required"
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value)
    if isinstance(value, dict):
        return "`{" + ", ".join(value) + "}`"
    text = json.dumps(getattr(value, "name", value))
    return "`" + (text.replace('"', "") or text) + "`"


def key_tables() -> str:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        values = compose("config")
    parts = []
    for prefix, schema in sections(Config):
        meanings = attributes(schema)
        about = " ".join(inspect.cleandoc(schema.__doc__ or "").partition("Attributes:")[0].split())
        parts += [f"### {prefix.removesuffix('.') or 'Top level'}", "", about, ""]
        parts += ["| key | default | meaning |", "|---|---|---|"]
        parts += [
            f"| `{key}` | {default_of(key, item, values)} | {meanings[item.name]} |"
            for key, item in keys(schema, prefix)
        ]
        parts += [""]
    return "\n".join(parts)


def target_table() -> str:
    lines = (ROOT / "Makefile").read_text("utf-8").splitlines()
    found = [match for line in lines if (match := re.match(r"([a-z-]+):.*?## (.+)", line))]
    return "\n".join(
        ["| target | what it does |", "|---|---|", *(f"| `make {m[1]}` | {m[2]} |" for m in found), ""]
    )


def record_table() -> str:
    rows = ["| kind | what it is | fields |", "|---|---|---|"]
    for kind, record in KINDS.items():
        about = inspect.cleandoc(record.__doc__ or "").splitlines()[0]
        names = [
            f"`{item.name}`{' (packed)' if item.name in record.packed else ''}" for item in fields(record)
        ]
        rows.append(f"| `{kind}` | {about} | {', '.join(names)} |")
    return "\n".join([*rows, ""])


def map_table() -> str:
    rows = ["| file | program | content | how to use it |", "|---|---|---|---|"]
    rows += [f"| `{f.path}` | {f.consumer} | {f.content} | {f.usage} |" for f in exported_files("<k>")]
    return "\n".join([*rows, ""])


def example_table() -> str:
    """What the example runs say of each domain, as their `claim.json` has it."""
    measured, rows, full_sizes = [], [], set()
    for folder in (EXAMPLE, OF_GPU):
        machine = json.loads((folder / "environment.json").read_text("utf-8"))
        is_gpu = bool(machine.get("cuda"))
        name = machine["device_name"].partition(" (")[0]
        where = f"one {name}" if is_gpu else f"{machine['num_threads']} cores of {name}"
        measured.append(f"[{_minutes(folder)} on {where}](results/{folder.name}/report.md)")
        headlines = json.loads((folder / "claim.json").read_text("utf-8"))["runs"][0]["headlines"]
        full_sizes |= {headline["over"]["vocab_size"] for headline in headlines}
        for domain in dict.fromkeys(headline["domain"] for headline in headlines):
            ours = {h["figure"]: h for h in headlines if h["domain"] == domain}
            rows.append(_example_row(f"{domain}, {name if is_gpu else 'CPU'}", ours, machine["dtype"]))
    text = (
        f"The example runs measured for {' and '.join(measured)}:",
        "",
        f"| domain, on | vocabulary (of {max(full_sizes):,}) | draft length | over the full vocabulary, same "
        "draft length | over it at its best | over plain decoding | dtype |",
        "|---|---|---|---|---|---|---|",
    )
    return "\n".join([*text, *rows, ""])


def _minutes(folder: Path) -> str:
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text("utf-8").splitlines()]
    started = next(line["started_at"] for line in records if line["kind"] == "session")
    took = datetime.fromisoformat(records[-1]["ended_at"]) - datetime.fromisoformat(started)
    minutes, seconds = divmod(round(took.total_seconds()), 60)
    return f"{minutes} min {seconds} s"


def _example_row(where: str, ours: Mapping[str, Any], dtype: str) -> str:
    missing = {OVER_FULL: "is the full vocabulary", OVER_FULL_BEST: "the same"}
    gains = [
        "{:.2f}x [{:.2f}, {:.2f}]".format(ours[figure]["value"], *ours[figure]["interval_95"])
        if figure in ours
        else missing[figure]
        for figure in (OVER_FULL, OVER_FULL_BEST, OVER_PLAIN)
    ]
    chosen = ours[OVER_PLAIN]["variant"]
    return (
        f"| {where} | {chosen['vocab_size']:,} | {chosen['draft_length']} | {' | '.join(gains)} | {dtype} |"
    )


# The generated tables of each page.
GENERATED = {
    ROOT / "README.md": {"example": example_table},
    ROOT / "bench" / "export" / "README.md": {"maps": map_table},
    ROOT / "conf" / "README.md": {"targets": target_table, "keys": key_tables},
    ROOT / "results" / "README.md": {"records": record_table},
}


def with_tables(page: Path) -> str:
    text = page.read_text("utf-8")
    for name, make in GENERATED[page].items():
        before, _, rest = text.partition(f"<!-- {name}: generated -->\n")
        _, end, after = rest.partition(f"<!-- {name}: end -->")
        assert end, f"{page} has no place for the table of {name}"
        text = f"{before}<!-- {name}: generated -->\n{make()}{end}{after}"
    return text


@pytest.mark.parametrize("schema", [s for _, s in sections(Config)], ids=lambda s: s.__name__)
def test_every_key_has_a_line_in_its_docstring_and_no_other(schema):
    assert set(attributes(schema)) == {item.name for item in fields(schema)}


@pytest.mark.parametrize("page", GENERATED, ids=lambda page: page.parent.name)
def test_generated_tables_are_up_to_date(page):
    assert with_tables(page) == page.read_text("utf-8"), "run: python -m tests.test_documentation"


def test_every_make_target_is_documented():
    phony = re.search(r"\.PHONY: (.+)", (ROOT / "Makefile").read_text("utf-8"))
    assert phony and set(re.findall(r"`make ([a-z-]+)`", target_table())) == set(phony[1].split())


def is_key(key: str) -> bool:
    schema: type | None = Config
    for name in key.split("."):
        item = None if schema is None else next((i for i in fields(schema) if i.name == name), None)
        if item is None:
            return False
        if str(item.type).startswith("dict"):
            return True
        schema = section_of(item)
    return True


def commands(page: Path) -> Iterator[str]:
    """Command lines in a page: in blocks and between backticks."""
    text = page.read_text("utf-8")
    for block in re.findall(r"```[a-z]*\n(.*?)```", text, re.DOTALL):
        yield from block.replace("\\\n", " ").splitlines()
    yield from re.findall(r"`([^`\n]+)`", text)


def named_keys(page: Path) -> Iterator[str]:
    """Keys that the commands of a page set, and keys with a group that stand alone between backticks."""
    groups = {item.name for item in fields(Config)}
    for command in commands(page):
        alone = re.fullmatch(r"\+?([a-z]\w*)((?:\.\w+)+)(?:=.*)?", command.strip())
        if alone and alone[1] in groups and not alone[2].startswith((".json", ".gguf")):
            yield alone[1] + alone[2]
        if re.match(r"\s*(make |\S*python -m bench )", command):
            yield from re.findall(r"""(?:^|[\s"'(])\+?([a-z]\w*(?:\.\w+)*)=""", command.partition(" #")[0])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_names_what_exists(page):
    text = page.read_text("utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []
    named = re.findall(r"`((?:bench|conf|tests)/[\w/.-]*)`", text)
    assert [path for path in named if not (ROOT / path).exists()] == []
    targets = {m for command in commands(page) for m in re.findall(r"\bmake ([a-z][a-z-]*)", command)}
    known = set(re.findall(r"`make ([a-z-]+)`", target_table()))
    assert targets <= known
    unknown = [key for key in named_keys(page) if not (is_key(key) or key.startswith("hydra."))]
    assert set(unknown) <= {"experiment"}


def jobs_of(command: str) -> list[list[str]]:
    """What a command line of a page runs: the overrides of each of its jobs; none for other commands."""
    command = re.sub(r"<[^>]+>", "x", command.partition(" #")[0].strip())
    made = re.fullmatch(r"make ([a-z-]+)(.*)", command)
    if not made and "python -m bench " not in command:
        return []
    words = shlex.split(made[2] if made else command.partition("-m bench ")[2])
    inner = [shlex.split(word.removeprefix("ARGS=")) for word in words if word.startswith("ARGS=")]
    words = [word for word in words if not word.startswith(("ARGS=", "RUNS=", "CLAIM=", "FILES="))] + sum(
        inner, []
    )
    if made and made[1] not in Task.__members__ or "--help" in words:
        return []
    words = words[: words.index("--cfg")] if "--cfg" in words else words
    given = [f"task={made[1]}"] if made else []
    given += [word for word in arrange(words) if word != "-m" and not word.startswith("hydra")]
    return [job for job in sweep_jobs(given) or [] if job]


COMMANDS = sorted({(page, command) for page in PAGES for command in commands(page) if jobs_of(command)})


@pytest.mark.parametrize(
    ("page", "command"), COMMANDS, ids=[f"{page.parent.name}: {command}" for page, command in COMMANDS]
)
def test_a_command_of_a_page_is_accepted(page, command):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for job in jobs_of(command):
            assert isinstance(OmegaConf.to_object(compose("config", job)), Config)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 120


def write_all() -> None:
    """Writes all generated tables."""
    for page in GENERATED:
        page.write_text(with_tables(page), "utf-8")


if __name__ == "__main__":
    write_all()
