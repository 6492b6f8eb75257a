"""Reads the built pages, and prints what in them leads nowhere or to another machine.

Run as a program with the folder of the built pages; exit 1 if there is anything. `zensical build` follows the links of
Markdown. It follows no picture, no link of HTML and no entry of the menu, and it accepts a page that the menu lacks.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Loaded with the page, so never from another machine. A link of <a> may lead anywhere.
_LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}


class _Links(HTMLParser):
    """What a page loads, what it links to, and what in it can be linked to."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.leads: list[str] = []
        self.ids: set[str] = set()
        self.in_menu: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value}
        if tag in _LOADED and _LOADED[tag] in given:
            self.loads.append(given[_LOADED[tag]])
        if tag == "a" and "href" in given:
            self.leads.append(given["href"])
            if "md-nav__link" in given.get("class", ""):
                self.in_menu.add(given["href"].removeprefix("./"))
        self.ids |= {given[name] for name in ("id", "name") if name in given}


def faults(site: Path) -> Iterator[str]:
    """Yield a sentence for each link, anchor, picture or page of a built site that is not as it should be."""
    site = site.resolve()
    pages = {path.name: _Links() for path in sorted(site.glob("*.html"))}
    for name, page in pages.items():
        page.feed((site / name).read_text(encoding="utf-8"))
    for name, page in pages.items():
        for link in (*page.loads, *page.leads):
            fault = _fault(site, pages, name, link, loaded=link in page.loads)
            if fault:
                yield f"{name}: {link} {fault}"
    # The example of a report and the page of what is missing are no pages of the menu.
    for name in pages.keys() - pages["index.html"].in_menu - {"index.html", "404.html", "report-example.html"}:
        yield f"{name}: the menu lacks this page"
    for path in sorted(site.rglob("*")):
        if path.name == "__pycache__" or path.suffix in (".py", ".pyc", ".md"):
            yield f"{path.relative_to(site)}: does not belong here"


def _fault(site: Path, pages: dict[str, _Links], name: str, link: str, *, loaded: bool) -> str | None:
    parts = urlsplit(link)
    if parts.scheme == "data":
        return None
    if parts.scheme or parts.netloc:
        return "is loaded from another machine" if loaded else None
    if parts.path.startswith("/"):
        return "is absolute: it leads nowhere in a folder"
    target = (site / unquote(parts.path)).resolve() if parts.path else site / name
    if not target.is_file() or not target.is_relative_to(site):
        return "leads to no file"
    known = pages.get(target.name)
    if parts.fragment and known is not None and unquote(parts.fragment) not in known.ids:
        return "leads to no anchor"
    return None


if __name__ == "__main__":
    found = list(faults(Path(sys.argv[1])))
    print(*found, sep="\n", end="\n" if found else "")
    sys.exit(bool(found))
