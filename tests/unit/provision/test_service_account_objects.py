"""What Vault gets for service-account keys; and that a cluster without them stays as it was, byte by byte."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from helpers.example_cluster import load
from vaultpki.certificates import ROOT
from vaultpki.model import Usage
from vaultpki.pki.facts import EKU
from vaultpki.provision.desired import desired
from vaultpki.records.server_facts import Fields, Key, ServerFacts

SPEC = """\
cluster: prod
layout: {layout}
api_server: {{names: [api.example.com], addresses: [10.0.0.10]}}
nodes:
- {{name: cp-1, roles: [control-plane, etcd, worker], addresses: [10.0.0.11]}}
- {{name: cp-2, roles: [control-plane, worker], addresses: [10.0.0.12]}}
- {{name: worker-1, roles: [worker], addresses: [10.0.0.21, "fd00::21"]}}
pools:
- {{name: autoscaled, roles: [worker], node_names: "w-*"}}
certificates:
  kube-apiserver: {{key: rsa-2048}}
  own: {{kind: both, common_name: own, ca: kubelet, roles: [worker], names: ["{{node}}"]}}
"""
KNOWN = ServerFacts(
    addresses=("https://a.example.com:8200",),
    accessors={"listed": "auth_l", "pooled": "auth_p"},
    root_sha256="ab" * 32,
    role_ids={"cp-1": "id-cp-1", "cp-2": "id-cp-2", "worker-1": "id-worker-1"},
    openbao=True,
)
ON = "service_account_keys: true\n"
P = "vaultpki/prod"
BEFORE = {
    "document": "e53bd7f076acc0928335d74f7305e088c4524b2d0f9714f5a1390576370e1b5d",
    "kubeadm": "70892fb6d4d67145c0e2427b2ccebd7cff307b919014521669e180f523ed4724",
}
"""The SHA-256 of all objects of a cluster without such keys."""


def objects(folder: Path, text: str, facts: ServerFacts = KNOWN) -> dict[Key, Fields]:
    return desired(load(folder, text), facts)


def spec(layout: str = "document") -> str:
    return SPEC.format(layout=layout)


@pytest.mark.parametrize("layout", BEFORE)
def test_without_the_key_every_object_is_as_before(tmp_path: Path, layout: str) -> None:
    made = objects(tmp_path, spec(layout))
    text = json.dumps([[*key, fields] for key, fields in made.items()])
    assert hashlib.sha256(text.encode()).hexdigest() == BEFORE[layout]
    assert objects(tmp_path, spec(layout) + "service_account_keys: false\n") == made


@pytest.mark.parametrize("layout", BEFORE)
def test_with_the_key_only_its_own_objects_are_added(tmp_path: Path, layout: str) -> None:
    before, after = objects(tmp_path, spec(layout)), objects(tmp_path, spec(layout) + ON)
    mount = f"{P}/service-account"
    assert {key for key in after if key not in before} == {
        ("mount", mount),
        ("issuer", mount),
        *(("config", f"{mount}/config/{name}") for name in ("urls", "crl", "auto-tidy", "acme")),
        ("role", f"{mount}/service-account"),
    }
    changed = {key for key, fields in before.items() if after[key] != fields}
    records = {("config", f"{P}/config/nodes/{node}") for node in ("cp-1", "cp-2")}
    assert changed == {("policy", f"{P}/node/cp-1"), ("policy", f"{P}/node/cp-2"), *records}
    for key in records:
        field = {"service_account": {"ttl": 30 * 86400, "key": "ec-p256"}}
        assert after[key] == {**before[key], **field}
    for node in ("cp-1", "cp-2"):
        old, new = before["policy", f"{P}/node/{node}"], after["policy", f"{P}/node/{node}"]
        assert {path: rule for path, rule in new.items() if path in old} == old
        assert new.keys() - old.keys() == {f"{mount}/sign/service-account"}


def test_the_role_has_one_usage_that_is_not_of_tls_and_no_name_but_the_nodes_own(tmp_path: Path) -> None:
    role = objects(tmp_path, spec() + ON)["role", f"{P}/service-account/service-account"]
    (oid,) = EKU[Usage.SIGNING]
    assert (role["ext_key_usage_oids"], role["ext_key_usage"]) == ([oid], [])
    assert not role["client_flag"] and not role["server_flag"] and not role["allow_ip_sans"]
    assert role["key_usage"] == ["DigitalSignature"]
    assert role["allowed_domains"] == ["sa:{{identity.entity.aliases.auth_l.metadata.role_name}}:1"]
    assert role["allowed_domains_template"] and role["allow_bare_domains"]
    assert not any(role[name] for name in role if name.startswith("allow_") and name != "allow_bare_domains")
    # Components in Go read no larger numbers.
    assert all(int(part) < 1 << 31 for part in oid.split("."))


def test_each_policy_fixes_the_name(tmp_path: Path) -> None:
    made = objects(tmp_path, spec() + ON)
    path = f"{P}/service-account/sign/service-account"
    for node in ("cp-1", "cp-2"):
        rule = made["policy", f"{P}/node/{node}"][path]
        assert rule["allowed_parameters"] == {
            "csr": [],
            "format": ["pem"],
            "exclude_cn_from_sans": ["true"],
            "common_name": [f"sa:{node}:1"],
        }
        assert rule["required_parameters"] == ["exclude_cn_from_sans"]
    for key, rules in made.items():
        if key[0] == "policy" and key[1] not in (f"{P}/node/cp-1", f"{P}/node/cp-2"):
            assert path not in rules


def test_the_numbers_that_an_operator_has_given(tmp_path: Path) -> None:
    facts = ServerFacts(accessors=KNOWN.accessors, key_numbers={"cp-2": (1, 2)})
    made = objects(tmp_path, spec() + ON, facts)
    path = f"{P}/service-account/sign/service-account"
    names = {
        node: made["policy", f"{P}/node/{node}"][path]["allowed_parameters"]["common_name"] for node in ("cp-1", "cp-2")
    }
    assert names == {"cp-1": ["sa:cp-1:1"], "cp-2": ["sa:cp-2:1", "sa:cp-2:2"]}
    alias = "{{identity.entity.aliases.auth_l.metadata.role_name}}"
    role = made["role", f"{P}/service-account/service-account"]
    assert role["allowed_domains"] == [f"sa:{alias}:1", f"sa:{alias}:2"]


def test_no_record_names_it_and_the_root_signs_no_leaf(tmp_path: Path) -> None:
    made = objects(tmp_path, spec() + ON)
    records = [fields for (kind, name), fields in made.items() if kind == "config" and name.startswith(f"{P}/config/")]
    assert records and "service-account" not in json.dumps(records)
    assert not [name for kind, name in made if kind == "role" and name.startswith(f"{P}/{ROOT}/")]
