"""Carries to a root from outside what it must sign so that nodes take its successor, and installs what comes back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vaultpki.ca.facts import read_mount, read_root
from vaultpki.ca.request_files import RequestFiles
from vaultpki.ca.scene import chain_of
from vaultpki.certificates import ROOT, ca_subject
from vaultpki.disk.generations import File
from vaultpki.disk.plain_files import PlainFolder
from vaultpki.errors import BadAnswer, StateConflict, StoreError
from vaultpki.identity import root_in_force
from vaultpki.model import Cluster
from vaultpki.outside import root_vouching
from vaultpki.pki.facts import Facts
from vaultpki.provision import authorities
from vaultpki.provision.rotation_records import read_record
from vaultpki.records.rotation import CaRef, State
from vaultpki.redact import printable
from vaultpki.rotation import root_steps
from vaultpki.vault import Vault
from vaultpki.vault.issuer import number

if TYPE_CHECKING:
    from vaultpki.outside.checks import FailedCheck
    from vaultpki.outside.files import Sent

_DAY: Final = 86400


@dataclass(frozen=True, slots=True)
class WantedCross:
    """A new root for which the old one, from outside, must vouch.

    `name` is the new root's, `csr` its request in PEM; "" for a root from outside, of which there is only the
    certificate. `between` is how many CAs stand between it and the issuing CAs, `days` the life that is asked for.
    """

    name: str
    old: Facts
    new: Facts
    csr: str
    between: int
    days: int


def find(cluster: Cluster, vault: Vault, now: datetime) -> WantedCross | None:
    """Return the root for which the old one must vouch; None if none waits for that. Changes nothing on the server."""
    vault.pin_to_leader()
    record = read_record(cluster, vault, ROOT).record
    if record is None or record.state is not State.PREPARED or record.new is None:
        return None
    old, chain = read_root(cluster, vault, now), chain_of(cluster)
    if root_in_force.is_ours(cluster, old):
        return None
    mount = read_mount(cluster, vault, ROOT, old, incoming=chain)
    if root_steps.cross_issuer(cluster.name, record, mount) is not None:
        return None
    made = root_steps.new_issuer(cluster.name, record, mount)
    new = made.facts if made is not None else next(iter(chain), None)
    if new is None or new.fingerprint != record.new.sha256:
        raise StateConflict(f"the new root was not made yet; run `vaultpki ca continue{cluster.file_option}` first")
    csr = ""
    if record.new.key:
        name = ca_subject(cluster.name, ROOT, number(record.new.name))
        csr = authorities.cross_request(vault, mount.path, name, record.new.key)
    between = root_vouching.depth(new, chain)
    days = int((min(new.not_after, old.not_after) - now).total_seconds()) // _DAY
    return WantedCross(record.new.name, old, new, csr, between, max(days, 1))


def write(cluster: Cluster, wanted: WantedCross, folder: Path) -> RequestFiles:
    """Write what the old root must sign, and what to grant. Raises StoreError for a file of another origin."""
    place, stem = PlainFolder(str(folder)), f"{cluster.name}-{wanted.name}"
    source = f"{stem}.csr" if wanted.csr else f"{stem}-self-signed.pem"
    certificate = f"{stem}-self-signed.pem"
    sentence = _sentence(wanted, source)
    texts = {
        certificate: wanted.new.pem,
        f"{stem}.ext": _openssl(wanted, stem, source),
        f"{stem}.txt": f"{sentence}\n\n{_form(wanted, source)}",
    }
    there = place.read(certificate).data == wanted.new.pem.encode()
    if wanted.csr and not (there and place.read(f"{stem}.csr").data):
        texts[f"{stem}.csr"] = wanted.csr.strip() + "\n"
    for name, content in texts.items():
        stored = place.read(name)
        if not there and (stored.data or stored.problem not in (None, "missing")) and stored.data != content.encode():
            raise StoreError(
                f"{place.path}/{name}: there is another file of this name, and it is not overwritten; choose another "
                "folder with -o, or move it away"
            )
    for name, content in texts.items():
        if place.read(name).data != content.encode():
            place.write(name, File(content.encode()), replace=there)
    return RequestFiles(ROOT, source, f"{stem}.ext", f"{stem}.txt", sentence, there=there)


@dataclass(frozen=True, slots=True)
class CrossVerdict:
    """What is to be made of the files: the certificate that is right, or each one of that key with what is wrong."""

    accepted: tuple[str, Facts] | None = None
    refused: tuple[tuple[str, FailedCheck], ...] = ()

    def lines(self, wanted: WantedCross) -> Iterator[str]:
        """Yield it for a person."""
        if self.accepted is not None:
            file, facts = self.accepted
            who, until = printable(wanted.old.subject_text), f"{facts.not_after:%Y-%m-%d}"
            yield f"+ {who} vouches for {CaRef(wanted.name).title}, until {until}, from {file}"
            return
        for file, failed in self.refused:
            yield f"! {file}: {failed.sentence}"
            yield f"    {failed.ask}"


def judge(sent: Sent, wanted: WantedCross, now: datetime) -> CrossVerdict:
    """Return which certificate is the cross certificate; all checks are made before anything is written."""
    refused: list[tuple[str, FailedCheck]] = []
    for each in sent.certificates:
        if each.facts.public_key != wanted.new.public_key or each.facts == wanted.new:
            continue
        failed = root_vouching.cross_problems(each.facts, wanted.new, wanted.old, wanted.between, now)
        if not failed:
            return CrossVerdict((each.file, each.facts))
        refused += [(each.file, one) for one in failed]
    if not refused:
        why = f"has no certificate of {CaRef(wanted.name).title}, {printable(wanted.new.subject_text)}"
        refused = [(each.file, root_vouching.missing(why)) for each in sent.certificates[:1]]
    return CrossVerdict(None, tuple(refused))


def install(cluster: Cluster, vault: Vault, cross: Facts) -> None:
    """Install the cross certificate beside the root; the next step of the rotation names it. The default stays."""
    mount, pki = cluster.mount(ROOT), vault.api.secrets.pki
    before = _default(pki.list_issuers(mount_point=mount).key_info)
    authorities.make_default(vault, mount, before)
    authorities.import_keyless(vault, mount, cross.pem)
    if _default(pki.list_issuers(mount_point=mount).key_info) != before:
        authorities.make_default(vault, mount, before)
        raise BadAnswer(f"{mount} made the cross certificate the default at once; look what else writes there")


def _default(listed: dict[str, dict[str, object]]) -> str:
    return next((id_ for id_, each in listed.items() if each.get("is_default") is True), "")


def _sentence(wanted: WantedCross, source: str) -> str:
    what = f"Sign {source}" if wanted.csr else f"Sign the key and the name of the certificate {source}"
    return (
        f"{what} by {printable(wanted.old.subject_text)} itself, not by a CA below it: its subject "
        f"({printable(wanted.new.subject_text)}) byte for byte, basic constraints CA:TRUE (critical) with path length "
        f"{wanted.between + 1} or none, key usage certificate sign and CRL sign (critical), its subject key "
        "identifier, no extended key usage, no name constraints, no other critical extension, signed with SHA-256, "
        f"SHA-384, SHA-512 or Ed25519, valid for {wanted.days} days."
    )


def _openssl(wanted: WantedCross, stem: str, source: str) -> str:
    how = f"-req -in {source}" if wanted.csr else f"-in {source} -clrext"
    key_id = (wanted.new.subject_key_id or "").upper()
    own = key_id if wanted.new.subject_key_id else "hash"
    return f"""\
# Extensions of the cross certificate for {printable(wanted.new.subject_text)}, for OpenSSL 1.1.1 and later.
#
# With the certificate and the key of the root that nodes trust now (for an Ed25519 key leave -sha256 out):
#   openssl x509 {how} -CA root.crt -CAkey root.key -CAcreateserial \\
#     -days {wanted.days} -sha256 -extfile {stem}.ext -out {stem}.crt
# Send back {stem}.crt.

extensions = cross

[ cross ]
basicConstraints = critical, CA:TRUE, pathlen:{wanted.between + 1}
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = {own}
authorityKeyIdentifier = keyid:always
"""


def _form(wanted: WantedCross, source: str) -> str:
    kind = "PKCS#10, PEM" if wanted.csr else "certificate, PEM"
    lines = (
        ("Request", f"{source} ({kind})"),
        ("Profile", "cross certificate of a root CA"),
        ("Signer", printable(wanted.old.subject_text)),
        ("Subject", printable(wanted.new.subject_text)),
        ("Subject encoding", "byte for byte; the name is not encoded again, reordered or completed"),
        ("Basic constraints", f"critical; CA: yes; path length: {wanted.between + 1}, or none"),
        ("Key usage", "critical; certificate sign, CRL sign"),
        ("Extended key usage", "none; the extension is absent"),
        ("Name constraints", "none; the extension is absent"),
        ("Subject key identifier", wanted.new.subject_key_id or ""),
        ("Authority key identifier", "present, not critical, by key identifier alone"),
        ("Validity", f"{wanted.days} days"),
    )
    width = max(len(name) for name, _ in lines) + 1
    return "".join(f"{name + ':':<{width}} {value}\n" for name, value in lines)
