"""Decides which root CAs a node trusts: the one it is pinned to, and a successor that this one vouches for; pure.

The pin names the anchor of the cluster: the root that was made for it, or a CA of a PKI outside, self-signed or not.

A root vouches for its successor by a cross certificate: one for the successor's name and key that it signed itself. So
does the owner of the node, who writes the successor's SHA-256 into agent.yaml, beside the other one. The record
`rotation/root` says when a successor counts and when the old root does not any more. It cannot bring in a root for
which nobody vouches, and it cannot take one away below which alone a domain has CAs that can be used.

A root that was made for the cluster signs nothing but issuing CAs, of path length 0, and cross certificates. One from
outside signs whatever its owner wants: it vouches for a root of the cluster, by that one's name, and for another one
from outside only by a certificate that it signed itself.

A root that the record took away is given up: the new one after an abort, the old one once the rotation is done. Its key
may be a thief's, and the certificates that vouch for it are public. So neither it nor anything else of its key is ever
accepted by this node again, as a successor or as a voucher for one, whatever record says so and whichever revision it
has; also not while the server is behind. A root that is parked, since the rotation is retired, is not given up: it is
trusted again during the rollback. A server that was restored to before an abort is led on without the root that was
given up, and the next rotation makes another key. A node that joins anew remembers nothing. A root from outside keeps
its key: it is accepted again only if the node's owner writes its SHA-256 into agent.yaml after it was given up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256

from vaultpki.errors import CertificateRefused
from vaultpki.pki.facts import Facts
from vaultpki.pki.trust import in_date, named, no_ca_above, no_root, self_signed, signed_by
from vaultpki.records.rotation import RotationRecord, State
from vaultpki.values import der


@dataclass(frozen=True, slots=True)
class Roots:
    """The root CAs of one node.

    `trusted` are those below which CAs are trusted, in the order in which they were accepted. `parked` are known and
    not trusted now; they are trusted again if the record goes back. `former` are the SHA-256, in hex, of those that
    were given up: the pin in agent.yaml may still be one of them. `given_up` are the SHA-256 of their public keys.
    `ignored` are those SHA-256 in agent.yaml that stood there when their root was given up, and that do not bring it
    back.
    """

    trusted: tuple[Facts, ...]
    parked: tuple[Facts, ...] = ()
    former: frozenset[str] = frozenset()
    given_up: frozenset[str] = frozenset()
    ignored: frozenset[str] = frozenset()

    def knows(self, sha256: str) -> bool:
        """Return whether this root is or was one of the node's."""
        return sha256 in self.former or any(facts.fingerprint == sha256 for facts in (*self.trusted, *self.parked))


Keeps = Callable[[Roots, Roots], bool]
"""Whether every domain that has a CA below the first roots keeps one that is as good below the second ones."""


def follow(
    pin: str,
    known: Roots | None,
    shown: Sequence[Facts],
    record: RotationRecord | None,
    now: datetime,
    *,
    name: str,
    behind: bool = False,
    keeps: Keeps | None = None,
    further: Collection[str] = (),
) -> Roots:
    """Return the roots that count now.

    `pin` is the SHA-256 in agent.yaml, `further` are others that stand there beside it. `known` are the roots of the
    last pass, None before the first one; roots that do not go back to one of these pins do not count. `shown` are the
    certificates on the root's mount. `record` is `rotation/root`, None if there is none. If it is `behind` what the
    node has read before, nothing is dropped. `name` is the common name of the first root. A root is dropped or parked
    only if `keeps` agrees; None agrees always.

    Raises CertificateRefused with the reason `root-differs` if the mount shows no trusted root, `root-unfit` if none of
    those may be one or is in date.
    """
    pins = tuple(dict.fromkeys((pin, *further)))
    own = known if known is not None and any(map(known.knows, pins)) else None
    if own is None or not own.trusted:
        own = _pinned(pins, shown, own)
    own = replace(own, ignored=own.ignored & set(pins))
    written = frozenset(further and pins) - own.ignored
    shown = [facts for facts in shown if facts.fingerprint in written or key_id(facts) not in own.given_up]
    found = own if record is None else _by_record(own, shown, record, now, name=name, written=written)
    if behind:
        back = tuple(facts for facts in own.parked if facts in shown)
        found = _roots(own, (*own.trusted, *back, *found.trusted), own.parked)
    elif keeps is not None and not set(own.trusted) <= set(found.trusted) and not keeps(own, found):
        found = _roots(own, (*own.trusted, *found.trusted), own.parked)
    if not any(facts in shown for facts in found.trusted):
        raise _differs(found.trusted[0].fingerprint, shown)
    if all(unfit(facts, now, name=name) for facts in found.trusted):
        raise CertificateRefused(str(unfit(found.trusted[0], now, name=name)), reason="root-unfit")
    return replace(found, ignored=own.ignored | (found.former & set(pins) - own.former))


def crosses(roots: Roots, shown: Sequence[Facts]) -> tuple[Facts, ...]:
    """Return the cross certificates by which one trusted root vouches for another."""
    return tuple(
        facts
        for facts in shown
        if _may_vouch(facts)
        and any(_vouched(root, facts) for root in roots.trusted)
        and any(signed_by(facts, root) and not _vouched(root, facts) for root in roots.trusted)
    )


def untrusted_roots(
    above: Roots, shown: Sequence[Facts], record: RotationRecord | None, *, name: str, chains: Collection[Facts] = ()
) -> tuple[Facts, ...]:
    """Return the certificates on the root's mount that belong to no root of the node and to no rotation of it.

    `chains` are the CAs in the chains above its issuing CAs, which may be shown there too.
    """
    mine = (*above.trusted, *above.parked)
    known = set(above.former)
    if record is not None:
        known |= {ca.sha256 for ca in (record.old, record.new) if ca is not None}
    vouched = {facts.public_key for facts in shown if _is_cross(facts, name) and any(signed_by(facts, m) for m in mine)}
    keys = {facts.public_key for facts in mine} | vouched
    named_by_record = [facts for facts in shown if facts.fingerprint in known]
    crosses_of = {facts for facts in shown if any(_vouched(root, facts) for root in (*mine, *named_by_record))}
    return tuple(
        facts
        for facts in dict.fromkeys(shown)
        if facts not in mine and facts not in chains and facts.fingerprint not in known
        if facts not in crosses_of or self_signed(facts)
        if facts.public_key not in keys or not named(facts, name)
    )


def unfit(root: Facts, now: datetime, *, name: str) -> str | None:
    """Return the sentence that says why it cannot be a root CA at `now`; None if it can.

    One that has not the `name` of a root of this cluster is a CA outside, which its owner has named as anchor by its
    SHA-256: self-signed or not, and made by the rules of somebody else.
    """
    if root.not_before > now:
        return (
            f"the root CA {root.subject_text} is not valid before {root.not_before:%Y-%m-%d %H:%M}Z, and this "
            f"machine's clock says {now:%Y-%m-%d %H:%M}Z; correct the clock"
        )
    if named(root, name):
        problem = no_root(root) or (None if signed_by(root, root) else "it is not self-signed")
    else:
        problem = no_ca_above(root, signature=False)
    if problem:
        return f"the root CA {root.subject_text} cannot be trusted: {problem}"
    if not in_date(root, now):
        return f"the root CA {root.subject_text} expired on {root.not_after:%Y-%m-%d}"
    return None


def successors(roots: Sequence[Facts], shown: Sequence[Facts], now: datetime, *, name: str) -> tuple[Facts, ...]:
    """Return the shown roots for which one of `roots` vouches, directly or through the cross certificates of others.

    Of a root from outside its own signature is verified here, too: it has no SHA-256 that anybody named.
    """
    fit = [facts for facts in shown if _may_vouch(facts) and in_date(facts, now)]
    vouchers = [facts for facts in roots if in_date(facts, now)]
    direct = [facts for facts in fit if any(signed_by(facts, root) for root in vouchers)]
    while more := [
        facts
        for facts in fit
        if facts not in vouchers
        and any(signed_by(facts, each) and (named(facts, name) or named(each, name)) for each in vouchers)
    ]:
        vouchers += more
    return tuple(
        facts
        for facts in shown
        if facts not in roots
        and unfit(facts, now, name=name) is None
        and any(_vouched(facts, voucher) for voucher in (*vouchers, *direct))
        and self_signed(facts)
    )


def key_id(facts: Facts) -> str:
    """Return the SHA-256, in hex, of the public key."""
    return sha256(facts.public_key).hexdigest()


def _pinned(pins: Sequence[str], shown: Sequence[Facts], known: Roots | None) -> Roots:
    """Return the first root of these pins that is shown; `known` is what a node has kept from before it joined anew."""
    found = tuple(facts for pin in pins for facts in shown if facts.fingerprint == pin)
    if not found:
        raise _differs(pins[0], shown)
    former = known.former if known is not None else frozenset[str]()
    return Roots(found[:1], former=former - {found[0].fingerprint})


def _by_record(
    own: Roots,
    shown: Sequence[Facts],
    record: RotationRecord,
    now: datetime,
    *,
    name: str,
    written: Collection[str],
) -> Roots:
    owners = (facts for facts in shown if facts.fingerprint in written and unfit(facts, now, name=name) is None)
    accepted = (*own.trusted, *own.parked, *owners, *successors(own.trusted, shown, now, name=name))
    trusted = tuple(facts for facts in accepted if facts.fingerprint in record.trust)
    if not trusted:
        # The record is of roots that nobody vouches for: it can delay, and take nothing away.
        return own
    # Until the old root is deleted a rollback is possible.
    parked = accepted if record.state is State.RETIRED else ()
    return _roots(own, trusted, parked)


def _roots(before: Roots, trusted: Sequence[Facts], parked: Sequence[Facts]) -> Roots:
    """Return these roots, each once; those of before that are in neither list are former ones."""
    kept = tuple(dict.fromkeys(trusted))
    aside = tuple(facts for facts in dict.fromkeys(parked) if facts not in kept)
    gone = [facts for facts in (*before.trusted, *before.parked) if facts not in (*kept, *aside)]
    return Roots(
        kept,
        aside,
        before.former - {facts.fingerprint for facts in kept} | {facts.fingerprint for facts in gone},
        (before.given_up | {key_id(facts) for facts in gone}) - {key_id(facts) for facts in (*kept, *aside)},
        before.ignored,
    )


def _differs(pin: str, shown: Sequence[Facts]) -> CertificateRefused:
    what = f"has the fingerprint {shown[0].fingerprint}" if shown else "cannot be read"
    return CertificateRefused(
        f"the root CA that Vault shows {what}, not the pinned {pin}; find out who changed it before anything is "
        "trusted again",
        reason="root-differs",
    )


def _may_vouch(facts: Facts) -> bool:
    # An issuing CA, which also has a certificate that a root signed, must not become a root: it has a path length of 0.
    return no_root(facts) is None and not signed_by(facts, facts)


def _is_cross(facts: Facts, name: str) -> bool:
    return named(facts, name) and _may_vouch(facts)


def _vouched(root: Facts, cross: Facts) -> bool:
    if root.public_key != cross.public_key or root == cross:
        return False
    plain = root.subject == cross.subject and not root.further_names
    # Go compares names byte for byte.
    return plain or der.certificate_parts(root.der).subject == der.certificate_parts(cross.der).subject
