"""Documents and help use standard words, and every relative link and #anchor in them resolves."""

import re
from functools import lru_cache
from pathlib import Path

import pytest
from command import stgv

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "data/README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = "fit render encode decode eval info view export fetch".split()
# A private word, and the standard one. The log is as it was written; "looks up", a table, and OUTPUT.parts stay.
PRIVATE = {
    r"has a say|no say in": "weight",
    r"(the|a|one|each|every|profile's|this) part of the": "fraction, share, component",
    r"profile's part": "fraction",
    r"\btold\b": "printed, given",
    r"\b(is|are|was|were) kept but\b|kept are": "are not removed",
    r"\b(a|the|next|at) looks?\b(?! up)|\bto look at\b|an iterator of looks": "check, display",
    r"\b(is|are|was|were) (first )?shown\b": "displayed, in the table",
    r"\bfar off\b": "outlier",
    r"(?m)^(- )?What (is|are|stands|has)\b(?![^.\n]*\?)": "a noun",
    r"\bbut for what\b|\ball but what\b": "except",
    r"\b(it|there) was \d[\d.]* (dB |s |MB )?before\b": "history goes into docs/LOG.md",
    r"\bsays? (what|which|where|how|that|so|why)\b": "names, lists, explains",
}


def words(text: str) -> str:
    """A page without code, tables' templates, and addresses of links."""
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    return re.sub(r"`[^`\n]*`|\]\([^)]*\)", "", text)


def private(text: str) -> list[str]:
    """Private words of a text, each with the words to take instead."""
    found = [(re.search(pattern, text, re.I), instead) for pattern, instead in PRIVATE.items()]
    return [f"{match[0]!r}: better {instead}" for match, instead in found if match]


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "LOG.md"], ids=lambda p: p.name)
def test_pages_use_standard_words(page):
    assert not private(words(page.read_text()))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_uses_standard_words(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    shown = re.sub(r"[│\s]+", " ", stgv(command, "--help").stdout)
    assert len(shown) > 200 and not private(shown)


def test_a_private_word_is_found():
    assert (
        private("This Gaussian has a say in all.")
        and private("The reader is told.")
        and not private("It looks up a row.")
    )


@lru_cache
def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as code hosts make them."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M), re.M)
    titles = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title) for title in titles]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_resolve(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link} does not exist"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link} has no such heading"
