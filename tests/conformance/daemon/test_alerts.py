"""The alert rules before Prometheus' own checker: they parse, and they fire when they should and not before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.promtool import promtool
from vaultpki.host.systemd import recipe

pytestmark = pytest.mark.conformance

ON = 'job="vaultpki", instance="w-1", cluster="prod", node="w-1"'
TOO = 'job="vaultpki", instance="w-2", cluster="prod", node="w-2"'


def test_prometheus_takes_the_rules(tmp_path: Path) -> None:
    file = tmp_path / "alerts.yaml"
    file.write_text(recipe("alerts.yaml"))
    rules = [rule for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]
    assert f"SUCCESS: {len(rules)} rules found" in promtool("check", "rules", file)


# A sample a minute; time begins at 0. What fires, and from when on, in minutes.
CASES: dict[str, tuple[dict[str, str], dict[str, int | None]]] = {
    "a certificate of six hours that nobody renews": (
        {
            f'vaultpki_certificate_not_after_timestamp_seconds{{name="kubelet", {ON}}}': "21600x500",
            f'vaultpki_certificate_renew_after_timestamp_seconds{{name="kubelet", {ON}}}': "10800x500",
            f'vaultpki_certificate_ttl_granted_seconds{{name="kubelet", {ON}}}': "21600x500",
            f'vaultpki_certificate_ttl_asked_seconds{{name="kubelet", {ON}}}': "21600x500",
        },
        {
            "VaultpkiRenewalOverdue": 180 + 60 + 1 + 5,
            "VaultpkiCertificateExpiresSoon": 300 + 1 + 5,
            "VaultpkiCertificateExpired": 360,
            "VaultpkiGrantedLessThanAsked": None,
        },
    ),
    "a grant of half of what was asked": (
        {
            f'vaultpki_certificate_ttl_granted_seconds{{name="kubelet", {ON}}}': "1800x500",
            f'vaultpki_certificate_ttl_asked_seconds{{name="kubelet", {ON}}}': "3600x500",
        },
        {"VaultpkiGrantedLessThanAsked": 60},
    ),
    "a file that is gone": (
        {
            f'vaultpki_certificate_state{{name="kubelet", state="missing", {ON}}}': "1x500",
            f'vaultpki_certificate_state{{name="kube-proxy", state="due", {ON}}}': "1x500",
        },
        {"VaultpkiCertificateMissing": 15},
    ),
    "a directory that the agent cannot look into": (
        {f'vaultpki_certificate_state{{name="kubelet", state="unknown", {ON}}}': "1x500"},
        {"VaultpkiCertificateMissing": 15},
    ),
    "Vault away, with a day and a half left": (
        {
            f"vaultpki_vault_reachable{{{ON}}}": "0x1000",
            f"vaultpki_outage_left_seconds{{{ON}}}": "129600-60x1000",
        },
        {"VaultpkiVaultUnreachable": 30, "VaultpkiOutageTurnsFatal": 720 + 1 + 10},
    ),
    "Vault there, with little left": (
        {f"vaultpki_vault_reachable{{{ON}}}": "1x500", f"vaultpki_outage_left_seconds{{{ON}}}": "3600x500"},
        {"VaultpkiVaultUnreachable": None, "VaultpkiOutageTurnsFatal": None},
    ),
    "a Vault that was not asked since the agent was started, with little left": (
        {f"vaultpki_outage_left_seconds{{{ON}}}": "3600x500"},
        {"VaultpkiVaultUnreachable": None, "VaultpkiOutageTurnsFatal": None},
    ),
    "a credential that was taken away": (
        {f'vaultpki_agent_state{{state="needs-join", {ON}}}': "1x500"},
        {"VaultpkiNeedsJoin": 5},
    ),
    "an agent that is well, and one that backs off": (
        {
            f'vaultpki_agent_state{{state="ok", {ON}}}': "1x500",
            f'vaultpki_agent_state{{state="backing-off", {TOO}}}': "1x500",
            f"vaultpki_last_pass_timestamp_seconds{{{ON}}}": "0+60x500",
        },
        {"VaultpkiNeedsJoin": None, "VaultpkiAgentStuck": None},
    ),
    "a hook that fails since the tenth minute": (
        {
            f'vaultpki_hook_owed{{hook="kubelet", {ON}}}': "1x500",
            f'vaultpki_hook_owed_since_timestamp_seconds{{hook="kubelet", {ON}}}': "600x500",
            f'vaultpki_hook_attempts{{hook="kubelet", {ON}}}': "0x10 1+1x489",
        },
        {"VaultpkiHookOwed": 10 + 15 + 1},
    ),
    "a hook that waits for its turn in a rotation": (
        {
            f'vaultpki_hook_owed{{hook="etcd-ca", {ON}}}': "1x500",
            f'vaultpki_hook_owed_since_timestamp_seconds{{hook="etcd-ca", {ON}}}': "600x500",
            f'vaultpki_hook_attempts{{hook="etcd-ca", {ON}}}': "0x500",
        },
        {"VaultpkiHookOwed": None},
    ),
    "an agent that does nothing": (
        {f"vaultpki_last_pass_timestamp_seconds{{{ON}}}": "0x500"},
        {"VaultpkiAgentStuck": 61},
    ),
    "a CA at whose end nobody looks": (
        {
            f'vaultpki_ca_not_after_timestamp_seconds{{ca="etcd", {ON}}}': "21600x500",
            f'vaultpki_ca_not_after_timestamp_seconds{{ca="etcd", {TOO}}}': "21600x500",
            f'vaultpki_ca_level_timestamp_seconds{{ca="etcd", level="notice", {ON}}}': "3600x500",
            # The one with the longest certificates is warned first, and all of them by it.
            f'vaultpki_ca_level_timestamp_seconds{{ca="etcd", level="notice", {TOO}}}': "7200x500",
            f'vaultpki_ca_level_timestamp_seconds{{ca="etcd", level="warning", {ON}}}': "10800x500",
            f'vaultpki_ca_level_timestamp_seconds{{ca="etcd", level="critical", {ON}}}': "18000x500",
        },
        {
            "VaultpkiCaNotice": 60 + 60,
            "VaultpkiCaExpiresSoon": 180 + 60,
            "VaultpkiCaExpiresNow": 300 + 5,
            "VaultpkiCaExpired": 360,
        },
    ),
    "an agent that is gone after an hour and a half, and one that became newer": (
        {
            f"vaultpki_node_info{{{ON}}}": "1x90 _x400",
            f"vaultpki_node_info{{{TOO}}}": "1x490",
            f'vaultpki_build_info{{version="0.1.0", {TOO}}}': "1x90 _x400",
            f'vaultpki_build_info{{version="0.2.0", {TOO}}}': "_x90 1x400",
        },
        # A series ends when its last sample is more than five minutes old.
        {"VaultpkiAgentGone": 90 + 5 + 1 + 10},
    ),
    "a record of a rotation that is older than before": (
        {f'vaultpki_ca_rotation_behind{{ca="etcd", {ON}}}': "1x500"},
        {"VaultpkiRotationRecordBehind": 15},
    ),
    "a node that does not take a foreign CA": (
        {f'vaultpki_finding{{finding="foreign-ca", {ON}}}': "1x500"},
        {"VaultpkiForeignCa": 15},
    ),
    "a foreign CA that expires soon": (
        {
            f'vaultpki_finding{{finding="ca-expires", {ON}}}': "1x500",
            f'vaultpki_ca_level_timestamp_seconds{{ca="etcd", level="warning", {ON}}}': "900000x500",
        },
        {"VaultpkiForeignCa": 15},
    ),
    "a CA of the cluster that expires soon": (
        {
            f'vaultpki_finding{{finding="ca-expires", {ON}}}': "1x500",
            f'vaultpki_ca_level_timestamp_seconds{{ca="etcd", level="warning", {ON}}}': "0x500",
        },
        {"VaultpkiForeignCa": None},
    ),
    "pairs that the node's record does not name": (
        {f'vaultpki_finding{{finding="surplus", {ON}}}': "1x500"},
        {"VaultpkiSurplus": 15},
    ),
    "a stranger's key in sa.pub that nobody mends": (
        {f'vaultpki_finding{{finding="token-keys", {ON}}}': "1x500"},
        {"VaultpkiFilesWrong": 10},
    ),
    "an agent that puts files right": (
        {f"vaultpki_tampered_total{{{ON}}}": "0x90 2x400"},
        {"VaultpkiTampered": 91},
    ),
    "an agent that puts files right in its first pass": (
        {f"vaultpki_tampered_total{{{ON}}}": "_x90 2x400"},
        {"VaultpkiTampered": 90},
    ),
    "a node without a certificate": (
        {f'vaultpki_finding{{finding="empty", {ON}}}': "1x500"},
        {"VaultpkiNoCertificate": 15},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_alerts_fire_when_they_should(case: str, tmp_path: Path) -> None:
    series, expected = CASES[case]
    rules = tmp_path / "alerts.yaml"
    rules.write_text(recipe("alerts.yaml"))
    # Names and labels only: the sentences hold times.
    content = yaml.safe_load(rules.read_text())
    alerts = {rule["alert"]: rule for group in content["groups"] for rule in group["rules"] if "alert" in rule}
    for rule in alerts.values():
        del rule["annotations"]
    rules.write_text(yaml.safe_dump(content))

    def at(minute: int, alert: str, *, fires: bool) -> dict[str, Any]:
        found = [{"exp_labels": {**alerts[alert]["labels"], **_labels(alerts[alert], series)}}] if fires else []
        return {"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": found}

    tests: list[dict[str, Any]] = []
    for alert, minute in expected.items():
        if minute is None:
            tests += [at(each, alert, fires=False) for each in range(0, 400, 20)]
        else:
            tests += [at(minute - 1, alert, fires=False), at(minute, alert, fires=True)]
    file = tmp_path / "test.yaml"
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    file.write_text(
        yaml.safe_dump(
            {
                "rule_files": [str(rules)],
                "evaluation_interval": "1m",
                "tests": [{"interval": "1m", "input_series": inputs, "alert_rule_test": tests}],
            }
        )
    )
    promtool("test", "rules", file)


def _labels(rule: dict[str, Any], series: dict[str, str]) -> dict[str, str]:
    """The labels that an alert takes over from the first series: the one that it is about."""
    first = next(iter(series)).partition("{")[2].rstrip("}")
    found = dict(each.strip().replace('"', "").split("=", 1) for each in first.split(","))
    # What is remembered is that of a node at any address, and a CA is that of many nodes.
    remembered = "vaultpki:" in rule["expr"]
    dropped = {"job", "instance"} if remembered else set()
    return {
        name: value
        for name, value in found.items()
        if name not in dropped | ({"node"} if "ca" in found and remembered else set())
    }
