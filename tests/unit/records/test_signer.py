"""The record of what the signer knows: it is read as it was written, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.example_cluster import load
from vaultpki.csr_roles import SignerFacts, csr_roles, signer_facts
from vaultpki.errors import SpecError
from vaultpki.records import signer

SPEC = """\
cluster: prod
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
- {name: db-1, roles: [worker], addresses: [10.0.0.21, "fd00::21"]}
signer: {approve_serving: true, people: {names: ["*@example.com"], groups: [[], [dev, oncall]]}}
pools:
- {name: joined, roles: [worker], node_names: "w-*", join: token, networks: [10.0.0.0/16]}
"""
LEAST = SPEC.partition("signer:")[0] + "signer: {}\n"


def facts(folder: Path, text: str = SPEC) -> SignerFacts:
    found = signer_facts(load(folder, text))
    assert found is not None
    return found


@pytest.mark.parametrize("text", [SPEC, LEAST])
def test_it_is_read_as_it_was_written(tmp_path: Path, text: str) -> None:
    written = json.loads(json.dumps(signer.to_json(facts(tmp_path, text))))
    found = signer.read(written, where="x")
    assert found == facts(tmp_path, text)
    assert csr_roles(found) == csr_roles(load(tmp_path, text))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 2),
        ("signer", {"ttl": 0}),
        ("signer", {"ttl": "7d"}),
        ("signer", {"ttl": 600, "people": {"ttl": 600, "names": [], "groups": []}}),
        ("token_pools", [{"name": "x", "node_names": "*", "networks": []}]),
        ("token_pools", {}),
        ("nodes", ["a/b"]),
        ("common_names", None),
        ("addresses", [1]),
    ],
)
def test_what_no_vaultpki_writes_is_refused(tmp_path: Path, field: str, value: object) -> None:
    written = signer.to_json(facts(tmp_path)) | {field: value}
    with pytest.raises(SpecError) as caught:
        signer.read(written, where="vaultpki/prod/config/signer")
    assert (caught.value.field or "").partition(".")[0] == field or field in str(caught.value)


def test_a_text_is_no_record() -> None:
    with pytest.raises(SpecError, match="is not a record of vaultpki"):
        signer.read("x", where="x")
