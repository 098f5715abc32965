"""`python -m bench.models` writes the tables of `bench/models/README.md`, from the rules that decide."""

from pathlib import Path

from bench.models.config_rules import table
from bench.models.draft_rules import DRAFT_RULES
from bench.models.target_config import LEAN_RULES, TARGET_ROWS

README = Path(__file__).with_name("README.md")


def with_tables(text: str) -> str:
    """The note with its tables as the rules are now; each stands between two marks."""
    targets = ["| key | verdict | what happens |", "|---|---|---|"]
    targets += [f"| {' | '.join(row)} |" for row in TARGET_ROWS]
    tables = {"drafts": table(DRAFT_RULES), "targets": "\n".join(targets) + "\n", "lean": table(LEAN_RULES)}
    for name, content in tables.items():
        start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, _, rest = text.partition(start)
        text = f"{before}{start}\n{content}\n{end}{rest.partition(end)[2]}"
    return text


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text("utf-8")), "utf-8")
