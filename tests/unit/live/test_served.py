"""What is said of a component with a certificate beside the table: its client CAs, and who signed it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import trustme

from helpers.kube.kubeadm_objects import authority, leaf
from vaultpki.host.presented import Presented
from vaultpki.live.listeners import Endpoint
from vaultpki.live.served import NodeContents, served_checks
from vaultpki.live.trust import Expected
from vaultpki.pki import x509

KUBERNETES, FRONT_PROXY, ETCD = (f"CN=prod {name} CA" for name in ("kubernetes", "front-proxy", "etcd"))


@pytest.mark.parametrize(
    ("component", "named", "words"),
    [
        ("kube-scheduler", (KUBERNETES, FRONT_PROXY), ""),
        # As kubeadm's, which starts before the API server answers.
        ("kube-scheduler", (KUBERNETES,), ""),
        ("kube-controller-manager", (KUBERNETES,), f"does not accept clients of {FRONT_PROXY}"),
        ("kube-scheduler", (FRONT_PROXY,), f"does not accept clients of {KUBERNETES}"),
        ("kube-scheduler", (KUBERNETES, ETCD), "accepts clients of the CA etcd, another trust domain"),
        ("kube-scheduler", None, "asks for no client certificate"),
    ],
)
def test_client_cas_of_a_component_that_asks_for_them(
    component: str, named: tuple[str, ...] | None, words: str
) -> None:
    cas = ("kubernetes", "front-proxy")
    listener = Endpoint(f"cp-1/{component} 127.0.0.1:10259", component, "127.0.0.1", 10259, (), cas, "/metrics")
    (own,) = x509.read_certificates(trustme.CA().cert_pem.bytes())
    expected = Expected("prod", (), {}, "ca.root_sha256")
    checks = served_checks(listener, Presented((own,), named), expected, NodeContents(), datetime.now(UTC))
    (found,) = (check for check in checks if check.name == "client CAs")
    assert found.ok is not bool(words) and words in found.detail


NOW = datetime.now(UTC)


def shown(leaf_pem: str, expected: Expected) -> dict[str, tuple[bool | None, str]]:
    """What is said of a listener that presents a certificate beside the table."""
    listener = Endpoint("cp-1/kube-scheduler 127.0.0.1:10259", "kube-scheduler", "127.0.0.1", 10259, (), (), "/metrics")
    presented = Presented(x509.read_certificates(leaf_pem.encode()), None)
    checks = served_checks(listener, presented, expected, NodeContents(), NOW)
    return {check.name: (check.ok, check.detail) for check in checks if check.name != "client CAs"}


def test_a_pair_beside_the_table_of_a_ca_that_is_given_up_is_wrong() -> None:
    """After an adoption: its key is gone, and nobody trusts it any more."""
    old = authority("kubernetes", "ECDSA-P256")
    (ca,) = x509.read_certificates(old.pem.encode())
    own = leaf("own.example.com", old, names=["own.example.com"], kind="ECDSA-P256").pem
    said = shown(own, Expected("prod", (), {}, "Vault"))["served certificate"]
    assert (
        said[0] is False and "was signed by CN=kubernetes, a CA of kubeadm's that is none of the cluster's" in said[1]
    )
    # While the cluster is taken over it is in cluster.yaml.
    assert shown(own, Expected("prod", (), {}, "Vault", foreign={"kubernetes": (ca,)}))["served certificate"][0] is True
    assert shown(own, Expected("prod", (), {"kubernetes": (ca,)}, "Vault")).keys() == {"served certificate"}


def test_whose_certificate_its_owner_renews_is_not_checked_and_said() -> None:
    corp = leaf("own.example.com", authority("Corp CA", "ECDSA-P256"), kind="ECDSA-P256").pem
    found = shown(corp, Expected("prod", (), {}, "Vault"))
    assert found["served certificate"][0] is True and found["chain"][0] is None
    assert "CN=Corp CA signed it, which is no CA of the cluster" in found["chain"][1]
    made = leaf("localhost@1", authority("localhost-ca@1", "ECDSA-P256"), kind="ECDSA-P256").pem
    assert shown(made, Expected("prod", (), {}, "Vault")).keys() == {"served certificate"}
