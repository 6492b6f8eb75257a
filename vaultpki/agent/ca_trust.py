"""Whom this node trusts and whose leaves it takes: from the copy of Vault's answer and what the agent remembers."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from vaultpki.certificates import ROOT, ca_subject
from vaultpki.errors import CertificateUnreadable, SigningPaused, VaultpkiError
from vaultpki.issue.issuers import follow
from vaultpki.model import AgentConfig, Certificate
from vaultpki.node import pins
from vaultpki.node.assignment import Assignment
from vaultpki.node.procedures import Procedures
from vaultpki.node.state import AgentState
from vaultpki.pki import chains, foreign_cas, x509
from vaultpki.pki.ca_life import CaExpiry, CaLife, below, expiry, foreign_life, lives_above, of_root
from vaultpki.pki.facts import Facts, Trust
from vaultpki.pki.foreign_cas import with_foreign
from vaultpki.pki.roots import Roots
from vaultpki.pki.succession import acceptable, default_signs
from vaultpki.procedure.phases import Side
from vaultpki.records.adoption import NAME
from vaultpki.records.gaps import Gap, gaps
from vaultpki.records.rotation import EVERY_DOMAIN, RotationRecord
from vaultpki.records.service_account import SERVICE_ACCOUNT_KEYS

# Vault's clock is known to a second and a little more, and the state is not written for less than this.
_CLOCK_STEP: Final = 5.0


def trust_of(
    config: AgentConfig, wanted: Assignment, state: AgentState, now: datetime, procedures: Procedures
) -> dict[str, Trust]:
    """Return the trust in each CA, with the foreign CAs that agent.yaml lets in.

    `procedures` are as in PassOptions. Raises CertificateRefused if the root mount shows no root that this node trusts.
    """
    vanished = {sha256: datetime.fromtimestamp(since, UTC) for sha256, since in state.vanished.items()}
    views = wanted.rotations.views(state.revisions, vanished, state.clock_offset)
    above = roots_of(config, wanted, state, now)
    own = follow(wanted.issuers, wanted.trusted, views, above, now, cluster=config.cluster)
    return with_foreign(own, _offered(config, wanted, state, procedures), config.also_trust, above.parked)


def _offered(
    config: AgentConfig, wanted: Assignment, state: AgentState, procedures: Procedures
) -> Mapping[str, tuple[str, ...]]:
    """Return the foreign CAs that are offered, without the old CAs of an adoption that has done without them.

    A record that is older than one read before takes none away, nor does one that the machine does not follow. Whose
    adoption was done on this machine does not come back by any record: whoever may write it could else bring a CA back
    whose key was stolen.
    """
    record = None if wanted.adoption.frozen(state.revisions.get(NAME, 0)) else wanted.adoption.record
    old = record.old if record is not None and record.accepts is Side.NEW else None
    here = [each.standing(config, wanted if old is not None else None, state) for each in procedures]
    ended = [each.ended_cas for each in here]
    if old is not None and all(each.follows for each in here):
        ended.append(old)
    gone = {ca: {sha256 for each in ended for sha256 in each.get(ca, ())} for ca in wanted.foreign}
    return {
        ca: tuple(pem for pem in pems if gone[ca].isdisjoint(_fingerprints([pem])))
        for ca, pems in wanted.foreign.items()
    }


def roots_of(config: AgentConfig, wanted: Assignment, state: AgentState, now: datetime) -> Roots:
    """Return the roots that this node trusts. Raises as `trust_of`."""
    return pins.follow(config, wanted.issuers, wanted.rotations, state.revisions, now, wanted.trusted)


def known_revisions(state: AgentState, roots: Collection[str]) -> Mapping[str, int] | None:
    """Return the highest revisions that were read of this cluster; None if nothing of it was ever read.

    `roots` are as in `remembered`: a cluster that was made anew, with another root, begins its revisions anew.
    """
    return state.revisions if state.root in roots else None


def remembered(
    state: AgentState, wanted: Assignment, roots: Collection[str], clock: float, clock_offset: float
) -> AgentState:
    """Return the state with what Vault's answer says: revisions, CAs that are not shown any more, and its clock.

    `roots` are the SHA-256 of the roots that this node has had, the pin first: an answer that shows none of them is
    another cluster's. `clock` is Unix time, and `clock_offset` by how many seconds Vault's is ahead.
    """
    if not set(_fingerprints(wanted.issuers.roots)).intersection(roots):
        return state
    before = known_revisions(state, roots) or {}
    seen = wanted.rotations.seen(before)
    seen |= {name: each.seen(before.get(name, 0)) for name, each in wanted.procedures.items()}
    if wanted.token_key is not None:
        seen[SERVICE_ACCOUNT_KEYS] = wanted.keys.seen(before.get(SERVICE_ACCOUNT_KEYS, 0))
    revisions = {**before, **{domain: each.highest for domain, each in seen.items() if each.highest}}
    missing = set[str]()
    for ca, pems in wanted.trusted.items():
        shown, trusted = set(_fingerprints(wanted.issuers.issuing[ca])), set(_fingerprints(pems))
        # From the moment on at which there is one to sign in its place: all nodes would else replace their leaves then.
        missing |= trusted - shown if trusted & shown else set()
    moved = abs(clock_offset - state.clock_offset) > _CLOCK_STEP
    return replace(
        state,
        revisions=revisions,
        root=next(iter(roots)),
        # Of another cluster, whose nodes may have the same names.
        lowest=state.lowest if state.lowest_root in roots else {},
        lowest_root=next(iter(roots)) if wanted.token_key is not None else state.lowest_root,
        vanished={sha256: state.vanished.get(sha256, clock) for sha256 in sorted(missing)},
        clock_offset=clock_offset if moved else state.clock_offset,
    )


def complaints(
    wanted: Assignment, trust: Mapping[str, Trust], state: AgentState
) -> Iterator[tuple[str, VaultpkiError]]:
    """Yield what is wrong with the CAs on the server, by a name for the failure; the node holds what it held."""
    rotations = wanted.rotations
    for ca, why in wanted.issuers.unshown.items():
        yield (
            f"{ca} CA",
            VaultpkiError(
                f"the mount of {ca} shows no CA: {why}; the CAs that this node holds stay; run `vaultpki plan` where "
                "the cluster is applied"
            ),
        )
    for domain, error in rotations.unreadable.items():
        yield f"{domain} rotation", error
    for gap in gaps(rotations.seen(state.revisions), rotations.not_followed):
        yield f"{gap.domain} rotation", VaultpkiError(f"this node {gap.text}")
    for domain in EVERY_DOMAIN:
        record = rotations.records.get(domain)
        if record is None or domain in wanted.issuers.unshown or rotations.frozen(domain, state.revisions):
            continue
        trusted = _trusted(domain, trust)
        if domain != ROOT and all(facts.fingerprint != record.leaf.sha256 for facts in trusted):
            why = f"does not show {record.leaf.title}, which its rotation names"
            yield f"{domain} CA", VaultpkiError(f"the mount of {domain} {why}; run `vaultpki ca status`")
        accepted = {facts.fingerprint for facts in trusted}
        if domain == ROOT and not record.trust <= accepted:
            yield f"{domain} rotation", _refused(record)
        elif kept := [facts.subject_text for facts in trusted if facts.fingerprint not in record.trust]:
            yield f"{domain} rotation", _unnamed_cas_kept(domain, kept)


def foreign_complaints(trust: Mapping[str, Trust]) -> Iterator[str]:
    """Yield a sentence for each foreign CA that the cluster's record offers and this node does not take."""
    for ca, known in trust.items():
        yield from (foreign_cas.ignored_sentence(ca, each) for each in known.foreign_ignored)


def _refused(record: RotationRecord) -> VaultpkiError:
    names = " or ".join(ca.title for ca in (record.old, record.new) if ca is not None)
    new = record.new
    how = "`vaultpki ca abort` and another `vaultpki ca rotate root` make a new one"
    if new is not None and new.sha256 and not new.key:
        # One from outside keeps its key.
        how = f"if it is right, write {new.sha256} into root_sha256 of agent.yaml, beside the other one, as a list"
    return VaultpkiError(
        f"the record of the rotation of the root names a root CA that this node does not accept ({names}). The node "
        f"gave it up before, or no root that it trusts vouches for it. Run `vaultpki ca status`; {how}"
    )


def _unnamed_cas_kept(domain: str, kept: Collection[str]) -> VaultpkiError:
    what = "the CAs below it could not be used" if domain == ROOT else "no CA of it could be used"
    return VaultpkiError(
        f"the record of the rotation of {domain} does not name {', '.join(sorted(kept))}, and without it {what}. This "
        "node goes on trusting it. Find out who wrote that record, and run `vaultpki ca status`"
    )


def _trusted(domain: str, trust: Mapping[str, Trust]) -> tuple[Facts, ...]:
    if domain == ROOT:
        return next(iter(trust.values())).roots if trust else ()
    return trust[domain].issuing if domain in trust else ()


@dataclass(frozen=True, slots=True)
class CaOnNode:
    """A CA as this node knows it: the state of its rotation and the revision of that record, if there is one.

    `behind` is whether the record is older than before, cannot be read, or is not followed since it is too far ahead;
    `not_followed` is its revision then, and `revision` the highest that was read. `certificates` are those that are
    trusted. `gap` says that the node and the server do not have the same record, and what to do; None if they have.
    `foreign` are the foreign CAs that its bundles hold too, and `left_over` those of `certificates` that the server
    does not have, and no record drops.
    """

    domain: str
    state: str | None
    revision: int
    behind: bool
    certificates: tuple[Facts, ...]
    not_followed: int | None = None
    gap: Gap | None = None
    foreign: tuple[Facts, ...] = ()
    left_over: tuple[Facts, ...] = ()


def statuses(wanted: Assignment, trust: Mapping[str, Trust], state: AgentState) -> tuple[CaOnNode, ...]:
    """Return each CA, the root first."""
    rotations = wanted.rotations
    seen = rotations.seen(state.revisions)
    apart = {gap.domain: gap for gap in gaps(seen, rotations.not_followed)}
    found = []
    for domain in EVERY_DOMAIN:
        if domain not in (ROOT, *wanted.issuers.issuing):
            # Of a node without service-account keys.
            continue
        record = rotations.records.get(domain)
        found.append(
            CaOnNode(
                domain,
                record.state.value if record else None,
                seen[domain].revision if domain in seen else 0,
                rotations.frozen(domain, state.revisions),
                _trusted(domain, trust),
                rotations.not_followed.get(domain),
                apart.get(domain),
                trust[domain].foreign if domain in trust else (),
                tuple(_left_over(domain, wanted, trust, record)),
            )
        )
    return tuple(found)


def _left_over(
    domain: str, wanted: Assignment, trust: Mapping[str, Trust], record: RotationRecord | None
) -> Iterator[Facts]:
    """Yield the issuing CAs that this node trusts and the server does not have, as `rotation.left_over` finds them."""
    if domain not in trust or domain in wanted.issuers.unshown or (record is not None and record.active):
        return
    shown = set(_fingerprints(wanted.issuers.issuing[domain]))
    for facts in trust[domain].issuing:
        if facts.fingerprint not in shown and (record is None or facts.fingerprint in record.also):
            yield facts


def lives(wanted: Assignment, trust: Mapping[str, Trust], *, cluster: str) -> tuple[CaLife, ...]:
    """Return the lives of the root and of the CAs of this node's certificates, the root first; foreign CAs last.

    Of several CAs of one domain the one counts that signs. CAs of a PKI outside come last, of those above these CAs
    that end before one of them.
    """
    ttls: dict[str, int] = {}
    for want in wanted.certificates:
        ttls[want.ca] = max(ttls.get(want.ca, 0), want.ttl)
    found, longest = list[CaLife](), max(ttls.values(), default=0)
    signers, above = list[Facts](), set[Facts]()
    for domain in EVERY_DOMAIN:
        if domain == ROOT and trust:
            found.append(of_root(next(iter(trust.values())).root, longest, root_name=ca_subject(cluster, ROOT)))
        elif domain in ttls and domain in trust:
            known = trust[domain].signers or sorted(trust[domain].issuing, key=lambda facts: facts.not_after)[-1:]
            found += [CaLife(domain, False, one.not_before, one.not_after, ttls[domain]) for one in known[:1]]
            signers += known[:1]
            above |= {*chains.above(known[:1], trust[domain].between), *trust[domain].tops}
    foreign = (foreign_life(ca, one) for ca, known in trust.items() for one in known.foreign)
    over = lives_above(above, signers, longest)
    return (*below(found, (*found, *over)), *over, *foreign)


def ends(wanted: Assignment, trust: Mapping[str, Trust], now: datetime, *, cluster: str) -> tuple[CaExpiry, ...]:
    """Return how urgent the ends of these CAs are."""
    active = {domain for domain, record in wanted.rotations.records.items() if record.active}
    return tuple(expiry(life, now, rotating=life.ca in active) for life in lives(wanted, trust, cluster=cluster))


def in_place_of(trust: Trust, issuer: Facts | None) -> Trust:
    """Return the trust with only those signers by which a new leaf in place of one of `issuer` may be signed."""
    return replace(trust, signers=acceptable(trust, issuer))


def wrong_default(
    wanted: Assignment, trust: Trust, want: Certificate, issuer: Facts | None, at: float
) -> SigningPaused | None:
    """Return why no signature may be asked for: the server would sign with another CA than this node takes.

    `issuer` has signed the leaf in use. `at` is when to look again (Unix time).
    """
    ca, name = want.ca, want.name
    narrow = in_place_of(trust, issuer)
    if not trust.signers or default_signs(narrow, wanted.issuers.defaults.get(ca), narrow.signers):
        return None
    if trust.kept:
        why = f"the rotation of {ca} was recovered, and the server signs with another CA than that of this certificate"
        if issuer is None:
            why = f"the rotation of {ca} was recovered, and not every node may trust the CA that signs"
        return SigningPaused(f"{name}: {why}; `vaultpki ca status` shows what it waits for", at)
    if trust.frozen:
        why = f"the server's record of the rotation of {ca} is not the newest, and it signs with another CA than before"
        return SigningPaused(f"{name}: {why}; run `vaultpki ca recover {ca}`", at)
    if ca in wanted.rotations.records:
        why = f"the server does not sign with the CA that the rotation of {ca} names"
        return SigningPaused(f"{name}: {why} yet; `vaultpki ca continue` corrects it", at)
    why = f"the default issuer on the mount of {ca} is not a CA of this cluster, or there is none"
    return SigningPaused(f"{name}: {why}; run `vaultpki plan` where the cluster is applied", at)


def _fingerprints(pems: Iterable[str]) -> Iterator[str]:
    for pem in pems:
        with contextlib.suppress(CertificateUnreadable):
            yield from (facts.fingerprint for facts in x509.read_certificates(pem.encode()))
