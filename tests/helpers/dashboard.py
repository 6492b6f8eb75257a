"""The dashboard's panels and queries, and what a query asks for, read with a parser of PromQL."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Final

import promql_parser
import yaml
from prometheus_client.parser import text_string_to_metric_families
from promql_parser import (
    AggModifierType,
    AggregateExpr,
    BinaryExpr,
    Call,
    Expr,
    LabelModifierType,
    MatrixSelector,
    NumberLiteral,
    ParenExpr,
    StringLiteral,
    VectorMatchCardinality,
    VectorSelector,
)

from vaultpki.host.systemd import recipe

FLEET: Final[dict[str, set[str]]] = {
    "vaultpki_fleet_written_timestamp_seconds": {"cluster"},
    "vaultpki_fleet_node_info": {"cluster", "node", "pool", "version", "generation"},
    "vaultpki_fleet_node_finding": {"cluster", "node", "pool", "finding", "severity"},
    "vaultpki_fleet_finding": {"cluster", "finding", "severity"},
}
"""What the rules take from the file of `vaultpki nodes --metrics`."""

SCRAPED: Final = frozenset({"job", "instance"})
"""What Prometheus adds to every sample."""

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|([a-z_]\w*))")


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel or of a variable, as the file has it."""

    panel: str
    text: str
    legend: str = ""

    @property
    def promql(self) -> str:
        """The query with every variable as for "All"; `$1` of label_replace stays."""
        return _VARIABLE.sub(".+", self.text)

    @property
    def parsed(self) -> Expr:
        found: Expr = promql_parser.parse(self.promql)
        return found


def load() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(recipe("grafana-dashboard.json"))
    return found


def panels() -> list[dict[str, Any]]:
    """Every panel but the rows."""
    return [panel for panel in load()["panels"] if panel["type"] != "row"]


def queries() -> list[Query]:
    """Those of the panels."""
    return [
        Query(panel["title"], target["expr"], target.get("legendFormat", ""))
        for panel in panels()
        for target in panel["targets"]
    ]


def variables() -> dict[str, Query]:
    """Those of the variables, as the selector of `label_values`, with the label as the legend."""
    found = {}
    for one in load()["templating"]["list"]:
        if one["type"] == "query":
            matched = re.fullmatch(r"label_values\((.+), (\w+)\)", one["query"]["query"])
            assert matched, one
            found[one["name"]] = Query(one["name"], matched[1], matched[2])
    return found


def exported(text: str) -> dict[str, set[str]]:
    """The labels of every metric that has a sample in an answer in Prometheus' format, by the metric's name."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def recorded(known: Mapping[str, AbstractSet[str]]) -> dict[str, set[str]]:
    """The labels of every series that the rules record, by its name, if the metrics have the `known` ones."""
    found: dict[str, set[str]] = {}
    for group in yaml.safe_load(recipe("alerts.yaml"))["groups"]:
        for name, rule in ((rule["record"], rule) for rule in group["rules"] if "record" in rule):
            if not name.endswith(":hourly"):
                found[name] = labels(promql_parser.parse(rule["expr"]), {**FLEET, **known, **found})
                found[f"{name}:hourly"] = found[name]
    return found


def labels(expression: Expr, known: Mapping[str, AbstractSet[str]]) -> set[str]:
    """The labels that the result of an expression may have, if the metrics have the `known` ones.

    Fails where it groups or matches by a label that is not there.
    """
    if isinstance(expression, VectorSelector):
        # What rules record has the labels that they give it.
        return {*known[expression.name or ""], *(() if ":" in str(expression.name) else SCRAPED)}
    if isinstance(expression, MatrixSelector):
        return labels(expression.vector_selector, known)
    if isinstance(expression, ParenExpr):
        return labels(expression.expr, known)
    if isinstance(expression, AggregateExpr):
        found = labels(expression.expr, known)
        # These return series as they are.
        if str(expression.op) in ("topk", "bottomk"):
            return found
        if expression.modifier is None:
            return set()
        assert expression.modifier.type == AggModifierType.By
        return _those(expression.modifier.labels, found, expression)
    if isinstance(expression, Call):
        found = set().union(*(labels(each, known) for each in expression.args))
        if expression.func.name == "label_replace":
            target, _, source = (_text(each) for each in expression.args[1:4])
            _those([source] if source else [], found, expression)
            found.add(target)
        return found
    if isinstance(expression, BinaryExpr):
        return _of_both(expression, known)
    assert isinstance(expression, NumberLiteral | StringLiteral), f"not known here: {expression}"
    return set()


def _of_both(expression: BinaryExpr, known: Mapping[str, AbstractSet[str]]) -> set[str]:
    left, right = labels(expression.lhs, known), labels(expression.rhs, known)
    matching = expression.modifier.matching if expression.modifier else None
    if matching is None:
        return left | right if str(expression.op) == "or" or not left else left
    assert expression.modifier and matching.type == LabelModifierType.Include
    on = _those(matching.labels, left, expression) & _those(matching.labels, right, expression)
    if str(expression.op) in ("and", "unless"):
        return left
    if expression.modifier.card == VectorMatchCardinality.ManyToOne:
        return left | _those(expression.modifier.group_labels or [], right, expression)
    return on


def _those(wanted: Collection[str], found: AbstractSet[str], where: Expr) -> set[str]:
    missing = set(wanted) - found
    assert not missing, f"no {missing} among {sorted(found)}: {where.prettify()}"
    return set(wanted)


def _text(expression: Expr) -> str:
    assert isinstance(expression, StringLiteral)
    return expression.val


def check(query: Query, known: Mapping[str, AbstractSet[str]]) -> None:
    """Fails where a query asks for a metric or a label that is not among the `known` ones."""
    labels(query.parsed, known)
    for selector in selectors(query.parsed):
        _those([matcher.name for matcher in selector.matchers.matchers], labels(selector, known), selector)


def selectors(expression: Expr) -> list[VectorSelector]:
    """Every selector in an expression."""
    found: list[Expr] = []
    promql_parser.walk(expression, found.append)
    return [each for each in found if isinstance(each, VectorSelector)]
