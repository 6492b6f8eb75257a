"""Writes the requests of issuing CAs for the signer of a root from outside, and reads them where no server is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vaultpki.ca.waiting import WaitingCa, domain_of
from vaultpki.certificates import ISSUING_CAS, issuing_cas
from vaultpki.disk.generations import File
from vaultpki.disk.plain_files import PlainFolder
from vaultpki.errors import ArgumentError, CertificateUnreadable, StoreError
from vaultpki.identity.outside_signer import request_of
from vaultpki.model import Cluster
from vaultpki.values import input_file

if TYPE_CHECKING:
    from vaultpki.outside.request import WaitingRequest

_MOST_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class RequestFiles:
    """The files of one request: what they are called, the sentence for the signer, and whether they were there."""

    domain: str
    csr: str
    extensions: str
    form: str
    sentence: str
    there: bool = False


def write(cluster: Cluster, waiting: Sequence[WaitingCa], folder: Path) -> tuple[RequestFiles, ...]:
    """Write for each CA its request, a file of OpenSSL extensions, and what the signer must grant in words.

    A request for the same key and name stays as it is. Raises StoreError, before anything is written, if a file of one
    of these names is anything else.
    """
    from vaultpki.outside.request import terms

    place = PlainFolder(str(folder))
    made, files = [], []
    for each in waiting:
        stem = f"{cluster.name}-{each.name}"
        granted = terms(each.request, stem)
        csr, extensions, form = f"{stem}.csr", f"{stem}.ext", f"{stem}.txt"
        same = _same_request(place, csr, each.request)
        texts = {extensions: granted.openssl, form: f"{granted.sentence}\n\n{granted.form}"}
        for name, text in texts.items():
            if not same and place.read(name).data not in (None, text.encode()):
                raise _foreign(place, name)
        made.append(RequestFiles(each.domain, csr, extensions, form, granted.sentence, there=same))
        files.append(texts if same else {csr: each.request.csr.strip() + "\n", **texts})
    for each_made, texts in zip(made, files, strict=True):
        for name, text in texts.items():
            if place.read(name).data != text.encode():
                place.write(name, File(text.encode()), replace=each_made.there)
    return tuple(made)


def read(cluster: Cluster, folder: Path) -> tuple[WaitingRequest, ...]:
    """Read the requests of this cluster in a folder, in the order of their files' names.

    Raises ArgumentError if there is none, StoreError for a file that cannot be read.
    """
    found = []
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".csr")
        texts = [input_file.read(path, _MOST_BYTES)[0].decode("ascii", "replace") for path in paths]
    except OSError as error:
        raise StoreError(f"{error.filename or folder}: {error.strerror}") from None
    for path, text in zip(paths, texts, strict=True):
        try:
            read_as = request_of(cluster, ISSUING_CAS[0], text)
        except CertificateUnreadable:
            raise ArgumentError(f"{path} is not a signing request; name the folder that `ca csr` wrote") from None
        domain = domain_of(cluster, read_as.common_name)
        if domain in issuing_cas(cluster):
            found.append(request_of(cluster, domain, text))
    if not found:
        raise ArgumentError(
            f"{folder} has no signing request of an issuing CA of {cluster.name}; name the folder that "
            f"`vaultpki ca csr{cluster.file_option} -o DIR` wrote"
        )
    return tuple(found)


def shown(made: Sequence[RequestFiles], folder: Path) -> Iterator[str]:
    """Yield what was written and what comes next, for a person."""
    for each in made:
        yield f"{folder / each.csr}: the CA {each.domain}{' (was there already)' if each.there else ''}"
        yield f"    {each.sentence}"


def _same_request(place: PlainFolder, name: str, request: WaitingRequest) -> bool:
    """Return whether the file is a request for the same key and name; StoreError if it is something else."""
    from vaultpki.outside.request import waiting_request

    stored = place.read(name)
    if stored.data is None:
        if stored.problem and stored.problem != "missing":
            raise StoreError(f"{place.path}/{name}: {stored.problem}; choose another folder")
        return False
    try:
        other = waiting_request("", stored.data.decode("ascii", "replace"), ttl=1, longest_ttl=1)
    except CertificateUnreadable:
        raise _foreign(place, name) from None
    if (other.public_key, other.subject) != (request.public_key, request.subject):
        raise _foreign(place, name)
    return True


def _foreign(place: PlainFolder, name: str) -> StoreError:
    return StoreError(
        f"{place.path}/{name}: there is another file of this name, and it is not overwritten; choose another folder "
        "with -o, or move it away; nothing was written"
    )
