"""A page as a browser reads it: its tags and its text."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser

import pytest

HOSTILE = "<script>alert(\"x\")</script> & 'quote' {{ title }}"
"""A name or a sentence that a page must show as it is."""

VOID = {"meta", "img", "link", "br", "wbr", "input", "path", "use", "rect"}
"""Tags without an end, and those that matplotlib closes at once."""


class Page(HTMLParser):
    """Every tag with its attributes, and the text between them."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(source)
        self.text = " ".join(self.text.replace("\N{NO-BREAK SPACE}", " ").split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def hostile() -> str:
    return HOSTILE


@pytest.fixture
def read_page() -> Callable[[str], Page]:
    """Read a page, which must be well-formed and need no script, no network and no other file."""

    def read(source: str) -> Page:
        page = Page(source)
        assert page.open == []
        assert "<script" not in source
        assert not page.attributes("link")
        for _, attributes in page.tags:
            for name in ("src", "href", "xlink:href", "poster", "action"):
                assert (attributes.get(name) or "#").startswith(("data:", "#"))
        assert not re.search(r"https?:|@import|url\((?!#)", source)
        return page

    return read
