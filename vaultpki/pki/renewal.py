"""Decides what a pair on disk needs, and when: pure checks, each with a name; the time is an argument."""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final

from vaultpki.certificates import LEAF_BACKDATE, SKEW
from vaultpki.model import Certificate, Window
from vaultpki.pki.facts import Facts, Pair, Replacement, same_names
from vaultpki.values.windows import within

_EARLIEST: Final = 1 / 2
_LATEST: Final = 2 / 3
_OVERDUE: Final = 1 / 10


class Reason(enum.Enum):
    """Why a pair needs something; the values are those of `status --json`."""

    MISSING = "missing"
    UNREADABLE = "unreadable"
    KEY_MISMATCH = "key-mismatch"
    NAMES_CHANGED = "names-changed"
    USAGE_CHANGED = "usage-changed"
    KEY_TYPE_CHANGED = "key-type-changed"
    TTL_CHANGED = "ttl-changed"
    ISSUER_CHANGED = "issuer-changed"
    ISSUER_OUTGOING = "issuer-outgoing"
    NOT_YET_VALID = "not-yet-valid"
    EXPIRED = "expired"
    REVOKED = "revoked"
    DUE = "due"
    FORCED = "forced"
    KEY_EXPOSED = "key-exposed"
    WRONG_MODE = "wrong-mode"
    WRONG_OWNER = "wrong-owner"
    CHAIN_OLD = "chain-old"


class PairState(enum.Enum):
    """The state of a pair; the values are those of `status --json`."""

    OK = "ok"
    DUE = "due"
    REVOKED = "revoked"
    EXPIRED = "expired"
    MISSING = "missing"
    BROKEN = "broken"


_FILES: Final = (Reason.WRONG_MODE, Reason.WRONG_OWNER, Reason.CHAIN_OLD)

MENDABLE: Final = frozenset(_FILES)
"""What is corrected on the files themselves, without a new certificate."""

_STATE = {
    Reason.MISSING: PairState.MISSING,
    Reason.EXPIRED: PairState.EXPIRED,
    Reason.REVOKED: PairState.REVOKED,
    Reason.DUE: PairState.DUE,
    # The pair still works; only what is requested has changed.
    Reason.NAMES_CHANGED: PairState.DUE,
    Reason.USAGE_CHANGED: PairState.DUE,
    Reason.KEY_TYPE_CHANGED: PairState.DUE,
    Reason.TTL_CHANGED: PairState.DUE,
    Reason.ISSUER_OUTGOING: PairState.DUE,
    Reason.FORCED: PairState.DUE,
    Reason.CHAIN_OLD: PairState.DUE,
}

_WORST = (PairState.MISSING, PairState.BROKEN, PairState.EXPIRED, PairState.REVOKED, PairState.DUE)


@dataclass(frozen=True, slots=True)
class LeafLife:
    """From when to when a leaf may be used here, and the seconds that its consumer may take to load its successor."""

    signed: datetime
    ends: datetime
    reload: int


@dataclass(frozen=True, slots=True)
class Assessment:
    """What a pair needs: all reasons in the order of the checks, and when the next renewal is due.

    `renew_after` is None if there is no certificate. `final` is whether the certificate ends with the CA that would
    sign its successor: a renewal would change nothing, so none is due before the end. `life` is None if there is no
    certificate, and `postponed` is whether the renewal came late and waits for `renew_after` (`postponed_to`).
    """

    reasons: tuple[Reason, ...]
    renew_after: datetime | None
    final: bool = False
    life: LeafLife | None = None
    postponed: bool = False

    @property
    def state(self) -> PairState:
        states = {_STATE.get(reason, PairState.BROKEN) for reason in self.reasons}
        return next((state for state in _WORST if state in states), PairState.OK)

    @property
    def sign(self) -> bool:
        """Return whether a new certificate is needed."""
        return any(reason not in MENDABLE for reason in self.reasons)

    @property
    def mend(self) -> bool:
        """Return whether only the files must be corrected; a new certificate is installed with the right ones."""
        return not self.sign and bool(self.reasons)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the agent recorded of a leaf: when it was signed, and the TTL in seconds asked for; None if unknown.

    `postponed` is the moment to which its renewal was postponed because it came late; None if it was not.
    """

    signed: datetime | None = None
    asked: int | None = None
    postponed: datetime | None = None


@dataclass(frozen=True, slots=True)
class Signers:
    """What happens to the CAs of a leaf: how that which signed it is replaced, and when that ends which would sign now.

    `replacement` is None if it is not replaced, `ends` if it is not known.
    """

    replacement: Replacement | None = None
    ends: datetime | None = None


def assess(
    pair: Pair,
    want: Certificate,
    now: datetime,
    jitter: float,
    *,
    recorded: Recorded = Recorded(),
    signers: Signers = Signers(),
    windows: Sequence[Window] = (),
    also: Collection[Reason] = (),
) -> Assessment:
    """Return what `pair` needs to be `want` at the time `now`.

    `jitter` is in [0, 1) and the same for one certificate (see `jitter`). Of what was not `recorded` the certificate's
    dates count. `windows` are the times in which renewals run that can wait: a renewal that missed one window waits for
    the next, if that begins in time. `also` are reasons that the pair itself does not show: FORCED, KEY_EXPOSED,
    WRONG_MODE and WRONG_OWNER.
    """
    leaf, asked, ends = pair.leaf, recorded.asked, signers.ends
    replace, at, lived, postponed = replaced_at(signers.replacement, jitter), None, None, False
    final = leaf is not None and ends is not None and leaf.not_after >= ends
    if leaf is not None:
        lived = _lived(leaf, recorded.signed, want.reload)
        first = renew_at(lived.signed, lived.ends, jitter, want.reload)
        at = _postponed(first, lived, recorded.postponed)
        postponed = first < at and now < at and not final
        if replace is not None and signers.replacement is not None and at < signers.replacement.since:
            # It ended with its CA and waited for the next one, as those of all nodes did.
            at = min(replace, leaf.not_after - timedelta(seconds=want.reload + SKEW))
        last = last_moment(lived.signed, lived.ends, want.reload)
        at = leaf.not_after if final else within(windows, at, last, jitter, now)
    if final and ends is not None and now + timedelta(seconds=want.ttl) >= ends:
        # No TTL of this length is granted any more.
        asked = want.ttl
    checks = [*_pair_reasons(pair), *(_leaf_reasons(pair, leaf, want, now, asked) if leaf is not None else ())]
    checks.append((Reason.REVOKED, Reason.REVOKED in also))
    checks.append((Reason.DUE, leaf is not None and at is not None and at <= now < leaf.not_after))
    checks.append((Reason.ISSUER_OUTGOING, replace is not None and replace <= now))
    checks += [(reason, reason in also) for reason in (Reason.FORCED, Reason.KEY_EXPOSED, *_FILES)]
    dues = [when for when in (at, replace) if when is not None]
    reasons = tuple(reason for reason, applies in checks if applies)
    return Assessment(reasons, min(dues, default=None), final, lived, postponed)


def _lived(leaf: Facts, signed: datetime | None, reload: int) -> LeafLife:
    if signed is None or not leaf.not_before - timedelta(seconds=SKEW) <= signed < leaf.not_after:
        signed = signed_at(leaf.not_before, leaf.not_after)
    return LeafLife(signed, signed + life(leaf, signed), reload)


def _postponed(due: datetime, lived: LeafLife, later: datetime | None) -> datetime:
    # However wrong the recorded moment is, it leaves the time that any postponed renewal has.
    return due if later is None else max(due, min(later, latest_postponed(lived)))


def replaced_at(replacement: Replacement | None, jitter: float) -> datetime | None:
    """Return when a leaf of a CA that is being replaced is due: within the spread, by its jitter; None if it is not."""
    if replacement is None:
        return None
    return replacement.since + timedelta(seconds=replacement.spread * jitter)


def signed_at(not_before: datetime, not_after: datetime) -> datetime:
    """Return when a leaf was signed: not_before plus the backdating of our roles, never later than not_after."""
    return not_before + min(timedelta(seconds=LEAF_BACKDATE), not_after - not_before)


def life(leaf: Facts, signed: datetime) -> timedelta:
    """Return how long `leaf` may be used if this machine's clock showed `signed` when it was signed."""
    here, granted = leaf.not_after - signed, leaf.not_after - signed_at(leaf.not_before, leaf.not_after)
    # On a clock behind Vault's it would expire later than for everybody else; our roles always backdate.
    return min(here, granted) if granted else here


def renew_at(signed: datetime, not_after: datetime, jitter: float, reload: int) -> datetime:
    """Return when to renew: after 50 to 67 % of the life from `signed` to `not_after`.

    `jitter` in [0, 1] spreads nodes over that window. `reload` is the seconds for which the consumer may keep using the
    old pair: the window ends at least these and the clocks' skew before the end, but never before half of the life.
    """
    life = max(not_after - signed, timedelta())
    first, last = signed + life * _EARLIEST, signed + life * _LATEST
    last = max(min(last, not_after - timedelta(seconds=reload + SKEW)), first)
    return first + (last - first) * min(max(jitter, 0.0), 1.0)


MOST_POSTPONED: Final = 3
"""How often the renewal of one certificate is postponed because it came late."""

# Shares of the life. What comes later than the first is postponed, and by up to twice the time that it came late:
# so a fleet that was away for any part of its window comes back with at most 5 % of it in any 1 % of the window.
_PROMPT: Final = 1 / 1000
_SPREAD: Final = 2


def postponed_to(
    due: datetime, life: LeafLife, answered: datetime, now: datetime, share: float, times: int = 0
) -> datetime | None:
    """Return to when a renewal is postponed that was due at `due` and could not be made until `now`; None if it is not.

    After an outage, and when many machines start at the same moment, the nodes would renew together what fell due
    meanwhile. `answered` is when Vault had answered last: if it has since `due`, something else is wrong, and waiting
    would hide it. `share` in [0, 1) spreads nodes, and `times` is how often this renewal was postponed already. It is
    never postponed beyond `latest_postponed`.
    """
    late = now - due
    if times >= MOST_POSTPONED or answered >= due or late <= (life.ends - life.signed) * _PROMPT:
        return None
    room = latest_postponed(life) - now
    return now + min(late * _SPREAD, room) * share if room > timedelta() else None


def latest_postponed(life: LeafLife) -> datetime:
    """Return the moment before which every postponed renewal is made: no view takes it for overdue until then."""
    overdue_at = _overdue_at(life.signed, life.ends, life.reload)
    return min(overdue_at, life.ends - timedelta(seconds=life.reload + SKEW))


def overdue(leaf: Facts, reload: int, now: datetime) -> bool:
    """Return whether the latest moment of a renewal is over, and a tenth of the life more; `reload` is in seconds."""
    return _overdue_at(signed_at(leaf.not_before, leaf.not_after), leaf.not_after, reload) <= now


def _overdue_at(signed: datetime, not_after: datetime, reload: int) -> datetime:
    return renew_at(signed, not_after, 1.0, reload) + (not_after - signed) * _OVERDUE


def last_moment(signed: datetime, not_after: datetime, reload: int) -> datetime:
    """Return until when a renewal may wait for a window: a tenth of the life, `reload` and the skew before the end."""
    life = max(not_after - signed, timedelta())
    return not_after - life / 10 - timedelta(seconds=reload + SKEW)


def jitter(node: str, name: str, serial: int) -> float:
    """Return a number in [0, 1) that differs between nodes, rows and renewals and is always the same for one leaf."""
    digest = sha256("\0".join((node, name, str(serial))).encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / (1 << 53)


def late_share(node: str, name: str, serial: int, due: datetime) -> float:
    """Return a number as `jitter` does, which says nothing about that of the renewal: it differs for each `due`."""
    return jitter(node, f"{name}\0{due.timestamp():.0f}", serial)


def _pair_reasons(pair: Pair) -> Iterator[tuple[Reason, object]]:
    yield Reason.MISSING, pair.missing
    yield Reason.UNREADABLE, pair.unreadable
    yield Reason.KEY_MISMATCH, not pair.missing and not pair.unreadable and not pair.matches


def _leaf_reasons(
    pair: Pair, leaf: Facts, want: Certificate, now: datetime, asked: int | None
) -> Iterator[tuple[Reason, object]]:
    names_differ = leaf.further_names or not same_names(leaf.subject, want.subject)
    yield Reason.NAMES_CHANGED, names_differ
    yield Reason.USAGE_CHANGED, leaf.usage is not want.usage
    yield Reason.KEY_TYPE_CHANGED, leaf.key is not want.key
    yield Reason.TTL_CHANGED, _ttl_changed(leaf, want.ttl, asked)
    yield Reason.ISSUER_CHANGED, pair.issuer_live is False
    yield Reason.NOT_YET_VALID, leaf.not_before > now + timedelta(seconds=SKEW)
    yield Reason.EXPIRED, leaf.not_after <= now


def _ttl_changed(leaf: Facts, ttl: int, asked: int | None) -> bool:
    """Return whether another TTL is requested now.

    A shorter grant by Vault is not a reason: it would renew in a loop.
    """
    if asked is not None:
        return asked != ttl
    return (leaf.not_after - signed_at(leaf.not_before, leaf.not_after)).total_seconds() > ttl + SKEW
