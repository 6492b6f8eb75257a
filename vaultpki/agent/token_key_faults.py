"""Says what is wrong with the files of service-account keys: for the views, and for the agent that mends them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from vaultpki.agent import token_keys
from vaultpki.agent.token_keys import KEY_FILE, TOKEN_FILES, UNION_FILE, KeysOnDisk
from vaultpki.certificates import SERVICE_ACCOUNT_FILES
from vaultpki.disk.folders import Folders
from vaultpki.disk.generations import File, StoredFile
from vaultpki.errors import CertificateUnreadable
from vaultpki.model import AgentConfig
from vaultpki.node.assignment import Assignment
from vaultpki.pki import x509
from vaultpki.pki.facts import Facts
from vaultpki.pki.renewal import Reason
from vaultpki.pki.service_account import key_name
from vaultpki.places import PKI
from vaultpki.records.service_account import SERVICE_ACCOUNT_KEYS
from vaultpki.redact import first_few

_UNREAD: Final = {"missing": "it is missing", "foreign": "another file is in its place"}
_AFTERWARDS: Final = "if kube-apiserver was started with it, restart it once the file is mended"


def problems(config: AgentConfig, folders: Folders, wanted: Assignment, keys: KeysOnDisk) -> Iterator[str]:
    """Yield a sentence for each file of these keys that is not as a pass leaves it. Raises StoreError.

    A key that nodes share is not of this agent, and nobody knows here what it should be.
    """
    for number, item in sorted(keys.pairs.items()):
        if item.leaf is not None and Reason.KEY_EXPOSED in item.verdict.reasons:
            yield f"{folders.paths[PKI]}/{item.want.stem}.key: {_exposed(number)}"
    if wanted.token_key is None or keys.shared:
        return
    files = token_keys.wanted_files(config, wanted.token_key, keys)
    if keys.ours and not files:
        text = "no service-account key of this node is there any more with its certificate"
        yield f"{folders.paths[PKI]}/{KEY_FILE}: {text}"
    for name, file in files.items():
        if why := (_wrong_key if name == KEY_FILE else _wrong_union)(keys, keys.stored[name], file):
            yield f"{folders.paths[PKI]}/{name}: {why}"


def problems_alone(folders: Folders) -> Iterator[str]:
    """Yield what is wrong with the two files by themselves, where nobody knows the record. Raises StoreError."""
    stored, path = folders.read(PKI, SERVICE_ACCOUNT_FILES, TOKEN_FILES), folders.paths[PKI]
    if all(each.problem for each in stored.values()):
        # Not written yet, or of somebody else.
        return
    for name, each in stored.items():
        if each.problem:
            yield f"{path}/{name}: {_UNREAD.get(each.problem, f'it cannot be read ({each.problem})')}"
    key, union = stored[KEY_FILE], token_keys.certificates_in(stored[UNION_FILE].data)
    strange = [facts.subject_text for facts in union if key_name(facts.subject.common_name) is None]
    if strange or (not union and stored[UNION_FILE].data is not None):
        held = f" ({first_few(strange)})" if strange else ""
        yield f"{path}/{UNION_FILE}: it holds something else than certificates of service-account keys{held}"
    elif key.data is not None and not any(_signs(key.data, facts) for facts in union):
        yield f"{path}/{KEY_FILE}: {UNION_FILE} beside it has no certificate of it"
    if key.data is not None and key.mode & 0o004:
        yield f"{path}/{KEY_FILE}: others can read it"


def _signs(key: bytes, facts: Facts) -> bool:
    with contextlib.suppress(CertificateUnreadable):
        return x509.matches(key, facts)
    return False


def _wrong_key(keys: KeysOnDisk, stored: StoredFile, wanted: File) -> str:
    if stored.data is None:
        return _UNREAD.get(stored.problem, f"it cannot be read ({stored.problem})")
    if stored.data != wanted.data:
        if keys.held.signing is not None:
            return f"it is service-account key {keys.held.signing} of this node in place of key {keys.plan.signing}"
        return (
            f"it is no service-account key of this node, so other nodes refuse the tokens that it signs; {_AFTERWARDS}"
        )
    return _exposed(keys.plan.signing) if stored.shown_to_others(wanted) else _access(stored, wanted)


def _wrong_union(keys: KeysOnDisk, stored: StoredFile, wanted: File) -> str:
    if stored.data is None:
        return _UNREAD.get(stored.problem, f"it cannot be read ({stored.problem})")
    if stored.data == wanted.data:
        return _access(stored, wanted)
    if not stored.data.strip():
        return f"it is empty, so kube-apiserver accepts no token once it starts; {_AFTERWARDS}"
    strange = [facts for facts in keys.held.union if facts not in keys.plan.union]
    if strange or not keys.held.union:
        named = [f"{facts.subject_text}, SHA-256 {facts.fingerprint[:16]}" for facts in strange]
        who = f" ({first_few(named)})" if named else ""
        text = f"it has a key that the record does not have{who}: whoever holds that one can forge the token of any"
        return f"{text} ServiceAccount; {_AFTERWARDS}"
    lacking = [facts.subject.common_name for facts in keys.plan.union if facts not in keys.held.union]
    if not lacking:
        return "it does not hold the certificates of the keys that this node accepts, and nothing else"
    return f"it lacks {first_few(lacking)}, whose tokens kube-apiserver refuses once it starts"


def _exposed(number: int | None) -> str:
    text = f"others can read service-account key {number} of this node; if somebody may have, replace it: "
    return f"{text}`vaultpki ca rotate {SERVICE_ACCOUNT_KEYS}`"


def _access(stored: StoredFile, wanted: File) -> str:
    same = stored.mode == wanted.mode and stored.same_owner(wanted)
    return "" if same else f"it has mode {stored.mode:04o} or its owner is another one; {wanted.mode:04o} is right"
