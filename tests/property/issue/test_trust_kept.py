"""No sequence of records and of shown CAs empties a node's trust, or brings a root back that was given up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.root_certificates import NAME, NOW, YEAR, Key
from vaultpki.certificates import ISSUING_CAS, ROOT, ca_subject
from vaultpki.errors import CertificateRefused
from vaultpki.issue import issuers
from vaultpki.issue.issuers import Issuers
from vaultpki.issue.rotations import RecordRead, Rotations
from vaultpki.pki.facts import Facts, Trust
from vaultpki.pki.roots import Roots
from vaultpki.pki.trust import usability
from vaultpki.records.rotation import CaRef, Method, RotationRecord, State

ONE, TWO, THREE, STRANGER = Key(NAME), Key(f"{NAME} 2"), Key(f"{NAME} 3"), Key(NAME)
R1, R2, R3 = ONE.root(), TWO.root(), THREE.root()
ABOVE = (R1, R2, R3, STRANGER.root(), ONE.certify(TWO, path=1), TWO.certify(THREE, path=1), STRANGER.certify(TWO))


def _family(ca: str) -> tuple[Facts, ...]:
    """The first is the CA that the cluster begins with; then renewals and successors, two of which have expired."""
    first, later = Key(ca_subject("prod", ca)), Key(f"{ca_subject('prod', ca)} 2")
    return (
        ONE.certify(first, path=0),
        TWO.certify(first, path=0),
        ONE.certify(later, path=0),
        THREE.certify(later, path=0),
        ONE.certify(Key(f"{ca_subject('prod', ca)} 3"), path=0, end=NOW - YEAR / 2),
        TWO.certify(Key(f"{ca_subject('prod', ca)} 4"), path=0, end=NOW - YEAR / 2),
        STRANGER.certify(first, path=0),
    )


BELOW = {ca: _family(ca) for ca in ISSUING_CAS}
NO_CA = "ab" * 32


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server says at one time: records, and which certificates its mounts show."""

    records: tuple[RotationRecord, ...]
    roots: tuple[Facts, ...]
    issuing: Mapping[str, tuple[Facts, ...]]


@dataclass(slots=True)
class Node:
    """A node that follows answers by the rules of its agent."""

    roots: Roots | None = None
    held: Mapping[str, Sequence[str]] = field(default_factory=lambda: {ca: [BELOW[ca][0].pem] for ca in ISSUING_CAS})
    trust: Mapping[str, Trust] = field(default_factory=dict)
    highest: dict[str, int] = field(default_factory=dict)

    def reads(self, answer: Answer) -> None:
        rotations = Rotations({record.domain: RecordRead(record) for record in answer.records})
        shown = Issuers(
            {ca: tuple(facts.pem for facts in found) for ca, found in answer.issuing.items()},
            tuple(facts.pem for facts in answer.roots),
        )
        words = rotations.views(self.highest, {})
        above = issuers.roots_below(
            shown,
            R1.fingerprint,
            rotations.records.get(ROOT),
            NOW,
            cluster="prod",
            known=self.roots,
            behind=rotations.frozen(ROOT, self.highest),
            held=self.held,
            views=words,
        )
        self.trust = issuers.follow(shown, self.held, words, above, NOW, cluster="prod")
        self.roots = above
        self.held = {ca: [facts.pem for facts in trust.issuing] for ca, trust in self.trust.items()}
        self.highest = {domain: seen.highest for domain, seen in rotations.seen(self.highest).items()}


def _some(of: Sequence[Facts]) -> st.SearchStrategy[tuple[Facts, ...]]:
    return st.lists(st.sampled_from(of), unique=True).map(tuple)


def _refs(domain: str) -> st.SearchStrategy[CaRef]:
    family = ABOVE if domain == ROOT else BELOW[domain]
    return st.sampled_from([*(facts.fingerprint for facts in family), NO_CA]).map(
        lambda sha256: CaRef(f"{domain}-2", sha256=sha256)
    )


def _records(domain: str, revision: int) -> st.SearchStrategy[RotationRecord]:
    return st.builds(
        RotationRecord,
        domain=st.just(domain),
        state=st.sampled_from(State),
        revision=st.integers(max(1, revision - 2), revision),
        since=st.just(NOW),
        old=_refs(domain),
        new=_refs(domain),
        method=st.sampled_from(Method),
        also=st.lists(_refs(domain).map(lambda ref: ref.sha256), max_size=2).map(tuple),
    )


@st.composite
def answers(draw: st.DrawFn) -> list[Answer]:
    found = []
    for number in range(1, draw(st.integers(1, 6)) + 1):
        domains = draw(st.lists(st.sampled_from((ROOT, ROOT, "etcd", "kubelet")), unique=True))
        found.append(
            Answer(
                tuple(draw(_records(domain, number)) for domain in domains),
                # What a server must show to be heard at all.
                (*draw(st.sampled_from([(R1,), (R1, R2), (R2,), (R3,)])), *draw(_some(ABOVE))),
                {ca: draw(_some(BELOW[ca])) for ca in ISSUING_CAS},
            )
        )
    return found


@settings(max_examples=60, deadline=None)
@given(answers())
def test_no_record_and_no_server_empties_the_trust_in_a_ca(said: list[Answer]) -> None:
    node = Node()
    node.reads(Answer((), (R1,), {ca: BELOW[ca][:1] for ca in ISSUING_CAS}))
    gone = set[Facts]()
    for answer in said:
        before, above = node.trust, node.roots
        try:
            node.reads(answer)
        except CertificateRefused:
            # It shows no root of this node: nothing is changed by such an answer.
            continue
        assert node.roots is not None and above is not None
        known = {*node.roots.trusted, *node.roots.parked}
        gone |= {*above.trusted, *above.parked} - known
        assert known <= {R1, R2, R3} and gone.isdisjoint(known)
        for ca, trust in node.trust.items():
            assert usability(trust.issuing, NOW) == usability(before[ca].issuing, NOW) == 2, (ca, trust.issuing)
            assert BELOW[ca][-1] not in trust.issuing
