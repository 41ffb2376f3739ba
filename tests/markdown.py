"""The little of Markdown that the tests of the documentation need to read."""

from __future__ import annotations

import re
from pathlib import Path


def without_code(text: str) -> str:
    """The text without its code blocks, in which `#` and brackets mean other things."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def headings(text: str, level: str = "#+") -> list[str]:
    """The headings of a page; of one level if it is given as `##`."""
    return re.findall(rf"^{level} (.+)$", without_code(text), re.MULTILINE)


def anchor(heading: str) -> str:
    """What GitHub makes of a heading for links to it."""
    return re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")


def anchors(text: str) -> set[str]:
    """The anchors of a page."""
    return {anchor(heading) for heading in headings(text)}


def relative_links(text: str) -> list[str]:
    """Targets of links and pictures within the repository, as they are written."""
    prose = without_code(text)
    found = re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r'src(?:set)?="([^"]+)"', prose)
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def broken_links(page: Path, text: str) -> list[str]:
    """The relative links of a page whose file or anchor is not there."""

    def leads_somewhere(target: str) -> bool:
        name, _, fragment = target.partition("#")
        if not name:
            return fragment in anchors(text)
        file = page.parent / name
        return file.exists() and (not fragment or fragment in anchors(file.read_text()))

    return [target for target in relative_links(text) if not leads_somewhere(target)]
