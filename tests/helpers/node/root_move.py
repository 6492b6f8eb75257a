"""A cluster whose root is moved outside and back, with real passes of its agents; the signer is OpenSSL in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from helpers.node.root_rotation import RootRotation
from helpers.vault.applied_cluster import Ran, vaultpki
from helpers.vault.outside_signer import OutsideSigner
from vaultpki.pki.facts import Facts
from vaultpki.records.rotation import State


@dataclass(slots=True)
class RootMove:
    """The rotation, and the PKI outside."""

    rotation: RootRotation
    signer: OutsideSigner
    spec: str

    @classmethod
    def of(cls, rotation: RootRotation, signer: OutsideSigner) -> RootMove:
        return cls(rotation, signer, rotation.cluster.file.read_text())

    @property
    def folder(self) -> Path:
        return self.rotation.cluster.folder

    def run(self, *words: str | Path, expect: int = 0) -> Ran:
        cluster = self.rotation.cluster
        return vaultpki("ca", words[0], "-f", cluster.file, *words[1:], env=cluster.environment(), expect=expect)

    def asks(self, authority: str) -> None:
        """cluster.yaml asks for this below `ca`."""
        self.rotation.cluster.file.write_text(f"{self.spec}ca: {{{authority}}}\n")

    def asks_outside(self, *further: str, signer: OutsideSigner | None = None, more: str = "") -> None:
        """cluster.yaml asks for the root outside; `further` are the SHA-256 of the roots beside it."""
        who = signer or self.signer
        (self.folder / "corp-root.pem").write_text(who.chain)
        pins = ", ".join((who.root_sha256, *further))
        self.asks(f"root: external, root_file: corp-root.pem, root_sha256: [{pins}]{more}")

    def signed(self, folder: str, signer: OutsideSigner | None = None) -> list[Path]:
        """What the signer makes of each request of `ca csr`."""
        place = self.folder / folder
        self.run("csr", "-o", place)
        return [
            (signer or self.signer).sign(csr, csr.with_suffix(".ext").read_text(), days=1825)
            for csr in sorted(place.glob("*.csr"))
        ]

    def crossed(self, folder: str, *options: str) -> Path:
        """What the old root, outside, makes of what `ca csr` wrote: by the command in the file of extensions."""
        place = self.folder / folder
        self.run("csr", "-o", place)
        (extensions,) = place.glob("*.ext")
        return self.signer.cross(extensions, *options)

    def published(self) -> None:
        self.rotation.begin()
        self.rotation.moved(State.PUBLISHED)

    def switched(self, folder: str = "requests") -> None:
        """On to the state in which every issuing CA is of the root outside."""
        self.rotation.moved(State.SWITCHED)
        self.run("import", *self.signed(folder))

    def out(self) -> Facts:
        """From the root that vaultpki made, which is returned, to the one outside, whole."""
        (first,) = self.rotation.certificates().values()
        self.asks_outside(first.fingerprint)
        self.published()
        self.switched()
        self.rotation.moved(State.RETIRED)
        self.rotation.moved(State.DONE)
        return first
