"""What the tests on a GPU measured, as a page of Markdown to paste back."""

from dataclasses import dataclass, field


@dataclass
class Page:
    """Rows by section, in the order in which they are noted."""

    sections: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def note(self, section: str, what: str, found: object) -> None:
        """Adds a row."""
        self.sections.setdefault(section, []).append((what, str(found)))

    def as_markdown(self, outcome: list[tuple[str, str]]) -> str:
        """The page; `outcome` says how the tests ended."""
        lines = ["# What `make test-gpu` measured", ""]
        for section, rows in [("Tests", outcome), *self.sections.items()]:
            lines += [f"## {section}", "", "| | |", "|---|---|"]
            lines += [f"| {_cell(what)} | {_cell(found)} |" for what, found in rows]
            lines.append("")
        return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
