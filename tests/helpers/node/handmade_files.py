"""A cluster's files as nobody issued them: good at first, and with all that is needed to lay down bad ones."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vaultpki import assets, certificates
from vaultpki.certificates import ISSUING_CAS, bundle, chain_bundle, pair_files
from vaultpki.config.cluster import load_cluster
from vaultpki.model import Certificate, Cluster, Row
from vaultpki.verify import folders
from vaultpki.verify.matrix import Check, verify

# TLS goes by the machine's clock, so the certificates have to live now.
NOW = datetime.now(UTC).replace(microsecond=0)
# A run may take hours from here to a handshake; super-admin, whose row has the shortest life, may have eight.
LIFE: Final = (-timedelta(minutes=5), timedelta(hours=6))
SPEC = """\
cluster: prod
vault: {addresses: ["https://127.0.0.1:8200"]}
api_server: {endpoint: "https://api.example.com:6443", names: [api.example.com], addresses: [10.0.0.10]}
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
- {name: worker-1, roles: [worker], addresses: [10.0.0.21, "fd00::21"]}
pools:
- {name: autoscaled, roles: [worker], node_names: "w-*"}
"""


@dataclass(frozen=True)
class Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)


def build(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: Authority | None,
    life: tuple[timedelta, timedelta],
    extensions: Sequence[tuple[x509.ExtensionType, bool]],
) -> x509.Certificate:
    signing_key = signer.key if signer else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer.certificate.subject if signer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + life[0])
        .not_valid_after(NOW + life[1])
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(signing_key, hashes.SHA256())


def key_usage(*bits: str) -> x509.KeyUsage:
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    further = ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{name: name in bits for name in (*names, *further)})


def authority(
    name: str,
    signer: Authority | None = None,
    further: Sequence[tuple[x509.ExtensionType, bool]] = (),
    path_length: int | None = 0,
    *,
    cluster: str = "prod",
    life: tuple[timedelta, timedelta] = (-timedelta(hours=1), timedelta(days=900)),
) -> Authority:
    """A root, or an issuing CA with this path length and further extensions."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{cluster} {name} CA")])
    constraints = x509.BasicConstraints(ca=True, path_length=path_length if signer else None)
    extensions = [(constraints, True), (key_usage("key_cert_sign", "crl_sign"), True), *further]
    return Authority(build(subject, key, signer, life, extensions), key)


@dataclass(frozen=True)
class HandmadeFiles:
    """A cluster's CAs, and the folder of its nodes' files."""

    cluster: Cluster
    file: Path
    folder: Path
    root: Authority
    issuing: dict[str, Authority]

    def verify(self, *, now: datetime = NOW, rows: Sequence[Row] | None = None) -> tuple[Check, ...]:
        found = folders.find_holders(self.cluster, self.folder)
        return verify(found, now=now, rows=certificates.rows(self.cluster) if rows is None else rows)

    def verify_node(self, node: str) -> tuple[Check, ...]:
        """The checks of one node's folder alone, which take a quarter of the time."""
        found = [holder for holder in folders.find_holders(self.cluster, self.folder) if holder.name == node]
        assert found
        return verify(found, now=NOW, rows=certificates.rows(self.cluster))

    def copied(self, folder: Path) -> HandmadeFiles:
        """A copy of all files, whose operator issued them there."""
        shutil.copytree(self.folder, folder)
        for path in (folder / "operator").glob("*.conf"):
            path.write_text(path.read_text().replace(str(self.folder), str(folder)))
        return replace(self, folder=folder, file=folder / "cluster.yaml", issuing=dict(self.issuing))

    def pki(self, node: str) -> Path:
        return self.folder / "operator" if node == "operator" else self.folder / "nodes" / node / "pki"

    def want(self, node: str, name: str) -> Certificate:
        (holder,) = (each for each in folders.find_holders(self.cluster, self.folder) if each.name == node)
        return next(each for each in holder.certificates if each.name == name)

    def lay(
        self,
        folder: Path,
        want: Certificate,
        *,
        life: tuple[timedelta, timedelta] = LIFE,
        usage: x509.KeyUsage | None = None,
        ca: bool = False,
        further: Sequence[tuple[x509.ExtensionType, bool]] = (),
        encoding: _ASN1Type = _ASN1Type.UTF8String,
    ) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = want.subject
        attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, value) for value in subject.organization]
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, subject.common_name, encoding))
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH] if want.usage.client else []
        purposes += [ExtendedKeyUsageOID.SERVER_AUTH] if want.usage.server else []
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (usage or key_usage("digital_signature"), True),
            (x509.ExtendedKeyUsage(purposes), False),
            *further,
        ]
        if ca:
            extensions.append((x509.BasicConstraints(ca=True, path_length=None), True))
        names = [x509.DNSName(name) for name in subject.dns] + [x509.IPAddress(ip_address(ip)) for ip in subject.ips]
        if names:
            extensions.append((x509.SubjectAlternativeName(names), False))
        signer = self.issuing[want.ca]
        leaf = build(x509.Name(attributes), key, signer, life, extensions)
        key_pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        crt_pem = leaf.public_bytes(serialization.Encoding.PEM) + signer.pem
        crt, key_file, pem = pair_files(want.stem)
        for name, data in ((crt, crt_pem), (key_file, key_pem), (pem, key_pem + crt_pem)):
            put(folder / name, data, 0o644 if name == crt else 0o600)
        if want.kubeconfig:
            # A node's copies name the places of the originals.
            where = folder if want.name in ("admin", "super-admin") else "/etc/kubernetes/pki"
            text = assets.kubeconfig(
                cluster="prod",
                server="https://api.example.com:6443",
                ca_file=f"{where}/{bundle(want.ca)}",
                user=subject.common_name,
                certificate=f"{where}/{crt}",
                key=f"{where}/{key_file}",
            )
            put(folder / want.kubeconfig, text.encode(), 0o600)

    def lay_bundles(self, folder: Path) -> None:
        for ca in ISSUING_CAS:
            put(folder / bundle(ca), self.issuing[ca].pem, 0o644)
            put(folder / chain_bundle(ca), self.issuing[ca].pem + self.root.pem, 0o644)


def put(path: Path, data: bytes, mode: int) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    path.chmod(mode)


def made(folder: Path, issuing: dict[str, Authority] | None = None) -> HandmadeFiles:
    file = folder / "cluster.yaml"
    file.write_text(SPEC)
    root = authority("root")
    issuing = issuing or {ca: authority(ca, root) for ca in ISSUING_CAS}
    files = HandmadeFiles(load_cluster(file), file, folder, root, issuing)
    for node in ("cp-1", "worker-1", "w-7"):
        files.pki(node).mkdir(parents=True)
    for holder in folders.find_holders(files.cluster, folder):
        files.lay_bundles(holder.folder)
        for certificate in holder.certificates:
            files.lay(holder.folder, certificate)
    operator = files.pki("operator")
    operator.mkdir()
    files.lay_bundles(operator)
    for name in ("admin", "super-admin"):
        files.lay(operator, certificates.resolve(certificates.row_named(files.cluster, name), files.cluster, None))
    return files
