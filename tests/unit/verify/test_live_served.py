"""Which client CAs a component must name that makes its own certificate and asks the API server for them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import trustme

from vaultpki.host.presented import Presented
from vaultpki.pki import x509
from vaultpki.verify.live_listeners import Listener
from vaultpki.verify.live_served import Held, served_checks
from vaultpki.verify.live_trust import Expected

KUBERNETES, FRONT_PROXY, ETCD = (f"CN=prod {name} CA" for name in ("kubernetes", "front-proxy", "etcd"))
LISTENER = Listener(
    "cp-1/kube-scheduler 127.0.0.1:10259",
    "kube-scheduler",
    "127.0.0.1",
    10259,
    (),
    ("kubernetes", "front-proxy"),
    "/metrics",
)


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ((KUBERNETES, FRONT_PROXY), ""),
        # kube-scheduler of kubeadm, which starts before the API server answers.
        ((KUBERNETES,), ""),
        ((FRONT_PROXY,), f"does not accept clients of {KUBERNETES}"),
        ((KUBERNETES, ETCD), "accepts clients of the CA etcd, another trust domain"),
        (None, "asks for no client certificate"),
    ],
)
def test_client_cas_of_a_component_that_asks_for_them(named: tuple[str, ...] | None, words: str) -> None:
    (own,) = x509.read_certificates(trustme.CA().cert_pem.bytes())
    expected = Expected("prod", (), {}, "ca.root_sha256")
    checks = served_checks(LISTENER, Presented((own,), named), expected, Held(), datetime.now(UTC))
    (found,) = (check for check in checks if check.name == "client CAs")
    assert found.ok is not bool(words) and words in found.detail
