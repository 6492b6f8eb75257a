"""Finds one certificate on a node, in a folder of files or of nodes, or in a file that a person names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final

from vaultpki.agent import node_folders, status
from vaultpki.agent.status import CertificateStatus, Status
from vaultpki.agent.token_keys import UNION_FILE
from vaultpki.certificates import TABLE, laid_out
from vaultpki.errors import ArgumentError, CertificateUnreadable, SpecError
from vaultpki.identity.by_serial import rows_like
from vaultpki.model import AgentConfig, Row
from vaultpki.node.procedures import Procedures
from vaultpki.pki import x509
from vaultpki.pki.facts import Facts
from vaultpki.pki.renewal import Reason
from vaultpki.places import Layout
from vaultpki.redact import first_few, stamp
from vaultpki.show.certificate import KeyBeside, Revocation, ShownCertificate, domain_of
from vaultpki.values import input_file, pem
from vaultpki.values.names import quoted

_LARGEST: Final = 256 * 1024
_ENDINGS: Final = (".crt", ".pem", ".key", ".cer")
_OPERATOR: Final = "operator"

Seen = tuple[Status, CertificateStatus]


def is_path(name: str) -> bool:
    """Return whether a person named a file, and not a certificate of the table."""
    return "/" in name or name.endswith(_ENDINGS)


def of_node(config: AgentConfig, name: str, now: datetime, procedures: Procedures) -> ShownCertificate:
    """Return a certificate of the node that agent.yaml describes, by the name of its row.

    Raises ArgumentError if the node holds none of this name, and as `of_file`.
    """
    found = status.of_node(config, now, procedures, ask=False)
    beside = Path(config.directory)
    return _one(name, [found], f"{config.node} holds", now, beside)


def of_folder(directory: Path, name: str, now: datetime, procedures: Procedures) -> ShownCertificate:
    """Return a certificate by the name of its row or of its file, from a node's folder, or a folder of nodes.

    Raises ArgumentError if there is none, or if several nodes hold one; StoreError if a folder cannot be read.
    """
    if folders := node_folders.find_all(directory):
        found = [node_folders.read(each, now, procedures, allow_http=True) for each in folders]
        if (directory / _OPERATOR).is_dir():
            found.append(status.of_folder(str(directory / _OPERATOR), now))
    else:
        found = [status.of_folder(str(directory), now)]
    return _one(name, found, f"{directory} holds", now, directory)


def of_path(path: Path, config: AgentConfig | None, now: datetime, procedures: Procedures) -> ShownCertificate:
    """Return what a file holds, as `of_file`, and what `status` says of it if it is one of the node `config`."""
    found = [status.of_node(config, now, procedures, ask=False)] if config is not None else []
    return _with_what_is_said(path, [each for each in _said(found) if each.startswith(f"{path.absolute()}: ")], now)


def of_file(path: Path, now: datetime) -> ShownCertificate:
    """Return the first certificate of a file, with what stands after it, and the key beside it.

    Raises ArgumentError if the file cannot be read or has no certificate.
    """
    try:
        data = input_file.read(path, _LARGEST)[0]
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "its name is not possible"
        raise ArgumentError(
            f"{path} cannot be read ({why}): name a certificate file, such as .../etcdserver.crt"
        ) from None
    if path.suffix == ".key" and (crt := path.with_suffix(".crt")).is_file():
        return of_file(crt, now)
    chain = _certificates(path, data)
    facts = chain[0]
    # The certificates of several nodes, of which the key beside them is of one.
    key = _key_beside(path, *(chain if path.name == UNION_FILE else chain[:1]))
    reasons = _reasons(facts, key, now)
    return ShownCertificate(
        facts=facts,
        rows=_rows_of(facts, path.stem),
        path=str(path),
        chain=chain[1:],
        key=key,
        kubeconfig=_kubeconfig(path, _rows_of(facts, path.stem)),
        reasons=reasons,
        wrong=bool(reasons),
    )


def _one(name: str, found: Sequence[Status], holds: str, now: datetime, beside: Path) -> ShownCertificate:
    """Return the certificate of this name in what was read."""
    there = [(node, one) for node in found for one in node.seen]
    named = [each for each in there if name in _names(each[1])]
    if not named:
        file = next(_files(beside, name), None)
        said = [each for each in _said(found) if Path(each.partition(": ")[0]).name in (name, f"{name}.crt")]
        if file is not None or said:
            return _with_what_is_said(file, said, now)
        if not there:
            faults = [text for node in found for text in node.faults.values()]
            raise ArgumentError(f"there is no certificate here: {faults[0] if faults else f'{holds} none'}")
        known = list(dict.fromkeys(one.name for _, one in there))
        raise ArgumentError(f"{holds} no certificate {quoted(name)}; it holds {', '.join(known)}")
    if len(named) > 1:
        places = [str(Path(one.path).parent) for _, one in named]
        raise ArgumentError(f"{len(named)} folders hold {name}: name one with --dir, such as {first_few(places)}")
    node, one = named[0]
    if one.leaf is None:
        raise ArgumentError(f"{one.path} cannot be shown ({', '.join(one.reasons)}); `vaultpki status` says what to do")
    return _judged(node, one, of_file(Path(one.path), now))


def _said(found: Sequence[Status]) -> list[str]:
    return [each for node in found for each in (*node.bundles, *node.token_keys)]


def _with_what_is_said(file: Path | None, said: Sequence[str], now: datetime) -> ShownCertificate:
    """Return what a file that is no pair holds, with what `status` says of it; ArgumentError if it holds nothing."""
    text = f"{'; '.join(said)}; `vaultpki status` says what to do"
    if file is None:
        raise ArgumentError(text)
    try:
        read = of_file(file, now)
    except ArgumentError as error:
        raise ArgumentError(text if said else str(error)) from None
    return replace(read, reasons=tuple(said), wrong=True) if said else read


def _judged(node: Status, one: CertificateStatus, read: ShownCertificate) -> ShownCertificate:
    """Return a certificate with what `status` says of it, so that both say the same."""
    revocation = None
    if Reason.REVOKED.value in one.reasons:
        revocation = Revocation(True, "as the agent read from Vault")
    elif node.asked is not None and node.asked == node.answered:
        revocation = Revocation(False, f"as of {stamp(node.asked)}, when the agent last asked Vault")
    row = next((row for row in TABLE if row.name == one.name), None)
    return ShownCertificate(
        facts=read.facts,
        rows=(row,) if row is not None else read.rows,
        node=node.node or "",
        path=read.path,
        chain=read.chain,
        key=read.key,
        kubeconfig=read.kubeconfig,
        revocation=revocation,
        renew_after=one.renew_after,
        reasons=one.reasons,
        wrong=one.wrong,
    )


def _names(one: CertificateStatus) -> tuple[str, ...]:
    """Return how a person may call an installed certificate: by its row, its file or the file's stem."""
    file = Path(one.path)
    return one.name, file.name, file.stem, f"{file.stem}.pem", f"{file.stem}.key"


def _files(folder: Path, name: str) -> Iterator[Path]:
    """Yield files of a folder that a name may mean and that are no pair, such as the bundles of CAs."""
    if "/" not in name and not name.startswith("."):
        yield from (file for file in (folder / name, folder / f"{name}.crt") if file.is_file())


def _certificates(path: Path, data: bytes) -> tuple[Facts, ...]:
    bodies = pem.pem_bodies(data.decode("utf-8", "replace"), "CERTIFICATE")
    blocks = (f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n" for body in bodies)
    try:
        return x509.read_certificates("".join(blocks).encode("ascii", "replace"))
    except (CertificateUnreadable, SpecError):
        raise ArgumentError(f"{path} holds no certificate in PEM that can be read: name another file") from None


def _key_beside(path: Path, *held: Facts) -> KeyBeside | None:
    """Return whether the key beside certificates, or in their file, belongs to one; None for a CA without one."""
    for file in (path.with_suffix(".key"), path):
        try:
            data = input_file.read(file, _LARGEST)[0]
        except FileNotFoundError:
            continue
        except PermissionError:
            return KeyBeside(str(file), None, "cannot be read as this user; run as its owner or as root")
        except OSError as error:
            return KeyBeside(str(file), None, f"cannot be read ({error.strerror})")
        if b"PRIVATE KEY" not in data:
            continue
        try:
            return KeyBeside(str(file), any(x509.matches(_key_block(data), facts) for facts in held))
        except CertificateUnreadable:
            return KeyBeside(str(file), None, "holds no key that can be read; renew the pair")
    return None if held[0].is_ca else KeyBeside(str(path.with_suffix(".key")), None, "is missing")


def _key_block(data: bytes) -> bytes:
    """Return the first private key of a file that may have certificates too."""
    end = data.find(b"-----END", data.find(b"PRIVATE KEY"))
    return data[data.find(b"-----BEGIN") : data.find(b"\n", end) + 1 or None] if end >= 0 else data


def _reasons(facts: Facts, key: KeyBeside | None, now: datetime) -> tuple[str, ...]:
    """Return what is wrong with a file that no agent's record describes, in the words of `status`."""
    found = [Reason.EXPIRED] if facts.not_after <= now else []
    found += [Reason.NOT_YET_VALID] if facts.not_before > now else []
    found += [Reason.KEY_MISMATCH] if key is not None and key.matches is False else []
    return tuple(reason.value for reason in found)


def _rows_of(facts: Facts, stem: str) -> tuple[Row, ...]:
    """Return the rows that a file may be of, by what it says; its name decides between rows of one subject."""
    like = rows_like(facts, TABLE, domain_of(facts.issuer_text))
    stems = {
        row.name: {row.stem} | {each.stem for each in laid_out(Layout.KUBEADM) if each.name == row.name} for row in like
    }
    return tuple(row for row in like if stem in stems[row.name]) or like


def _kubeconfig(path: Path, rows: Sequence[Row]) -> str:
    """Return the kubeconfig that names a pair: beside it, or one folder above, as kubeadm has it."""
    for row in rows:
        for folder in (path.parent, path.parent.parent, path.parent.parent.parent):
            if row.kubeconfig and (folder / row.kubeconfig).is_file():
                return str(folder / row.kubeconfig)
    return ""
