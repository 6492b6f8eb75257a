"""What of cluster.yaml a digest covers: every value, the files that it names each by itself, and no comment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from helpers.example_cluster import load
from vaultpki.provision.plan_digests import basis_of, other_basis
from vaultpki.records.saved_plan import Basis

SPEC = """\
cluster: prod
vault: {addresses: ["https://vault.example.com:8200"], namespace: team1}
api_server: {names: [api.example.com], service_cidr: [10.96.0.0/12], dns_domain: cluster.local}
nodes:
- {name: cp-1, roles: [control-plane, etcd, worker], addresses: [10.0.0.11]}
pools:
- {name: autoscaled, roles: [worker], node_names: "w-*"}
- name: cloud
  roles: [worker]
  node_names: c-*
  jwt: {issuer: "https://issuer.example", audiences: [vaultpki], node_claim: node, jwks_url: "https://issuer.example/jwks"}
ca: {root_ttl: 10y, issuing_ttl: 5y, key: ec-p256}
defaults: {ttl: 30d, key: ec-p256}
certificates:
  kubelet: {ttl: 9d}
  metrics: {kind: client, ca: kubernetes, common_name: metrics, roles: [worker]}
templates:
  audit: {file: audit.yaml, template: audit.yaml.tmpl, roles: [control-plane]}
layout: document
"""
# One value of every key of cluster.yaml, and another one.
CHANGES = {
    "vault.addresses": ("vault.example.com", "other.example.com"),
    "vault.namespace": ("team1", "team2"),
    "api_server.names": ("[api.example.com]", "[api2.example.com]"),
    "api_server.service_cidr": ("10.96.0.0/12", "10.112.0.0/12"),
    "api_server.dns_domain": ("cluster.local", "example.local"),
    "nodes": ("10.0.0.11", "10.0.0.12"),
    "nodes.roles": ("etcd, worker]", "worker]"),
    "pools": ("w-*", "v-*"),
    "jwt.audiences": ("audiences: [vaultpki]", "audiences: [vault]"),
    "jwt.node_claim": ("node_claim: node", "node_claim: sub"),
    "jwt.issuer": ('"https://issuer.example"', '"https://issuer2.example"'),
    "jwt.jwks_url": ("/jwks", "/keys"),
    "ca.root_ttl": ("10y", "11y"),
    "ca.issuing_ttl": ("5y", "4y"),
    "ca.key": ("key: ec-p256}\ndefaults", "key: ec-p384}\ndefaults"),
    "ca.root_sha256": ("ca: {", f"ca: {{root_sha256: {'ab' * 32}, "),
    "defaults.ttl": ("ttl: 30d", "ttl: 20d"),
    "defaults.key": ("key: ec-p256}\ncertificates", "key: rsa-2048}\ncertificates"),
    "certificates": ("9d", "8d"),
    "certificates, one of our own": ("common_name: metrics", "common_name: metric"),
    "templates.file": ("file: audit.yaml", "file: audit2.yaml"),
    "templates.roles": ("tmpl, roles: [control-plane]", "tmpl, roles: [worker]"),
    "layout": ("layout: document", "layout: kubeadm"),
}


def basis(folder: Path, spec: str = SPEC, template: str = "node: ${node}\n") -> Basis:
    (folder / "audit.yaml.tmpl").write_text(template)
    return basis_of(load(folder, spec), ("https://vault.example.com:8200",), "team1")


@pytest.mark.parametrize("key", CHANGES)
def test_every_key_of_cluster_yaml_counts(tmp_path: Path, key: str) -> None:
    old, new = CHANGES[key]
    assert SPEC.count(old) == 1, key
    saved, now = basis(tmp_path), basis(tmp_path, SPEC.replace(old, new))
    assert other_basis(saved, now, "cluster.yaml") == ["cluster.yaml has changed since the plan was saved"]


def test_a_comment_and_the_order_of_keys_do_not_count(tmp_path: Path) -> None:
    lines = SPEC.splitlines(keepends=True)
    assert basis(tmp_path, "# A comment.\n" + "".join([*lines[-1:], *lines[:-1]])) == basis(tmp_path)


def test_a_file_that_cluster_yaml_names_is_told_by_itself(tmp_path: Path) -> None:
    found = other_basis(basis(tmp_path), basis(tmp_path, template="node: ${node} #\n"), "cluster.yaml")
    assert found == ["the template audit has changed since the plan was saved"]


def test_of_another_release_nothing_else_is_told(tmp_path: Path) -> None:
    now = basis(tmp_path)
    saved = replace(now, release="9.9.9", spec="0" * 64)
    (found,) = other_basis(saved, now, "cluster.yaml")
    assert found.startswith("it was saved by vaultpki 9.9.9, and this is ")


def test_a_file_in_a_checkout_of_vaultpki_makes_no_other_release(tmp_path: Path) -> None:
    """As the saved plan itself is one, or what somebody edits there."""
    clean = replace(basis(tmp_path), release="0.2.0.dev120+gabcdef1")
    dirty = replace(clean, release="0.2.0.dev120+gabcdef1.dirty")
    assert other_basis(clean, dirty, "cluster.yaml") == other_basis(dirty, clean, "cluster.yaml") == []
    assert other_basis(clean, replace(clean, release="0.2.0.dev121+gabcdef1.dirty"), "cluster.yaml")
