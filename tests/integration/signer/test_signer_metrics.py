"""What a signer shows on its loopback port: metrics by signer and rule, and what is wrong in sentences."""

from __future__ import annotations

import urllib.error
import urllib.request
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from helpers.example_agent import agent_config
from helpers.vault.servers import free_ports
from vaultpki.daemon import signer_metrics
from vaultpki.errors import VaultpkiError
from vaultpki.host.systemd import recipe
from vaultpki.node.secret_id import SecretIdFiles
from vaultpki.signer.process import SignerView
from vaultpki.signer.requests import WAITS_LONG
from vaultpki.signer.session import VaultSession

pytestmark = [pytest.mark.serverless, pytest.mark.on_node]

LATE = WAITS_LONG.total_seconds() + 1
VIEW: Final = SignerView(
    cluster="prod",
    node="cp-1",
    leads=True,
    silent="",
    waiting=3,
    braked=1,
    oldest=7.5,
    signed={"kubernetes.io/kubelet-serving": 4},
    refused={("kubernetes.io/kube-apiserver-client", "30a"): 2},
    troubles={},
)


def asked(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_metrics_and_problems_are_those_of_the_signer() -> None:
    (port,) = free_ports(1)
    views = [VIEW]
    signer_metrics.serve(agent_config(metrics=f"127.0.0.1:{port}"), lambda: views[-1])
    status, text = asked(port, "/metrics")
    found = {
        (sample.name, sample.labels.get("rule", "")): (sample.value, sample.labels["cluster"], sample.labels["node"])
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert status == 200
    assert {name: value for name, (value, *_) in found.items()} == {
        ("vaultpki_signer_signed_total", ""): 4,
        ("vaultpki_signer_refused_total", "30a"): 2,
        ("vaultpki_signer_waiting", ""): 3,
        ("vaultpki_signer_braked", ""): 1,
        ("vaultpki_signer_oldest_seconds", ""): 7.5,
        ("vaultpki_signer_leads", ""): 1,
        ("vaultpki_signer_silent", ""): 0,
        ("vaultpki_signer_troubles", ""): 0,
        ("vaultpki_signer_ends", ""): 0,
    }
    assert {about[1:] for about in found.values()} == {("prod", "cp-1")}
    assert asked(port, "/healthz") == (200, "ok\n")
    views.append(replace(VIEW, oldest=LATE))
    assert asked(port, "/healthz") == (503, "an approved request has waited for 121 s\n")
    # The brakes hold all of them, or another signer leads: this one is well.
    views.append(replace(VIEW, oldest=LATE, braked=3))
    assert asked(port, "/healthz")[0] == 200
    views.append(replace(VIEW, oldest=LATE, leads=False))
    assert asked(port, "/healthz")[0] == 200
    views.append(replace(VIEW, troubles={"vault": "Vault cannot be reached"}))
    assert asked(port, "/healthz") == (503, "Vault cannot be reached\n")
    views.append(replace(VIEW, ends=("the secret id of this signer ends at noon, and was not replaced",)))
    assert asked(port, "/healthz") == (503, "the secret id of this signer ends at noon, and was not replaced\n")
    assert "vaultpki_signer_ends{" in asked(port, "/metrics")[1]
    assert asked(port, "/livez")[0] == 200
    with pytest.raises(VaultpkiError, match=r"under `metrics` in signer\.yaml"):
        signer_metrics.serve(agent_config(metrics=f"127.0.0.1:{port}", file="signer.yaml"), lambda: VIEW)


def test_findings_of_the_process_alert_by_its_own_metrics() -> None:
    groups = yaml.safe_load(recipe("alerts.yaml"))["groups"]
    asks = {
        each["annotations"].get("finding"): each["expr"]
        for group in groups
        for each in group["rules"]
        if "alert" in each
    }
    assert "vaultpki_signer_braked" in asks["signer-flood"] and "vaultpki_signer_ends" in asks["signer-ends"]


def test_a_secret_id_that_was_not_replaced_is_told(tmp_path: Path) -> None:
    session = VaultSession(agent_config(state=str(tmp_path), directory=str(tmp_path)), allow_http=False)
    files, now = SecretIdFiles(str(tmp_path)), datetime.now(UTC)
    files.replace("6d6a2f1c-0000-0000-0000-000000000000")
    files.note_minted("6d6a2f1c-0000-0000-0000-000000000000", now.timestamp(), 1000)
    assert session.ending(now + timedelta(seconds=400)) == ()
    (late,) = session.ending(now + timedelta(seconds=600))
    assert late.startswith("the secret id of this signer ends at ")
