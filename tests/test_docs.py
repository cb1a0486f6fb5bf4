"""What the documents name exists: links, paths of the repository, modules and their members."""

from __future__ import annotations

import importlib
import importlib.util
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(#[^)\s]+)?\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
PATH = re.compile(r"(?<![\w./-])(?:src/rt1|tests|examples|benchmarks|scripts|packages|dev)/[\w./-]*\w/?")
FILE = re.compile(r"`((?:\w+/)+\w+\.py)`")
NAME = re.compile(r"(?<![\w./-])rt1(?!\.py\b)(?:\.[A-Za-z_]\w*)+(?![\w/])")
IMPORT = re.compile(r"^from (rt1(?:\.\w+)*) import ([\w, ]+)$", re.MULTILINE)

MOST_WORDS = 25
"""Words of a sentence or a table cell. Code counts as one word."""
MOST_SEMICOLONS = 2
"""Semicolons in 100 sentences of a page."""


def _anchor(heading: str) -> str:
    """Return the anchor that a heading gets: lower case, no punctuation, spaces as hyphens."""
    return "#" + re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _exists(name: str) -> bool:
    """Whether a dotted name is a module, or a member of one."""
    module, _, member = name.rpartition(".")
    if importlib.util.find_spec(module) is None:
        return False
    return hasattr(importlib.import_module(module), member) or (
        hasattr(importlib.import_module(module), "__path__") and importlib.util.find_spec(name) is not None
    )


def _sentences(text: str) -> list[str]:
    """Return the sentences, list items and table cells of a page, without its code blocks and link targets."""
    text = re.sub(r"^```.*?^```$|^ {4}.*?$|<!--.*?-->", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`]+`", "code", text))
    blocks = re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.|#+) )|\|", text)
    return [
        sentence
        for block in blocks
        for sentence in re.split(r"(?<=[.!?:])\**\s+", " ".join(block.split()))
        if re.search(r"\w", sentence)
    ]


@pytest.fixture(params=PAGES, ids=lambda page: page.name)
def page(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    broken = []
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        file = page.parent / target if target else page
        if not file.exists():
            broken.append(target)
        elif anchor and anchor not in map(_anchor, HEADING.findall(file.read_text(encoding="utf-8"))):
            broken.append(target + anchor)
    assert broken == []


def test_every_path_of_the_repository_exists(page: Path) -> None:
    paths = set(PATH.findall(page.read_text(encoding="utf-8")))
    assert sorted(path for path in paths if not (ROOT / path).exists()) == []


def test_every_module_named_by_its_file_exists(page: Path) -> None:
    files = set(FILE.findall(page.read_text(encoding="utf-8")))
    bases = (ROOT, ROOT / "src" / "rt1")
    assert sorted(file for file in files if not any((base / file).is_file() for base in bases)) == []


def test_every_module_and_member_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    names = set(NAME.findall(text))
    names |= {f"{module}.{name.strip()}" for module, members in IMPORT.findall(text) for name in members.split(",")}
    assert sorted(name for name in names if not _exists(name)) == []


def test_sentences_are_short_and_have_no_semicolons(page: Path) -> None:
    sentences = _sentences(page.read_text(encoding="utf-8"))
    assert [sentence for sentence in sentences if len(sentence.split()) > MOST_WORDS] == []
    assert sum(sentence.count(";") for sentence in sentences) <= len(sentences) * MOST_SEMICOLONS / 100


def test_sentences_are_found_between_code_and_links() -> None:
    page = "# One\n\n- Two `a; b. c` and [three](x.md). Four\n  goes on.\n\n```\nno; sentence\n```\n\n| five; | six |\n"
    assert _sentences(page) == ["# One", "- Two code and [three].", "Four goes on.", "five;", "six"]


def test_a_missing_heading_file_or_member_is_noticed() -> None:
    assert _anchor("What was verified, against what") == "#what-was-verified-against-what"
    assert not _exists("rt1.policy.nothing")
    assert _exists("rt1.policy.policy.Policy")
    assert _exists("rt1.policy")


def test_the_navigation_of_the_site_names_every_page_once() -> None:
    navigation = re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(navigation) == sorted([*pages, "commands.md", "contributing.md", "index.md"])


def test_links_lead_to_the_pages_of_the_site_and_links_to_other_files_become_text() -> None:
    page = runpy.run_path(str(ROOT / "tools" / "site" / "pages.py"))["page"]
    pages = {ROOT / "README.md": "index.md", ROOT / "docs" / "a.md": "a.md", ROOT / "docs" / "api" / "b.md": "api/b.md"}
    assert page("[x](docs/a.md#y), [log](dev/log.md)", ROOT, pages) == "[x](a.md#y), log"
    assert page("[x](nothing.md)", ROOT / "docs", pages) == "[x](nothing.md)"
    assert page("[x](../README.md), [y](https://z)", ROOT / "docs", pages) == "[x](index.md), [y](https://z)"
    assert page("[x](../a.md), [y](b.md), [z](#here)", ROOT / "docs" / "api", pages) == (
        "[x](../a.md), [y](b.md), [z](#here)"
    )
