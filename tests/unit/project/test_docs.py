"""README and docs: short enough, complete, and every link leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.markdown import anchor, broken_links, headings, relative_links

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
INDEX = DOCS / "README.md"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md")])
README_WORDS_MAX = 700
WORDS_WITHOUT_CONTENTS_MAX = 1200
SOURCES = (
    "bench",
    "deploy",
    "docs",
    "nextclick/interface",
    "services",
    "shared",
    "tests",
    "trainer",
)
CODE = {".py", ".lua"}


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def words(page: Path) -> int:
    """As `wc -w` counts them."""
    return len(page.read_text().split())


def test_the_readme_is_short() -> None:
    assert words(ROOT / "README.md") <= README_WORDS_MAX


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert not broken_links(page, page.read_text())


def test_a_broken_link_is_found() -> None:
    text = """# Title
        [file](no_such_page.md) [anchor](#no-such) [far](README.md#i-want-to-sell-it)
        [title](#title) [page](README.md#i-want-to-use-it) [outside](https://example.com/#x)
        <img src="x.png"> <img src="page-light.png">
    """
    broken = ["no_such_page.md", "#no-such", "README.md#i-want-to-sell-it", "x.png"]
    assert broken_links(DOCS / "page.md", text) == broken


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "CHANGELOG.md"], ids=name)
def test_a_long_page_has_a_table_of_contents(page: Path) -> None:
    text = page.read_text()
    if words(page) > WORDS_WITHOUT_CONTENTS_MAX:
        top = text.partition("\n## ")[0]
        listed = re.findall(r"^- \[.+\]\(#(.+)\)$", top, re.MULTILINE)
        assert listed == [anchor(heading) for heading in headings(text, "##")]


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=name)
def test_a_page_begins_with_what_it_is_good_for(page: Path) -> None:
    title, opening = re.sub(r"<!--.*?-->\n+", "", page.read_text()).split("\n\n")[:2]
    assert title.startswith("# ")
    assert re.match(r"[A-Z`]", opening), "no table, list, quotation or block of code comes first"
    assert "." in opening


def test_code_that_the_docs_name_exists() -> None:
    """Paths of files, and `Class.attribute`. Except for experiments.md, which tells the past."""
    files = [p for folder in SOURCES for p in (ROOT / folder).rglob("*") if p.suffix in CODE]
    files += (ROOT / "nextclick").glob("*.py")
    sources = [file.read_text() for file in files]
    for page in {*PAGES} - {ROOT / "CHANGELOG.md", DOCS / "experiments.md"}:
        prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for code in re.findall(r"`([^`\n]+)`", prose):
            for path in re.findall(r"[\w/]+\.(?:py|lua)\b", code):
                assert any(f"{file}".endswith(f"/{path}") for file in files), (page.name, path)
            if found := re.fullmatch(r"([A-Z]\w*)\.(\w+)(?:\(.*\))?", code):
                named = re.compile(rf"^(class )?{found[1]}\b", re.MULTILINE)
                attribute = re.compile(rf"\b{found[2]}\b")
                assert any(named.search(s) and attribute.search(s) for s in sources), code


def test_every_page_is_in_the_index() -> None:
    links = relative_links(INDEX.read_text())
    linked = {(DOCS / link.partition("#")[0]).resolve() for link in links}
    assert {*DOCS.glob("*.md"), DOCS / "schemas", DOCS / "asyncapi.json"} - {INDEX} <= linked
    assert "docs/README.md" in relative_links((ROOT / "README.md").read_text())
