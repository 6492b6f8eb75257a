"""The report as Chromium draws it: light, dark, narrow and printed, by keyboard, without scripts, and for axe-core."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import example_report
from helpers.axe import axe_core
from helpers.browser import Page, Scheme, browser
from helpers.named_report import named
from helpers.pages import CHECKOUT
from helpers.shown_text import HOSTILE
from vaultpki.show.report_model import Report
from vaultpki.show.report_page import html

pytestmark = pytest.mark.conformance

SHAPES = {
    "one": example_report.example(1, 0, faults=False),
    "nine": example_report.example(3, 6),
    "sixty": example_report.example(3, 57, reported=True),
}
SHOWN = "[...document.querySelectorAll('{}')].filter(each => each.checkVisibility()).length"
# Texts that stick out of what they stand in, though it does not scroll.
CUT = """
[...document.querySelectorAll('body *:not(svg *)')]
  .filter(each => each.checkVisibility() && !each.closest('.unseen, .skip, select, thead'))
  .filter(each => each.scrollWidth > each.clientWidth + 1 && getComputedStyle(each).overflowX === 'visible')
  .filter(each => getComputedStyle(each).display !== 'inline')
  .map(each => each.outerHTML.slice(0, 100))
"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("chromium")) as page:
        yield page


@pytest.fixture(scope="module")
def axe() -> str:
    return axe_core()


def shown(chromium: Page, folder: Path, made: Report, **looks: Any) -> Path:
    file = folder / "report.html"
    file.write_text(html(made))
    chromium.open(file, **looks)
    return file


def choose(chromium: Page, name: str, value: str) -> None:
    """Give a control of the filter a value, as a person would."""
    control = f"document.getElementById('filter-{name}')"
    chromium.value(f"{control}.value = '{value}'; {control}.dispatchEvent(new Event('input', {{bubbles: true}}))")


@pytest.mark.parametrize("width", [1280, 720, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_drawn_whole_and_everybody_can_use_it(
    chromium: Page, axe: str, tmp_path: Path, shape: str, scheme: Scheme, width: int
) -> None:
    made = SHAPES[shape]
    file = shown(chromium, tmp_path, made, scheme=scheme, width=width)
    assert chromium.requests == [file.as_uri()]
    assert chromium.value("document.compatMode") == "CSS1Compat"
    assert chromium.value("document.documentElement.scrollWidth <= innerWidth")
    assert chromium.value(CUT) == []
    assert chromium.value(SHOWN.format("details[data-node]")) == len(made.holders)
    opened = sum(len(holder.pairs) for holder in made.holders if holder.open)
    assert chromium.value(SHOWN.format("tr[data-state]")) == opened
    back = chromium.value("getComputedStyle(document.body).backgroundColor")
    assert back == {"light": "rgb(244, 246, 250)", "dark": "rgb(12, 16, 24)"}[scheme]
    assert chromium.value("document.querySelector('.picture svg').getBoundingClientRect().height") > 200
    chromium.value(f"{axe};0")
    found = chromium.value("axe.run(document, {resultTypes: ['violations']})")
    assert [(each["id"], each["impact"], each["nodes"][0]["html"]) for each in found["violations"]] == []
    assert len(found["passes"]) > 30
    assert chromium.messages == []


def test_bars_are_as_high_as_their_numbers(chromium: Page, tmp_path: Path) -> None:
    made = SHAPES["sixty"]
    shown(chromium, tmp_path, made)
    bars = "[...document.querySelectorAll('.bars .some')]"
    high = chromium.value(f"{bars}.map(each => each.getBoundingClientRect().height)")
    largest = made.calendar.largest
    assert high == pytest.approx([56 * total / largest for total in made.calendar.totals], abs=0.2)
    numbers = chromium.value("[...document.querySelectorAll('.bars span')].map(each => each.textContent)")
    assert numbers == [str(total) for total in made.calendar.totals]


def test_the_filter_is_reached_by_keyboard_and_counts_aloud(chromium: Page, tmp_path: Path) -> None:
    made = SHAPES["sixty"]
    shown(chromium, tmp_path, made)
    total = made.total
    chromium.press("Tab")
    assert chromium.value("document.activeElement.textContent") == "Skip to the report"
    chromium.press("Enter")
    assert chromium.value("document.activeElement.id") == "main"
    for _ in range(60):
        chromium.press("Tab")
        if chromium.value("document.activeElement.id") == "filter-node":
            break
    chromium.write("WORKER-5")
    names = [holder.name for holder in made.holders if "worker-5" in holder.name]
    assert len(names) == 9
    seen = "[...document.querySelectorAll('details')].filter(each => !each.hidden).map(each => each.dataset.node)"
    assert chromium.value(seen) == names
    result = "document.getElementById('filter-result').textContent"
    assert chromium.value(result) == f"Shows 27 certificates of {total}, of 9 holders"
    assert chromium.value("document.getElementById('filter-result').role") == "status"

    # Fewer are opened at once, and the calendar counts only them.
    choose(chromium, "component", "kubelet")
    choose(chromium, "state", "valid")
    left = [
        pair
        for holder in made.holders
        for pair in holder.pairs
        if "worker-5" in pair.holder and pair.component == "kubelet" and pair.state == "valid"
    ]
    assert chromium.value(SHOWN.format("tr[data-state]")) == len(left) == 16
    sums = "[...document.querySelectorAll('.bars span')].map(each => Number(each.textContent))"
    assert chromium.value(sums) == [
        sum(pair.column == column for pair in left) for column in range(len(made.calendar.columns))
    ]
    rows = "[...document.querySelectorAll('tr[data-row]')].filter(each => !each.hidden).map(each => each.dataset.row)"
    assert chromium.value(rows) == ["kubelet-client", "kubelet"]

    choose(chromium, "node", "nobody")
    assert chromium.value(seen) == [] and chromium.value(SHOWN.format("#none")) == 1
    chromium.value("document.querySelector('button[type=reset]').focus()")
    chromium.press("Space")
    chromium.value("new Promise(done => setTimeout(done, 50))")
    assert chromium.value(result) == f"Shows all {total} certificates"
    assert chromium.value(sums) == list(made.calendar.totals)
    opened = sum(holder.open for holder in made.holders)
    assert chromium.value("document.querySelectorAll('details[open]').length") == opened
    assert chromium.messages == []


def test_a_node_opens_by_keyboard_and_stays_open(chromium: Page, tmp_path: Path) -> None:
    made = SHAPES["sixty"]
    shown(chromium, tmp_path, made)
    name = next(holder.name for holder in made.holders if not holder.open)
    element = f"document.querySelector('details[data-node={name}]')"
    chromium.value(f"{element}.querySelector('summary').focus()")
    chromium.press("Enter")
    assert chromium.value(f"{element}.open")
    chromium.value("document.getElementById('filter-node').dispatchEvent(new Event('input', {bubbles: true}))")
    assert chromium.value(f"{element}.open")
    chromium.value("document.getElementById('close-all').click()")
    assert chromium.value("document.querySelectorAll('details[open]').length") == 0
    chromium.value("document.getElementById('open-all').click()")
    assert chromium.value(SHOWN.format("tr[data-state]")) == made.total


def test_it_works_without_scripts(chromium: Page, tmp_path: Path) -> None:
    made = SHAPES["nine"]
    chromium.run_scripts(False)
    try:
        shown(chromium, tmp_path, made)
    finally:
        chromium.run_scripts(True)
    assert chromium.value(SHOWN.format("#filter, #openers, #none")) == 0
    assert chromium.value(SHOWN.format("details")) == len(made.holders)
    numbers = chromium.value("[...document.querySelectorAll('.bars span')].map(each => Number(each.textContent))")
    assert numbers == list(made.calendar.totals)
    chromium.value("document.querySelector('details:not([open]) summary').click()")
    opened = sum(holder.open for holder in made.holders)
    assert chromium.value("document.querySelectorAll('details[open]').length") == opened + 1
    assert chromium.messages == []


def test_it_is_printed_on_white_without_what_only_a_screen_needs(chromium: Page, tmp_path: Path) -> None:
    shown(chromium, tmp_path, SHAPES["nine"], scheme="dark", width=700)
    assert chromium.printed().startswith(b"%PDF")
    chromium.print_media(True)
    try:
        assert chromium.value(SHOWN.format("nav, #openers, #filter, .notices a")) == 0
        assert chromium.value("document.documentElement.scrollWidth <= innerWidth")
        assert chromium.value("getComputedStyle(document.querySelector('h1')).color") == "rgb(27, 34, 48)"
        assert chromium.value("getComputedStyle(document.querySelector('.picture .page')).fill") == "rgb(255, 255, 255)"
    finally:
        chromium.print_media(False)


@pytest.mark.parametrize("width", [1280, 720, 400])
def test_a_name_without_a_place_to_break_stays_inside(chromium: Page, tmp_path: Path, width: int) -> None:
    shown(chromium, tmp_path, named("n" * 253), width=width)
    assert chromium.value("document.documentElement.scrollWidth <= innerWidth")
    assert chromium.value(CUT) == []
    # A sheet of A4 without its margins is 690 pixels wide.
    chromium.print_media(width > 690)
    try:
        assert chromium.value("document.documentElement.scrollWidth <= innerWidth")
    finally:
        chromium.print_media(False)


def test_the_borders_of_cas_are_those_of_the_picture(chromium: Page, tmp_path: Path) -> None:
    shown(chromium, tmp_path, SHAPES["nine"])
    for ca in ("kubernetes", "kubelet", "etcd", "front-proxy", "root"):
        looks = [
            chromium.value(
                f"(each => [each.stroke, each.strokeDasharray, each.strokeWidth])"
                f"(getComputedStyle(document.querySelector('{where}')))"
            )
            for where in (f".picture rect.{'outer' if ca == 'root' else 'frame'}.ca-{ca}", f".of-{ca} > .around rect")
        ]
        assert looks[0] == looks[1], ca


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_in_a_name_runs(chromium: Page, tmp_path: Path, name: str) -> None:
    shown(chromium, tmp_path, named(name))
    assert chromium.messages == []
    text = "".join(each if each.isprintable() else "?" for each in name)
    assert chromium.value("document.querySelector('h1').textContent") == text
    assert text in chromium.value("[...document.querySelectorAll('details')].map(each => each.dataset.node)")
    assert chromium.value("document.scripts.length") == 1


def test_the_policy_lets_nothing_else_in(chromium: Page, tmp_path: Path) -> None:
    shown(chromium, tmp_path, SHAPES["one"])
    chromium.value(
        """(() => {
          const script = document.createElement('script');
          script.textContent = 'window.ran = 1';
          document.body.append(script);
          const picture = document.createElement('img');
          picture.src = 'https://example.com/a.png';
          document.body.append(picture);
          document.body.insertAdjacentHTML('beforeend', '<p style="color: red" onclick="window.ran = 1">x</p>');
          document.body.lastElementChild.click();
        })()"""
    )
    assert chromium.value("window.ran ?? 0") == 0
    assert chromium.value("getComputedStyle(document.body.lastElementChild).color") != "rgb(255, 0, 0)"
    chromium.value("new Promise(done => setTimeout(done, 200))")
    said = "\n".join(chromium.messages)
    assert said.count("Content Security Policy") >= 4
    assert not any(url.startswith("https:") for url in chromium.requests[1:]) or "blocked" in said.lower()


def test_a_thousand_nodes_stay_usable(chromium: Page, tmp_path: Path) -> None:
    made = example_report.example(5, 995, reported=True)
    file = shown(chromium, tmp_path, made)
    assert file.stat().st_size < 2_000_000
    assert chromium.value("document.querySelectorAll('*').length") < 60_000
    chromium.value("document.getElementById('filter-node').focus()")
    took = chromium.value(
        """(() => {
          const begin = performance.now();
          const state = document.getElementById('filter-state');
          state.value = 'missing';
          state.dispatchEvent(new Event('input', {bubbles: true}));
          document.body.getBoundingClientRect();
          return performance.now() - begin;
        })()"""
    )
    # Milliseconds; far less on a machine that does nothing else.
    assert took < 5000
    assert chromium.value(SHOWN.format("details")) == sum(
        any(pair.state == "missing" for pair in holder.pairs) for holder in made.holders
    )
    assert chromium.messages == []


def test_the_picture_in_the_documentation_shows_the_page_as_it_is(chromium: Page, tmp_path: Path) -> None:
    made = tmp_path / "report.webp"
    command = [sys.executable, str(CHECKOUT / "tests/setup/report-picture"), str(made)]
    subprocess.run(command, check=True, timeout=120)
    kept = CHECKOUT / "docs/report.webp"
    assert kept.stat().st_size < 150_000
    pictures = [base64.b64encode(each.read_bytes()).decode() for each in (kept, made)]
    page = tmp_path / "blank.html"
    page.write_text("<!doctype html><title>blank</title>")
    chromium.open(page)
    # As small pictures: other machines have other fonts.
    found = chromium.value(
        f"""Promise.all({json.dumps(pictures)}.map(async data => {{
          const picture = new Image();
          picture.src = `data:image/webp;base64,${{data}}`;
          await picture.decode();
          const canvas = new OffscreenCanvas(62, 59);
          const pen = canvas.getContext('2d');
          pen.imageSmoothingQuality = 'high';
          pen.drawImage(picture, 0, 0, 62, 59);
          return [picture.width, picture.height, ...pen.getImageData(0, 0, 62, 59).data];
        }}))"""
    )
    (width, height, *one), (also_width, also_height, *other) = found
    assert (width, height) == (also_width, also_height) == (1240, 1180)
    assert sum(abs(a - b) for a, b in zip(one, other, strict=True)) / len(one) < 4, (
        "run `.venv/bin/python tests/setup/report-picture docs/report.webp`"
    )
