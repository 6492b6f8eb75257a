"""Finds copies of the old CAs' keys that lie under names of somebody's own, and are deleted at the end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from vaultpki.errors import CertificateUnreadable
from vaultpki.host.pod_manifest import PodManifest
from vaultpki.kube.flags import signing_files
from vaultpki.pki import keys
from vaultpki.takeover import folders, mounted
from vaultpki.takeover.context import TakeOver
from vaultpki.takeover.journal import read


def elsewhere(run: TakeOver) -> list[str]:
    """Return the paths of such copies: in the folder of certificates, and where CSRs were signed with them.

    The inventory tells people to copy the CA for the CSR signer; others keep `ca.key.old`. A key that a component
    reads now, such as one that signs tokens too, is no copy that may be deleted.
    """
    old = {facts.public_key for cas in run.cas.old.values() for facts in cas}
    if not old:
        return []
    used = {value for path in run.machine.static_pods().values() for value in _flags(run, path).values()}
    used |= mounted.paths(run)
    found = [f"{run.where.directory}/{name}" for name in folders.further_files(run.where.directory)]
    found += _signed_with(run)
    return [path for path in dict.fromkeys(found) if path not in used and _public(path) in old]


def _signed_with(run: TakeOver) -> Iterator[str]:
    """Yield the files by which the controller manager signed CSRs before the take-over."""
    path = run.machine.static_pods().get("kube-controller-manager", "")
    kept = run.journal.original(path) if run.journal.value.kept.get(path) is not None else None
    files = signing_files(PodManifest(kept, path).flags, "key") if kept is not None else {}
    yield from (value for value in files.values() if os.path.isfile(value))


def _flags(run: TakeOver, path: str) -> dict[str, str]:
    found = read(path)
    return PodManifest(found[0], path).flags if found is not None else {}


def _public(path: str) -> bytes:
    """Return the public key of the private one in a file, as Facts have it; empty if there is none to be read."""
    found = read(path)
    with contextlib.suppress(CertificateUnreadable):
        return keys.public_der(keys.read_key(found[0])) if found is not None else b""
    return b""
