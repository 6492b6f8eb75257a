"""The built pages as Chromium shows them from a folder: errors, requests, search, keyboard, contrast, paper.

Two minutes alone on two cores.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.axe import axe_core
from helpers.browser import Page, Scheme, browser
from helpers.pages import CHECKOUT, names

pytestmark = pytest.mark.conformance

# What can be seen, and what of it scrolls sideways.
SCROLLS = """
[...document.querySelectorAll('.md-content *')]
  .filter(each => each.checkVisibility() && each.scrollWidth > each.clientWidth + 1)
  .filter(each => ['auto', 'scroll'].includes(getComputedStyle(each).overflowX))
"""
# Colours that are on their way to others say nothing.
STILL = "document.head.insertAdjacentHTML('beforeend', '<style>* { transition: none !important }</style>')"
# The theme fills in its parts once the page is loaded, and wraps the tables last.
FILLED = """
[...document.querySelectorAll('.md-content table')].every(each => each.closest('.md-typeset__scrollwrap'))
  && [...document.querySelectorAll('.md-header, #__drawer')].every(() => document.querySelector('button[for=__drawer]'))
"""
SETTLED = "new Promise(done => setTimeout(done, 300))"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # zensical builds beside its configuration, wherever a link to it stands.
    folder = tmp_path_factory.mktemp("pages")
    shutil.copytree(CHECKOUT / "docs", folder / "docs")
    shutil.copy(CHECKOUT / "zensical.toml", folder)
    command = [str(Path(sys.executable).with_name("zensical")), "build", "--strict", "--clean"]
    subprocess.run(command, cwd=folder, check=True, timeout=120)
    return folder / "site"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("chromium")) as page:
        yield page


def shown(chromium: Page, page: Path, **looks: Any) -> None:
    chromium.open(page, **looks)
    chromium.value(STILL)
    until(chromium, FILLED)
    chromium.value(SETTLED)


def until(chromium: Page, expression: str) -> None:
    """Wait until an expression is true in the page, for a minute at most."""
    for _ in range(600):
        if chromium.value(expression):
            return
        chromium.value("new Promise(done => setTimeout(done, 100))")
    pytest.fail(f"never true: {expression}")


def pressed(chromium: Page, times: int) -> Iterator[str]:
    """Press Tab so many times, and yield what has the focus each time."""
    for _ in range(times):
        chromium.press("Tab")
        yield chromium.value("document.activeElement.outerHTML.slice(0, 300)")


@pytest.mark.parametrize(
    ("scheme", "width", "chosen"),
    [("light", 1280, names()), ("dark", 1280, names()), ("dark", 400, ("index", "operations", "reference"))],
)
def test_everybody_can_use_every_page(
    chromium: Page, site: Path, scheme: Scheme, width: int, chosen: tuple[str, ...]
) -> None:
    axe = axe_core()
    found: list[object] = []
    for name in (*chosen, "404"):
        path = site / f"{name}.html"
        shown(chromium, path, scheme=scheme, width=width)
        assert chromium.messages == [], path.name
        elsewhere = [url for url in chromium.requests if not url.startswith((site.as_uri() + "/", "data:"))]
        assert elsewhere == [], path.name
        assert chromium.value("document.documentElement.scrollWidth <= innerWidth"), path.name
        chromium.value(f"{axe};0")
        done = chromium.value("axe.run(document, {resultTypes: ['violations'], preload: false})")
        assert len(done["passes"]) > 5
        found += [(path.name, each["id"], node["html"]) for each in done["violations"] for node in each["nodes"]]
    assert found == []


def test_contrast_is_measured(chromium: Page, site: Path) -> None:
    """Without the colours of pages.css axe finds what is too pale, so it would find ours."""
    shown(chromium, site / "operations.html")
    chromium.value("document.querySelector('link[href$=\"pages.css\"]').remove()")
    chromium.value(SETTLED)
    chromium.value(f"{axe_core()};0")
    done = chromium.value("axe.run(document, {runOnly: ['color-contrast'], preload: false})")
    assert [each["id"] for each in done["violations"]] == ["color-contrast"]


def test_the_search_finds_from_a_folder(chromium: Page, site: Path) -> None:
    shown(chromium, site / "index.html")
    chromium.value("document.querySelector('.md-search__button').focus()")
    chromium.press("Enter")
    found = (
        "[...document.querySelectorAll('*')].find(each => each.shadowRoot?.querySelector('[role=combobox]')).shadowRoot"
    )
    until(chromium, f"{found}?.activeElement?.role === 'combobox'")
    chromium.write("needs-join")
    hits = f"[...{found}.querySelectorAll('a')].map(each => each.getAttribute('href'))"
    until(chromium, f"{hits}.some(each => each.includes('nodes.html'))")
    assert any("nodes.html" in hit and hit.endswith("#join-a-node-again") for hit in chromium.value(hits))
    assert chromium.value(f"{found}.querySelector('input').value") == "needs-join"
    assert chromium.messages == []


@pytest.mark.parametrize("width", [1280, 400])
def test_what_scrolls_is_reached_by_the_tab_key(chromium: Page, site: Path, width: int) -> None:
    seen = 0
    for name in ("quickstart", "ca-rotation", "reference"):
        shown(chromium, site / f"{name}.html", width=width)
        blocks = chromium.value(f"{SCROLLS}.length")
        chromium.value(f"{SCROLLS}.forEach((each, index) => each.dataset.scrolls = index)")
        stops = chromium.value("document.querySelectorAll('a, button, input, [tabindex]').length")
        reached = set()
        for _ in range(stops):
            chromium.press("Tab")
            at = "document.activeElement"
            index = chromium.value(f"{at}.dataset?.scrolls ?? null")
            if index is not None:
                reached.add(index)
                assert chromium.value(f"getComputedStyle({at}).outlineStyle") == "solid"
                assert chromium.value(f"{at}.getAttribute('aria-label')").endswith("scrolls sideways")
            if len(reached) == blocks:
                break
        assert len(reached) == blocks, name
        seen += blocks
    assert seen > 5
    chromium.value("document.querySelector('[data-scrolls]').focus()")
    chromium.press("ArrowRight")
    until(chromium, "document.activeElement.scrollLeft > 0")


def test_the_first_stop_leads_past_the_menu(chromium: Page, site: Path) -> None:
    shown(chromium, site / "operations.html")
    (first,) = pressed(chromium, 1)
    assert "md-skip" in first
    chromium.press("Enter")
    (second,) = pressed(chromium, 1)
    assert chromium.value("document.activeElement.closest('.md-content') !== null"), second


def test_menus_of_a_narrow_screen_open_by_keyboard_and_are_passed_by_while_closed(chromium: Page, site: Path) -> None:
    shown(chromium, site / "operations.html", width=400)
    inside = "document.activeElement.closest('.md-sidebar') !== null && !document.activeElement.matches('button')"
    for stop in pressed(chromium, 12):
        assert not chromium.value(inside), stop
    for button, menu in (("__drawer", ".md-sidebar--primary"), ("__toc", ".md-sidebar--secondary")):
        chromium.value(f"[...document.querySelectorAll('button[for={button}]')].find(e => e.checkVisibility()).focus()")
        chromium.press("Enter")
        until(chromium, f"document.getElementById('{button}').checked")
        links = f"[...document.querySelectorAll('{menu} a')]"
        until(chromium, f"{links}.filter(e => e.checkVisibility({{checkVisibilityCSS: true}})).length > 3")
        chromium.press("Escape")
        until(chromium, f"!document.getElementById('{button}').checked")
    assert chromium.messages == []


def test_pages_are_printed_whole(chromium: Page, site: Path) -> None:
    for name in names():
        shown(chromium, site / f"{name}.html", scheme="dark", width=690)
        chromium.print_media(True)
        try:
            shown_there = "[...document.querySelectorAll('.md-header, .md-sidebar, .md-footer')]"
            assert chromium.value(f"{shown_there}.filter(each => each.checkVisibility()).length") == 0
            assert chromium.value("document.documentElement.scrollWidth <= innerWidth"), name
            assert chromium.value(f"{SCROLLS}.length") == 0, name
            ink = chromium.value("getComputedStyle(document.querySelector('h1')).color")
            assert ink.startswith("rgb") and "255" not in ink
        finally:
            chromium.print_media(False)
    assert chromium.printed().startswith(b"%PDF")
