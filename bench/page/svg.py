"""Figures inside a page: they take its colours, so that they read in light and in dark."""

import re
from pathlib import Path

from markupsafe import Markup, escape

from bench.report.drawing import INK, PAPER, RULE

_THEME = {PAPER: "var(--paper)", INK: "var(--ink)", RULE: "var(--rule)"}
_IDS = re.compile(r'(\bid="|(?:xlink:)?href="#|url\(#)([^")]+)')
_PX_PER_PT = 4 / 3
_OPENING = re.compile(r"<svg\b[^>]*>")
_METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)


def inline_svg(path: Path, caption: str) -> Markup:
    """The SVG of a file as part of a page.

    Its ids are made its own by the name of the file, as a page has several figures.

    Args:
        path: written by `bench.report.drawing`.
        caption: for those who cannot see it.

    Raises:
        OSError: there is no such file.
    """
    text = path.read_text("utf-8")
    text = _METADATA.sub("", text[text.index("<svg") :])
    for plain, themed in _THEME.items():
        text = text.replace(plain, themed)
    text = _own_ids(text, path.stem)
    box = re.search(r'viewBox="([^"]+)"', text)
    assert box is not None  # matplotlib writes one
    width = float(box[1].split()[2])
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box[1]}" role="img" aria-label="{escape(caption)}" '
        f'style="max-width: {width * _PX_PER_PT:.0f}px">'
    )
    return Markup(_OPENING.sub(lambda _: opening, text, count=1))


def _own_ids(text: str, prefix: str) -> str:
    """Ids and references to them with a prefix; matplotlib gives equal images of one figure the same id."""
    seen: dict[str, int] = {}

    def rename(found: re.Match[str]) -> str:
        name = f"{prefix}-{found[2]}"
        if "href" in found[1] or "url" in found[1]:
            return found[1] + name
        seen[name] = seen.get(name, 0) + 1
        return found[1] + (name if seen[name] == 1 else f"{name}-{seen[name]}")

    return _IDS.sub(rename, text)
