"""Reads what cluster.yaml says of a root CA from outside: who signs the issuing CAs, up to which root, by which name.

Certificates are put in order by their names alone here. What else must be right about them, `plan` and `ca import` say:
that depends on the time, and on what they are to sign.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from vaultpki.config import kinds
from vaultpki.config.fields import Field, FieldValue, Kind, ListOf, Record, Schema
from vaultpki.errors import SpecError
from vaultpki.model import Cluster, OutsideRoot
from vaultpki.values import der, names, pem, yaml_tree
from vaultpki.values.yaml_tree import Place

EXTERNAL: Final = "external"
"""The word for a root whose signer people carry requests to."""

MOST_IN_CHAIN: Final = 6
"""The largest number of certificates in `root_file`: nodes read eight from the root's mount."""

_MOST_VALUES: Final = 8

_CA_FILE: Final = "name one with the certificates of the root and of all CAs between"
_NEWER: Final = "ask whoever keeps that CA for another certificate"

SUBJECT: Final[Mapping[str, str]] = {
    "O": "organization",
    "OU": "ou",
    "C": "country",
    "ST": "province",
    "L": "locality",
    "street": "street_address",
    "postal_code": "postal_code",
}
"""The keys of `ca.subject`, with the parameter of the PKI engine (api-docs/secret/pki) for each."""

_SIGNER: Final = Record(
    {
        "mount": Field(kinds.SIGNER_MOUNT, "The PKI mount of the signer, on the same server", required=True),
        "issuer": Field(kinds.SIGNER, "The name or the id of the issuer there that signs", required=True),
    }
)


@dataclass(frozen=True, slots=True)
class _Root(Kind):
    """The word `external`, or the mount and the issuer of a signer."""

    expected: str = "external, or {mount: PATH, issuer: NAME}"

    def read(self, node: yaml_tree.Node, place: Place) -> FieldValue:
        if isinstance(node, yaml_tree.Mapping):
            return _SIGNER.read(node, place)
        word = self.scalar(node, place).value
        if word != EXTERNAL:
            raise place.refuse(f"{names.quoted(word)} is no root from outside: write {self.expected}")
        return FieldValue(word, place)

    def schema(self) -> Schema:
        return {"anyOf": [{"const": EXTERNAL}, _SIGNER.schema()]}


_VALUES: Final = ListOf(kinds.SUBJECT_VALUE, 1, _MOST_VALUES, single=True)

KEYS: Final[Mapping[str, Field]] = {
    "root": Field(
        _Root(), "A root CA from outside: external, or the mount and the issuer on this server that sign; default: ours"
    ),
    "root_file": Field(
        kinds.FILE_PATH,
        "PEM, DER or PKCS#7 file with that root and all CAs between, relative to this file's folder; for root only",
    ),
    "subject": Field(
        Record(
            {
                key: Field(
                    ListOf(kinds.COUNTRY, 1, _MOST_VALUES, single=True) if key == "C" else _VALUES,
                    f"{parameter.replace('_', ' ').capitalize()} in the names of the issuing CAs; one value or a list",
                )
                for key, parameter in SUBJECT.items()
            }
        ),
        "What the names of the issuing CAs have besides the CN; for root only",
    ),
}
"""The keys below `ca` that are about a root from outside."""


def read(found: FieldValue, folder: Path) -> tuple[OutsideRoot | None, tuple[str, ...]]:
    """Return the root from outside, None if the root is ours, and each SHA-256 of `ca.root_sha256`, that of it first.

    `found` is the value of `ca`, and `folder` that of cluster.yaml. Raises SpecError.
    """
    pins: tuple[str, ...] = found["root_sha256"].plain() if found.has("root_sha256") else ()
    if not found.has("root"):
        for key in ("root_file", "subject"):
            if found.has(key):
                raise found[key].refuse(
                    f"this is for a root from outside: write `root: external` too, or leave {key} out"
                )
        return None, pins
    root = found["root"]
    mount, issuer = ("", "") if root.value == EXTERNAL else (root.get("mount"), root.get("issuer"))
    if found["root_ttl"].given:
        raise found["root_ttl"].refuse("a root from outside has its own end, which nobody here decides: leave it out")
    if not found.has("root_file"):
        if root.value == EXTERNAL:
            raise root.refuse(
                "the certificate of the root is missing: write root_file, a file with it and all CAs between"
            )
        return OutsideRoot(mount=mount, issuer=issuer), pins
    named = found["root_file"]
    chain = _in_order(named, named.checked(lambda name: _certificates(folder / name)), pins, found)
    anchor, *others = chain
    rest = tuple(pin for pin in pins if pin != anchor[0])
    return OutsideRoot(anchor[1], tuple(text for _, text in others), mount, issuer), (anchor[0], *rest)


def subject(found: FieldValue) -> dict[str, tuple[str, ...]]:
    """Return the further attributes of the issuing CAs' names, by the parameters of the PKI engine."""
    return {SUBJECT[key]: each.plain() for key, each in found["subject"].value.items()} if found.has("subject") else {}


def check(cluster: Cluster, found: FieldValue) -> None:
    """Raise SpecError if the signer is on a mount of the cluster itself; `found` is the value of `ca`."""
    outside = cluster.authority.outside
    if outside is not None and f"{outside.mount}/".startswith(f"{cluster.prefix}/"):
        raise found["root"]["mount"].refuse(
            f"{outside.mount} is below {cluster.prefix}, which is the cluster's own: name the mount of another CA"
        )


def _certificates(path: Path) -> tuple[bytes, ...]:
    """Return the DER of each certificate in a file; SpecError with all that is wrong with it."""
    from vaultpki.values import certificate_forms

    content = certificate_forms.read(yaml_tree.read_bytes(path, certificate_forms.MOST_FILE_BYTES))
    if content.problems:
        raise SpecError(f"the file {' and '.join(problem for _, problem in content.problems)}: {_CA_FILE}")
    return content.certificates


def _in_order(
    named: FieldValue, certificates: tuple[bytes, ...], pins: tuple[str, ...], found: FieldValue
) -> list[tuple[str, str]]:
    """Return each certificate of the file once, as its SHA-256 and its PEM, the anchor first.

    The anchor is the one that `root_sha256` names, else the only one that names itself as its issuer.
    """
    if len(certificates) > MOST_IN_CHAIN:
        raise named.refuse(
            f"the file has {len(certificates)} certificates, and at most {MOST_IN_CHAIN} are possible. Keep the root "
            "and the CAs between it and the issuing CAs of this cluster"
        )
    chain = [_read(number, data, named) for number, data in enumerate(certificates, 1)]
    own = [each for each in chain if each[2] == each[3]]
    if pins:
        anchors = [each for each in chain if each[0] in pins]
        if len(anchors) != 1:
            which = "this" if len(pins) == 1 else "one of these"
            many = f"{len(anchors)} certificates of {named.value} have {which} SHA-256: name one of them alone"
            none = (
                f"no certificate of {named.value} has {which} SHA-256: write that of the root in it, or leave the key "
                "out. While the root is rotated write those of both roots, as a list"
            )
            raise found["root_sha256"].refuse(many if anchors else none)
    elif len(own) == 1:
        anchors = own
    else:
        what = f"{len(own)} certificates that signed themselves" if own else "no certificate that signed itself"
        raise named.refuse(
            f"the file has {what}, so the root is unknown: write the SHA-256 of the certificate that nodes are to be "
            "pinned to as ca.root_sha256"
        )
    anchor = anchors[0]
    below, above = _linked(chain, anchor, up=False), _linked(chain, anchor, up=True)
    for number, each in enumerate(chain, 1):
        if each is not anchor and each not in below and each not in above:
            raise named.refuse(
                f"certificate {number} of the file is neither below nor above the root, by its names. Keep the root "
                "and the CAs between it and the issuing CAs of this cluster"
            )
    return [each[:2] for each in (anchor, *(each for each in chain if each is not anchor))]


_Read = tuple[str, str, bytes, bytes]


def _read(number: int, data: bytes, named: FieldValue) -> _Read:
    """Return the SHA-256 of a certificate, its PEM, its issuer's name and its own."""
    try:
        parts, odd = der.certificate_parts(data), [problem for _, problem in der.oddities(data)]
    except (ValueError, IndexError):
        raise named.refuse(f"certificate {number} of the file cannot be read: copy it again") from None
    if odd:
        raise named.refuse(f"certificate {number} of the file {' and '.join(odd)}: {_NEWER}")
    return sha256(data).hexdigest(), pem.of_der(data), parts.issuer, parts.subject


def _linked(chain: list[_Read], anchor: _Read, *, up: bool) -> list[_Read]:
    """Return those that are below the anchor, or with `up` above it, by their names."""
    found, names_found = list[_Read](), {anchor[2] if up else anchor[3]}
    for _ in chain:
        for each in chain:
            if each is not anchor and each not in found and (each[3] if up else each[2]) in names_found:
                found.append(each)
                names_found.add(each[2] if up else each[3])
    return found
