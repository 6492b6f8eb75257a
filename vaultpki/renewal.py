"""What a pair on disk needs, and when: pure checks, each with a name. No clock is read and no file opened here."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final

from vaultpki.certificates import LEAF_BACKDATE, SKEW
from vaultpki.facts import Facts, Pair, same_names
from vaultpki.model import Certificate, Window
from vaultpki.values import dataclass
from vaultpki.windows import within

_EARLIEST: Final = 1 / 2
_LATEST: Final = 2 / 3


class Reason(enum.Enum):
    """Why a pair is not simply left alone; the values are what `status --json` says."""

    MISSING = "missing"
    UNREADABLE = "unreadable"
    KEY_MISMATCH = "key-mismatch"
    NAMES_CHANGED = "names-changed"
    USAGE_CHANGED = "usage-changed"
    KEY_TYPE_CHANGED = "key-type-changed"
    TTL_CHANGED = "ttl-changed"
    ISSUER_CHANGED = "issuer-changed"
    NOT_YET_VALID = "not-yet-valid"
    EXPIRED = "expired"
    DUE = "due"
    FORCED = "forced"
    WRONG_MODE = "wrong-mode"
    WRONG_OWNER = "wrong-owner"


class State(enum.Enum):
    """One word for a pair, as `status --json` has it."""

    OK = "ok"
    DUE = "due"
    EXPIRED = "expired"
    MISSING = "missing"
    BROKEN = "broken"


MENDABLE: Final = frozenset({Reason.WRONG_MODE, Reason.WRONG_OWNER})
"""What is put right on the file itself, with no new certificate."""

_STATE = {
    Reason.MISSING: State.MISSING,
    Reason.EXPIRED: State.EXPIRED,
    Reason.DUE: State.DUE,
    # The pair still works as it is; what was asked for has moved on.
    Reason.NAMES_CHANGED: State.DUE,
    Reason.USAGE_CHANGED: State.DUE,
    Reason.KEY_TYPE_CHANGED: State.DUE,
    Reason.TTL_CHANGED: State.DUE,
    Reason.FORCED: State.DUE,
}

_WORST = (State.MISSING, State.BROKEN, State.EXPIRED, State.DUE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a pair needs: all reasons in the order of the checks, and when the next renewal is due.

    `renew_after` is None where there is no certificate to count from.
    """

    reasons: tuple[Reason, ...]
    renew_after: datetime | None

    @property
    def state(self) -> State:
        states = {_STATE.get(reason, State.BROKEN) for reason in self.reasons}
        return next((state for state in _WORST if state in states), State.OK)

    @property
    def sign(self) -> bool:
        """Whether a new certificate is needed."""
        return any(reason not in MENDABLE for reason in self.reasons)

    @property
    def mend(self) -> bool:
        """Whether mode or owner must be put right; a new certificate brings its own."""
        return not self.sign and bool(self.reasons)


@dataclass(frozen=True, slots=True)
class _Case:
    pair: Pair
    want: Certificate
    now: datetime
    renew_after: datetime | None
    asked: int | None
    forced: bool
    wrong_mode: bool
    wrong_owner: bool


def assess(
    pair: Pair,
    want: Certificate,
    now: datetime,
    jitter: float,
    *,
    signed: datetime | None = None,
    asked: int | None = None,
    windows: Sequence[Window] = (),
    forced: bool = False,
    wrong_mode: bool = False,
    wrong_owner: bool = False,
) -> Verdict:
    """What `pair` needs to be `want` at the time `now`.

    `jitter` lies in [0, 1) and stays the same for one certificate (see `jitter`). `signed` is the moment of signing and
    `asked` the TTL in seconds that was asked for then, where these are remembered; otherwise the certificate itself is
    taken at its word. `windows` are the times in which what can wait is renewed: what was missed in one waits for the
    next, as long as there is one in time.
    """
    leaf = pair.leaf
    at = None
    if leaf is not None:
        if signed is None or not leaf.not_before - timedelta(seconds=SKEW) <= signed < leaf.not_after:
            signed = signed_at(leaf.not_before, leaf.not_after)
        end = signed + life(leaf, signed)
        at = renew_at(signed, end, jitter, want.reload)
        at = within(windows, at, last_moment(signed, end, want.reload), jitter, now)
    case = _Case(pair, want, now, at, asked, forced, wrong_mode, wrong_owner)
    return Verdict(tuple(reason for reason, check in _CHECKS if check(case)), at)


def signed_at(not_before: datetime, not_after: datetime) -> datetime:
    """When a leaf was signed: not_before without the backdating of our roles, never later than not_after."""
    return not_before + min(timedelta(seconds=LEAF_BACKDATE), not_after - not_before)


def life(leaf: Facts, signed: datetime) -> timedelta:
    """How long `leaf` may be used if this machine's clock said `signed` when it was signed."""
    here, granted = leaf.not_after - signed, leaf.not_after - signed_at(leaf.not_before, leaf.not_after)
    # By a clock that is behind Vault's it ends later than for everybody else; a role of ours always backdates.
    return min(here, granted) if granted else here


def renew_at(signed: datetime, not_after: datetime, jitter: float, reload: int) -> datetime:
    """When to renew: after 50 to 67 % of the life that counts, which runs from `signed` to `not_after`.

    `jitter` in [0, 1] spreads nodes over that window. `reload` is the seconds that the consumer may go on with the old
    pair; these and the clocks' skew are left over where half of the life is long enough.
    """
    life = max(not_after - signed, timedelta())
    share = _EARLIEST + (_LATEST - _EARLIEST) * min(max(jitter, 0.0), 1.0)
    latest = not_after - timedelta(seconds=reload + SKEW)
    return max(min(signed + life * share, latest), signed + life * _EARLIEST)


def last_moment(signed: datetime, not_after: datetime, reload: int) -> datetime:
    """How long a renewal may wait for a window: a tenth of the life, the consumer's time and the skew are left."""
    life = max(not_after - signed, timedelta())
    return not_after - life / 10 - timedelta(seconds=reload + SKEW)


def jitter(node: str, name: str, serial: int) -> float:
    """A number in [0, 1) that differs between nodes, rows and renewals and is the same at each look at one leaf."""
    digest = sha256("\0".join((node, name, str(serial))).encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / (1 << 53)


def _missing(case: _Case) -> bool:
    return bool(case.pair.missing)


def _unreadable(case: _Case) -> bool:
    return bool(case.pair.unreadable)


def _key_mismatch(case: _Case) -> bool:
    whole = not case.pair.missing and not case.pair.unreadable
    return whole and not case.pair.matches


def _names_changed(case: _Case) -> bool:
    leaf = case.pair.leaf
    return leaf is not None and (bool(leaf.further_names) or not same_names(leaf.subject, case.want.subject))


def _usage_changed(case: _Case) -> bool:
    return case.pair.leaf is not None and case.pair.leaf.usage is not case.want.usage


def _key_type_changed(case: _Case) -> bool:
    return case.pair.leaf is not None and case.pair.leaf.key is not case.want.key


def _ttl_changed(case: _Case) -> bool:
    """Whether another TTL is asked for now. What Vault grants below it is no reason: that would never end."""
    leaf = case.pair.leaf
    if leaf is None:
        return False
    if case.asked is not None:
        return case.asked != case.want.ttl
    life = (leaf.not_after - signed_at(leaf.not_before, leaf.not_after)).total_seconds()
    return life > case.want.ttl + SKEW


def _issuer_changed(case: _Case) -> bool:
    return case.pair.leaf is not None and case.pair.issuer_live is False


def _not_yet_valid(case: _Case) -> bool:
    return case.pair.leaf is not None and case.pair.leaf.not_before > case.now + timedelta(seconds=SKEW)


def _expired(case: _Case) -> bool:
    return case.pair.leaf is not None and case.pair.leaf.not_after <= case.now


def _due(case: _Case) -> bool:
    return case.renew_after is not None and case.renew_after <= case.now and not _expired(case)


def _forced(case: _Case) -> bool:
    return case.forced


def _wrong_mode(case: _Case) -> bool:
    return case.wrong_mode


def _wrong_owner(case: _Case) -> bool:
    return case.wrong_owner


_CHECKS: Final[tuple[tuple[Reason, Callable[[_Case], bool]], ...]] = (
    (Reason.MISSING, _missing),
    (Reason.UNREADABLE, _unreadable),
    (Reason.KEY_MISMATCH, _key_mismatch),
    (Reason.NAMES_CHANGED, _names_changed),
    (Reason.USAGE_CHANGED, _usage_changed),
    (Reason.KEY_TYPE_CHANGED, _key_type_changed),
    (Reason.TTL_CHANGED, _ttl_changed),
    (Reason.ISSUER_CHANGED, _issuer_changed),
    (Reason.NOT_YET_VALID, _not_yet_valid),
    (Reason.EXPIRED, _expired),
    (Reason.DUE, _due),
    (Reason.FORCED, _forced),
    (Reason.WRONG_MODE, _wrong_mode),
    (Reason.WRONG_OWNER, _wrong_owner),
)
