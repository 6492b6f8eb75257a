"""service_account_keys in cluster.yaml: off unless it is written, and only a key that kube-apiserver can sign with."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.example_cluster import BASE, check_refused, load
from vaultpki.certificates import ISSUING_CAS, SERVICE_ACCOUNT, all_rows, issuing_cas, rows, signing_rows
from vaultpki.model import KeyType
from vaultpki.records.service_account import MOST_KEY_NODES

ON = "service_account_keys: true\n"


def test_it_is_off_by_default(tmp_path: Path) -> None:
    cluster = load(tmp_path, BASE)
    assert not cluster.service_account_keys
    assert (issuing_cas(cluster), signing_rows(cluster)) == (ISSUING_CAS, ())
    assert all_rows(cluster) == rows(cluster)


def test_it_adds_one_ca_and_one_row_which_is_not_for_tls(tmp_path: Path) -> None:
    cluster = load(tmp_path, BASE + ON + "certificates: {service-account: {key: rsa-3072, ttl: 90d, no_store: true}}\n")
    assert issuing_cas(cluster) == (*ISSUING_CAS, SERVICE_ACCOUNT)
    assert rows(cluster) == rows(load(tmp_path, BASE))
    (row,) = signing_rows(cluster)
    assert (row.name, row.ca, row.stem, row.key) == (SERVICE_ACCOUNT, SERVICE_ACCOUNT, "sa", KeyType.RSA_3072)
    assert (row.ttl, row.no_store) == (90 * 86400, True)


def row(keys: str) -> str:
    return ON + f"certificates: {{service-account: {{{keys}}}}}\n"


def own(keys: str) -> str:
    return ON + f"certificates: {{own: {{{keys}, common_name: own, roles: [worker]}}}}\n"


@pytest.mark.parametrize(
    ("text", "field", "hint"),
    [
        (row("ttl: 7d").replace(ON, ""), "certificates.service-account", "service_account_keys: true"),
        (ON + "defaults: {key: ed25519}\n", "defaults.key", "ECDSA or RSA"),
        (row("key: ed25519"), "certificates.service-account.key", "ECDSA or RSA"),
        (row("file: sa2"), "certificates.service-account.file", "leave file out"),
        (row("extra_names: [a]"), "certificates.service-account.extra_names", "leave extra_names out"),
        (own("kind: signing, ca: kubelet"), "certificates.own.kind", "client"),
        (own("kind: client, ca: service-account"), "certificates.own.ca", "kubernetes"),
        (own("kind: client, ca: kubelet, file: sa"), "certificates.own.file", "service-account keys"),
        ("service_account_keys: maybe\n", "service_account_keys", "true"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, field: str, hint: str) -> None:
    """The mistake is in the last line."""
    check_refused(tmp_path, BASE + text, (BASE + text).count("\n"), field, hint)


def test_a_default_that_does_not_fit_may_be_changed_for_this_row_alone(tmp_path: Path) -> None:
    text = ON + "defaults: {key: ed25519}\ncertificates: {service-account: {key: ec-p384}}\n"
    (row,) = signing_rows(load(tmp_path, BASE + text))
    assert row.key is KeyType.EC_P384


def test_more_control_planes_than_a_record_has_room_for(tmp_path: Path) -> None:
    def planes(number: int) -> str:
        return "".join(
            f"- {{name: cp-{each}, roles: [control-plane], addresses: [10.0.0.{each}]}}\n"
            for each in range(1, number + 1)
        )

    head = 'cluster: prod\napi_server: {endpoint: "https://10.0.0.1:6443"}\n' + ON + "nodes:\n"
    assert len(load(tmp_path, head + planes(MOST_KEY_NODES)).nodes) == MOST_KEY_NODES
    check_refused(tmp_path, head + planes(MOST_KEY_NODES + 2), 69, "nodes[64]", "66 control-plane nodes are more than")
    load(tmp_path, (head + planes(MOST_KEY_NODES + 2)).replace(ON, ""))
