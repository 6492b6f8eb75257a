"""Writes the picture of a cluster as text that other programs draw: Mermaid and Graphviz's DOT."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from vaultpki.graph.content import Component, Graph, Health, PictureRow, domain_title, root_title
from vaultpki.graph.legend import first
from vaultpki.graph.svg import COLOURS

MERMAID_MARK: Final = "%% vaultpki graph"
DOT_MARK: Final = "// vaultpki graph"
"""The first lines of the two formats."""

_WORST: Final = (Health.MISSING, Health.EXPIRED, Health.BROKEN, Health.REVOKED, Health.DUE, Health.VALID)

# One colour for light and dark pages each: what draws the text decides on the page.
_LIGHT: Final = {name: light for name, (light, _) in COLOURS.items()}
_FILLS: Final = {health: _LIGHT[health.value] for health in _WORST}
_WORDS: Final = {health: _LIGHT[f"{health.value}-text"] for health in _WORST}

# Mermaid reads these as themselves inside a quoted label; a number stands for any other character.
_PLAIN: Final = frozenset(" abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:-()+/")


def mermaid(graph: Graph) -> str:
    """Return the picture as a flowchart for Mermaid."""
    return "\n".join((MERMAID_MARK, *_mermaid(graph), ""))


def dot(graph: Graph) -> str:
    """Return the picture as a digraph for Graphviz."""
    return "\n".join((DOT_MARK, *_dot(graph), ""))


def _mermaid(graph: Graph) -> Iterator[str]:
    ids = _ids(graph)
    # Mermaid breaks the lines of labels at 200 pixels by default.
    yield '%%{init: {"flowchart": {"wrappingWidth": 400}}}%%'
    yield "flowchart LR"
    yield f"  accTitle: Cluster {_plain(graph.cluster)}: who logs in to whom, with which pair"
    yield f"  subgraph root[{_quoted(_title(root_title(graph), graph.root.rotation))}]"
    yield "    direction LR"
    for number, domain in enumerate(graph.domains):
        yield f"    subgraph domain{number}[{_quoted(_title(domain_title(domain), domain.rotation))}]"
        for component in graph.components:
            if component.domain == domain.ca:
                yield f"      {ids[component.name]}[{_quoted(*_lines(component))}]"
        yield "    end"
    for component in graph.components:
        if not component.domain:
            yield f"    {ids[component.name]}[{_quoted(*_lines(component))}]"
    yield "  end"
    if graph.notices:
        yield f"  attention[{_quoted('Needs attention', *first(graph.notices))}]"
    links = _links(graph)
    for source, target, pairs in links:
        label = _quoted(*(line for pair in pairs for line in _pair_lines(pair)))
        yield f"  {ids[source]} -->|{label}| {ids[target]}"
    for number, (_, _, pairs) in enumerate(links):
        words = _WORDS.get(_health(pairs))
        yield f"  linkStyle {number} stroke:{_LIGHT[pairs[0].ca]}" + (f",color:{words}" if words else "")
    for number, domain in enumerate(graph.domains):
        yield f"  style domain{number} fill:none,stroke:{_LIGHT[domain.ca]},stroke-width:2px"
    yield "  style root fill:none,stroke:#6b7588"
    for component in graph.components:
        if fill := _FILLS.get(_health(component.pairs)):
            yield f"  style {ids[component.name]} fill:{fill},color:#1b2230"


def _links(graph: Graph) -> list[tuple[str, str, list[PictureRow]]]:
    """Return the arrows with their pairs; one for all arrows of a component to itself.

    Mermaid 11 draws a second such arrow on top of the first.
    """
    links: list[tuple[str, str, list[PictureRow]]] = []
    for arrow in graph.arrows:
        same = [pairs for source, target, pairs in links if source == target == arrow.source == arrow.target]
        if same:
            same[0].append(arrow.pair)
        else:
            links.append((arrow.source, arrow.target, [arrow.pair]))
    return links


def _dot(graph: Graph) -> Iterator[str]:
    ids = _ids(graph)
    yield "digraph vaultpki {"
    yield f"  label={_string(*_head(graph))}; labelloc=t; rankdir=LR; fontname=sans"
    yield '  node [shape=box, style="rounded,filled", fillcolor="#f3f5fa", fontname=sans]'
    yield "  edge [fontname=sans, fontsize=10]"
    yield f'  subgraph cluster_root {{ label={_string(_title(root_title(graph), graph.root.rotation))}; color="#6b7588"'
    for number, domain in enumerate(graph.domains):
        title = _string(_title(domain_title(domain), domain.rotation))
        yield f'    subgraph cluster_{number} {{ label={title}; color="{_LIGHT[domain.ca]}"; penwidth=2'
        yield from (
            f"      {_dot_node(ids[component.name], component)}"
            for component in graph.components
            if component.domain == domain.ca
        )
        yield "    }"
    for component in graph.components:
        if not component.domain:
            yield f"    {_dot_node(ids[component.name], component)}"
    yield "  }"
    for arrow in graph.arrows:
        colour = _LIGHT[arrow.pair.ca]
        label = _string(*_pair_lines(arrow.pair))
        words = _WORDS.get(arrow.pair.health)
        also = f', fontcolor="{words}"' if words else ""
        yield f'  {ids[arrow.source]} -> {ids[arrow.target]} [label={label}, color="{colour}"{also}]'
    yield "}"


def _head(graph: Graph) -> tuple[str, ...]:
    """Return what stands above the picture."""
    said = ("Needs attention:", *first(graph.notices)) if graph.notices else ()
    return f"Cluster {graph.cluster}", graph.about, *said


def _dot_node(name: str, component: Component) -> str:
    fill = _FILLS.get(_health(component.pairs))
    return f"{name} [label={_string(*_lines(component))}" + (f', fillcolor="{fill}"]' if fill else "]")


def _ids(graph: Graph) -> dict[str, str]:
    return {component.name: f"c{number}" for number, component in enumerate(graph.components)}


def _title(title: str, rotation: str) -> str:
    return f"{title}, rotation: {rotation}" if rotation else title


def _lines(component: Component) -> list[str]:
    held = [line for pair in component.pairs for line in _pair_lines(pair)]
    return [component.name, *filter(None, [component.where]), *held]


def _pair_lines(pair: PictureRow) -> list[str]:
    return [pair.name, pair.files, *filter(None, [pair.until])]


def _health(pairs: Sequence[PictureRow]) -> Health:
    states = {pair.health for pair in pairs}
    return next((health for health in _WORST if health in states), Health.UNKNOWN)


def _plain(text: str) -> str:
    return "".join(each if each in _PLAIN else f"#{ord(each)};" for each in text)


def _quoted(*lines: str) -> str:
    """Return lines as a label for Mermaid, in which nothing is read as its syntax or as HTML."""
    return '"' + "<br/>".join(map(_plain, lines)) + '"'


def _string(*lines: str) -> str:
    """Return lines as a string for DOT; a backslash begins an escape in labels, so it is doubled."""
    texts = ("".join(each if each.isprintable() else "?" for each in line) for line in lines)
    return '"' + "\\n".join(text.replace("\\", "\\\\").replace('"', '\\"') for text in texts) + '"'
