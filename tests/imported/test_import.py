"""`task=import` from the command line's configuration to the page."""

import io
import json

import pytest
from rich.console import Console

from bench.analysis.imported import imported_beside
from bench.analysis.run import read_run
from bench.config import Config, ImportsConfig
from bench.errors import BenchError, ConfigError, OutputError, ResultFileError
from bench.records import ImportedRecord, read_records
from bench.report.of_imported import with_imported
from bench.report.sections import Section, Table
from bench.report.tasks import report_runs
from bench.runs.importing import run_import
from tests.analysis.synthetic import write_run
from tests.imported import samples
from tests.imported.samples import changed, write, write_specdec
from tests.test_cli import run


class Importer:
    """Imports files into a folder of runs; what it prints is kept."""

    def __init__(self, folder):
        self.folder, self.said = folder, io.StringIO()

    def __call__(self, *files, **keys):
        config = Config.__new__(Config)
        config.imports = ImportsConfig([str(path) for path in files], **keys)
        config.results_dir = str(self.folder)
        return run_import(config, Console(file=self.said, width=200))


@pytest.fixture
def importer(tmp_path):
    return Importer(tmp_path / "results")


def test_every_tool_on_one_page_with_a_measured_run(tmp_path, importer):
    folder = importer(
        write(tmp_path, "v.json", samples.VLLM),
        write(tmp_path, "s.jsonl", samples.SGLANG),
        write(tmp_path, "benchmarks.json", samples.GUIDELLM),
        write(tmp_path, "profile_export_aiperf.json", samples.AIPERF),
        write_specdec(tmp_path / "specdec"),
        vocab_size=4096,
    )
    records = [record for record in read_records(folder) if isinstance(record, ImportedRecord)]
    assert [record.tool for record in records] == [
        "vllm bench serve", "sglang.bench_serving", "guidellm", "aiperf", "specdec_bench",
    ]  # fmt: skip
    assert {record.vocab_size for record in records} == {4096}
    assert all(record.given == ["vocab_size"] for record in records)
    own = write_run(tmp_path / "results" / "runs" / "own")
    page = report_runs(
        [own, folder], tmp_path / "results" / "runs", tmp_path / "reports", None, Console(file=io.StringIO())
    )
    text = page.read_text("utf-8")
    for said in ("What do other tools measure", "sglang.bench_serving", "specdec_bench", "own loop", "4,096"):
        assert said in text
    shown = with_imported(Section("report", ""), imported_beside([folder], [])).parts[0]
    speed, latency = (part.grid() for part in shown.parts if isinstance(part, Table))
    assert speed.headings == [
        "tool", "engine", "version", "device", "domain", "at a time", "k", "gamma", "tokens/s",
        "mean acceptance length", "accepted by position", "requests",
    ]  # fmt: skip
    assert len(set(latency.headings)) == len(latency.headings) == 12
    by_tool = {row[0]: dict(zip(latency.headings, row, strict=True)) for row in latency.rows}
    assert by_tool["guidellm"]["first token, 90th percentile"] == "30.0"
    assert by_tool["guidellm"]["between tokens, 90th percentile"] == "14.0"
    assert by_tool["vllm bench serve"]["between tokens, 90th percentile"] == "–"
    table = (page.parent / "tables" / "served.csv").read_text("utf-8").splitlines()
    # Five imported, and our loop's plain, full and advised.
    assert len(table) == 1 + 5 + 3
    assert page.parent.name == "own-and-1-more"


def test_imports_alone_are_a_page_of_their_own(tmp_path, importer):
    folder = importer(write(tmp_path, "v.json", samples.VLLM), engine="vllm", draft="trimmed", draft_length=2)
    page = report_runs([folder], tmp_path, tmp_path / "reports", None, Console(file=importer.said, width=200))
    assert page.parent.name == folder.name and "vllm bench serve" in page.read_text("utf-8")
    assert "imports.vocab_size" in importer.said.getvalue(), "what is not known is said"
    assert "Not known: device, vocab size." in page.read_text("utf-8")


def test_what_is_not_known_is_empty_and_never_zero(tmp_path, importer):
    folder = importer(write(tmp_path, "benchmarks.json", samples.GUIDELLM))
    row = imported_beside([folder], []).frame.iloc[0]
    for name in (
        "vocab_size",
        "draft_length",
        "engine",
        "device",
        "mean_acceptance_length",
        "accepted_by_position",
    ):
        assert row[name] is None, name
    assert row["inter_token_p90_ms"] == 14.0 and row["concurrency"] == 4


def test_plain_decoding_has_no_vocabulary(tmp_path, importer):
    plain = {name: value for name, value in samples.VLLM.items() if not name.startswith("spec_decode")}
    folder = importer(write(tmp_path, "v.json", plain), draft="none", engine="vllm", device="H100")
    (record,) = [record for record in read_records(folder) if isinstance(record, ImportedRecord)]
    assert (record.draft_length, record.vocab_size, record.draft) == (0, None, None)
    assert not [note for note in imported_beside([folder], []).notes if "Not known" in note]


@pytest.mark.parametrize(
    ("values", "keys", "says"),
    [
        (
            samples.VLLM | {"completed": 0, "failed": 20, "errors": ["refused\nby it"]},
            {},
            "no request was completed; the first error: refused by it",
        ),
        (
            samples.VLLM | {"failed": 3},
            {},
            "3 of 23 requests failed; run it again, or take it .* imports.with_failed",
        ),
        (samples.VLLM | {"output_throughput": 0.0}, {}, "no token was generated"),
        (samples.AIPERF | {"was_cancelled": True}, {}, "stopped before its end"),
        (samples.AIPERF | {"is_complete": False}, {}, "stopped before its end"),
        (changed(samples.AIPERF, request_count=None), {}, "no request was completed"),
        (samples.VLLM, {"concurrency": 8}, "imports.concurrency=8 contradicts .*says 4"),
        (samples.SGLANG, {"engine": "vllm"}, "imports.engine=vllm contradicts .*says sglang"),
        (samples.VLLM, {"draft": "none"}, "imports.draft=none contradicts .*which drafted"),
        (samples.VLLM, {"draft_length": 5}, "imports.draft_length=5 contradicts .*says 2"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_bad_results_and_keys_are_refused_and_leave_nothing(tmp_path, importer, values, keys, says):
    with pytest.raises(BenchError, match=says):
        importer(write(tmp_path, "a.json", values), **keys)
    assert not list((tmp_path / "results").rglob("*"))


def test_failed_requests_can_be_taken_and_are_said(tmp_path, importer):
    folder = importer(write(tmp_path, "a.json", samples.VLLM | {"failed": 3}), with_failed=True)
    found = imported_beside([folder], [])
    assert found.frame["num_failed"].tolist() == [3] and any(
        "3 requests failed" in note for note in found.notes
    )


def test_one_damaged_file_of_several_imports_none(tmp_path, importer):
    good, bad = write(tmp_path, "a.json", samples.VLLM), write(tmp_path, "b.json", {})
    with pytest.raises(ResultFileError, match="b.json"):
        importer(good, bad)
    assert not list((tmp_path / "results").rglob("*"))


def test_the_same_result_twice(tmp_path, importer):
    a, b = (write(tmp_path, name, samples.VLLM) for name in ("a.json", "b.json"))
    with pytest.raises(ConfigError, match="b.json and .*a.json are the same result"):
        importer(a, b)
    first, second = importer(a), importer(b)
    with pytest.raises(ConfigError, match="hold the same result"):
        imported_beside([first, second], [])


@pytest.mark.parametrize(
    ("files", "says"), [([], "imports.files is empty"), (["nowhere.json"], "there is no nowhere.json")]
)
def test_no_file(importer, files, says):
    with pytest.raises(ConfigError, match=says):
        importer(*files)


def test_other_tasks_refuse_a_folder_of_imports(tmp_path, importer):
    folder = importer(write(tmp_path, "a.json", samples.VLLM))
    with pytest.raises(OutputError, match="imported from other tools, which only task=report reads"):
        read_run(folder)


def test_the_command_line(tmp_path):
    path = write(tmp_path, "a.json", samples.VLLM)
    done = run(
        "task=import", f"imports.files=[{path}]", "imports.engine=vllm", f"results_dir={tmp_path / 'r'}"
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "r" / "runs").iterdir()
    assert "100.0 tokens/s" in done.stdout and str(folder) in done.stdout
    shown = run("task=report", f"run={folder}", f"results_dir={tmp_path / 'r'}")
    assert shown.returncode == 0 and "vllm bench serve" in shown.stdout
    refused = run("task=export", f"run={folder}", f"results_dir={tmp_path / 'r'}")
    assert refused.returncode == 2 and "imported from other tools" in refused.stderr
    wrong = write(tmp_path, "b.json", json.loads("[1, 2]"))
    done = run("task=import", f"imports.files=[{wrong}]", f"results_dir={tmp_path / 'r'}")
    assert done.returncode == 2 and "is no result of" in done.stderr and len(done.stderr.splitlines()) == 1
