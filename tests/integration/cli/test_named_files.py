"""A FIFO or a device where a person names a file: every command says so at once, and reads nothing of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from helpers.vault.applied_cluster import vaultpki

COMMANDS = (
    "plan -f",
    "apply --yes -f",
    "enroll node-1 -f",
    "issue admin --dir operator -f",
    "verify --dir . -f",
    "agent --once -c",
    "agent -c",
    "status -c",
    "renew kubelet -c",
    "status --dir",
)


AWAY = {"VAULT_ADDR": "https://127.0.0.1:9", "VAULT_TOKEN": "t"}


@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_nobody_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    named = tmp_path / "named"
    if kind == "fifo":
        os.mkfifo(named, 0o600)
    else:
        named.symlink_to("/dev/zero")
    for command in COMMANDS:
        ran = vaultpki(*command.split(), named, env=AWAY, expect=1, timeout=60)
        assert ran.stdout == "", (command, ran)
        assert ran.stderr.startswith("vaultpki: /") and ran.stderr.count("\n") == 1, (command, ran)
        assert "a FIFO, a socket or a device" in ran.stderr or "name the real folder" in ran.stderr, (command, ran)
    assert [path.name for path in tmp_path.iterdir()] == ["named"]


@pytest.mark.parametrize("what", ["ca_file", "template", "jwt"])
def test_what_cluster_yaml_names_is_no_exception(tmp_path: Path, what: str) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    lines = {
        "ca_file": "vault: {addresses: ['https://vault.example.com:8200'], ca_file: fifo}\n",
        "template": "templates: {audit: {file: audit.yaml, template: fifo, roles: [control-plane]}}\n",
        "jwt": (
            "pools: [{name: w, roles: [worker], node_names: 'w-*', jwt: {issuer: 'https://issuer.example.com', "
            "audiences: [vault], node_claim: sub, public_keys_file: fifo}}]\n"
        ),
    }
    spec = tmp_path / "cluster.yaml"
    nodes = "nodes: [{name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.1]}]\n"
    spec.write_text("cluster: prod\n" + nodes + lines[what])
    ran = vaultpki("plan", "-f", spec, env=AWAY, expect=1)
    assert "a FIFO, a socket or a device" in ran.stderr and ran.stderr.count("\n") == 1, ran
