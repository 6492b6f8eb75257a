"""Decides which write comes next until a CA's mount holds what its rotation record says; pure.

Each write is decided from the record and from the mount as it is then, so that a run that was interrupted anywhere is
continued by the next one. Deletions name the ids of the record, or of what carries the name that it reserved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from vaultpki.certificates import ca_subject
from vaultpki.pki import chains
from vaultpki.pki.chains import why_untrusted
from vaultpki.pki.facts import Facts
from vaultpki.pki.trust import named
from vaultpki.records.rotation import CaRef, Method, RotationRecord
from vaultpki.rotation.states import Presence, server_state
from vaultpki.vault.issuer import FULL, NO_SIGNING, number

SIGNS: Final = "issuing-certificates"
"""The usage of an issuer that signs certificates."""


@dataclass(frozen=True, slots=True)
class MountIssuer:
    """One issuer on a CA's mount. `key` is the id of its key, empty if the mount does not have it.

    `facts` is None if its certificate cannot be read. `chain` are the ids of a chain that somebody set.
    """

    id: str
    name: str
    key: str
    usage: frozenset[str]
    revoked: bool = False
    facts: Facts | None = None
    chain: tuple[str, ...] = ()

    @property
    def signs(self) -> bool:
        return SIGNS in self.usage and not self.revoked

    def has(self, usage: str) -> bool:
        """Return whether its usage is exactly this one, as in `vault.issuer.FULL`."""
        return self.usage == frozenset(usage.split(","))

    @property
    def sha256(self) -> str:
        return self.facts.fingerprint if self.facts is not None else ""


@dataclass(frozen=True, slots=True)
class RotationMount:
    """What is on the mount of one CA. `keys` are the names of its keys by id; `default` and `default_key` are ids.

    `follows` says that each new issuer becomes the default. `root` is the cluster's root CA; if that is from outside it
    is the anchor, and `above` are further CAs of chains. `root_name` is the name of a root that is made for the
    cluster. On the root's mount `incoming` are the certificates of the root from outside that cluster.yaml names, the
    anchor first; none if it asks for a root of ours.
    """

    path: str
    root: Facts
    issuers: tuple[MountIssuer, ...] = ()
    keys: Mapping[str, str] = field(default_factory=dict)
    default: str = ""
    default_key: str = ""
    follows: bool = False
    above: tuple[Facts, ...] = ()
    root_name: str = ""
    incoming: tuple[Facts, ...] = ()

    def issuer(self, id_: str) -> MountIssuer | None:
        """Return the issuer with this id; None if there is none."""
        return next((each for each in self.issuers if id_ and each.id == id_), None)

    def takes(self, facts: Facts, name: str) -> bool:
        """Return whether a certificate is an issuing CA called `name` below the root; dates are not checked."""
        return self.why_not(facts, name) is None

    def why_not(self, facts: Facts, name: str) -> str | None:
        """Return why a certificate is not taken as that CA, as the rest of a sentence; None if it is."""
        between = chains.between(self.above, (self.root,), root_name=self.root_name)
        return why_untrusted(facts, self.root, name, between, root_name=self.root_name)

    @property
    def outside(self) -> bool:
        """Return whether the root is from outside."""
        return bool(self.root_name) and not named(self.root, self.root_name)

    def key_named(self, name: str) -> str:
        """Return the id of the key with this name; empty if there is none."""
        return next((id_ for id_, each in self.keys.items() if each == name), "")


@dataclass(frozen=True, slots=True)
class Write:
    """One write. `kind` is make-key, sign, name, usage, default, default-key, delete-issuer, delete-key or amend.

    `ca` is the CA that it is for, `target` the id of an issuer or key, `usage` the new one, `record` the amended
    record.
    """

    kind: str
    ca: CaRef | None = None
    target: str = ""
    usage: str = ""
    record: RotationRecord | None = None


def next_write(cluster: str, record: RotationRecord, mount: RotationMount) -> Write | None:
    """Return the next write for `record`; None if the mount holds all that it says, as far as it can."""
    return next(_writes(cluster, record, mount), None)


def issuer_of(cluster: str, record: RotationRecord, mount: RotationMount, ca: CaRef) -> MountIssuer | None:
    """Return the issuer of one of the record's CAs; None if the mount does not have it.

    It is the one with the id in the record. If that is not written yet, or is gone, it is one of the CA's key that has
    the CA's name or none yet, and that the root signed under the CA's common name.
    """
    if found := mount.issuer(ca.issuer):
        return found
    key = key_of(record, mount, ca)
    other = record.new if ca is record.old else record.old
    wanted = ca_subject(cluster, record.domain, number(ca.name))
    candidates = [
        each
        for each in mount.issuers
        if key and each.key == key and each.name in ("", ca.name) and (other is None or each.id != other.issuer)
        if each.facts is not None and each.sha256 not in record.also and each.facts.subject.common_name == wanted
        if mount.takes(each.facts, wanted)
    ]
    # Of several, which operators at once have left, the one that one of them named.
    return min(candidates, key=lambda each: (not each.name, each.id), default=None)


def key_of(record: RotationRecord, mount: RotationMount, ca: CaRef) -> str:
    """Return the id of a CA's key; empty if the mount does not have it."""
    if ca.key in mount.keys:
        return ca.key
    if record.method is Method.SAME_KEY and ca is record.new:
        return record.old.key if record.old.key in mount.keys else ""
    return mount.key_named(ca.name)


def usable(cluster: str, record: RotationRecord, mount: RotationMount, ca: CaRef) -> bool:
    """Return whether a CA can sign leaves: it has an issuer that was not revoked, or a key for which one is made."""
    found = issuer_of(cluster, record, mount, ca)
    return bool(key_of(record, mount, ca)) and (found is None or not found.revoked)


def problem(cluster: str, record: RotationRecord, mount: RotationMount, ca: CaRef | None = None) -> str:
    """Return why a CA of the record cannot sign, in one sentence that says what to do; nothing if it can.

    Without `ca` it is the one whose leaves are installed.
    """
    ca = ca if ca is not None else record.leaf
    if usable(cluster, record, mount, ca):
        return ""
    found = issuer_of(cluster, record, mount, ca)
    if found is not None and found.revoked:
        what = f"somebody revoked {ca.title} ({mount.path}/issuer/{found.id}), which signs nothing any more"
    elif found is not None:
        what = f"{ca.title} is gone from {mount.path}"
    else:
        what = f"{ca.title} and its certificate are gone from {mount.path}"
    other = record.old if ca is record.new else record.new
    if record.state.resting:
        how = f"`vaultpki ca rotate {record.domain}` makes the next one"
    elif other is None or not usable(cluster, record, mount, other):
        how = "restore it from a backup of Vault"
    elif ca is record.new:
        how = f"`vaultpki ca abort` goes back to {other.title}"
    else:
        how = f"`vaultpki ca continue` goes on to {other.title}"
    return f"{what}, and what it has signed stays valid; {how}"


def _writes(cluster: str, record: RotationRecord, mount: RotationMount) -> Iterator[Write]:
    want = server_state(record)
    pairs = [(record.old, want.old)] + ([(record.new, want.new)] if record.new is not None else [])
    if mount.follows:
        # Else the new CA would sign before anybody trusts it.
        yield Write("default", target=mount.default)
    if record.new is not None and want.new is not Presence.ABSENT:
        yield from key_writes(record, mount, record.new)
    found = {ca.name: issuer_of(cluster, record, mount, ca) for ca, _ in pairs}
    for ca, presence in pairs:
        yield from _issuer_writes(record, mount, ca, presence, found[ca.name])
    for ca, presence in pairs:
        issuer = found[ca.name]
        if issuer is not None and presence is Presence.SIGNING and not issuer.revoked and not issuer.has(FULL):
            yield Write("usage", ca, issuer.id, usage=FULL)
    leaf = found[want.default.name]
    yield from default_writes(mount, want.default, leaf)
    for ca, presence in pairs:
        issuer = found[ca.name]
        if issuer is not None and presence is Presence.MUTE and SIGNS in issuer.usage and not issuer.revoked:
            yield Write("usage", ca, issuer.id, usage=NO_SIGNING)
    for ca, presence in pairs:
        if presence is Presence.ABSENT and (leaf is not None or ca is record.new):
            yield from _deletions(cluster, record, mount, ca)
    yield from _strays(record, mount, {each.id for each in found.values() if each is not None})


def default_writes(mount: RotationMount, ca: CaRef, issuer: MountIssuer | None) -> Iterator[Write]:
    """Yield what makes a CA the one that signs, if it is there and can."""
    if issuer is not None and issuer.signs and mount.default != issuer.id:
        yield Write("default", ca, issuer.id)
    if issuer is not None and issuer.key and mount.default_key != issuer.key:
        yield Write("default-key", ca, issuer.key)


def key_writes(record: RotationRecord, mount: RotationMount, ca: CaRef) -> Iterator[Write]:
    """Yield what makes the key of a new CA, and writes its id into the record."""
    key = key_of(record, mount, ca)
    if not key and not ca.sha256 and record.method is not Method.SAME_KEY:
        yield Write("make-key", ca)
    elif key and ca.key != key:
        yield Write("amend", ca, record=record.changed(new=replace(ca, key=key)))


def _issuer_writes(
    record: RotationRecord, mount: RotationMount, ca: CaRef, presence: Presence, found: MountIssuer | None
) -> Iterator[Write]:
    if presence not in (Presence.SIGNING, Presence.MUTE):
        return
    if found is None:
        # Who deleted an issuer that signs no more did what comes next anyway.
        if presence is Presence.SIGNING and key_of(record, mount, ca):
            yield Write("sign", ca)
        return
    if found.name != ca.name:
        yield Write("name", ca, found.id)
    known = replace(ca, issuer=found.id, key=found.key or ca.key, sha256=found.sha256)
    if known != ca:
        side = {"new": known} if ca is record.new else {"old": known}
        yield Write("amend", ca, record=record.changed(**side))


def _deletions(cluster: str, record: RotationRecord, mount: RotationMount, ca: CaRef) -> Iterator[Write]:
    """Delete a CA that has gone: its issuer, then its key, unless the other CA or somebody else's has the same key."""
    found = issuer_of(cluster, record, mount, ca)
    if found is not None and found.id != mount.default:
        yield Write("delete-issuer", ca, found.id)
    key = key_of(record, mount, ca)
    shared = record.method is Method.SAME_KEY or any(each.key == key for each in mount.issuers)
    if key and not shared:
        yield Write("delete-key", ca, key)


def _strays(record: RotationRecord, mount: RotationMount, ours: set[str]) -> Iterator[Write]:
    """Delete what a run that was interrupted, or a second operator, signed for the new key and nobody named."""
    new = record.new
    key = key_of(record, mount, new) if new is not None else ""
    for each in mount.issuers:
        unknown = each.id not in ours and each.id not in (record.old.issuer, mount.default)
        if key and each.key == key and not each.name and unknown and each.sha256 not in record.also:
            yield Write("delete-issuer", new, each.id)
