"""Parse a written page, and check what holds for every page."""

from __future__ import annotations

from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Collect tags, check that they nest, and keep the text of each section."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.html = path.read_text(encoding="utf-8")
        self.open: list[tuple[str, str]] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: dict[str, str] = {}
        self.feed(self.html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.tags.append((tag, attributes))
        if tag not in VOID:
            self.open.append((tag, attributes.get("id", "")))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        where = next((id_ for tag, id_ in self.open if tag == "section"), self.open[-1][0] if self.open else "")
        if any(tag == "header" for tag, _ in self.open):
            where = "header"
        self.text[where] = " ".join((self.text.get(where, "") + " " + data).split())


def check_self_contained(page: Page) -> None:
    """Check that there is no script and no external request."""
    for tag, attributes in page.tags:
        assert tag not in {"script", "iframe", "object", "embed", "base"}
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "xlink:href", "action", "srcset", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, name, attributes[name][:60])
        assert "url(" not in attributes.get("style", "").replace("url(#", "")
    assert "@import" not in page.html and "url(http" not in page.html


def check_structure(page: Page) -> None:
    """Check that ids are unique, headings skip no level, and images and charts have a text alternative."""
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    levels = [int(tag[1]) for tag, _ in page.tags if tag in {"h1", "h2", "h3", "h4"}]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(below - above <= 1 for above, below in pairwise(levels))
    assert all(attributes["alt"].strip() for tag, attributes in page.tags if tag == "img")
    assert all(attributes["aria-label"].strip() for tag, attributes in page.tags if tag == "svg")
