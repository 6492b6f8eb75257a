"""Whatever the record offers as foreign CAs, a node's bundles hold its own CAs and what its owner pinned, no more."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from helpers.ca_certificates import BEGUN, ca, root
from helpers.foreign_ca import ForeignCa
from vaultpki.certificates import ISSUING_CAS
from vaultpki.errors import SpecError
from vaultpki.pki import x509
from vaultpki.pki.chains import trust_below
from vaultpki.pki.foreign_cas import with_foreign
from vaultpki.records import foreign_cas
from vaultpki.values.json_object import JsonObject

NOW = BEGUN + timedelta(days=30)
ROOT = root("prod")
OWN = {each: ca(f"prod {each} CA", key=each, signer="prod root CA") for each in ISSUING_CAS}
TRUST = {each: trust_below([OWN[each].pem.encode()], [ROOT], NOW, name=f"prod {each} CA") for each in ISSUING_CAS}
FOREIGN = (
    *(ForeignCa(), ForeignCa("prod etcd CA"), ForeignCa("prod root CA"), ForeignCa(is_ca=False), ForeignCa(years=0)),
)
KNOWN = (*(each.facts for each in FOREIGN), ROOT, *OWN.values())

TEXTS = st.sampled_from([*(facts.pem for facts in KNOWN), "", "x", FOREIGN[0].pem * 2]) | st.text(max_size=20)
ODD = st.none() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
DOMAINS = st.sampled_from([*ISSUING_CAS, "root", "service-account"])
OFFERED = ODD | st.dictionaries(DOMAINS, st.lists(TEXTS, max_size=9) | ODD, max_size=5)
PINS = st.dictionaries(
    st.sampled_from(ISSUING_CAS), st.lists(st.sampled_from([facts.fingerprint for facts in KNOWN]), max_size=3)
)


@given(OFFERED, PINS)
def test_no_record_brings_in_what_is_not_pinned_and_none_takes_our_own_away(
    offered: Any, pins: dict[str, list[str]]
) -> None:
    try:
        read = foreign_cas.read(JsonObject({foreign_cas.FIELD: offered}, "record", "is wrong"))
    except SpecError:
        return
    found = with_foreign(TRUST, read, pins)
    for domain, trust in found.items():
        held = {facts.fingerprint for facts in x509.read_certificates(trust.bundle.encode())}
        assert OWN[domain].fingerprint in held
        assert held - {OWN[domain].fingerprint} <= set(pins.get(domain, ()))
        assert ROOT.fingerprint not in held and all(
            OWN[other].fingerprint not in held for other in OWN if other != domain
        )
        assert (trust.issuing, trust.live, trust.signers) == (
            TRUST[domain].issuing,
            TRUST[domain].live,
            TRUST[domain].signers,
        )
        # Each offer is taken or told of.
        told = {each.fingerprint for each in trust.foreign_ignored}
        assert {x509.fingerprint(pem.encode()) for pem in read.get(domain, ()) if one(pem)} <= held | told


def one(pem: str) -> bool:
    """Whether a text is one certificate."""
    return any(pem == facts.pem for facts in KNOWN)
