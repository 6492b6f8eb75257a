"""The phases of a soak in which the root moves outside, below two CAs between, and back, with a rotation meanwhile.

Whoever keeps the root outside has a folder and OpenSSL, and signs what `ca csr` writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.kube import kube_cluster
from helpers.vault.outside_signer import OutsideSigner
from soak.printed import say
from vaultpki.records.rotation import State

if TYPE_CHECKING:
    from soak.rotations import Run

_BETWEEN = ("Corp Policy CA", "Corp Platform CA")
_DAYS = 365


def signer_in(folder: Path) -> OutsideSigner:
    """The one of this folder, which is made if it is missing."""
    if folder.exists():
        return OutsideSigner(folder, ("Corp Root", *_BETWEEN))
    return OutsideSigner.made(folder, list(_BETWEEN))


def carry(run: Run) -> None:
    """Carry what waits to the signer, and what it made of that back."""
    cluster = run.operator.kubernetes.cluster
    place = cluster.folder / f"requests-{len(list(cluster.folder.glob('requests-*')))}"
    run.operator.ca("csr", "-o", place, expect=[0])
    signer, made = _signer(run), []
    for extensions in sorted(place.glob("*.ext")):
        stem = extensions.with_suffix("")
        if stem.with_name(f"{stem.name}-self-signed.pem").exists():
            made.append(signer.cross(extensions, "-sha384"))
        else:
            made.append(signer.sign(stem.with_suffix(".csr"), extensions.read_text(), days=_DAYS))
    say(f"the signer outside made {', '.join(each.name for each in made)}")
    run.operator.ca("import", *made)


def moved_out(run: Run) -> None:
    cluster = run.operator.kubernetes.cluster
    signer, ours = _signer(run), cluster.root_sha256
    with run.phase("root moved outside"):
        (cluster.folder / "corp-root.pem").write_text(signer.chain)
        _ask(run, f"root: external, root_file: corp-root.pem, root_sha256: [{signer.root_sha256}, {ours}]")
        run.operator.rotate("root")
        run.settle("root", State.DONE)
        _ask(run, f"root: external, root_file: corp-root.pem, root_sha256: {signer.root_sha256}")


def moved_back(run: Run) -> None:
    cluster = run.operator.kubernetes.cluster
    with run.phase("root moved back"):
        _ask(run, f"root_sha256: {_signer(run).root_sha256}")
        run.operator.rotate("root")
        run.settle("root", State.DONE)
        _ask(run, f"root_sha256: {cluster.root_sha256}")


def _signer(run: Run) -> OutsideSigner:
    return signer_in(run.operator.kubernetes.folder / "offline")


def _ask(run: Run, authority: str) -> None:
    """cluster.yaml asks for this below `ca`."""
    run.operator.kubernetes.cluster.write(f"{kube_cluster.TURNING}ca: {{{authority}}}\n")


PHASES: Mapping[str, Callable[[Run], None]] = {
    "outside": moved_out,
    "outside-kubernetes": lambda run: run.rotated("kubernetes"),
    "outside-back": moved_back,
}
"""One after the other; the second one is the rotation of an issuing CA that the signer outside signs."""
