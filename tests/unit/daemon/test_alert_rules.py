"""The alert rules: complete, each with a page, each with names; and they ask for metrics and labels that there are."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import example_metrics
from helpers import dashboard, example_cluster
from helpers.dashboard import Query
from vaultpki.findings.catalogue import CATALOGUE, KINDS, Severity
from vaultpki.host.systemd import DOCS, recipe

ROOT = Path(__file__).resolve().parents[3]
RULES = [rule for group in yaml.safe_load(recipe("alerts.yaml"))["groups"] for rule in group["rules"]]
ALERTS: list[dict[str, Any]] = [rule for rule in RULES if "alert" in rule]
each_alert = pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: str(rule["alert"]))
EXPORTED = dashboard.exported(example_metrics.agent())
KNOWN = EXPORTED | dashboard.exported(example_metrics.signer()) | dashboard.FLEET | dashboard.recorded(EXPORTED)
# What agents of one node cannot say: these are about a CA, a rotation or a cluster.
CLUSTERS = re.compile(
    "VaultpkiCa[A-Z](?!ertificate)|VaultpkiRotation(?!Record)|VaultpkiAdoption|VaultpkiVaultData|VaultpkiNo(LiveC|tR)|VaultpkiSigner(?!Ends)"
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule.get("alert", rule.get("record"))))
def test_a_rule_asks_for_metrics_and_labels_that_there_are(rule: dict[str, Any]) -> None:
    dashboard.check(Query("", rule["expr"]), KNOWN)


@each_alert
def test_an_alert_names_cluster_and_node(rule: dict[str, Any]) -> None:
    if rule["alert"] == "VaultpkiNoAgents":
        return
    summary = rule["annotations"]["summary"]
    names = dashboard.labels(Query("", rule["expr"]).parsed, KNOWN)
    about_cluster = CLUSTERS.match(rule["alert"]) is not None
    assert {"cluster"} if about_cluster else {"cluster", "node"} <= names
    assert summary.startswith("{{ $labels.cluster }}" + (": " if about_cluster else " {{ $labels.node }}: "))
    told = {*re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))}
    assert told <= names


@each_alert
def test_an_alert_leads_to_its_own_part_of_the_page(rule: dict[str, Any]) -> None:
    page, _, anchor = rule["annotations"]["runbook_url"].removeprefix(DOCS).partition("#")
    source = (ROOT / "docs" / page).with_suffix(".md").read_text()
    # The anchor of a heading of one word, as mkdocs makes it.
    headings = re.findall(r"^#+ (\w+)$", source, re.MULTILINE)
    assert anchor in [heading.lower() for heading in headings]
    assert anchor == rule["alert"].lower()


def test_what_the_rules_take_from_vault_is_what_nodes_writes(tmp_path: Path) -> None:
    written = dashboard.exported(example_metrics.fleet(example_cluster.load(tmp_path, example_cluster.WITH_POOL)))
    assert dashboard.FLEET.items() <= written.items()


def test_alerts_lead_to_the_documentation_of_the_project() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Documentation"] == DOCS


def test_every_finding_that_needs_a_person_has_its_alert() -> None:
    named = {each for rule in ALERTS for each in rule["annotations"].get("finding", "").split(", ")} - {""}
    assert named == {kind.name for kind in CATALOGUE if kind.severity.attention}
    for rule in ALERTS:
        asked = "|".join(re.findall(r'finding\{finding=~?"([^"]+)"[^}]*\} == 1(?!\))', rule["expr"])).split("|")
        said = rule["annotations"].get("finding", "").split(", ")
        assert rule["alert"] == "VaultpkiNodeNotWatched" or set(asked) <= {*said, ""}, rule["alert"]
        assert rule["labels"]["severity"] in {each.value for each in Severity}


@pytest.mark.parametrize("kind", ["vault", "own"])
def test_a_finding_alerts_wherever_it_is_seen(kind: str) -> None:
    """A finding that Vault shows has an alert on what `nodes --metrics` writes, for nodes that nobody scrapes."""
    pattern = r"vaultpki_fleet_(?:node_)?finding" if kind == "vault" else r"vaultpki_(?!fleet)\w+"
    named = {
        each
        for rule in ALERTS
        if re.search(pattern, rule["expr"])
        for each in rule["annotations"].get("finding", "").split(", ")
    }
    assert named >= {each.name for each in CATALOGUE if getattr(each, kind) and each.severity.attention} - (
        {"expired", "ca-expires"} if kind == "own" else set()
    )


@each_alert
def test_an_alert_names_the_next_command_of_its_finding_or_a_view_that_does(rule: dict[str, Any]) -> None:
    said = rule["annotations"]["description"]
    views = any(f"`vaultpki {view}`" in said for view in ("status", "nodes"))
    for kind in (KINDS[name] for name in rule["annotations"].get("finding", "").split(", ") if name):
        command = re.split(r" ?\{", kind.command)[0]
        assert command in said or views, (kind.name, said)
        assert "vaultpki doctor" not in said or command == "vaultpki doctor"
