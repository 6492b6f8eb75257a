"""The page itself: it loads nothing, runs nothing but its own script, is whole at every size; names are only text."""

from __future__ import annotations

import re
from base64 import b64encode
from collections import Counter
from hashlib import sha256
from html.parser import HTMLParser
from itertools import product

import pytest

import example_report
from example_report import NOW
from helpers.named_report import named
from helpers.shown_text import HOSTILE, contrast
from vaultpki.show.report_model import Report, report
from vaultpki.show.report_page import REPORT_MARK, colours, html

VOID = {"meta", "input", "br", "link", "img", "hr"}


class Parsed(HTMLParser):
    """A page as elements: how many of each, their attributes, and the text of each style, script and cell."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.inside: dict[str, list[str]] = {"style": [], "script": []}
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag in self.inside:
            self.inside[tag].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in self.inside:
            self.inside[self.open[-1]][-1] += data
        else:
            self.texts.append(data)

    def values(self, name: str) -> list[str]:
        return [value for _, each, value in self.attributes if each == name]


@pytest.fixture(scope="module")
def made() -> Report:
    return example_report.example(3, 6)


def test_it_says_what_it_is_and_has_one_main_heading(made: Report) -> None:
    text = html(made)
    assert text.startswith(f'{REPORT_MARK}\n<!doctype html>\n<html lang="en">')
    found = Parsed(text)
    assert found.count["h1"] == found.count["main"] == text.count("</header>") == 1
    ids = found.values("id")
    assert len(ids) == len(set(ids))
    targets = [value[1:] for tag, name, value in found.attributes if tag == "a" and name == "href"]
    assert targets and set(targets) <= set(ids)


def test_only_its_own_texts_may_run(made: Report) -> None:
    found = Parsed(html(made))
    (policy,) = (value for value in found.values("content") if "default-src" in value)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        hashes = {f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" for text in found.inside[tag]}
        assert set(rules[rule].split()) == hashes
    assert (len(found.inside["style"]), len(found.inside["script"])) == (2, 1)
    assert rules.keys() == {"default-src", "style-src", "script-src", "base-uri", "form-action"}


def test_it_loads_nothing_and_has_no_handler(made: Report) -> None:
    text = html(made)
    found = Parsed(text)
    names = {name for _, name, _ in found.attributes}
    assert not any(name.startswith("on") for name in names)
    assert names.isdisjoint({"style", "src", "srcset", "action", "formaction", "ping", "poster", "background"})
    assert not {"link", "iframe", "object", "embed", "base", "img"} & found.count.keys()
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "").replace('http-equiv="', "")
    assert not re.search(r"@import|url\((?!#)|@font-face|fetch\(|XMLHttp|import\(", text)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_text(name: str) -> None:
    text = html(named(name))
    found, expected = Parsed(text), Parsed(html(named("a plain name")))
    assert found.count == expected.count
    assert [(tag, each) for tag, each, _ in found.attributes] == [(tag, each) for tag, each, _ in expected.attributes]
    assert found.inside == expected.inside
    shown = "".join(each if each.isprintable() else "?" for each in name)
    assert shown in [each.strip() for each in found.texts]
    assert shown in found.values("data-node")
    assert not any(each != "\n" and not each.isprintable() for each in text)


def test_commands_in_sentences_are_shown_as_code() -> None:
    cluster = example_report.cluster(1, 1)
    clean = example_report.found(cluster, faults=False, reported=True)
    lines = ("run `vaultpki <b> ca continue`; <i>", "a ` b", "  `", "``")
    text = html(report(cluster, clean, NOW, rotation=lines)).partition('<div class="lines">')[2]
    assert re.findall(r"<p.*?</p>", text.partition("</div>")[0]) == [
        "<p>run <code>vaultpki &lt;b&gt; ca continue</code>; &lt;i&gt;</p>",
        "<p>a ` b</p>",
        '<p class="inner">  `</p>',
        "<p><code></code></p>",
    ]


@pytest.mark.parametrize(("control_plane", "workers"), [(1, 0), (3, 6), (3, 57)])
@pytest.mark.parametrize("reported", [True, False])
def test_every_certificate_is_on_it_once(control_plane: int, workers: int, reported: bool) -> None:
    shown = example_report.example(control_plane, workers, reported=reported)
    found = Parsed(html(shown))
    assert found.values("data-node") == [holder.name for holder in shown.holders]
    assert len(found.values("data-state")) == shown.total == sum(len(holder.pairs) for holder in shown.holders)
    assert "Nothing was verified" in "".join(found.texts) or not reported


def test_a_thousand_nodes_stay_light() -> None:
    text = html(example_report.example(5, 995, reported=True))
    found = Parsed(text)
    assert found.count["details"] == 1000
    # A browser lays out none of what is closed.
    assert sum(1 for tag, name, _ in found.attributes if (tag, name) == ("details", "open")) <= 20
    assert len(text) < 2_000_000
    assert found.count.total() < 60_000


def test_without_scripts_nothing_is_hidden_but_what_needs_them(made: Report) -> None:
    hidden = {tag for tag, name, _ in Parsed(html(made)).attributes if name == "hidden"}
    # The filter, the two buttons, and the sentence for a filter that leaves nothing.
    assert hidden == {"form", "p"}


@pytest.mark.parametrize("mode", [0, 1])
def test_words_can_be_told_from_what_is_behind_them(mode: int) -> None:
    found = {name: shades[mode] for name, shades in colours().items()}
    for text, behind in product(("text", "quiet", "link"), ("back", "paper")):
        assert contrast(found[text], found[behind]) >= 4.5, (text, behind)
    for state, behind in product(("valid", "due", "expired", "missing", "unknown"), ("paper",)):
        assert contrast(found[state], found[f"{state}-back"]) >= 4.5, state
        assert contrast(found[state], found[behind]) >= 4.5, state
        assert contrast(found["text"], found[f"{state}-back"]) >= 4.5, state
        assert contrast(found["link"], found[f"{state}-back"]) >= 4.5, state
    for shade in ("shade-1", "shade-2", "shade-3"):
        assert contrast(found["text"], found[shade]) >= 4.5, shade
    assert contrast(found["shade-text"], found["shade-4"]) >= 4.5
    for border in ("edge", "root", "kubernetes", "kubelet", "etcd", "front-proxy", "shade-4"):
        assert contrast(found[border], found["paper"]) >= 3, border
