"""Which client CAs a component must name that makes its own certificate and asks the API server for them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import trustme

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
