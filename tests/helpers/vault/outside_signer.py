"""A PKI outside, as a machine without network has it: a folder, and `openssl` as its only program."""

from __future__ import annotations

import hashlib
import secrets
import ssl
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from helpers.vault.applied_cluster import AppliedCluster, vaultpki
from helpers.vault.plan_commands import AuditedCluster

SPEC = """\
api_server: {names: [api.example.com], endpoint: "https://api.example.com:6443"}
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
- {name: worker-1, roles: [worker], addresses: [10.0.0.21]}
ca: {root: external, root_file: corp-root.pem, issuing_ttl: 1y}
"""

_CA = "basicConstraints=critical,CA:TRUE{}\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n"
ISSUING = _CA.format(",pathlen:0") + "authorityKeyIdentifier=keyid:always\n"


KEYS = {
    "p384": ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"),
    "rsa4096": ("-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:4096"),
    "ed25519": ("-algorithm", "ED25519"),
}
"""The kinds of keys that signers have, as words of `openssl genpkey`."""

_DATABASE = """\
[ca]
default_ca = own
[own]
database = {folder}/index.txt
serial = {folder}/serial
new_certs_dir = {folder}
default_md = sha512
policy = anything
[anything]
countryName = optional
stateOrProvinceName = optional
localityName = optional
organizationName = optional
organizationalUnitName = optional
commonName = supplied
"""


def openssl(*words: str | Path) -> str:
    done = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout


@dataclass(frozen=True, slots=True)
class OutsideSigner:
    """`names` are its CAs from the root to the one that signs; NAME.key and NAME.crt lie in `folder`."""

    folder: Path
    names: tuple[str, ...]

    @classmethod
    def made(
        cls, folder: Path, between: Sequence[str] = (), *, extra: str = "", days: int = 3650, kind: str = "p384"
    ) -> OutsideSigner:
        """A root and the CAs below it; `extra` are further extensions of the one that signs, `kind` is that of keys."""
        folder.mkdir(parents=True)
        names = ("Corp Root", *between)
        for number, name in enumerate(names):
            key, csr, crt = (folder / f"{name}.{ending}" for ending in ("key", "csr", "crt"))
            openssl("genpkey", *KEYS[kind], "-out", key)
            openssl("req", "-new", "-key", key, "-subj", f"/O=Corp/CN={name}", "-out", csr)
            (folder / f"{name}.ext").write_text(_CA.format("") + (extra if number == len(names) - 1 else ""))
            signed = ("-CA", folder / f"{names[number - 1]}.crt", "-CAkey", folder / f"{names[number - 1]}.key")
            above = ("-signkey", key) if number == 0 else (*signed, "-CAcreateserial")
            ext = ("-extfile", folder / f"{name}.ext")
            openssl("x509", "-req", "-in", csr, *above, "-days", str(days), "-sha512", *ext, "-out", crt)
        return cls(folder, names)

    def sign_itself(self, extensions: str) -> None:
        """Give the root another certificate of its own, with these extensions."""
        csr, key, crt, ext = (self.folder / f"{self.names[0]}.{ending}" for ending in ("csr", "key", "crt", "ext"))
        ext.write_text(extensions)
        openssl("x509", "-req", "-in", csr, "-signkey", key, "-days", "3650", "-extfile", ext, "-out", crt)

    def pem(self, name: str) -> str:
        return (self.folder / f"{name}.crt").read_text()

    @property
    def chain(self) -> str:
        """All its CAs, the root first."""
        return "".join(map(self.pem, self.names))

    @property
    def root_sha256(self) -> str:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.pem(self.names[0]))).hexdigest()

    def apply(self, cluster: AppliedCluster) -> None:
        """Make a new cluster below these CAs: `apply` stops, and what came back lets it go on."""
        (cluster.folder / "corp-root.pem").write_text(self.chain)
        cluster.apply(expect=3)
        requests = cluster.folder / "requests"
        vaultpki("ca", "csr", "-f", cluster.file, "-o", requests, env=cluster.environment())
        vaultpki("ca", "import", "-f", cluster.file, *self.sign_all(requests), env=cluster.environment())

    def answers(self, cluster: AuditedCluster, folder: str = "requests", *, days: int = 365) -> list[Path]:
        """Sign what `ca csr` asks for, in a folder beside cluster.yaml."""
        place = cluster.folder / folder
        cluster.ca("csr", "-o", place)
        return [self.sign(csr, csr.with_suffix(".ext").read_text(), days=days) for csr in sorted(place.glob("*.csr"))]

    def sign_all(self, requests: Path) -> list[Path]:
        """Sign what `ca csr` wrote to this folder, as it asks for it."""
        return [self.sign(csr, csr.with_suffix(".ext").read_text()) for csr in sorted(requests.glob("*.csr"))]

    def cross(self, extensions: Path, *options: str) -> Path:
        """What the root makes of what `ca csr` wrote for a new root, by the command in that file of extensions."""
        stem, root = extensions.with_suffix(""), self.folder / self.names[0]
        csr, made = stem.with_suffix(".csr"), stem.with_suffix(".crt")
        source = ("-req", "-in", csr) if csr.exists() else ("-in", f"{stem}-self-signed.pem", "-clrext")
        key = ("-CA", root.with_name(f"{root.name}.crt"), "-CAkey", root.with_name(f"{root.name}.key"))
        openssl(
            "x509", *source, *key, "-CAcreateserial", "-days", "3000", "-extfile", extensions, *options, "-out", made
        )
        return made

    def sign(
        self, csr: Path, extensions: str = ISSUING, *, days: int = 365, begun: timedelta = timedelta(minutes=15)
    ) -> Path:
        """Sign a request from `begun` ago on, and return the certificate, beside the request."""
        made, last = csr.with_suffix(".crt"), self.names[-1]
        place = self.folder / last
        if not place.exists():
            place.mkdir()
            (place / "index.txt").touch()
            (place / "index.txt.attr").write_text("unique_subject = no\n")
            (place / "serial").write_text(f"{secrets.token_hex(16)}\n".replace("f", "7"))
        (place / "ca.cnf").write_text(_DATABASE.format(folder=place))
        (place / "extensions").write_text(extensions)
        start = datetime.now(UTC) - begun
        dates = [f"{each:%Y%m%d%H%M%S}Z" for each in (start, start + timedelta(days=days))]
        openssl(
            *("ca", "-batch", "-config", place / "ca.cnf", "-in", csr, "-out", made, "-notext", "-preserveDN"),
            *("-cert", self.folder / f"{last}.crt", "-keyfile", self.folder / f"{last}.key"),
            *("-extfile", place / "extensions", "-startdate", dates[0], "-enddate", dates[1]),
        )
        return made
