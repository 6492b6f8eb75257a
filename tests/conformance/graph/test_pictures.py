"""The pictures as other programs draw them: Chromium measures each text of the SVG; Graphviz and Mermaid draw them."""

from __future__ import annotations

import json
import re
import subprocess
from datetime import UTC, datetime, timedelta
from html import unescape
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from helpers.drawn_scenes import NODES, OWN_ROWS, listed
from helpers.example_cluster import load
from helpers.pages import CHECKOUT
from vaultpki.certificates import ISSUING_CAS, TABLE
from vaultpki.graph.content import ExpirySummary, Graph, graph
from vaultpki.graph.scene import Rect
from vaultpki.graph.svg import svg
from vaultpki.graph.text import dot, mermaid

pytestmark = pytest.mark.conformance

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
SHAPES = {"one": NODES, "sixty": listed(3, 57), "kubeadm": f"layout: kubeadm\n{NODES}", "own rows": NODES + OWN_ROWS}

# Writes what it measured, and every error, into the page, which --dump-dom prints. A pair's texts and its box are in
# one group, a component's texts follow its box.
MEASURE = """
const problems = [];
addEventListener('error', event => problems.push(String(event.message)));
const of = element => { const box = element.getBBox(); return [box.x, box.y, box.width, box.height]; };
const texts = [...document.querySelectorAll('text')].map(text => {
  let box = text.previousElementSibling;
  while (box && !/card|chip|frame|outer/.test(box.getAttribute('class'))) box = box.previousElementSibling;
  const style = getComputedStyle(text);
  const kind = text.getAttribute('class').split(' ')[0];
  return {text: text.textContent, at: of(text), kind, fill: style.fill, box: box && of(box)};
});
const page = document.querySelector('svg').viewBox.baseVal;
const dark = matchMedia('(prefers-color-scheme: dark)').matches;
const fill = getComputedStyle(document.querySelector('.page')).fill;
document.getElementById('measured').textContent =
  JSON.stringify({texts, page: [0, 0, page.width, page.height], problems, dark, fill});
"""


# The small build, with flowcharts; as its registry has it.
MERMAID = (
    "@mermaid-js/tiny@11.17.2",
    "sha512-PmFr1c5cSfNf5AngLLR98DrbvR4U5KeD7I+hQkGqG5w5Veu3QT4dG0qu9f99cpn/sKj2XxRBK0q7EL6hr9NY/A==",
)
DRAW = """
mermaid.initialize({startOnLoad: false, securityLevel: 'strict'});
mermaid.render('drawn', TEXT).then(done => {
  document.body.insertAdjacentHTML('beforeend', done.svg);
  const texts = kind => [...document.querySelectorAll(kind)].map(each => each.innerText.trim().split('\\n'));
  const places = [...document.querySelectorAll('span.edgeLabel')].map(each => each.getBoundingClientRect());
  return {
    nodes: texts('.node span.nodeLabel'), edges: texts('span.edgeLabel'), frames: texts('.cluster-label span'),
    places: places.map(box => [box.x, box.y, box.width, box.height]),
    title: document.querySelector('svg title').textContent,
  };
}).catch(error => ({error: String(error)})).then(found => {
  document.getElementById('measured').textContent = JSON.stringify(found);
});
"""


def measured(body: str, folder: Path, *, dark: bool = False) -> dict[str, Any]:
    """What the script of a page leaves in it once Chromium has drawn it."""
    page = folder / "page.html"
    page.write_text(f"<!doctype html><meta charset=utf-8><body><pre id=measured></pre>{body}")
    done = subprocess.run(
        [
            "chromium",
            "--headless",
            # Chromium's own sandbox refuses to run as root.
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={folder}/profile",
            "--allow-file-access-from-files",
            "--virtual-time-budget=20000",
            *(["--blink-settings=preferredColorScheme=0"] if dark else []),
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    (found,) = re.findall(r'<pre id="measured">(.*?)</pre>', done.stdout, re.DOTALL)
    result: dict[str, Any] = json.loads(unescape(found))
    return result


def drawn(folder: Path, shape: str) -> Graph:
    ends = {row.name: ExpirySummary(NOW + timedelta(days=28), 57, 3) for row in TABLE}
    cas = {ca: ExpirySummary(NOW + timedelta(days=1800)) for ca in ISSUING_CAS}
    return graph(
        load(folder, SHAPES[shape]),
        NOW,
        expiries=ends,
        cas=cas,
        rotations={"etcd": "switched"},
        source="reports of 60 nodes",
    )


def inline(found: Graph) -> str:
    return f"{svg(found)}<script>{MEASURE}</script>"


@pytest.fixture(scope="session")
def mermaid_js() -> Path:
    """Mermaid's own script."""
    command = str(CHECKOUT / "tests/setup/npm-pack")
    done = subprocess.run([command, *MERMAID], capture_output=True, text=True, check=True, timeout=300)
    return Path(done.stdout.strip()) / "dist/mermaid.tiny.js"


@pytest.mark.parametrize("shape", SHAPES)
def test_texts_fit_as_a_browser_draws_them(tmp_path: Path, shape: str) -> None:
    found = measured(inline(drawn(tmp_path, shape)), tmp_path)
    assert found["problems"] == [] and not found["dark"]
    page = Rect(*found["page"])
    texts = [(text["text"], Rect(*text["at"]), text) for text in found["texts"]]
    assert len(texts) > 40
    assert [one for (one, at, _), (_, other, _) in combinations(texts, 2) if at.meets(other)] == []
    assert [text for text, at, _ in texts if at.x < 0 or at.right > page.w or at.bottom > page.h] == []
    boxed = [
        (text, at, Rect(*each["box"])) for text, at, each in texts if each["kind"] not in ("title", "about", "key")
    ]
    assert [text for text, at, box in boxed if at.x < box.x or at.right > box.right or at.bottom > box.bottom] == []


def test_dark_and_light_follow_the_reader(tmp_path: Path) -> None:
    text = inline(drawn(tmp_path, "one"))
    light, dark = measured(text, tmp_path), measured(text, tmp_path, dark=True)
    assert dark["dark"] and not light["dark"]
    assert (light["fill"], dark["fill"]) == ("rgb(255, 255, 255)", "rgb(18, 22, 31)")
    assert {text["fill"] for text in light["texts"]}.isdisjoint(text["fill"] for text in dark["texts"])


@pytest.mark.parametrize("shape", SHAPES)
def test_graphviz_draws_the_dot(tmp_path: Path, shape: str) -> None:
    found = drawn(tmp_path, shape)
    done = subprocess.run(["dot", "-Tjson"], input=dot(found), capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    parsed = json.loads(done.stdout)
    nodes = {each["_gvid"]: each["label"].split("\\n")[0] for each in parsed["objects"] if "nodes" not in each}
    assert sorted(nodes.values()) == sorted(component.name for component in found.components)
    edges = {(nodes[each["tail"]], nodes[each["head"]], each["label"].split("\\n")[0]) for each in parsed["edges"]}
    assert edges == {(arrow.source, arrow.target, arrow.pair.name) for arrow in found.arrows}


@pytest.mark.parametrize("shape", ["sixty", "own rows"])
def test_mermaid_draws_every_box_and_arrow(tmp_path: Path, shape: str, mermaid_js: Path) -> None:
    found = drawn(tmp_path, shape)
    script = DRAW.replace("TEXT", json.dumps(mermaid(found)).replace("<", "\\u003c"))
    seen = measured(f'<script src="{mermaid_js.as_uri()}"></script><script>{script}</script>', tmp_path)
    assert "error" not in seen, seen["error"]
    assert seen["title"] == f"Cluster {found.cluster}: who logs in to whom, with which pair"
    boxes = {lines[0]: lines[1:] for lines in seen["nodes"]}
    for component in found.components:
        held = [line for pair in component.pairs for line in (pair.name, pair.files, pair.until) if line]
        assert boxes[component.name] == [*filter(None, [component.where]), *held]
    labels = [line for lines in seen["edges"] for line in lines]
    assert {arrow.pair.name for arrow in found.arrows} <= set(labels)
    # None lies on top of another, so all can be read.
    places = [Rect(*each) for each in seen["places"]]
    assert not any(one.meets(other) for one, other in combinations(places, 2) if one.w and other.w)
    assert {lines[0].partition(",")[0] for lines in seen["frames"]} >= {f"CA {ca}" for ca in ISSUING_CAS}
