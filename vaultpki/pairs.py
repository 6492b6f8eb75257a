"""A node's pairs: each looked at beside what is wanted, mended where it lies, or signed anew and swapped."""

from __future__ import annotations

import grp
import pwd
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import field
from datetime import UTC, datetime
from typing import Final

from vaultpki import brakes, issuance, renewal
from vaultpki.certificates import SKEW, pair_files, unit
from vaultpki.errors import CertificateRefused, Denied, Held, Refused, StoreError, Unavailable, Untrusted, VaultpkiError
from vaultpki.facts import Facts, Trust
from vaultpki.issuance import Owner, Signed
from vaultpki.memory import Known, Memory
from vaultpki.model import AgentConfig, Certificate
from vaultpki.renewal import Reason, Verdict
from vaultpki.store import Directory, Stored
from vaultpki.values import dataclass
from vaultpki.vault import Vault

EVERY: Final = "*"
"""Among the names that are renewed by force: all of them."""

_WIDTH = 4


@dataclass(frozen=True, slots=True)
class Item:
    """One certificate as a pass found it.

    `problem` is why nobody could look at it, or could lay another one down: then it is left alone.
    """

    want: Certificate
    stored: Mapping[str, Stored] = field(repr=False)
    verdict: Verdict
    leaf: Facts | None = field(repr=False)
    problem: StoreError | None = field(default=None, repr=False)

    @property
    def not_after(self) -> datetime | None:
        return self.leaf.not_after if self.leaf else None

    @property
    def wants_signing(self) -> bool:
        """Whether a new certificate is needed and could be laid down."""
        return self.problem is None and self.verdict.sign

    @property
    def ready(self) -> bool:
        """Whether a whole pair lies there with the names it should have, so that a kubeconfig may point at it."""
        return self.problem is None and not _NOT_READY.intersection(self.verdict.reasons)


_NOT_READY: Final = frozenset({Reason.MISSING, Reason.UNREADABLE, Reason.KEY_MISMATCH, Reason.NAMES_CHANGED})


def owner_of(text: str | None) -> Owner:
    """User and group ids of `user:group`; StoreError where this machine has no such user or group."""
    if text is None:
        return Owner()
    user, _, group = text.partition(":")
    try:
        uid = int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid
        gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise StoreError(
            f"owner {text}: this machine has no such user or group; create it or change agent.yaml"
        ) from None
    return Owner(uid, gid)


def look(
    config: AgentConfig,
    directory: Directory,
    certificates: Collection[Certificate],
    trust: Mapping[str, Trust],
    memory: Memory,
    now: datetime,
    force: Collection[str] = (),
) -> tuple[Item, ...]:
    """Every wanted certificate beside what lies on the disk. `force` names those that are renewed though not due."""
    items = []
    for want in certificates:
        try:
            items.append(_look(config, directory, want, trust[want.ca].live, memory, now, force))
        except StoreError as error:
            # One that nobody can look at keeps no other from its renewal.
            items.append(Item(want, {}, Verdict((Reason.UNREADABLE,), None), None, error))
    return tuple(items)


def _look(
    config: AgentConfig,
    directory: Directory,
    want: Certificate,
    live: Sequence[Facts],
    memory: Memory,
    now: datetime,
    force: Collection[str],
) -> Item:
    from vaultpki import x509

    names = pair_files(want.stem)
    stored = directory.read(unit(want.stem), names)
    crt, key, pem = (stored[name].data for name in names)
    pair = x509.read_pair(crt, key, pem, live)
    wanted = issuance.pair(dict.fromkeys(names, b""), *_options(config, want))
    present = [name for name in names if not stored[name].problem]
    leaf = pair.leaf
    known = memory.certificates.get(want.name)
    if known is not None and (leaf is None or known.serial != leaf.serial):
        known = None
    verdict = renewal.assess(
        pair,
        want,
        now,
        renewal.jitter(config.node, want.name, leaf.serial if leaf else 0),
        signed=datetime.fromtimestamp(known.signed, UTC) if known else None,
        asked=known.asked if known else None,
        windows=config.windows,
        forced=want.name in force or EVERY in force,
        wrong_mode=any(stored[name].mode != wanted[name].mode for name in present),
        wrong_owner=any(not stored[name].same_owner(wanted[name]) for name in present),
    )
    return Item(want, stored, verdict, leaf)


def mend(config: AgentConfig, directory: Directory, item: Item) -> None:
    """Puts mode and owner right on the files that lie there."""
    _install(config, directory, item.want, {name: stored.data or b"" for name, stored in item.stored.items()})


def held_back(item: Item, memory: Memory, now: float, poll: float) -> VaultpkiError | None:
    """Why no signature may be asked for now, though one is wanted; None where it may."""
    if Reason.FORCED in item.verdict.reasons:
        return None
    name, known = item.want.name, memory.certificates.get(item.want.name)
    longest = brakes.longest(known.granted if known else item.want.ttl, poll)
    at = brakes.next_try(memory.spent.get(name, ()), now, longest, brakes.most(item.want.ttl))
    if item.verdict.reasons == (Reason.DUE,):
        at = max(at, memory.held.get(name, 0.0))
    if at <= now:
        return None
    before = memory.faults.get(name)
    return Held(before.text if before else f"{name}: it was signed again and again, sooner than it could be due", at)


def premature(item: Item, memory: Memory, now: float) -> bool:
    """Whether a signature comes sooner after the last than any renewal is due; such ones are counted by the brakes."""
    known = memory.certificates.get(item.want.name)
    return known is not None and brakes.early(known.signed, known.granted, now)


def sign(
    config: AgentConfig,
    directory: Directory,
    vault: Vault,
    items: Sequence[Item],
    trust: Mapping[str, Trust],
    now: datetime,
) -> dict[str, Signed | VaultpkiError]:
    """A new pair for each item, signed and in its place; or why there is none, and the old pair is as it was."""

    def attempt(item: Item) -> Signed | VaultpkiError:
        try:
            return issuance.sign(vault, item.want, trust[item.want.ca], now)
        except VaultpkiError as error:
            return error

    outcomes: dict[str, Signed | VaultpkiError] = {}
    # All that touches the disk is done by one thread, in one order: so every point where it may be killed is tried.
    for item, signed in zip(items, vault.map(attempt, items, width=_WIDTH), strict=True):
        outcomes[item.want.name] = signed
        if isinstance(signed, Signed):
            try:
                _keep_the_better(item, signed, now)
                _install(config, directory, item.want, signed.contents)
            except VaultpkiError as error:
                outcomes[item.want.name] = error
    return outcomes


def may_have_signed(error: VaultpkiError) -> bool:
    """Whether Vault may have made a certificate in a call that ended so: it counts as one that came to nothing."""
    if isinstance(error, Unavailable):
        return error.sent
    if isinstance(error, CertificateRefused):
        # With no CA in date nobody was asked.
        return error.reason != "nothing-live"
    return not isinstance(error, (Refused, Denied, Untrusted))


def known(signed: Signed, now: datetime) -> Known:
    """What is remembered of it. `now` is when it was asked for."""
    return Known(signed.facts.serial, now.timestamp(), signed.certificate.ttl, granted(signed, now))


def granted(signed: Signed, now: datetime) -> int:
    """The seconds from now on that Vault gave it."""
    return int(renewal.life(signed.facts, now).total_seconds())


def short(known: Known) -> bool:
    """Whether Vault granted less than asked, clocks' skew aside."""
    return known.granted < known.asked - min(SKEW, known.asked // 10)


def _keep_the_better(item: Item, signed: Signed, now: datetime) -> None:
    """Raises Held where Vault granted less than asked, and what lies there is good and would live longer."""
    reasons = set(item.verdict.reasons)
    if item.not_after is None or signed.facts.not_after > item.not_after or not reasons <= _STILL_GOOD:
        return
    if reasons != {Reason.DUE} and not short(known(signed, now)):
        # Another life was asked for, or a renewal out of turn, and that is what came.
        return
    # Half of what Vault grants now before the end: by then a new one is the better one.
    at = item.not_after - (signed.facts.not_after - now) / 2
    raise Held(
        f"{item.want.name}: Vault grants only {granted(signed, now)} s now, which ends before the certificate in "
        f"use; that one stays until {at:%Y-%m-%dT%H:%M:%SZ}",
        at.timestamp(),
    )


_STILL_GOOD: Final = frozenset({Reason.DUE, Reason.TTL_CHANGED, Reason.FORCED})


def _options(config: AgentConfig, want: Certificate) -> tuple[Owner, int]:
    options = config.certificates.get(want.name)
    owner = owner_of((options.owner if options else None) or config.owner)
    mode = options.mode if options and options.mode is not None else issuance.KEY_MODE
    return owner, mode


def _install(config: AgentConfig, directory: Directory, want: Certificate, contents: Mapping[str, bytes]) -> None:
    check: Callable[[Mapping[str, bytes]], None] = lambda back: issuance.whole(back, want)  # noqa: E731
    directory.install(unit(want.stem), issuance.pair(contents, *_options(config, want)), check=check)
