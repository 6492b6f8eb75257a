"""The Grafana dashboard: its queries ask for what agents show, no metric is missing, and any Grafana can take it."""

from __future__ import annotations

import itertools
import re
from typing import Any, get_args

import pytest
from promql_parser import VectorSelector

import example_metrics
from helpers import dashboard
from helpers.dashboard import Query
from vaultpki.daemon import own_findings
from vaultpki.daemon.view import AgentState
from vaultpki.host.systemd import recipe
from vaultpki.pki.renewal import PairState

EXPORTED = dashboard.exported(example_metrics.agent())
KNOWN = EXPORTED | dashboard.recorded(EXPORTED)
QUERIES = dashboard.queries()
each_query = pytest.mark.parametrize("query", QUERIES, ids=[f"{query.panel}-{n}" for n, query in enumerate(QUERIES)])


def selectors(query: Query) -> list[VectorSelector]:
    return dashboard.selectors(query.parsed)


@each_query
def test_a_query_asks_for_metrics_and_labels_that_there_are(query: Query) -> None:
    dashboard.check(query, KNOWN)


@pytest.mark.parametrize(
    "wrong",
    [
        "vaultpki_hooks_owed",
        'vaultpki_hook_owed{name="kubelet"}',
        "count by (hook) (vaultpki_node_info)",
        "count(vaultpki_node_info) * on (cluster) group_left (node) vaultpki_node_info",
        "vaultpki_hook_owed * on (job, instance) group_left (nodes) vaultpki_node_info",
        "vaultpki_hook_owed and on (hook) vaultpki_node_info",
        'label_replace(vaultpki_node_info, "reason", "$1", "state", "(.*)")',
    ],
)
def test_control_a_name_that_there_is_not_is_found(wrong: str) -> None:
    with pytest.raises((AssertionError, KeyError)):
        dashboard.check(Query("", wrong), KNOWN)


def test_variables_ask_for_metrics_and_labels_that_there_are() -> None:
    found = dashboard.variables()
    assert found.keys() == {"cluster", "node"}
    for name, query in found.items():
        assert query.legend == name
        assert name in dashboard.labels(query.parsed, KNOWN)


def test_every_metric_is_on_the_dashboard() -> None:
    asked = {selector.name for query in QUERIES for selector in selectors(query)}
    assert asked - {name for name in asked if ":" in str(name)} == EXPORTED.keys()


def test_values_that_queries_name_are_values_that_there_are() -> None:
    found: dict[str, set[str]] = {}
    for query in QUERIES:
        for selector in selectors(query):
            for matcher in selector.matchers.matchers:
                if matcher.name == "state":
                    found.setdefault(selector.name or "", set()).update(matcher.value.split("|"))
    assert found == {
        "vaultpki_agent_state": {"needs-join"},
        "vaultpki_certificate_state": {"expired", "revoked", "missing", "broken", "unknown"},
    }
    assert found["vaultpki_agent_state"] <= set(get_args(AgentState))
    assert found["vaultpki_certificate_state"] <= {state.value for state in PairState} | {"unknown"}


@each_query
def test_the_variables_narrow_every_query(query: Query) -> None:
    """Every sample names its cluster and node, so nothing is joined; a CA is that of a cluster."""
    cas = ("vaultpki_ca_not_after_timestamp_seconds", "vaultpki_ca_level_timestamp_seconds")
    for selector in selectors(query):
        variables = {m.name for m in selector.matchers.matchers if m.value == ".+"}
        assert variables == ({"cluster"} if selector.name in cas else {"cluster", "node"})


@each_query
def test_a_legend_names_labels_of_the_result(query: Query) -> None:
    assert set(re.findall(r"\{\{(\w+)\}\}", query.legend)) <= dashboard.labels(query.parsed, KNOWN)


def tables() -> list[dict[str, Any]]:
    return [panel for panel in dashboard.panels() if panel["type"] == "table"]


@pytest.mark.parametrize("table", tables(), ids=lambda table: str(table["title"]))
def test_the_columns_of_a_table_are_those_of_its_queries(table: dict[str, Any]) -> None:
    targets = table["targets"]
    # Grafana names the values of several queries by their letters.
    values = {"Value"} if len(targets) == 1 else {f"Value #{target['refId']}" for target in targets}
    results = [dashboard.labels(Query("", target["expr"]).parsed, KNOWN) for target in targets]
    # Rows are merged by what all have in common.
    assert all(found == results[0] for found in results)
    (columns,) = [one["options"]["include"]["names"] for one in table["transformations"] if "include" in one["options"]]
    assert set(columns) - values <= results[0]
    overrides = {one["matcher"]["options"]: one["properties"] for one in table["fieldConfig"]["overrides"]}
    assert overrides.keys() == set(columns) & values
    shown = {p["value"] for one in overrides.values() for p in one if p["id"] == "displayName"} | set(columns)
    assert {one["displayName"] for one in table["options"]["sortBy"]} <= shown
    assert all(target["format"] == "table" and target["instant"] for target in targets)


def test_panels_have_ids_titles_and_places_of_their_own() -> None:
    board = dashboard.load()
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    rows: list[list[dict[str, Any]]] = []
    for panel in board["panels"]:
        rows += [[]] if panel["type"] == "row" else []
        rows[-1].append(panel)
        place = panel["gridPos"]
        assert place["w"] > 0 and place["h"] > 0 and place["x"] >= 0 and place["x"] + place["w"] <= 24, panel["title"]
    for one, other in itertools.combinations(board["panels"], 2):
        a, b = one["gridPos"], other["gridPos"]
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert beside or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"], (one["title"], other["title"])
    for row, *members in rows:
        assert members and row["panels"] == [] and not row["collapsed"]
        assert all(member["gridPos"]["y"] > row["gridPos"]["y"] for member in members)


def test_a_grafana_can_take_it_whatever_its_prometheus_is_called() -> None:
    board = dashboard.load()
    source = {"type": "prometheus", "uid": "${datasource}"}
    [chosen] = [one for one in board["templating"]["list"] if one["type"] == "datasource"]
    assert (chosen["name"], chosen["query"]) == ("datasource", "prometheus")
    for panel in dashboard.panels():
        assert panel["datasource"] == source and all(target["datasource"] == source for target in panel["targets"])
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        assert panel["type"] in ("stat", "table", "timeseries"), "only what every Grafana has"
    assert board["id"] is None and board["uid"] == "vaultpki" and board["links"] == []
    assert "://" not in str(board)
    used = set(re.findall(r"\$\{?([a-z_]\w*)", str(board)))
    assert used == {one["name"] for one in board["templating"]["list"]} | {"__all"}


def test_every_finding_of_a_node_is_among_the_reasons_for_attention() -> None:
    (reasons,) = {
        query.text for query in QUERIES if query.panel == "Nodes that need attention" and "count(" not in query.text
    }
    shown = set(re.findall(r"[a-z-]+", re.findall(r'vaultpki_finding\{finding=~"([^"]+)"', reasons)[0]))
    # The others have a metric of their own, which says more.
    apart = {
        "needs-join": 'vaultpki_agent_state{state="needs-join"',
        "overdue": "vaultpki_certificate_renew_after_timestamp_seconds",
        "hook-failed": "vaultpki_hook_owed_since_timestamp_seconds",
        "vault-away": "vaultpki_vault_reachable{",
    } | dict.fromkeys(("expired", "revoked", "missing", "broken"), 'state=~"expired|revoked|missing|broken|unknown"')
    assert all(query in reasons for query in apart.values())
    assert shown | apart.keys() == {kind.name for kind in own_findings.OWN if kind.severity.attention}


def red(value: Any) -> bool:
    """Whether something of a panel turns red: a threshold, or a value with a colour."""
    if isinstance(value, dict):
        return value.get("color") == "red" or any(map(red, value.values()))
    return isinstance(value, list) and any(map(red, value))


RED = [panel for panel in dashboard.panels() if red(panel)]


@pytest.mark.parametrize("panel", RED, ids=lambda panel: f"{panel['title']}-{panel['type']}")
def test_a_panel_that_turns_red_names_its_alerts(panel: dict[str, Any]) -> None:
    _, _, said = panel["description"].partition("Red")
    if panel["title"] == "Nodes that need attention":
        assert said == ": each reason there has its alert."
        return
    named = set(re.findall(r"Vaultpki\w+", said))
    assert named and named <= set(re.findall(r"alert: (\w+)", recipe("alerts.yaml")))


def test_first_expiries_have_thresholds_and_what_they_are_turns_red() -> None:
    expiries = {panel["title"] for panel in dashboard.panels() if "expire" in panel["title"]}
    assert len(expiries) == 4 and expiries <= {panel["title"] for panel in RED}
