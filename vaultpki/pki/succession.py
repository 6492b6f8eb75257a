"""Decides whom a node trusts, and whose leaves it holds, while one of its CAs is replaced; the time is an argument.

A CA leaves a bundle only because a rotation record says so, never because it is missing on the server. The rules were
explored exhaustively with tests/models/rotation.py; each has its state there in which the cluster breaks without it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from vaultpki.pki.chains import chain_up
from vaultpki.pki.facts import Facts, Replacement, Trust
from vaultpki.pki.trust import in_date, usability
from vaultpki.records.rotation import RotationRecord

MOST_KEPT: Final = 32
"""How many CAs of one domain a node trusts at most: a bundle of that many can still be read."""

VANISHED_SPREAD: Final = 3600.0
"""The seconds over which leaves are replaced whose CA was removed without a rotation."""


@dataclass(frozen=True, slots=True)
class RotationView:
    """The view of one CA's rotation that a node follows.

    `record` is None if there is none, or none that can be read. With `frozen` nothing is dropped or replaced: the
    record is older than one that the node has read, or cannot be read. `shown` and `held` are the SHA-256 of the CAs
    that the mount shows and that the node trusted until now, `default` that of the mount's default issuer: "" if it has
    none, None if it is not known. `vanished` is since when a CA of `held` is not shown any more, by its SHA-256.
    """

    record: RotationRecord | None = None
    frozen: bool = False
    shown: Collection[str] = ()
    held: Collection[str] = ()
    default: str | None = None
    vanished: Mapping[str, datetime] = field(default_factory=dict)

    @property
    def kept(self) -> bool:
        """Whether a recovery has each leaf stay with the CA that signed it, and no CA dropped."""
        return self.record is not None and self.record.kept is not None

    @property
    def still(self) -> bool:
        """Whether nothing is dropped, and no leaf is replaced by one of another CA."""
        return self.frozen or self.kept


def trust_during_rotation(known: Trust, view: RotationView, now: datetime) -> Trust:
    """Return the trust in one CA; `known` has every fit CA that the node holds or the mount shows."""
    issuing = _bundle(known, view, now)
    live = tuple(facts for facts in issuing if in_date(facts, now))
    signers = _signers(known, live, view)
    named = None if view.still or view.record is None else view.record.leaf.sha256
    return replace(
        known,
        issuing=issuing,
        live=live,
        signers=signers,
        outgoing={} if view.still or not signers else _outgoing(live, signers, view),
        frozen=view.still,
        kept=view.kept and not view.frozen,
        serving=next((facts for facts in signers if facts.fingerprint == named), None),
        replaced=next((facts for facts in live if facts.fingerprint == _replaced(view)), None),
    )


def acceptable(trust: Trust, issuer: Facts | None) -> tuple[Facts, ...]:
    """Return the CAs by which a new leaf may be signed, where `issuer` has signed the one in use.

    Without one in use a node takes none after a recovery: not everybody may trust the CA that signs.
    """
    if not trust.frozen:
        return trust.signers
    if issuer is None:
        return () if trust.kept else trust.signers
    return tuple(facts for facts in trust.signers if facts.public_key == issuer.public_key)


def default_signs(known: Trust, default: str | None, signers: Collection[Facts]) -> bool:
    """Return whether the mount's default issuer has the key of one of `signers`; also if the default is not known."""
    keys = {facts.public_key for facts in signers}
    shown = {facts.fingerprint: facts.public_key for facts in (*known.issuing, *signers)}
    return default is None or shown.get(default) in keys


def served(trust: Trust, issuer: Facts) -> Facts:
    """Return the certificate to serve behind a leaf of `issuer`: of a renewed CA the one that the record names."""
    named = trust.serving
    return named if named is not None and named.public_key == issuer.public_key else issuer


def chain(trust: Trust, issuer: Facts) -> tuple[Facts, ...]:
    """Return what to serve behind a leaf of `issuer`.

    That is its CA. While the root is rotated come the CAs between it and the new root, the cross certificate, and last
    the CA's certificate of the old root: GnuTLS finds the end of a chain by the last certificate that is served, which
    must be in the client's bundle, or its signer; with the new root alone, which nobody has before the old one is
    retired, it may fail. Everybody else makes a chain of what comes first, whichever root or CA is trusted (tried with
    GnuTLS 3.7, OpenSSL 3.0, Python 3.11, curl, Node 20 and Go).
    """
    first, old = served(trust, issuer), trust.replaced
    over = next((up for cross in trust.crosses or () if (up := chain_up(first, (cross,), trust.between))), ())
    before = (old,) if over and old is not None and old != first and old.public_key == first.public_key else ()
    return (first, *over, *before)


def chain_differs(trust: Trust, issuer: Facts, found: Sequence[Facts]) -> bool:
    """Return whether the chain after a leaf of `issuer` differs from `chain`."""
    wanted = chain(trust, issuer)
    return tuple(found[:1]) != wanted[:1] if trust.crosses is None else tuple(found) != wanted


def _bundle(known: Trust, view: RotationView, now: datetime) -> tuple[Facts, ...]:
    record = view.record
    if record is None or view.still:
        # Beyond the limit those stay that leaves may be of, and the newest of the others.
        def rank(facts: Facts) -> tuple[bool, ...]:
            sha256 = facts.fingerprint
            unnamed = record is None or sha256 not in record.trust
            return sha256 != view.default, not in_date(facts, now), unnamed, sha256 not in view.shown

        kept = frozenset(sorted(known.issuing, key=rank)[:MOST_KEPT])
        return tuple(facts for facts in known.issuing if facts in kept)
    named = tuple(facts for facts in known.issuing if facts.fingerprint in record.trust)
    held = tuple(facts for facts in known.issuing if facts.fingerprint in view.held)
    there = [facts for facts in named if facts.fingerprint in view.shown]
    if usability(there, now) >= usability(held, now):
        return named
    # A record that names none of ours, or only expired or deleted ones, must not take the last CA away that works.
    return tuple(facts for facts in known.issuing if facts in named or facts in held)


def _signers(known: Trust, live: tuple[Facts, ...], view: RotationView) -> tuple[Facts, ...]:
    if view.record is not None and not view.still:
        first = view.record.leaf.sha256
        keys = {facts.public_key for facts in known.issuing if facts.fingerprint == first}
    else:
        first = view.default or ""
        keys = {facts.public_key for facts in live if view.still or facts.fingerprint in view.shown}
    fit = (facts for facts in live if facts.public_key in keys)
    return tuple(sorted(fit, key=lambda facts: facts.fingerprint != first))


def _replaced(view: RotationView) -> str:
    record = view.record
    return record.old.sha256 if record is not None and record.leaf is record.new and not view.still else ""


def _outgoing(live: tuple[Facts, ...], signers: tuple[Facts, ...], view: RotationView) -> dict[str, Replacement]:
    keys = {facts.public_key for facts in signers}
    others = [facts.fingerprint for facts in live if facts.public_key not in keys]
    if view.record is not None:
        return {sha256: Replacement(view.record.since, view.record.spread) for sha256 in others}
    return {sha256: Replacement(view.vanished[sha256], VANISHED_SPREAD) for sha256 in others if sha256 in view.vanished}
