"""What every reader takes from a file of its tool, and what it refuses."""

import copy
import json

import pytest

from bench.errors import ResultFileError
from bench.imported import read_results
from tests.imported import samples
from tests.imported.samples import changed, write, write_specdec


def only(path):
    (result,) = read_results(path)
    return result


def test_vllm_as_it_is_saved_by_default(tmp_path):
    found = only(write(tmp_path, "a.json", samples.VLLM))
    assert (found.tool, found.engine, found.model) == ("vllm bench serve", None, "target")
    assert (found.concurrency, found.num_requests, found.num_failed) == (4, 20, 0)
    assert (found.tokens_per_s, found.duration_s, found.num_output_tokens) == (100.0, 10.0, 1000)
    # The 90th percentile is only there where it was asked for.
    assert found.inter_token_ms == {"p50": 40.0, "p99": 60.0} and found.inter_token_of == "arrivals"
    assert found.first_token_ms == {"p50": 30.0, "p99": 50.0}
    assert found.draft_length == 2 and found.num_rounds == 400
    assert found.mean_acceptance_length == pytest.approx(2.1)
    assert found.accepted_by_position == [0.7, 0.4]
    assert found.left_out == []


def test_vllm_with_the_times_of_single_requests(tmp_path):
    found = only(write(tmp_path, "a.json", samples.VLLM_DETAILED))
    assert found.inter_token_ms == pytest.approx({"p50": 300.0, "p90": 460.0, "p99": 496.0})
    assert found.first_token_ms == pytest.approx({"p50": 20.0, "p90": 28.0, "p99": 29.8})


def test_vllm_without_speculation_and_without_a_limit_of_concurrency(tmp_path):
    plain = {name: value for name, value in samples.VLLM.items() if not name.startswith("spec_decode")}
    found = only(write(tmp_path, "a.json", plain | {"max_concurrency": None, "request_rate": 3.0}))
    assert found.draft_length is None and found.mean_acceptance_length is None
    assert found.concurrency is None and found.notes == [
        "3.0 requests/s were sent, with no limit of concurrency."
    ]


def test_vllm_says_where_fewer_tokens_were_drafted_than_may_be(tmp_path):
    found = only(write(tmp_path, "a.json", samples.VLLM | {"spec_decode_draft_tokens": 600}))
    assert found.draft_length == 2
    assert found.notes == ["Of at most 2 tokens, 1.50 were drafted in a round on average."]


def test_vllm_appended_results_are_one_benchmark_each(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("\n".join(json.dumps(samples.VLLM | {"max_concurrency": c}) for c in (1, 8)), "utf-8")
    assert [result.concurrency for result in read_results(path)] == [1, 8]


def test_sglang(tmp_path):
    found = only(write(tmp_path, "a.jsonl", samples.SGLANG))
    assert (found.engine, found.engine_version, found.model) == ("sglang", "0.5.23", "target")
    assert (found.draft, found.draft_length, found.domain) == ("trimmed", 3, "sharegpt")
    assert (found.concurrency, found.num_requests, found.tokens_per_s) == (8, 16, 300.0)
    assert (
        found.inter_token_ms == {"p50": 10.0, "p90": 20.0, "p99": 40.0} and found.inter_token_of == "tokens"
    )
    assert found.first_token_ms["p90"] == 80.0
    assert found.mean_acceptance_length == 2.5 and found.accepted_by_position == []
    assert found.num_failed is None, "only --output-details says it"
    assert "since it started" in found.notes[0] and found.left_out == []


def test_sglang_trees_and_plain_servers(tmp_path):
    tree = samples.SGLANG["server_info"] | {"speculative_eagle_topk": 4}
    found = only(write(tmp_path, "a.jsonl", samples.SGLANG | {"server_info": tree}))
    assert found.draft_length is None and "with top-k 4 are no chains" in found.notes[0]
    plain = samples.SGLANG["server_info"] | {"speculative_algorithm": None}
    found = only(write(tmp_path, "b.jsonl", samples.SGLANG | {"server_info": plain, "accept_length": None}))
    assert found.draft_length == 0 and found.mean_acceptance_length is None
    other = samples.SGLANG | {"server_info": {"status": "ok"}, "backend": "vllm", "accept_length": None}
    found = only(write(tmp_path, "d.jsonl", other))
    assert (found.draft_length, found.engine, found.inter_token_of) == (None, "vllm", "arrivals")
    found = only(write(tmp_path, "c.jsonl", samples.SGLANG | {"server_info": None, "errors": ["", "gone"]}))
    assert found.draft_length is None and (found.num_failed, found.first_error) == (1, "gone")


def test_guidellm(tmp_path):
    found = only(write(tmp_path, "benchmarks.json", samples.GUIDELLM))
    assert (found.tool_version, found.model, found.concurrency) == ("0.8.1", "target", 4)
    assert (found.num_requests, found.num_failed) == (12, 0)
    assert (found.tokens_per_s, found.num_output_tokens, found.duration_s) == (75.0, 600, 8.0)
    assert found.inter_token_ms == {"p50": 12.0, "p90": 14.0, "p99": 15.0}
    assert found.inter_token_of == "mean of a request"
    assert found.first_token_ms == {"p50": 25.0, "p90": 30.0, "p99": 45.0}
    assert found.mean_acceptance_length is None
    assert found.notes == ["2 requests were under way when the benchmark ended; they do not count."]
    assert found.left_out == ["metrics.slo_attainment"]


def test_guidellm_strategies(tmp_path):
    def of(**strategy):
        config = samples.GUIDELLM_BENCHMARK["config"] | {"strategy": strategy}
        report = samples.GUIDELLM | {"benchmarks": [samples.GUIDELLM_BENCHMARK | {"config": config}]}
        found = only(write(tmp_path, "b.json", report))
        return found.concurrency, found.notes[0]

    assert of(type_="synchronous")[0] == 1
    assert of(type_="throughput", max_concurrency=None) == (
        None, "Requests were sent by the strategy throughput, 3.8 in flight on average.",
    )  # fmt: skip
    assert "poisson at 2.5 requests/s" in of(type_="poisson", rate=2.5)[1]


def test_aiperf(tmp_path):
    found = only(write(tmp_path, "profile_export_aiperf.json", samples.AIPERF))
    assert (found.tool_version, found.model, found.device) == ("0.13.0", "target", "NVIDIA H100")
    assert (found.concurrency, found.num_requests, found.num_failed) == (16, 30, 0)
    assert (found.tokens_per_s, found.num_output_tokens, found.duration_s) == (300.0, 1800, 6.0)
    assert (
        found.inter_token_ms == {"p50": 16.0, "p90": 18.0, "p99": 20.0} and found.inter_token_of == "arrivals"
    )
    assert found.draft_length == 3 and found.num_rounds == 1000
    assert found.mean_acceptance_length == pytest.approx(2.2)
    assert found.accepted_by_position == pytest.approx([0.7, 0.4, 0.1])
    assert found.is_whole is True and found.left_out == ["goodput"]


def test_aiperf_without_chunks_and_with_other_units(tmp_path):
    other = changed(samples.AIPERF, inter_chunk_latency=None)
    other["inter_token_latency"] = other["inter_token_latency"] | {"unit": "us", "p50": 8000.0}
    found = only(write(tmp_path, "a.json", other))
    assert found.inter_token_of == "mean of a request" and found.inter_token_ms["p50"] == 8.0
    other["inter_token_latency"]["unit"] = "fortnights"
    with pytest.raises(ResultFileError, match="inter_token_latency.unit is fortnights"):
        read_results(write(tmp_path, "b.json", other))


def test_specdec_bench(tmp_path):
    folder = write_specdec(tmp_path / "run")
    for path in (folder, folder / "timing.json", folder / "acceptance_rate.json"):
        found = only(path)
        assert (found.engine, found.engine_version, found.device) == ("vllm", "0.32.0", "NVIDIA H200")
        assert (found.draft, found.draft_length, found.concurrency, found.domain) == (
            "trimmed",
            3,
            32,
            "speed",
        )
        assert found.num_requests == 3 and found.tokens_per_s == 250.0
        assert found.inter_token_ms == {"p50": 12.0} and found.first_token_ms == {"p50": 20.0}
        # 20, 50 and 30 steps of 1, 2 and 3 tokens.
        assert found.mean_acceptance_length == pytest.approx(2.1)
        assert found.accepted_by_position == pytest.approx([0.8, 0.3, 0.0]) and found.num_rounds == 100


def test_specdec_bench_rounds_that_arrived_together_say_nothing_of_acceptance(tmp_path):
    merged = samples.SPECDEC_ACCEPTANCE | {"Acceptance_Length_Histogram": {"1": 20, "7": 3}}
    found = only(write_specdec(tmp_path, acceptance_rate=[merged]))
    assert found.mean_acceptance_length is None and found.accepted_by_position == []
    assert "Steps of up to 7 tokens arrived with gamma 3" in found.notes[0]


def test_specdec_bench_only_the_last_of_several_has_a_configuration(tmp_path):
    folder = write_specdec(
        tmp_path,
        timing=[samples.SPECDEC_TIMING, samples.SPECDEC_TIMING | {"Output TPS": 300.0}],
        acceptance_rate=[samples.SPECDEC_ACCEPTANCE] * 2,
    )
    first, last = read_results(folder)
    assert (first.draft_length, first.engine) == (None, None) and "configuration.json" in first.notes[0]
    assert (last.draft_length, last.tokens_per_s) == (3, 300.0)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({}, "an object with the fields \\(none\\) is no result of vllm bench serve, guidellm"),
        ([], "a list is no result"),
        (7, "a int is no result"),
        ({"schema": 2, "kind": "decode"}, "a record of this program"),
        (changed(samples.VLLM, output_throughput=None), "it has no output_throughput"),
        (samples.VLLM | {"output_throughput": "fast"}, 'output_throughput is "fast", not a number'),
        (samples.VLLM | {"output_throughput": float("nan")}, "output_throughput is NaN, not a number"),
        (samples.VLLM | {"completed": -1}, "completed is -1, not a number of at least 0"),
        (samples.VLLM | {"max_concurrency": 1.5}, "max_concurrency is 1.5, not a whole number"),
        (samples.VLLM | {"spec_decode_per_position_acceptance_rates": [0.7, None]}, "rates.1"),
        (samples.VLLM | {"itls": [["x"]]}, "itls is not a list of times"),
        (changed(samples.VLLM, output_throughput=None) | {"input_sequence_throughput": 3.0}, "of embeddings"),
        (
            samples.GUIDELLM | {"metadata": {"version": 1, "guidellm_version": "0.3.0"}},
            "report schema 1 of Guide",
        ),
        (samples.GUIDELLM | {"metadata": {"version": 3}}, "reads schema 2"),
        (samples.GUIDELLM | {"benchmarks": []}, "a report of no benchmark"),
        (samples.GUIDELLM | {"benchmarks": [3]}, "benchmark 1: not an object"),
        (samples.GUIDELLM | {"benchmarks": [{"metrics": {}}]}, "it has no metrics.request_totals"),
        (samples.AIPERF | {"schema_version": "2.0"}, "schema 2.0 of AIPerf 0.13.0"),
        (changed(samples.AIPERF, schema_version=None, aiperf_version=None), r"schema \(none\)"),
        (samples.AIPERF | {"request_count": {"unit": "requests"}}, "request_count.avg"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_what_cannot_be_read_is_said_in_one_line(tmp_path, value, says):
    with pytest.raises(ResultFileError, match=says) as error:
        read_results(write(tmp_path, "a.json", value))
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.parametrize("value", [samples.VLLM, samples.GUIDELLM, samples.AIPERF, samples.SGLANG])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_file_that_was_cut_off(tmp_path, value, share):
    text = json.dumps(value)
    path = tmp_path / "a.json"
    path.write_text(text[: int(share * len(text))], "utf-8")
    with pytest.raises(ResultFileError, match="is empty|is not JSON .*run the benchmark again"):
        read_results(path)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"timing": None}, "no timing.json"),
        ({"acceptance_rate": None}, "no acceptance_rate.json"),
        ({"timing": {}}, "not a list of benchmarks"),
        ({"acceptance_rate": [samples.SPECDEC_ACCEPTANCE] * 2}, "cannot be told apart"),
        ({"timing": [samples.SPECDEC_TIMING | {"Output TPS": "much"}]}, "'much', not a number"),
        ({"acceptance_rate": [{"Acceptance_Length_Histogram": {"x": 1}}]}, "'x', which is no number"),
        ({"configuration": [1]}, "not an object"),
    ],
)
def test_a_damaged_folder_of_specdec_bench(tmp_path, files, says):
    with pytest.raises(ResultFileError, match=says):
        read_results(write_specdec(tmp_path, **files))


PLACES = [
    ("vllm", samples.VLLM_DETAILED), ("sglang", samples.SGLANG), ("guidellm", samples.GUIDELLM),
    ("aiperf", samples.AIPERF),
]  # fmt: skip


def places(value, before=()):
    """Every place in a JSON value, as the names that lead to it."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in inner:
        yield (*before, name)
        yield from places(item, (*before, name))


@pytest.mark.parametrize(("name", "value"), PLACES, ids=[name for name, _ in PLACES])
def test_no_odd_value_anywhere_is_more_than_an_error_of_one_line(tmp_path, name, value):
    for place in places(value):
        for odd in (
            None,
            True,
            -1,
            1.5,
            "x",
            "",
            [],
            [None],
            [["x"]],
            {},
            {"x": 1},
            float("inf"),
            float("nan"),
        ):
            found = copy.deepcopy(value)
            at = found
            for step in place[:-1]:
                at = at[step]
            at[place[-1]] = odd
            path = write(tmp_path, "a.json", found)
            try:
                read_results(path)
            except ResultFileError as error:
                assert "\n" not in str(error)


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ResultFileError, match="not a text in UTF-8"):
        read_results(path)
