"""What the agent remembers of the CAs between its passes, and what it says of them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509 as c
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from helpers import corporate_certificates as corporate
from helpers.example_agent import agent_config
from helpers.foreign_ca import ForeignCa
from vaultpki.agent.ca_trust import complaints, known_revisions, lives, remembered, statuses, trust_of, wrong_default
from vaultpki.certificates import ISSUING_CAS, ca_subject
from vaultpki.errors import SpecError
from vaultpki.issue.issuers import Issuers
from vaultpki.issue.rotations import RecordRead, Rotations, read_rotations
from vaultpki.model import Certificate, KeyType, Subject, TakenOver, Usage
from vaultpki.node.assignment import Assignment
from vaultpki.node.state import AgentState
from vaultpki.pki import x509
from vaultpki.procedure.phases import BOTH, Side
from vaultpki.procedures import ON_NODES
from vaultpki.records import rotation as rotation_record
from vaultpki.records.adoption import ADOPTION_TABLE, NAME, AdoptionRecord, AdoptionState
from vaultpki.records.rotation import BEYOND, CA_TABLE, MOST_AHEAD, CaRef, RotationRecord, State
from vaultpki.takeover.journal import JournalFile

NOW = 1_780_000_000.0
MOMENT = datetime.fromtimestamp(NOW, UTC)


class Ca:
    """A CA made here; issuing CAs are signed by the root."""

    def __init__(self, name: str, parent: Ca | None = None) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = c.Name([c.NameAttribute(NameOID.COMMON_NAME, name)])
        signer = parent or self
        bits = dict.fromkeys(
            ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"), False
        )
        bits |= dict.fromkeys(("key_agreement", "encipher_only", "decipher_only"), False)
        made = (
            c.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(signer.name)
            .public_key(self.key.public_key())
            .serial_number(c.random_serial_number())
            .not_valid_before(MOMENT - timedelta(days=1))
            .not_valid_after(MOMENT + timedelta(days=365))
            .add_extension(c.BasicConstraints(True, 0 if parent else None), critical=True)
            .add_extension(c.KeyUsage(key_cert_sign=True, crl_sign=True, **bits), critical=True)
            .sign(signer.key, hashes.SHA256())
        )
        self.pem = made.public_bytes(serialization.Encoding.PEM).decode()
        self.sha256 = x509.fingerprint(self.pem.encode())


ROOT = Ca(ca_subject("prod", "root"))
FIRST = {ca: Ca(ca_subject("prod", ca), ROOT) for ca in ISSUING_CAS}
OLD, NEW = FIRST["etcd"], Ca(f"{ca_subject('prod', 'etcd')} 2", ROOT)

CONFIG = agent_config(root_sha256=ROOT.sha256)
PEER = Certificate(
    name="etcd-peer",
    usage=Usage.BOTH,
    subject=Subject("cp-1"),
    ca="etcd",
    mount="vaultpki/prod/etcd",
    role="etcd-peer",
    ttl=86400,
    key=KeyType.EC_P256,
    stem="etcd-peer",
)


def answer(
    *etcd: Ca, default: Ca | None = None, trusted: tuple[Ca, ...] | None = None, rotations: Rotations | None = None
) -> Assignment:
    """What Vault said: the CAs on the mount of etcd, and whom the node then trusted."""
    first = {ca: (each.pem,) for ca, each in FIRST.items()}
    return Assignment(
        fetched=NOW,
        endpoint="",
        server="",
        roles=frozenset(),
        certificates=(),
        templates=(),
        issuers=Issuers(
            {**first, "etcd": tuple(each.pem for each in etcd)},
            (ROOT.pem,),
            {"etcd": default.sha256} if default else {},
            {} if etcd else {"etcd": "it shows no issuer"},
        ),
        trusted={**first, "etcd": tuple(each.pem for each in (etcd if trusted is None else trusted))},
        rotations=rotations or Rotations(),
    )


def record(state: State, revision: int) -> Rotations:
    old, new = (CaRef(f"etcd-{number}", "", "", each.sha256) for number, each in ((1, OLD), (2, NEW)))
    record = RotationRecord("etcd", state, revision, MOMENT, old, new, spread=600)
    return Rotations({"etcd": RecordRead(record)})


def after(state: AgentState, said: Assignment, clock: float = NOW, offset: float = 0.0) -> AgentState:
    return remembered(state, said, (ROOT.sha256,), clock, offset)


def test_the_highest_revision_is_kept_whatever_comes_later() -> None:
    state = after(AgentState(), answer(OLD))
    # It has seen that there is no record, which is not the same as nothing.
    assert state.revisions == {} and state.root == ROOT.sha256
    assert known_revisions(state, (ROOT.sha256,)) == {} and known_revisions(AgentState(), (ROOT.sha256,)) is None
    for revision, highest in ((4, 4), (7, 7), (5, 7)):
        said = answer(OLD, NEW, rotations=record(State.PUBLISHED, revision))
        state = after(state, said)
        assert state.revisions == {"etcd": highest} and state.root == ROOT.sha256
    assert said.rotations.frozen("etcd", state.revisions) and not said.rotations.frozen("kubelet", state.revisions)
    assert after(state, answer(OLD)).revisions == {"etcd": 7}
    unreadable = answer(OLD, rotations=Rotations({"etcd": RecordRead(error=SpecError("no"))}))
    assert after(state, unreadable).revisions == {"etcd": 7}


def written(state: State, revision: int) -> dict[str, Any]:
    return {"etcd": rotation_record.to_json(record(state, revision).records["etcd"])}


def test_a_record_is_followed_up_to_a_thousand_revisions_ahead() -> None:
    state = after(AgentState(), answer(OLD, NEW, rotations=record(State.SWITCHED, 7)))
    for revision in (8, 7 + MOST_AHEAD):
        assert not read_rotations(written(State.RETIRED, revision), "p", state.revisions).not_followed
    for revision in (8 + MOST_AHEAD, 10**9, BEYOND - 1):
        far = read_rotations(written(State.RETIRED, revision), "p", state.revisions)
        assert far.records == {} and far.not_followed == {"etcd": revision} and far.frozen("etcd", state.revisions)
        said = answer(OLD, NEW, rotations=far)
        # Nothing is dropped or replaced, and the next record of a right number is followed.
        assert after(state, said).revisions == {"etcd": 7}
        trust = trust_of(CONFIG, said, state, MOMENT, ())["etcd"]
        assert {facts.fingerprint for facts in trust.issuing} == {OLD.sha256, NEW.sha256} and not trust.outgoing
        (told,) = said_of(said, state).values()
        assert f"does not follow revision {revision}" in told and "`vaultpki ca recover etcd`" in told
        found = {each.domain: each for each in statuses(said, trust_of(CONFIG, said, state, MOMENT, ()), state)}["etcd"]
        assert (found.revision, found.not_followed, found.behind) == (7, revision, True)
        assert not read_rotations(written(State.RETIRED, 9), "p", after(state, said).revisions).not_followed
    # A node that has seen that there is no record remembers 0, and one that knows nothing of the cluster takes any.
    assert read_rotations(written(State.RETIRED, MOST_AHEAD + 1), "p", {}).not_followed
    assert read_rotations(written(State.RETIRED, 10**9), "p", None).records
    assert read_rotations(written(State.RETIRED, BEYOND), "p", None).unreadable


def test_another_clusters_answer_says_nothing_and_a_new_root_begins_anew() -> None:
    state = after(AgentState(), answer(OLD, rotations=record(State.PUBLISHED, 7)))
    assert remembered(state, answer(OLD, rotations=record(State.PUBLISHED, 9)), ("4f" * 32,), NOW, 0.0) == state
    before = replace(state, root="4f" * 32)
    assert after(before, answer(OLD, rotations=record(State.PUBLISHED, 2))).revisions == {"etcd": 2}


def test_since_when_a_ca_is_missing_is_noted_once_and_forgotten_when_it_is_back() -> None:
    gone = answer(NEW, trusted=(OLD, NEW))
    state = after(AgentState(), gone)
    assert state.vanished == {OLD.sha256: NOW}
    assert after(state, gone, NOW + 500).vanished == {OLD.sha256: NOW}
    assert after(state, answer(OLD, NEW), NOW + 500).vanished == {}
    # Only once there is another that could sign.
    assert after(AgentState(), answer(trusted=(OLD,))).vanished == {}


def test_vaults_clock_is_kept_to_some_seconds() -> None:
    """The state is not written for each second's fraction."""
    state = after(AgentState(), answer(OLD), offset=-0.9)
    assert state.clock_offset == 0.0
    state = after(state, answer(OLD), offset=90.0)
    assert state.clock_offset == 90.0
    assert after(state, answer(OLD), offset=87.5).clock_offset == 90.0


def test_the_switch_is_counted_by_vaults_clock() -> None:
    said = answer(OLD, NEW, rotations=record(State.SWITCHED, 3))
    for offset in (0.0, 90.0, -90.0):
        trust = trust_of(CONFIG, said, after(AgentState(), said, offset=offset), MOMENT, ())["etcd"]
        (outgoing,) = trust.outgoing.values()
        assert outgoing.since == MOMENT - timedelta(seconds=offset) and outgoing.spread == 600


def test_a_ca_that_is_missing_stays_trusted_by_the_copy() -> None:
    said = answer(NEW, trusted=(OLD, NEW))
    trust = trust_of(CONFIG, said, after(AgentState(), said), MOMENT, ())["etcd"]
    assert {facts.fingerprint for facts in trust.issuing} == {OLD.sha256, NEW.sha256} and not trust.untrusted
    assert trust.outgoing.keys() == {OLD.sha256}
    # Before a pass has noted it, nothing is replaced.
    assert trust_of(CONFIG, said, AgentState(), MOMENT, ())["etcd"].outgoing == {}


def said_of(said: Assignment, state: AgentState) -> dict[str, str]:
    return {what: str(error) for what, error in complaints(said, trust_of(CONFIG, said, state, MOMENT, ()), state)}


def test_what_is_wrong_on_the_server_is_one_sentence_each() -> None:
    fine = answer(OLD, NEW, rotations=record(State.SWITCHED, 3))
    state = after(AgentState(), fine)
    assert said_of(fine, state) == {}
    none = said_of(answer(trusted=(OLD,)), AgentState())
    assert none.keys() == {"etcd CA"} and "shows no CA: it shows no issuer; the CAs" in none["etcd CA"]
    older = said_of(answer(OLD, NEW, rotations=record(State.PUBLISHED, 2)), state)
    assert (
        older.keys() == {"etcd rotation"}
        and "has read revision 3 of the record of etcd, and Vault has revision 2" in older["etcd rotation"]
    )
    lost = said_of(answer(OLD, NEW), state)
    assert "has read revision 3 of the record of etcd, and Vault has none" in lost["etcd rotation"]
    unreadable = said_of(answer(OLD, rotations=read_rotations({"etcd": {"version": 2}}, "p")), AgentState())
    assert "has version 2 and this vaultpki speaks 1" in unreadable["etcd rotation"]
    missing = said_of(answer(OLD, rotations=record(State.SWITCHED, 3)), AgentState())
    assert "the mount of etcd does not show key 2 of the CA etcd, which its rotation names" in missing["etcd CA"]
    for sentence in (none["etcd CA"], *older.values(), *lost.values(), *missing.values()):
        assert "`vaultpki" in sentence and "\n" not in sentence


@pytest.mark.parametrize(
    ("rotations", "default", "word"),
    [
        (Rotations(), OLD, None),
        (Rotations(), None, None),
        (Rotations(), ROOT, "is not a CA of this cluster"),
        (record(State.SWITCHED, 3), NEW, None),
        (record(State.SWITCHED, 3), OLD, "the CA that the rotation of etcd names yet"),
        (record(State.PUBLISHED, 3), NEW, "the CA that the rotation of etcd names yet"),
        (record(State.SWITCHED, 1), OLD, None),
        (record(State.SWITCHED, 1), NEW, "is not the newest"),
    ],
    ids=[f"case-{number}" for number in range(8)],
)
def test_when_no_signature_may_be_asked_for(rotations: Rotations, default: Ca | None, word: str | None) -> None:
    said = answer(OLD, NEW, default=default, rotations=rotations)
    behind = rotations.records and rotations.records["etcd"].revision == 1
    state = after(AgentState(revisions={"etcd": 2}, root=ROOT.sha256) if behind else AgentState(), said)
    trust = trust_of(CONFIG, said, state, MOMENT, ())["etcd"]
    issuer = next(facts for facts in trust.live if facts.fingerprint == OLD.sha256)
    paused = wrong_default(said, trust, PEER, issuer, NOW + 300)
    assert (paused is None) if word is None else (paused is not None and word in str(paused))
    assert paused is None or paused.at == NOW + 300


def test_each_ca_has_its_status() -> None:
    said = answer(OLD, NEW, rotations=record(State.SWITCHED, 3))
    state = after(AgentState(revisions={"kubelet": 4}, root=ROOT.sha256), said)
    found = {each.domain: each for each in statuses(said, trust_of(CONFIG, said, state, MOMENT, ()), state)}
    assert list(found) == list(rotation_record.DOMAINS)
    assert (found["etcd"].state, found["etcd"].revision, found["etcd"].behind) == ("switched", 3, False)
    assert (found["kubelet"].state, found["kubelet"].revision, found["kubelet"].behind) == (None, 0, True)
    assert [facts.fingerprint for facts in found["root"].certificates] == [ROOT.sha256]
    assert {facts.fingerprint for facts in found["etcd"].certificates} == {OLD.sha256, NEW.sha256}


@pytest.mark.parametrize("older", [(), ("etcd",), (NAME,), ("root",)])
def test_of_each_ca_one_record_decides_and_an_older_one_takes_none_away(older: tuple[str, ...]) -> None:
    """Of a domain's own CAs the domain's, of foreign CAs that of the adoption, and of roots that of the root."""
    foreign, first, second = ForeignCa("old etcd CA"), CaRef("root-1", sha256=ROOT.sha256), CaRef("root-2", sha256="f")
    sha256 = foreign.facts.fingerprint
    config = replace(CONFIG, also_trust={"etcd": (sha256,)})
    state = AgentState(revisions=dict.fromkeys(older, 10))
    shown = replace(answer(OLD, NEW), foreign={"etcd": (foreign.pem,)})
    roots = {each: RotationRecord("root", each, 9, MOMENT, first, second) for each in (State.PUBLISHED, State.RETIRED)}
    for own, adopted, root in itertools.product([None, *State], [None, *AdoptionState], [None, *roots]):
        rotations = dict(record(own, 9).read) if own is not None else {}
        rotations |= {"root": RecordRead(roots[root])} if root is not None else {}
        adoption = AdoptionRecord(adopted, 9, 9, MOMENT, {"etcd": (sha256,)}) if adopted is not None else None
        said = replace(shown, rotations=Rotations(rotations), procedures={NAME: RecordRead(adoption)})
        trust = trust_of(config, said, state, MOMENT, ON_NODES)["etcd"]
        accepts = CA_TABLE.phases[own].accepts if own is not None and "etcd" not in older else BOTH
        wanted = {ca.sha256 for ca, side in ((OLD, Side.OLD), (NEW, Side.NEW)) if side in accepts}
        assert {facts.fingerprint for facts in trust.issuing} == wanted, (own, adopted, root)
        stays = adopted is None or NAME in older or Side.OLD in ADOPTION_TABLE.phases[adopted].accepts
        assert bool(trust.foreign) is stays, (own, adopted, root)
        # No record brings in a root that the node does not accept, or takes away the last one.
        assert [facts.fingerprint for facts in trust.roots] == [ROOT.sha256]


@pytest.mark.parametrize("shown", [None, *AdoptionState])
def test_an_old_ca_does_not_come_back_where_its_adoption_is_done(tmp_path: Path, shown: AdoptionState | None) -> None:
    """Whoever may write the record, and has the old key, could else be let in again by it."""
    old, other = ForeignCa("old etcd CA"), ForeignCa("another cluster's CA")
    (tmp_path / "state").mkdir(mode=0o700)
    machine = TakenOver(False, f"{tmp_path}/pki", f"{tmp_path}/kubelet", str(tmp_path))
    config = replace(
        CONFIG,
        state=str(tmp_path / "state"),
        taken_over=machine,
        also_trust={"etcd": (old.facts.fingerprint, other.facts.fingerprint)},
    )
    hashes = {"etcd": (old.facts.fingerprint,)}
    record = AdoptionRecord(shown, 9, 9, MOMENT, hashes) if shown is not None else None
    said = replace(answer(OLD), foreign={"etcd": (old.pem, other.pem)}, procedures={NAME: RecordRead(record)})

    def trusted() -> set[str]:
        return {facts.fingerprint for facts in trust_of(config, said, AgentState(), MOMENT, ON_NODES)["etcd"].foreign}

    assert other.facts.fingerprint in trusted()
    JournalFile(config.state).save(asked=AdoptionState.DONE, reached=AdoptionState.DONE, ended=hashes)
    assert trusted() == {other.facts.fingerprint}


def test_below_a_pki_outside_the_copy_is_enough_and_early_ends_above_are_watched() -> None:
    corp = corporate.Corporate()
    soon = corp.lower.again(corp.upper, ends=corporate.NOW + timedelta(days=90))
    # A CA that ends with ours would be one more.
    made: dict[str, Any] = {"path_length": 0, "ends": corporate.NOW + timedelta(days=3000)}
    issuing = {ca: corporate.Ca("", soon, subject=corporate.name(f"prod {ca} CA"), **made).facts for ca in ISSUING_CAS}
    shown = Issuers(
        {ca: (facts.pem,) for ca, facts in issuing.items()},
        (corp.root.pem,),
        {ca: facts.fingerprint for ca, facts in issuing.items()},
        # As the copy of the last answer has them.
        kept=(corp.upper.pem, soon.pem),
    )
    trusted = {ca: (facts.pem,) for ca, facts in issuing.items()}
    said = replace(answer(OLD), issuers=shown, trusted=trusted, certificates=(PEER,))
    config = agent_config(root_sha256=corp.root.facts.fingerprint)
    trust = trust_of(config, said, AgentState(), corporate.NOW, ())
    assert all(known.signers == (issuing[ca],) for ca, known in trust.items())
    assert trust["etcd"].between == (soon.facts, corp.upper.facts)
    root, etcd, above = lives(said, trust, cluster="prod")
    assert (root.ca, root.outside) == ("root", corp.root.facts.subject_text)
    assert (etcd.ca, etcd.outside) == ("etcd", "")
    assert (above.ca, above.not_after) == (soon.facts.subject_text, soon.facts.not_after)
