"""The service-account keys of a control-plane node: made here, certified by Vault, and never copied.

    sa-1.key, sa-1.crt   the node's key with that number and its certificate: written once, read by no component
    sa.key               the key with which kube-apiserver signs tokens: one of those
    sa.pub               the certificates of all keys whose tokens it accepts: the union of those of all nodes

The last two are one file set, so `sa.pub` has the certificate of `sa.key` at every moment.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from vaultpki import readers
from vaultpki.agent import pairs, sign_due
from vaultpki.agent.context import Contact, Context
from vaultpki.agent.pairs import PairStatus
from vaultpki.certificates import SERVICE_ACCOUNT, SERVICE_ACCOUNT_FILES, pair_files, with_number
from vaultpki.disk.folders import Folders
from vaultpki.disk.generations import File, StoredFile
from vaultpki.errors import CertificateUnreadable, StoreError, VaultpkiError
from vaultpki.host.log import Event
from vaultpki.issue import signing
from vaultpki.model import AgentConfig, Certificate
from vaultpki.node.assignment import Assignment
from vaultpki.node.state import AgentState
from vaultpki.pki import x509
from vaultpki.pki.facts import Facts, Trust
from vaultpki.pki.key_plan import KeyPlan, KeysHeld, plan
from vaultpki.pki.renewal import Reason
from vaultpki.pki.service_account import KeyName, key_name
from vaultpki.places import PKI
from vaultpki.records.service_account import SERVICE_ACCOUNT_KEYS

if TYPE_CHECKING:
    from vaultpki.pki.keys import PrivateKey

KEY_FILE: Final = f"{SERVICE_ACCOUNT_FILES}.key"
UNION_FILE: Final = f"{SERVICE_ACCOUNT_FILES}.pub"
TOKEN_FILES: Final = (UNION_FILE, KEY_FILE)
"""The two files that kube-apiserver reads. The union goes first where they replace files of others: a kube-apiserver
that starts in between then accepts the tokens that it signs."""

_OF_ANOTHER_CA: Final = frozenset({Reason.ISSUER_OUTGOING, Reason.ISSUER_CHANGED})
_NUMBERED: Final = re.compile(rf"{SERVICE_ACCOUNT_FILES}-([1-9][0-9]{{0,7}})")


@dataclass(frozen=True, slots=True)
class KeysOnDisk:
    """The service-account keys of a node as they are on the disk, and the plan that follows from the record.

    `pairs` are the node's own pairs by number, also one that is not whole. `issuing` are the SHA-256 of the CAs by
    which certificates are checked. `stray` is a key in `sa.key` that is none of
    the node's own pairs, and `number` is which key of this node it is, 0 if it is none. `foreign` says that this agent
    has not written that file; `shared` is then the SHA-256 of its public key, until Vault has certified it.
    `stored` are the two files that kube-apiserver reads, and `ours` says that this agent has written them before.
    """

    pairs: Mapping[int, PairStatus]
    held: KeysHeld
    plan: KeyPlan
    stray: PrivateKey | None = field(default=None, repr=False)
    number: int = 0
    foreign: bool = False
    shared: str = ""
    issuing: tuple[str, ...] = ()
    stored: Mapping[str, StoredFile] = field(default_factory=dict, repr=False)
    ours: bool = False

    @property
    def shared_key(self) -> str:
        """The type of the key that nodes share; "" if there is none, or none that vaultpki knows."""
        from vaultpki.pki import keys

        kind = keys.key_type(self.stray.public_key()) if self.shared and self.stray is not None else None
        return kind.value if kind is not None else ""

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """What a kube-apiserver that starts now has in memory: certificates, and the key with which it signs."""
        if self.held.signing is None or not self.held.union:
            return ()
        own = self.held.own[self.held.signing]
        return (*sorted(facts.fingerprint for facts in self.held.union), signing_mark(own))

    @property
    def left(self) -> str:
        """What the two files hold and their modes, in one line that another content changes."""
        return " ".join([*(f"{each.mode:o}" for each in self.stored.values()), *self.fingerprints])

    @property
    def live(self) -> dict[str, str]:
        """A digest of what the two files hold, by the key of hooks; nothing in it is made from a private key."""
        held = self.fingerprints
        return {SERVICE_ACCOUNT_KEYS: sha256(" ".join(held).encode()).hexdigest()[:32]} if held else {}


def signing_mark(facts: Facts) -> str:
    """Return the mark of the key of this certificate among the certificates that a process was started with."""
    return f"key:{sha256(facts.public_key).hexdigest()}"


def certificate(token_key: Certificate, number: int) -> Certificate:
    """Return the certificate of the node's key with this number, under a name of its own."""
    return replace(with_number(token_key, number), name=f"{SERVICE_ACCOUNT}-{number}")


def is_ours(file_set: str) -> bool:
    """Return whether a file set has service-account keys."""
    return file_set == SERVICE_ACCOUNT_FILES or _NUMBERED.fullmatch(file_set) is not None


def frozen(wanted: Assignment, state: AgentState) -> bool:
    """Return whether the record of these keys is not the newest that this node has read."""
    return wanted.keys.frozen(state.revisions.get(SERVICE_ACCOUNT_KEYS, 0))


def look(
    config: AgentConfig,
    folders: Folders,
    wanted: Assignment,
    trust: Mapping[str, Trust],
    state: AgentState,
    now: datetime,
) -> KeysOnDisk | None:
    """Return what is there and what should be; None for a node without such keys. Raises StoreError."""
    if wanted.token_key is None:
        return None
    sets = {name for folder, name in folders.file_sets() if folder == PKI}
    found = sorted(int(match[1]) for name in sets if (match := _NUMBERED.fullmatch(name)))
    every = _inspect(config, folders, wanted, found, trust, state, now)
    own = {
        number: item.leaf for number, item in every.items() if item.leaf is not None and _whole(config, number, item)
    }
    stored = folders.read(PKI, SERVICE_ACCOUNT_FILES, TOKEN_FILES)
    key, union = stored[KEY_FILE].data, stored[UNION_FILE].data
    foreign = folders.read_foreign(PKI, KEY_FILE).data if stored[KEY_FILE].problem == "foreign" else None
    signing_number, stray = _owner(key or foreign, own)
    # Where this agent has written `sa.key` before, another file in its place is none that nodes share.
    ours = SERVICE_ACCOUNT_FILES in sets
    shared = _sha256(stray) if foreign is not None and stray is not None and not ours else ""
    left = state.bundles.get(SERVICE_ACCOUNT)
    left_here = frozenset(left.sha256 if left is not None else ())
    held = KeysHeld(own, signing_number, certificates_in(union), state.lowest, stray is not None, left_here)
    known = trust[SERVICE_ACCOUNT]
    behind = frozen(wanted, state)
    made = plan(wanted.keys.record, config.node, held, known.issuing, known.roots, frozen=behind, between=known.between)
    number = 1 if shared else _number(stray, held.union, config.node)
    if shared or (number and (behind or number in made.make)):
        # It stays in use until Vault has certified it, and untouched before the record takes it over.
        made = replace(made, signing=None)
    if shared and not _takes(wanted, config.node, shared):
        made = replace(made, make=(), delete=())
    # Also those that are to be made.
    every |= _inspect(config, folders, wanted, [each for each in made.make if each not in every], trust, state, now)
    issuing = tuple(sorted(facts.fingerprint for facts in known.issuing))
    return KeysOnDisk(every, held, made, stray, number, foreign is not None, shared, issuing, stored, ours)


def _number(stray: PrivateKey | None, union: Sequence[Facts], node: str) -> int:
    """Return the number under which this key was this node's; 0 if it was not.

    Certificates in `sa.pub` have counted. A key of another machine, or one that was taken out since it was stolen, must
    not become this node's by a new name.
    """
    from vaultpki.pki import keys

    public = keys.public_der(stray) if stray is not None else b""
    names = (key_name(facts.subject.common_name) for facts in union if facts.public_key == public)
    return next((name.number for name in names if name is not None and name.node == node), 0)


def _takes(wanted: Assignment, node: str, shared: str) -> bool:
    """Return whether the record says that this key, which nodes share, is key 1 of this node."""
    record = wanted.keys.record
    entry = record.nodes.get(node) if record is not None else None
    return record is not None and entry is not None and record.shared == shared and entry.old == 1


def _sha256(key: PrivateKey) -> str:
    from vaultpki.pki import keys

    return sha256(keys.public_der(key)).hexdigest()


def _inspect(
    config: AgentConfig,
    folders: Folders,
    wanted: Assignment,
    numbers: Sequence[int],
    trust: Mapping[str, Trust],
    state: AgentState,
    now: datetime,
) -> dict[int, PairStatus]:
    assert wanted.token_key is not None  # noqa: S101 - for mypy: `look` returns before that
    wants = [certificate(wanted.token_key, number) for number in numbers]
    return dict(zip(numbers, pairs.inspect(config, folders, wants, trust, state, now), strict=True))


def _whole(config: AgentConfig, number: int, item: PairStatus) -> bool:
    """Return whether this is the node's key with that number and its certificate. Dates do not count."""
    crt, key, _ = (item.stored[name].data if name in item.stored else None for name in pair_files(item.want.stem))
    if crt is None or key is None or item.leaf is None:
        return False
    if key_name(item.leaf.subject.common_name) != KeyName(config.node, number):
        return False
    with contextlib.suppress(CertificateUnreadable):
        return x509.matches(key, item.leaf)
    return False


def _owner(key: bytes | None, own: Mapping[int, Facts]) -> tuple[int | None, PrivateKey | None]:
    """Return the number of the key in `sa.key`, or the key itself if it is none of the node's own pairs."""
    from vaultpki.pki import keys

    if key is None:
        return None, None
    try:
        read = keys.read_key(key)
    except CertificateUnreadable:
        return None, None
    public = keys.public_der(read)
    number = next((number for number, facts in own.items() if facts.public_key == public), None)
    return number, read if number is None else None


def certificates_in(union: bytes | None) -> tuple[Facts, ...]:
    """Return the certificates of a union; none if it cannot be read."""
    with contextlib.suppress(CertificateUnreadable):
        return x509.read_certificates(union) if union else ()
    return ()


@dataclass(frozen=True, slots=True)
class KeysResult:
    """How a pass left the keys, and which certificates it had signed. `refused` are sentences about the record.

    `before` is how it found them.
    """

    keys: KeysOnDisk | None = None
    signed: sign_due.Renewed = field(default_factory=sign_due.Renewed)
    refused: tuple[str, ...] = ()
    before: KeysOnDisk | None = None

    @property
    def names(self) -> frozenset[str]:
        """The names of the certificates, under which the agent's state knows them."""
        return frozenset(item.want.name for item in self.keys.pairs.values()) if self.keys is not None else frozenset()


def reconcile_keys(context: Context, contact: Contact, wanted: Assignment, trust: Mapping[str, Trust]) -> KeysResult:
    """Make the keys that the record asks for, and the two files what they should be; delete what it has ended.

    Failures go to `context.found`, and keep no certificate of TLS back.
    """
    if wanted.token_key is None:
        return KeysResult()
    context.found.failures.update(_complaints(context, wanted))
    try:
        return _follow(context, contact, wanted, wanted.token_key, trust)
    except StoreError as error:
        context.found.failures[SERVICE_ACCOUNT_KEYS] = error
        return KeysResult()


def _follow(
    context: Context, contact: Contact, wanted: Assignment, token_key: Certificate, trust: Mapping[str, Trust]
) -> KeysResult:
    config, folders = context.config, context.folders

    def seen() -> KeysOnDisk:
        found = look(config, folders, wanted, trust, context.state.value, context.now)
        assert found is not None  # noqa: S101 - for mypy: this node has such keys
        return found

    before = seen()
    _remember(context, before.plan)
    signed = sign_due.Renewed()
    if before.plan.make:
        lacking = [before.pairs[number] for number in before.plan.make]
        # The key that tokens are signed with now is certified, before it is replaced by another one.
        lost = {}
        if before.stray is not None and before.number in before.plan.make:
            lost[before.pairs[before.number].want.name] = before.stray
        signed = sign_due.sign(context, contact, wanted, lacking, trust, lost)
    signed = _certified_anew(context, contact, wanted, before, trust, signed)
    after = seen()
    _tell_exposed(context, after)
    sign_due.mend(context, after.pairs.values())
    _install(context, token_key, after)
    for number in after.plan.delete:
        stem = certificate(token_key, number).stem
        folders.remove(PKI, stem)
        text = f"deleted service-account key {number} of this node, which the record has ended"
        context.found.events.append(Event("removed", text))
    return KeysResult(seen(), signed, tuple(_refused(context, after.plan)), before)


def _certified_anew(
    context: Context,
    contact: Contact,
    wanted: Assignment,
    keys: KeysOnDisk,
    trust: Mapping[str, Trust],
    signed: sign_due.Renewed,
) -> sign_due.Renewed:
    """Have the keys certified again whose CA is replaced: the same key by the next CA. Return all that was signed.

    Their end is no reason: a certificate stays until the record removes it.
    """
    from vaultpki.pki import keys as private_keys

    known = trust[SERVICE_ACCOUNT]
    if known.frozen or not known.signers:
        return signed
    own: dict[str, PrivateKey] = {}
    lacking = list[PairStatus]()
    for number in keys.held.own:
        item = keys.pairs[number]
        key = item.stored[pair_files(item.want.stem)[1]].data
        if number in keys.plan.delete or key is None or not _OF_ANOTHER_CA.intersection(item.verdict.reasons):
            continue
        lacking.append(item)
        own[item.want.name] = private_keys.read_key(key)
    if not lacking:
        return signed
    again = sign_due.sign(context, contact, wanted, lacking, trust, own)
    return sign_due.Renewed(signed.renewed + again.renewed, signed.requested + again.requested)


def note_admission(context: Context, keys: KeysOnDisk | None, reader: str, *, first: bool = False) -> None:
    """Record in the state whether kube-apiserver must not run yet, and say so when that begins.

    `reader` is the name under which it was seen, and `first` is as in `readers.not_admitted`. Where nodes share a key
    that no agent has made, it runs as before.
    """
    seen = context.state.value.readers.get(reader)
    waits = keys is not None and not keys.shared and not keys.plan.admitted
    text = readers.not_admitted(seen is not None and seen.running, first=first) if waits else ""
    if text and not context.state.value.not_admitted:
        context.found.events.append(Event(SERVICE_ACCOUNT_KEYS, text))
    context.state.value = replace(context.state.value, not_admitted=text)


def _remember(context: Context, made: KeyPlan) -> None:
    """Keep the lowest numbers before anything follows from them: what was retired once must not come back."""
    if dict(made.lowest) != dict(context.state.value.lowest):
        context.state.value = replace(context.state.value, lowest=dict(sorted(made.lowest.items())))
        context.state.save()


def _tell_exposed(context: Context, keys: KeysOnDisk) -> None:
    """Say which keys others could read, before their mode is corrected, which tells it.

    Such a key stays: tokens that it has signed are in use, and only the record takes it out.
    """
    for number, item in sorted(keys.pairs.items()):
        if item.leaf is not None and Reason.KEY_EXPOSED in item.verdict.reasons:
            text = f"others could read service-account key {number} of this node; if somebody may have, replace it: "
            text += f"`vaultpki ca rotate {SERVICE_ACCOUNT_KEYS}`, and its page says what to do with a stolen one"
            context.found.events.append(Event("exposed", text, "warning", {"certificate": item.want.name}))


def wanted_files(config: AgentConfig, token_key: Certificate, keys: KeysOnDisk) -> dict[str, File]:
    """Return the two files as they should be; none as long as they are not to be written."""
    if keys.plan.signing is None:
        return {}
    item = keys.pairs[keys.plan.signing]
    key = item.stored[pair_files(item.want.stem)[1]].data or b""
    union = "".join(facts.pem for facts in keys.plan.union).encode()
    owner, mode = pairs.options(config, token_key)
    return {
        KEY_FILE: File(key, mode, owner.uid, owner.gid),
        UNION_FILE: File(union, signing.CERTIFICATE_MODE, owner.uid, owner.gid),
    }


def _install(context: Context, token_key: Certificate, keys: KeysOnDisk) -> None:
    files = wanted_files(context.config, token_key, keys)
    if not files:
        return
    taking = TOKEN_FILES if keys.ours or (keys.foreign and not keys.shared) else ()
    if context.folders.install(PKI, SERVICE_ACCOUNT_FILES, files, check=_check, taking=taking):
        count = len(keys.plan.union)
        what = "1 certificate" if count == 1 else f"{count} certificates"
        text = f"wrote {KEY_FILE}, key {keys.plan.signing} of this node, and {UNION_FILE} with {what}"
        context.found.events.append(Event(SERVICE_ACCOUNT_KEYS, text))


def _check(contents: Mapping[str, bytes]) -> None:
    """Raise CertificateUnreadable unless what was read back accepts the tokens that it signs."""
    key = contents[KEY_FILE]
    if not any(x509.matches(key, facts) for facts in x509.read_certificates(contents[UNION_FILE])):
        raise CertificateUnreadable(
            f"{UNION_FILE}: the files read back from the disk differ from what was written; check the disk"
        )


def _complaints(context: Context, wanted: Assignment) -> dict[str, VaultpkiError]:
    """Return what is wrong with the record; the node keeps what it has."""
    read, state = wanted.keys, context.state.value
    stays = "this node drops and deletes no service-account key"
    if read.error is not None:
        return {f"{SERVICE_ACCOUNT_KEYS} record": read.error}
    highest = state.revisions.get(SERVICE_ACCOUNT_KEYS, 0)
    if read.not_followed:
        text = (
            f"the record of service-account keys has revision {read.not_followed}, far beyond {highest}, the last here"
        )
        return {f"{SERVICE_ACCOUNT_KEYS} record": VaultpkiError(f"{text}: {stays}; run `vaultpki ca status`")}
    if read.frozen(highest):
        there = read.seen(highest).revision
        text = f"the server shows revision {there} of the record of service-account keys, and this node has read "
        text += f"{highest}: {stays}"
        return {f"{SERVICE_ACCOUNT_KEYS} record": VaultpkiError(f"{text}; run `vaultpki ca status`")}
    return {}


def _refused(context: Context, made: KeyPlan) -> list[str]:
    sentences = []
    for facts, why in made.refused:
        text = (
            f"the record of service-account keys has a certificate that does not count, {facts.subject_text} "
            f"(SHA-256 {facts.fingerprint[:16]}): {why}"
        )
        sentences.append(text)
        context.found.events.append(
            Event("stranger", f"{text}; find out who wrote it", "warning", {"sha256": facts.fingerprint, "reason": why})
        )
    return sentences
