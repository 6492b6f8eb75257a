"""The pairs of a node: read each, compare it with what is wanted, mend its mode and owner, or have a new one signed."""

from __future__ import annotations

import grp
import pwd
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from vaultpki.agent.ca_trust import in_place_of
from vaultpki.certificates import SKEW, file_set, pair_files
from vaultpki.disk.folders import Folders
from vaultpki.disk.generations import File, StoredFile
from vaultpki.errors import (
    CertificateRefused,
    Denied,
    Refused,
    SigningPaused,
    StoreError,
    Unavailable,
    Untrusted,
    VaultpkiError,
)
from vaultpki.issue import signing
from vaultpki.issue.signing import FileOwner, Signed
from vaultpki.layout import shown
from vaultpki.model import AgentConfig, Certificate
from vaultpki.node import backoff
from vaultpki.node.state import AgentState, IssuedRecord, PostponedRenewal
from vaultpki.pki import renewal, x509
from vaultpki.pki.facts import Facts, Trust
from vaultpki.pki.renewal import Assessment, Reason, Recorded
from vaultpki.pki.succession import chain, chain_differs
from vaultpki.records.node_report import PRUNE
from vaultpki.redact import stamp
from vaultpki.vault import Vault

if TYPE_CHECKING:
    from vaultpki.pki.keys import PrivateKey

EVERY: Final = "*"
"""As a name of a forced renewal: every certificate."""

_WIDTH = 4


class PairFiles(NamedTuple):
    """A certificate that is wanted and its files by name, or why they cannot be read."""

    want: Certificate
    stored: Mapping[str, StoredFile] | StoreError


@dataclass(frozen=True, slots=True)
class PairStatus:
    """One certificate as a pass found it.

    `problem` is why it could not be read or replaced: then it is left alone. `issuer` is the trusted CA that signed the
    leaf, `served` the chain after it, and `serve` what should. `ends` is when the CA ends that would sign now, None
    if there is none.
    """

    want: Certificate
    stored: Mapping[str, StoredFile] = field(repr=False)
    verdict: Assessment
    leaf: Facts | None = field(repr=False)
    problem: StoreError | None = field(default=None, repr=False)
    issuer: Facts | None = field(default=None, repr=False)
    served: tuple[Facts, ...] = field(default=(), repr=False)
    serve: tuple[Facts, ...] = field(default=(), repr=False)
    ends: datetime | None = None

    @property
    def not_after(self) -> datetime | None:
        return self.leaf.not_after if self.leaf else None

    @property
    def wants_signing(self) -> bool:
        """Whether a new certificate is needed and can be installed."""
        return self.problem is None and self.verdict.sign

    @property
    def mendable(self) -> bool:
        """Return whether mode, owner or the CA after the leaf are wrong, and the pair is whole as it is."""
        return bool(renewal.MENDABLE.intersection(self.verdict.reasons)) and not self.broken

    @property
    def broken(self) -> bool:
        """Return whether a file of the pair is missing or cannot be read, or the key is another one's."""
        return self.problem is not None or bool(_BROKEN.intersection(self.verdict.reasons))

    @property
    def ready(self) -> bool:
        """Whether a complete pair with the right names is installed, so that a kubeconfig may point at it."""
        return self.problem is None and not _NOT_READY.intersection(self.verdict.reasons)


_BROKEN: Final = frozenset({Reason.MISSING, Reason.UNREADABLE, Reason.KEY_MISMATCH})
_NOT_READY: Final = _BROKEN | {Reason.NAMES_CHANGED}


def owner_of(text: str | None) -> FileOwner:
    """Return user and group ids of `user:group`; StoreError if this machine has no such user or group."""
    if text is None:
        return FileOwner()
    user, _, group = text.partition(":")
    try:
        uid = int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid
        gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise StoreError(
            f"owner {text}: this machine has no such user or group; create it or change agent.yaml"
        ) from None
    return FileOwner(uid, gid)


def inspect(
    config: AgentConfig,
    folders: Folders,
    certificates: Collection[Certificate],
    trust: Mapping[str, Trust],
    memory: AgentState,
    now: datetime,
    force: Collection[str] = (),
) -> tuple[PairStatus, ...]:
    """Read every wanted certificate from the disk, and compare it, as `compare`."""
    return compare(config, read(folders, certificates), trust, memory, now, force)


def read(
    folders: Folders, certificates: Iterable[Certificate], before: Iterable[PairFiles] = ()
) -> tuple[PairFiles, ...]:
    """Return the files of each certificate. Those in a place that was read `before` are not read again."""
    known = {(want.folder, want.stem): stored for want, stored in before}
    found = []
    for want in certificates:
        stored = known.get((want.folder, want.stem))
        try:
            stored = stored or folders.read(want.folder, file_set(want.stem), pair_files(want.stem))
        except StoreError as error:
            # One that cannot be read must not keep another from its renewal.
            stored = error
        found.append(PairFiles(want, stored))
    return tuple(found)


def compare(
    config: AgentConfig,
    pairs: Iterable[PairFiles],
    trust: Mapping[str, Trust],
    memory: AgentState,
    now: datetime,
    force: Collection[str] = (),
) -> tuple[PairStatus, ...]:
    """Compare every wanted certificate with its files. `force` names those to renew even if they are not due."""
    items = []
    for want, stored in pairs:
        try:
            if isinstance(stored, StoreError):
                raise stored
            items.append(_compare(config, want, stored, trust[want.ca], memory, now, force))
        except StoreError as error:
            items.append(PairStatus(want, {}, Assessment((Reason.UNREADABLE,), None), None, error))
    return tuple(items)


def _compare(
    config: AgentConfig,
    want: Certificate,
    stored: Mapping[str, StoredFile],
    trust: Trust,
    memory: AgentState,
    now: datetime,
    force: Collection[str],
) -> PairStatus:
    names = pair_files(want.stem)
    crt, key, pem = (stored[name].data for name in names)
    pair = x509.read_pair(crt, key, pem, trust.live)
    wanted = signing.pair(dict.fromkeys(names, b""), *options(config, want))
    present = [name for name in names if not stored[name].problem]
    leaf = pair.leaf
    _refuse_place(want, memory, leaf, now)
    known = memory.certificates.get(want.name)
    if known is not None and (leaf is None or known.serial != leaf.serial):
        known = None
    also = set[Reason]()
    serve = chain(trust, pair.issuer) if pair.issuer else ()
    if pair.issuer and pair.matches and chain_differs(trust, pair.issuer, pair.served):
        also.add(Reason.CHAIN_OLD)
    if want.name in force or EVERY in force:
        also.add(Reason.FORCED)
    if leaf is not None and memory.revoked.get(want.name) == leaf.serial:
        also.add(Reason.REVOKED)
    if any(stored[name].mode != wanted[name].mode for name in present):
        also.add(Reason.WRONG_MODE)
    if any(not stored[name].same_owner(wanted[name]) for name in present):
        also.add(Reason.WRONG_OWNER)
    if leaf is not None and (_shown(stored, wanted) or memory.exposed.get(want.name) == leaf.serial):
        also.add(Reason.KEY_EXPOSED)
    jitter = renewal.jitter(config.node, want.name, leaf.serial if leaf else 0)
    outgoing = trust.outgoing.get(pair.issuer.fingerprint) if pair.issuer else None
    signers = in_place_of(trust, pair.issuer).signers
    late = _postponed_before(memory, want.name, leaf)
    recorded = Recorded(
        datetime.fromtimestamp(known.signed, UTC) if known else None,
        known.asked if known else None,
        datetime.fromtimestamp(late.until, UTC) if late else None,
    )
    # The default issuer is the first.
    ends = signers[0].not_after if signers else None
    verdict = renewal.assess(
        pair,
        want,
        now,
        jitter,
        recorded=recorded,
        signers=renewal.Signers(outgoing, ends),
        windows=config.windows,
        also=also,
    )
    return PairStatus(want, stored, verdict, leaf, issuer=pair.issuer, served=pair.served, serve=serve, ends=ends)


def holder(memory: AgentState, folder: str, stem: str, leaf: Facts | None) -> str:
    """Return of which certificate the pair in a place is, by what the agent remembers of its leaf; "" if of none."""
    if leaf is None:
        return ""
    name, sha256 = memory.surplus.get(shown(folder, f"{stem}.crt"), ("", ""))
    if sha256 == leaf.fingerprint:
        return name
    return next((name for name, each in memory.leaves.items() if each.sha256[:1] == (leaf.fingerprint,)), "")


def of_another(want: Certificate, name: str, leaf: Facts) -> bool:
    """Return whether a pair of the certificate `name` is another one than what is wanted in its place.

    A certificate that only got another name is no other one.
    """
    return name not in ("", want.name) and (leaf.subject, leaf.usage) != (want.subject, want.usage)


def _refuse_place(want: Certificate, memory: AgentState, leaf: Facts | None, now: datetime) -> None:
    """Raise StoreError if a pair of another certificate is in the place of this one, and has not expired."""
    name = holder(memory, want.folder, want.stem, leaf)
    if leaf is not None and leaf.not_after > now and of_another(want, name, leaf):
        raise StoreError(
            f"{shown(want.folder, f'{want.stem}.crt')}: {want.name} waits for this place, where {name} is until "
            f"{stamp(leaf.not_after)}; if nobody needs {name} any more, run `{PRUNE}`"
        )


def _shown(stored: Mapping[str, StoredFile], wanted: Mapping[str, File]) -> bool:
    """Return whether others could read a file with the key, or could own it."""
    return any(
        stored[name].data is not None and stored[name].shown_to_others(file)
        for name, file in wanted.items()
        if not name.endswith(".crt")
    )


def mend(config: AgentConfig, folders: Folders, item: PairStatus) -> None:
    """Correct mode and owner of the installed files, and the CA's certificate after the leaf."""
    contents = {name: stored.data or b"" for name, stored in item.stored.items()}
    if Reason.CHAIN_OLD in item.verdict.reasons and item.leaf is not None and item.serve:
        contents = signing.contents(item.want, contents[pair_files(item.want.stem)[1]], item.leaf, item.serve)
    _install(config, folders, item.want, contents)


def held_back(item: PairStatus, memory: AgentState, now: float, poll: float) -> VaultpkiError | None:
    """Return why no signature may be asked for now, although one is wanted; None if it may."""
    if Reason.FORCED in item.verdict.reasons:
        return None
    name, known = item.want.name, memory.certificates.get(item.want.name)
    life = known.granted if known else item.want.ttl
    longest = backoff.longest(life, poll)
    at = backoff.next_try(memory.spent.get(name, ()), now, longest, backoff.daily_limit(item.want.ttl))
    at = max(at, backoff.after_unanswered(memory.unanswered.get(name, ()), now, longest))
    if item.verdict.reasons == (Reason.DUE,):
        at = max(at, memory.held.get(name, 0.0))
    if set(item.verdict.reasons) - renewal.MENDABLE == {Reason.REVOKED}:
        at = max(at, backoff.after_revoked(memory.spent.get(name, ()), now, life))
    if at <= now:
        return None
    before = memory.faults.get(name)
    return SigningPaused(
        before.text if before else f"{name}: it was signed again and again, sooner than it could be due", at
    )


def postponed(
    item: PairStatus, node: str, memory: AgentState, answered: float, now: datetime
) -> PostponedRenewal | None:
    """Return until when a renewal waits that comes late, so that not every node renews at once; None if it does not.

    `answered` is when Vault had last answered before this pass, as Unix time.
    """
    verdict, leaf = item.verdict, item.leaf
    if set(verdict.reasons) - renewal.MENDABLE != {Reason.DUE} or item.problem is not None:
        return None
    if leaf is None or verdict.life is None or verdict.renew_after is None:
        return None
    before = _postponed_before(memory, item.want.name, leaf)
    times, due = before.times if before else 0, verdict.renew_after
    share = renewal.late_share(node, item.want.name, leaf.serial, due)
    until = renewal.postponed_to(due, verdict.life, datetime.fromtimestamp(answered, UTC), now, share, times)
    return PostponedRenewal(leaf.serial, until.timestamp(), times + 1) if until is not None else None


def _postponed_before(memory: AgentState, name: str, leaf: Facts | None) -> PostponedRenewal | None:
    known = memory.postponed.get(name)
    return known if known is not None and leaf is not None and known.serial == leaf.serial else None


def premature(item: PairStatus, memory: AgentState, now: float) -> bool:
    """Return whether a signature now is sooner than any renewal is due; the daily limit counts such signings."""
    known = memory.certificates.get(item.want.name)
    return known is not None and backoff.early(known.signed, known.granted, now)


def sign(
    config: AgentConfig,
    folders: Folders,
    vault: Vault,
    items: Sequence[PairStatus],
    trust: Mapping[str, Trust],
    now: datetime,
    keys: Mapping[str, PrivateKey] = MappingProxyType({}),
) -> dict[str, Signed | VaultpkiError]:
    """Have a new pair signed and install it, for each item; a failure leaves the old pair as it was.

    `keys` are those to certify, by the names of certificates; for the others new ones are made.
    """

    def attempt(item: PairStatus) -> Signed | VaultpkiError:
        try:
            return signing.sign(
                vault, item.want, in_place_of(trust[item.want.ca], item.issuer), now, keys.get(item.want.name)
            )
        except VaultpkiError as error:
            return error

    outcomes: dict[str, Signed | VaultpkiError] = {}
    # One thread does all that touches the disk, in one order, so that tests can kill it at every point.
    for item, signed in zip(items, vault.map(attempt, items, width=_WIDTH), strict=True):
        outcomes[item.want.name] = signed
        if isinstance(signed, Signed):
            try:
                _keep_the_better(item, signed, now)
                _install(config, folders, item.want, signed.contents)
            except VaultpkiError as error:
                outcomes[item.want.name] = error
    return outcomes


def needs_another_ca(item: PairStatus, error: VaultpkiError | None, now: datetime) -> bool:
    """Return whether only another CA helps this certificate, so that asking Vault more often does not help.

    `error` is why it was not signed in this pass. A server refuses a leaf which would end after its CA where the CA's
    `leaf_not_after_behavior` is not what `apply` writes.
    """
    if item.verdict.final or item.ends is None:
        return True
    return isinstance(error, Refused) and item.ends < now + timedelta(seconds=item.want.ttl)


def may_have_signed(error: VaultpkiError) -> bool:
    """Return whether Vault may have signed in a call that failed so; then it counts as a wasted signing."""
    if isinstance(error, Unavailable):
        return error.sent
    if isinstance(error, CertificateRefused):
        # Without a valid CA Vault was not asked.
        return error.reason != "nothing-live"
    return not isinstance(error, (Refused, Denied, Untrusted))


def unanswered(error: VaultpkiError) -> bool:
    """Return whether a call that failed so may have been carried out, and nobody has its answer."""
    return isinstance(error, Unavailable) and error.sent


def known(signed: Signed, now: datetime) -> IssuedRecord:
    """Return what the state records of it. `now` is when it was asked for."""
    return IssuedRecord(signed.facts.serial, now.timestamp(), signed.certificate.ttl, granted(signed, now))


def granted(signed: Signed, now: datetime) -> int:
    """Return for how many seconds from `now` on Vault granted it."""
    return int(renewal.life(signed.facts, now).total_seconds())


def short(known: IssuedRecord) -> bool:
    """Return whether Vault granted less than asked, apart from clock skew."""
    return known.granted < known.asked - min(SKEW, known.asked // 10)


def _keep_the_better(item: PairStatus, signed: Signed, now: datetime) -> None:
    """Raise SigningPaused if Vault granted less than asked, and the installed certificate is good and lives longer."""
    reasons = set(item.verdict.reasons)
    if item.not_after is None or signed.facts.not_after > item.not_after or not reasons <= _STILL_GOOD:
        return
    if reasons != {Reason.DUE} and not short(known(signed, now)):
        # Another TTL or an early renewal was asked for, and granted.
        return
    # Half of what Vault grants now before the expiry: by then a new one is the better one.
    at = item.not_after - (signed.facts.not_after - now) / 2
    raise SigningPaused(
        f"{item.want.name}: Vault grants only {granted(signed, now)} s now, which ends before the certificate in "
        f"use; that one stays until {at:%Y-%m-%dT%H:%M:%SZ}",
        at.timestamp(),
    )


_STILL_GOOD: Final = frozenset({Reason.DUE, Reason.TTL_CHANGED, Reason.FORCED})


def options(config: AgentConfig, want: Certificate) -> tuple[FileOwner, int]:
    """Return the owner of a certificate's files, and the mode of those with its key; StoreError as `owner_of`."""
    own = config.certificates.get(want.name)
    owner = owner_of((own.owner if own else None) or config.owner)
    mode = own.mode if own and own.mode is not None else signing.KEY_MODE
    return owner, mode


def _install(config: AgentConfig, folders: Folders, want: Certificate, contents: Mapping[str, bytes]) -> None:
    check: Callable[[Mapping[str, bytes]], None] = lambda back: signing.whole(back, want)  # noqa: E731
    folders.install(want.folder, file_set(want.stem), signing.pair(contents, *options(config, want)), check=check)
