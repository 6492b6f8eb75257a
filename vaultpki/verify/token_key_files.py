"""Checks the service-account keys of nodes on disk: whose they are, and that every node accepts the tokens of all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vaultpki.certificates import SERVICE_ACCOUNT, SERVICE_ACCOUNT_FILES, ca_subject
from vaultpki.errors import CertificateUnreadable
from vaultpki.pki import keys, trust, x509
from vaultpki.pki.facts import Facts
from vaultpki.pki.service_account import key_name, why_no_key
from vaultpki.verify import held_files
from vaultpki.verify.on_disk import Check, Holder, read_bundle, tried

KEY_FILE: Final = f"{SERVICE_ACCOUNT_FILES}.key"
UNION_FILE: Final = f"{SERVICE_ACCOUNT_FILES}.pub"

_SECRET: Final = 0o600
_PUBLIC: Final = 0o644


@dataclass(frozen=True, slots=True)
class _KeysOfNode:
    """What a node's files hold: the public half of `sa.key`, its certificate in `sa.pub`, and all that are there."""

    holder: Holder
    public: bytes | None
    signing: Facts | None
    union: tuple[Facts, ...]


def newest_pair(holder: Holder) -> tuple[Path, Path] | None:
    """Return certificate and key of the holder's newest service-account key that has both; None if there is none."""
    found = []
    for path in Path(holder.folder).glob(f"{SERVICE_ACCOUNT_FILES}-*.crt"):
        number = path.stem.removeprefix(f"{SERVICE_ACCOUNT_FILES}-")
        if number.isdecimal() and path.with_suffix(".key").exists():
            found.append((int(number), path))
    newest = max(found, default=None)
    return (newest[1], newest[1].with_suffix(".key")) if newest is not None else None


def token_key_checks(holders: Sequence[Holder]) -> Iterator[Check]:
    """Check `sa.key` and `sa.pub` of every node that should have them, and that no other holder has."""
    found = []
    for holder in holders:
        if holder.token_keys is None:
            continue
        if not holder.token_keys:
            for name in (KEY_FILE, UNION_FILE):
                if os.path.lexists(holder.folder / name):
                    yield tried(SERVICE_ACCOUNT, "file", holder.name, name, refusal="only control-plane nodes have it")
            continue
        read, checks = _read(holder)
        found.append(read)
        yield from checks
    yield from _shared(found)
    for one in found:
        for other in found:
            if one.signing is not None and one is not other:
                refusal = "" if one.signing in other.union else "its tokens are refused there"
                source, target = f"{one.holder.name}/{KEY_FILE}", f"{other.holder.name}/{UNION_FILE}"
                yield tried(SERVICE_ACCOUNT, "chain", source, target, refusal=refusal)


def _read(holder: Holder) -> tuple[_KeysOfNode, tuple[Check, ...]]:
    key, key_problems = held_files.read(holder.folder / KEY_FILE, holder.modes.get(SERVICE_ACCOUNT, _SECRET))
    data, union_problems = held_files.read(holder.folder / UNION_FILE, _PUBLIC)
    union: tuple[Facts, ...] = ()
    public: bytes | None = None
    try:
        union = x509.read_certificates(data) if data is not None else ()
        union_problems += _union_problems(holder, union)
    except CertificateUnreadable as error:
        union_problems.append(str(error))
    try:
        public = keys.public_der(keys.read_key(key)) if key is not None else None
    except CertificateUnreadable as error:
        key_problems.append(str(error))
    signing = next((facts for facts in union if facts.public_key == public), None)
    if public is not None and data is not None:
        name = key_name(signing.subject.common_name) if signing is not None else None
        if signing is None:
            key_problems.append(f"{UNION_FILE} has no certificate of it, so this node refuses its own tokens")
        elif name is None or name.node != holder.name:
            key_problems.append(f"it is the key of {signing.subject.common_name}")
    if key is None and data is None and newest_pair(holder) is not None:
        # Both are written once the node is admitted.
        key_problems.append("the agent writes it once the record admits this node (`vaultpki admit --wait`)")
    owned = held_files.odd_owners([holder.folder / KEY_FILE, holder.folder / UNION_FILE])
    checks = []
    for file, problems in ((KEY_FILE, key_problems), (UNION_FILE, union_problems)):
        problems.extend(filter(None, [owned.get(holder.folder / file)]))
        checks.append(tried(SERVICE_ACCOUNT, "file", holder.name, file, refusal="; ".join(problems)))
    return _KeysOfNode(holder, public, signing, union), tuple(checks)


def _union_problems(holder: Holder, union: Sequence[Facts]) -> Iterator[str]:
    above = holder.split(tuple(holder.authorities()))
    issuing = tuple(_issuing(holder))
    if not issuing:
        yield f"no file {SERVICE_ACCOUNT_FILES}-NUMBER.crt has the CA that signed it"
        return
    for facts in union:
        if why := why_no_key(facts, issuing, above.roots, above.between):
            yield f"holds {facts.subject_text}, which does not count: {why}"


def _issuing(holder: Holder) -> Iterator[Facts]:
    """Yield the CAs of these keys, which are behind the certificates of the node's own ones."""
    name = ca_subject(holder.cluster, SERVICE_ACCOUNT)
    for path in sorted(Path(holder.folder).glob(f"{SERVICE_ACCOUNT_FILES}-*.crt")):
        yield from (facts for facts in read_bundle(path) if trust.no_issuing_ca(facts, name) is None)


def _shared(found: Sequence[_KeysOfNode]) -> Iterator[Check]:
    """Yield a check for each node, that no other one has its private key."""
    for each in found:
        others = [one.holder.name for one in found if one is not each and one.public == each.public is not None]
        refusal = f"{', '.join(others)} has the same private key" if others else ""
        yield tried(SERVICE_ACCOUNT, "file", each.holder.name, f"{KEY_FILE} of this node alone", refusal=refusal)
