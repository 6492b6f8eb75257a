"""A hand-over counts only as it is signed: each hostile variant of it is refused, with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509 as c

from helpers.ca_certificates import ca, key_of
from helpers.signed_certificates import extensions, facts, named, signed
from vaultpki.pki import hand_over
from vaultpki.pki.facts import Facts
from vaultpki.pki.hand_over import HAND_OVER_EKU, HAND_OVER_LIFE

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
URI = f"vaultpki:hand-over:{'ab' * 32}"
ISSUER = ca("prod kubernetes CA", key="kubernetes-1", signer="prod root CA")
OTHER = ca("prod kubernetes CA", key="kubernetes-2", signer="prod root CA")
ETCD = ca("prod etcd CA", key="etcd-1", signer="prod root CA")
NAME = named("prod hand-over")
CLIENT = "1.3.6.1.5.5.7.3.2"


def certificate(
    *,
    subject: c.Name = NAME,
    names: Sequence[c.GeneralName] = (c.UniformResourceIdentifier(URI),),
    usages: Sequence[str] = (HAND_OVER_EKU,),
    is_ca: bool = False,
    begins: timedelta = timedelta(hours=-1),
    life: timedelta = timedelta(seconds=HAND_OVER_LIFE),
    key: str = "kubernetes-1",
    issuer: str = "prod kubernetes CA",
) -> Facts:
    """A hand-over as the old server signs it, but for what is said."""
    public = key_of("handed").public_key()
    said = extensions(public, ca=is_ca, bits=("digital_signature",))
    if names:
        said.append((c.SubjectAlternativeName(names), False))
    if usages:
        said.append((c.ExtendedKeyUsage([c.ObjectIdentifier(each) for each in usages]), False))
    span = NOW + begins, NOW + begins + life
    return facts(signed(subject, public, named(issuer), key_of(key), span, said))


def test_the_hand_over_of_the_own_server_counts() -> None:
    assert hand_over.problem(certificate(), [ISSUER], URI, "prod", NOW) is None


@pytest.mark.parametrize(
    ("hostile", "why"),
    [
        (certificate(key="kubernetes-2"), "not signed"),
        (certificate(key="thief"), "not signed"),
        (certificate(key="etcd-1", issuer="prod etcd CA"), "not signed"),
        (certificate(begins=timedelta(seconds=-HAND_OVER_LIFE)), "ended at 2026-06-01T12:00:00Z"),
        (certificate(begins=timedelta(hours=1)), "not valid yet"),
        (certificate(life=timedelta(days=8)), "lives longer"),
        (certificate(is_ca=True), "something else"),
        (certificate(usages=()), "something else"),
        (certificate(usages=(CLIENT,)), "something else"),
        (certificate(usages=(HAND_OVER_EKU, CLIENT)), "something else"),
        (certificate(subject=named("other hand-over")), "not called prod hand-over"),
        (certificate(subject=named("system:node:worker-1")), "not called"),
        (certificate(subject=named("prod hand-over", ("system:masters",))), "not called"),
        (certificate(names=()), "another server"),
        (certificate(names=(c.UniformResourceIdentifier(f"vaultpki:hand-over:{'cd' * 32}"),)), "another server"),
        (certificate(names=(c.RFC822Name(URI),)), "another server"),
        (certificate(names=(c.DNSName("api.example.com"), c.UniformResourceIdentifier(URI))), "not called"),
        (certificate(names=(c.UniformResourceIdentifier(URI), c.UniformResourceIdentifier("x:y"))), "another server"),
    ],
)
def test_any_other_certificate_is_refused(hostile: Facts, why: str) -> None:
    said = hand_over.problem(hostile, [ISSUER], URI, "prod", NOW)
    assert said is not None and why in said


def test_no_other_ca_of_the_cluster_hands_over() -> None:
    for issuers in ([], [ETCD], [OTHER]):
        said = hand_over.problem(certificate(), issuers, URI, "prod", NOW)
        assert said is not None and "not signed" in said


def test_a_ca_that_has_ended_hands_nothing_over() -> None:
    late = ISSUER.not_after + timedelta(hours=1)
    said = hand_over.problem(certificate(begins=late - NOW - timedelta(hours=2)), [ISSUER], URI, "prod", late)
    assert said is not None and "not signed" in said
