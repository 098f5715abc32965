"""The report of several runs side by side."""

from collections.abc import Sequence

from bench.analysis.devices import MOST_DETAILED, DeviceFindings
from bench.analysis.findings import Findings
from bench.report import device_figures, run_figures
from bench.report.of_run import (
    TITLE,
    answer_table,
    cards,
    doubt_section,
    export_command,
    not_measured,
    run_sections,
)
from bench.report.sections import Paragraph, Points, Section, Table, section

# More answers than these are read as a table.
_MOST_CARDS = 9

_RANK = (
    "place", "case", "device", "domain", "vocab_size", "draft_length", "tokens_per_s", "speedup_vs_plain",
    "tokens_per_joule", "note",
)  # fmt: skip

_MODELS = (
    "case", "device", "measured_saving", "flops_predicted_saving", "flops_held_out_error", "held_out_error",
    "flops_largest_regret_share", "flops_regret_domain", "bandwidth_share", "launch_share", "best_model",
    "note",
)  # fmt: skip

_TRANSFER = ("case", "source", "target", "model", "mean_error", "worst_error", "reason")


def devices_report(runs: Sequence[Findings], found: DeviceFindings) -> Section:
    """The report of several runs; each of the first few in detail below the comparison."""
    answers = cards(runs)
    parts = [
        section(
            "answer",
            "The answer",
            *(Paragraph(text, is_brief=True, tone="strong") for text in found.verdicts()),
            answer_table(runs),
            section(
                "cards",
                "More: each answer in detail, and the command that exports it",
                *answers,
                is_folded=True,
            )
            if len(answers) <= _MOST_CARDS
            else _commands(runs),
        ),
        doubt_section(runs),
        _comparison(found),
        *(_details(run, prefix) for prefix, run in found.detailed.items()),
        None if found.detailed else _left_out(runs),
        section("method", "Method", Points(run_figures.METHOD)),
    ]
    return Section("report", TITLE, [Paragraph(about(runs)), *(part for part in parts if part)])


def about(runs: Sequence[Findings]) -> str:
    """What was measured where, in a line."""
    environments = [run.run.environment for run in runs]
    pairs = sorted({f"{e['pair']}, {e['dtype']}" for e in environments})
    devices = sorted({run.label for run in runs})
    days = sorted({str(e.get("started_at", ""))[:10] for e in environments})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return f"{len(runs)} runs. {'; '.join(pairs)} on {', '.join(devices)}; measured {when}."


def _commands(runs: Sequence[Findings]) -> Section | None:
    commands = [export_command(run, domain) for run in runs for domain in run.domains]
    return section("exports", "Commands that export each vocabulary", Points(commands), is_folded=True)


def _details(run: Findings, prefix: str) -> Section | None:
    return section(
        f"{prefix}details",
        f"{run.run.environment['pair']} on {run.label}",
        Paragraph(f"Run {run.run.folder.name}. {run.origin}"),
        not_measured(run.failures, prefix),
        *run_sections(run, prefix),
    )


def _left_out(runs: Sequence[Findings]) -> Section | None:
    lines = [f'{run.name}: make report ARGS="run={run.run_name}"' for run in runs]
    text = f"More than {MOST_DETAILED} runs are shown side by side only. The details of each:"
    return section("runs", "Every run on its own", Paragraph(text), Points(lines))


def _comparison(found: DeviceFindings) -> Section | None:
    """What differs between devices, and what cannot be compared."""
    several_cases = found.models["case"].nunique() > 1
    rank = _RANK if several_cases else tuple(name for name in _RANK if name != "case")
    has_energy = found.best["tokens_per_joule"].notna().any()
    by_energy = "Devices by measured tokens per joule; those without a measured energy come last."
    return section(
        "hardware",
        "How do the devices compare?",
        device_figures.speedup_figure.picture(found),
        device_figures.throughput_figure.picture(found),
        Table("Devices by measured tokens per second.", found.by_speed, rank, is_brief=True),
        device_figures.energy_figure.picture(found),
        Table(by_energy, found.by_energy, rank) if has_energy else None,
        section(
            "hardware-more",
            "More: best sizes, acceptance, and what a draft step is made of, by device",
            device_figures.best_size_figure.picture(found),
            device_figures.acceptance_figure.picture(found),
            device_figures.split_figure.picture(found),
            is_folded=True,
        ),
        _models(found, _MODELS if several_cases else _MODELS[1:]),
        section(
            "limits",
            "What differs between the runs, and what cannot be compared",
            Points(found.limits(), is_brief=True),
        ),
        label="Devices",
    )


def _models(found: DeviceFindings, columns: Sequence[str]) -> Section | None:
    caption = (
        "Latency models of a chained draft step on every device. Savings: of the smallest size that was "
        "measured, over the full vocabulary. Lost: speed that the k of FLOPs gives away on the domain where "
        "it loses most. Limits: of the step with the full vocabulary."
    )
    transferred = Table(
        "Error of a device's latency model on another, after scaling by the data sheets.",
        found.transferred,
        _TRANSFER,
        headings={"source": "fitted on", "target": "predicted for"},
    )
    return section(
        "hardware-models",
        "Would FLOPs have picked it on these devices, and do latency models move between them?",
        Points(found.transfers(), is_brief=True),
        Table(caption, found.models, columns),
        section(
            "hardware-models-more",
            "More: draft steps against bandwidth, and every latency model on every other device",
            device_figures.step_figure.picture(found),
            device_figures.transfer_figure.picture(found),
            transferred,
            is_folded=True,
        ),
    )
