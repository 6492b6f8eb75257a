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
    "two nodes": (BASE, "c9c23f1b4680331c214a9b28feaf619411b3c0543c24767ec332a9ae12b0c47f"),
    "a pool": (WITH_POOL, "c4d65c6c3d76b6affd96b9c32780cdaf9cb37692ddabbc79f7be5faf7a41a3b6"),
    "its own values": (WITH_KEYS, "ddb66318b7eac1a5d8d061c52ed6b9b04b956f2d9545d80f5af6585fc0d4a8eb"),
}


@pytest.mark.parametrize("name", RECORDED)
def test_no_byte_differs(tmp_path: Path, name: str) -> None:
    text, recorded = RECORDED[name]
    cluster = load(tmp_path, text)
    found = {
        "objects": [[*key, fields] for facts in (EMPTY, KNOWN) for key, fields in desired(cluster, facts).items()],
        "policies": {who: policy_of(cluster, who) for who in POLICIES},
    }
    # In order: objects are made in the order of this list.
    assert sha256(json.dumps(found).encode()).hexdigest() == recorded
