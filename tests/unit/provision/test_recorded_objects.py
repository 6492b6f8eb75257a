"""A cluster with a root of its own has the same objects, records and policies as before a root could be from outside.

A byte that differs would be a change in the plan of every cluster there is. Digests that are meant to change are
recorded anew, and CHANGELOG.md says what `plan` shows then.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Final

import pytest

from helpers.example_cluster import BASE, WITH_POOL, load
from helpers.foreign_ca import ForeignCa
from vaultpki.identity.access import POLICIES, policy_of
from vaultpki.provision.desired import desired
from vaultpki.records.server_facts import ServerFacts

KNOWN: Final = ServerFacts(
    addresses=("https://a.example.com:8200", "https://b.example.com:8200"),
    accessors={"listed": "auth_l", "pooled": "auth_p"},
    root_sha256="ab" * 32,
    role_ids={"cp-1": "id-cp-1", "cp-2": "id-cp-2", "worker-1": "id-worker-1", "w-1": "id-w-1"},
)
EMPTY: Final = ServerFacts()

WITH_KEYS: Final = f"""{WITH_POOL.replace("etcd]", "etcd, worker]")}\
layout: kubeadm
ca: {{root_sha256: {"cd" * 32}, root_ttl: 20y, issuing_ttl: 3y}}
defaults: {{ttl: 20d, key: rsa-2048}}
"""

RECORDED: Final = {
    "two nodes": (BASE, "2c0431369e87826f553cae2f32d64b516ecedd00e69d0a2ba94ccaa0cc2596a8"),
    "a pool": (WITH_POOL, "4e60ab2f8dcbab6f2c87a05c4b6b33fb2b7a63847da36cc9372e848c10b1f900"),
    "its own values": (WITH_KEYS, "9c99743d3286b17d7647446d8da63cdbd1455b3d64772e2e3fa2fe4c8fbdb852"),
}


@pytest.mark.parametrize("name", RECORDED)
def test_no_byte_differs(tmp_path: Path, name: str) -> None:
    text, recorded = RECORDED[name]
    cluster = load(tmp_path, text)
    found = {
        "objects": [[*key, fields] for facts in (EMPTY, KNOWN) for key, fields in desired(cluster, facts).items()],
        # It came later, and no cluster gets it that is not taken over.
        "policies": {who: policy_of(cluster, who) for who in POLICIES if who != "adopter"},
    }
    # In order: objects are made in the order of this list.
    assert sha256(json.dumps(found).encode()).hexdigest() == recorded


@pytest.mark.parametrize(
    ("layout", "also_trust", "written"),
    [("kubeadm", True, True), ("kubeadm", False, False), ("document", True, False), ("document", False, False)],
)
def test_the_adopters_policy_is_where_a_cluster_is_taken_over(
    tmp_path: Path, layout: str, also_trust: bool, written: bool
) -> None:
    (tmp_path / "old.crt").write_text(ForeignCa("kubernetes").pem)
    trust = "ca: {also_trust: {kubernetes: [old.crt]}}\n" if also_trust else ""
    nodes = BASE.replace("etcd]", "etcd, worker]")
    cluster = load(tmp_path, f"{nodes}layout: {layout}\n{trust}")
    assert (("policy", "vaultpki/prod/adopter") in desired(cluster, KNOWN)) is written
