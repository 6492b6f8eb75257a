"""Which file names a node's directory has room for: one rule for cluster.yaml and for the records that a node takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Literal

from vaultpki.certificates import BUNDLES, ISSUING_CAS, TABLE, bundle, chain_bundle, pair_files, unit
from vaultpki.model import Certificate, Row, UserTemplate
from vaultpki.values import dataclass
from vaultpki.words import quoted

# What may stand behind a name for it to be the same pair, key, bundle or kubeconfig to a person or a component.
_ENDINGS: Final = (".crt", ".key", ".pem", ".conf", ".pub", ".csr", ".srl")
# The endings of pairs and keys, which no template may make.
_OF_PAIRS: Final = (".crt", ".key", ".pem", ".pub")


@dataclass(frozen=True, slots=True)
class Claim:
    """A file name that a certificate or a template wants.

    `holder` names it in messages: a row's name, or `template NAME`. The `name` of a pair is without its extension.
    """

    holder: str
    kind: Literal["pair", "kubeconfig", "template"]
    name: str

    @property
    def file(self) -> str:
        """One of its files, for messages."""
        return pair_files(self.name)[0] if self.kind == "pair" else self.name


def of_row(row: Row | Certificate) -> tuple[Claim, ...]:
    """What a certificate's files are called."""
    pair = Claim(row.name, "pair", row.stem)
    return (pair, Claim(row.name, "kubeconfig", row.kubeconfig)) if row.kubeconfig else (pair,)


def of_template(template: UserTemplate) -> Claim:
    """What a template's file is called."""
    return Claim(f"template {template.name}", "template", template.file)


def refused(claims: Iterable[Claim]) -> Iterator[tuple[int, str]]:
    """The index of each claim that may not have its name, and why and what to do, as one sentence.

    Of two that cannot stand beside each other the later one is refused. Rows of the table may exchange the names of
    their pairs. Nobody else gets a name of the table, be its row renamed or on other nodes: components know it.
    """
    taken: dict[str, list[Claim]] = {}
    for index, claim in enumerate(claims):
        earlier = taken.setdefault(_key(claim), [])
        fixed = (
            each for each in _OF_TABLE.get(_key(claim), ()) if each.kind == "kubeconfig" or claim.holder not in _ROWS
        )
        why = next(filter(None, (_clash(claim, other) for other in (*earlier, *fixed))), None) or _reserved(claim)
        if why is None:
            earlier.append(claim)
        else:
            yield index, f"{why}: choose another file name"


def _key(claim: Claim) -> str:
    """What claims that could be one file or one folder have alike."""
    if claim.kind == "pair":
        return _base(claim.name)
    bare = _bare(claim.name)
    # A slash: a file without such an ending is nobody's pair or kubeconfig, and stands in the way of its like only.
    return _base(bare) if bare != claim.name else f"/{claim.name.lower()}"


def _bare(name: str) -> str:
    """The name without an ending of certificates, keys and kubeconfigs."""
    ending = next((ending for ending in _ENDINGS if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)]


def _base(name: str) -> str:
    """The name as it is compared: people confuse cases, and the store keeps `.` and `_` as one."""
    return unit(name).lower()


_RESERVED: Final = {
    **{_base(_bare(bundle(ca))): f"the bundle of CA {ca}" for ca in ISSUING_CAS},
    **{_base(_bare(chain_bundle(ca))): f"the bundle of CA {ca}" for ca in ISSUING_CAS},
    # kubeadm's own, in the same folder (kubernetes cmd/kubeadm/app/constants/constants.go).
    "ca": "kubeadm's CA",
    "sa": "kubeadm's service-account keys",
}
_STORES_OWN: Final = {BUNDLES: "the bundles", "lock": "the lock"}
"""What lies in the store's hidden folder beside the folders of pairs."""

# Names of the table that pairs and kubeconfigs of different rows share: the kubelet's pair and its client's kubeconfig.
_TABLES_OWN: Final = {
    (row.name, client.name)
    for row in TABLE
    for client in TABLE
    if client.kubeconfig and client is not row and _base(row.stem) == _base(_bare(client.kubeconfig))
}
_ROWS: Final = {row.name for row in TABLE}
_STEMS: Final = {row.stem for row in TABLE}
_OF_TABLE: Final[dict[str, list[Claim]]] = {}
for _row in TABLE:
    for _claim in of_row(_row):
        _OF_TABLE.setdefault(_key(_claim), []).append(_claim)


def _reserved(claim: Claim) -> str | None:
    if claim.name.lower() == "etcd" and claim.kind == "template":
        return f"{quoted(claim.name)} is kubeadm's folder for etcd"
    if own := _STORES_OWN.get(_base(claim.name)):
        return f"{quoted(claim.name)} is called the same as {own} of the store"
    if (
        claim.kind == "template"
        and claim.name.lower().endswith(_OF_PAIRS)
        and _base(_bare(claim.name)) not in _RESERVED
    ):
        return f"{quoted(claim.name)} ends as certificates and keys do, which no template may make"
    name = claim.name if claim.kind == "pair" else _bare(claim.name)
    # Not the bare word, which a template may have as a name: `ca` is no file of anybody's.
    if (claim.kind == "pair" or name != claim.name) and (other := _RESERVED.get(_base(name))):
        return f"{quoted(claim.file)} is also the file of {other}"
    return None


def _clash(claim: Claim, other: Claim) -> str | None:
    """Why `claim` cannot stand beside `other`, which has the same key."""
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
        return f"{quoted(claim.name)} is kept in the same folder as {other.holder}, since `.` and `_` are one there"
    return f"{quoted(claim.file)} is also the file of {other.holder}"
