"""Decides which file names are free in a node's directory, for cluster.yaml and for the records that a node reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

from vaultpki.certificates import BUNDLES, SERVICE_ACCOUNT_FILES, TABLE, file_set, laid_out, pair_files
from vaultpki.layout import TRUST_BUNDLES
from vaultpki.model import Certificate, Row, UserTemplate
from vaultpki.places import ETCD, SCHEDULER, Layout
from vaultpki.values.names import quoted

# Endings of the files that belong together: people and components expect one pair, bundle or kubeconfig for one name.
_ENDINGS: Final = (".crt", ".key", ".pem", ".conf", ".pub", ".csr", ".srl")
# The endings of pairs and keys, which a template may not have.
_OF_PAIRS: Final = (".crt", ".key", ".pem", ".pub")


@dataclass(frozen=True, slots=True)
class FileUse:
    """A file name that a certificate or a template uses.

    `holder` is its name in messages: the name of a row, or `template NAME`. The `name` of a pair has no extension.
    """

    holder: str
    kind: Literal["pair", "kubeconfig", "template"]
    name: str

    @property
    def file(self) -> str:
        """Return one of its files, for messages."""
        return pair_files(self.name)[0] if self.kind == "pair" else self.name


def of_row(row: Row | Certificate) -> tuple[FileUse, ...]:
    """Return the file names of a certificate."""
    pair = FileUse(row.name, "pair", row.stem)
    return (pair, FileUse(row.name, "kubeconfig", row.kubeconfig)) if row.kubeconfig else (pair,)


def of_template(template: UserTemplate) -> FileUse:
    """Return the file name of a template."""
    return FileUse(f"template {template.name}", "template", template.file)


def refused(claims: Iterable[FileUse], layout: Layout = Layout.DOCUMENT) -> Iterator[tuple[int, str]]:
    """Yield the index of each claim that may not have its name, with one sentence: the reason and what to do.

    Of two conflicting claims the later one is refused. Rows of the table may exchange the names of their pairs. Other
    claims never get a name of the table, even if its row is renamed or on other nodes, because components expect it.
    In kubeadm's layout these are the names of all its folders, since people look for them in each.
    """
    of_table = _of_table(layout)
    taken: dict[str, list[FileUse]] = {}
    for index, claim in enumerate(claims):
        earlier = taken.setdefault(_key(claim), [])
        fixed = (
            each for each in of_table.get(_key(claim), ()) if each.kind == "kubeconfig" or claim.holder not in _ROWS
        )
        why = next(filter(None, (_clash(claim, other) for other in (*earlier, *fixed))), None) or _reserved(
            claim, layout
        )
        if why is None:
            earlier.append(claim)
        else:
            yield index, f"{why}: choose another file name"


def _key(claim: FileUse) -> str:
    """Return a key that is equal for claims that could be the same file or folder."""
    if claim.kind == "pair":
        return _base(claim.name)
    bare = _bare(claim.name)
    # A slash, which no name has: a file without such an ending conflicts only with another one like it.
    return _base(bare) if bare != claim.name else f"/{claim.name.lower()}"


def _bare(name: str) -> str:
    """Return the name without an ending of certificates, keys and kubeconfigs."""
    ending = next((ending for ending in _ENDINGS if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)]


def _base(name: str) -> str:
    """Return the name for comparison: case is ignored, and `.` equals `_`, as in the folders of the store."""
    return file_set(name).lower()


@cache
def _reserved_names(layout: Layout) -> Mapping[str, str]:
    """Return whose file each name is that no row of the table has."""
    return {
        **{_base(_bare(each.file)): f"the bundle of CA {each.ca}" for each in TRUST_BUNDLES[layout]},
        # kubeadm's own files in the same folder (kubernetes cmd/kubeadm/app/constants/constants.go).
        "ca": "kubeadm's CA",
        "sa": "kubeadm's service-account keys",
    }


_FOLDERS: Final[Mapping[Layout, Mapping[str, str]]] = {
    Layout.DOCUMENT: {ETCD: "kubeadm's folder for etcd"},
    Layout.KUBEADM: {ETCD: "kubeadm's folder for etcd", SCHEDULER: "the folder of kube-scheduler"},
}
"""The folders below `directory`, whose names no file may have."""

# The pairs of service-account keys, by their numbers.
_NUMBERED: Final = re.compile(rf"{SERVICE_ACCOUNT_FILES}-[0-9]{{1,8}}")
_STORES_OWN: Final = {BUNDLES: "the bundles", "lock": "the lock"}
"""The other entries of the store's hidden folder, beside the folders of pairs."""

# Pairs and kubeconfigs of different rows with one name, as kubelet.crt of kubelet and kubelet.conf of kubelet-client.
_TABLES_OWN: Final = {
    (row.name, client.name)
    for row in TABLE
    for client in TABLE
    if client.kubeconfig and client is not row and _base(row.stem) == _base(_bare(client.kubeconfig))
}
_ROWS: Final = {row.name for row in TABLE if row.usage.tls}
_STEMS: Final = {row.stem for row in TABLE if row.usage.tls}


@cache
def _of_table(layout: Layout) -> Mapping[str, list[FileUse]]:
    """Return the file names that the table's rows use, by their keys."""
    found: dict[str, list[FileUse]] = {}
    for claim in (claim for row in laid_out(layout, signer=True) for claim in of_row(row)):
        found.setdefault(_key(claim), []).append(claim)
    return found


def _reserved(claim: FileUse, layout: Layout) -> str | None:
    reserved = _reserved_names(layout)
    if claim.kind == "template" and (folder := _FOLDERS[layout].get(claim.name.lower())):
        return f"{quoted(claim.name)} is {folder}"
    if own := _STORES_OWN.get(_base(claim.name)):
        return f"{quoted(claim.name)} has the same name as {own} of the store"
    if claim.kind == "template" and claim.name.lower().endswith(_OF_PAIRS) and _base(_bare(claim.name)) not in reserved:
        return f"{quoted(claim.name)} has an ending of certificates and keys, which no template may have"
    if _NUMBERED.fullmatch(_base(claim.name if claim.kind == "pair" else _bare(claim.name))):
        return f"{quoted(claim.file)} is also the file of a service-account key"
    name = claim.name if claim.kind == "pair" else _bare(claim.name)
    # A template may have the bare word as its name: no file is called just `ca`.
    if (claim.kind == "pair" or name != claim.name) and (other := reserved.get(_base(name))):
        return f"{quoted(claim.file)} is also the file of {other}"
    return None


def _clash(claim: FileUse, other: FileUse) -> str | None:
    """Return why `claim` conflicts with `other`, which has the same key; None if it does not."""
    if claim.holder == other.holder:
        return None
    if claim.kind == "template" and other.kind == "template":
        same = claim.name.lower() == other.name.lower()
        return f"{quoted(claim.name)} is also the file of {other.holder}" if same else None
    if {claim.kind, other.kind} == {"pair", "kubeconfig"}:
        pair, kubeconfig = (claim, other) if claim.kind == "pair" else (other, claim)
        exchanged = pair.name in _STEMS and {pair.holder, kubeconfig.holder} <= _ROWS
        if exchanged or (pair.holder, kubeconfig.holder) in _TABLES_OWN:
            return None
    if claim.kind == "pair" and other.kind == "pair" and claim.name != other.name:
        return (
            f"{quoted(claim.name)} is kept in the same folder as {other.holder}, because `.` and `_` are the same there"
        )
    return f"{quoted(claim.file)} is also the file of {other.holder}"
