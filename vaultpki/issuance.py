"""From a wanted certificate to the files of a pair: key made here, request signed by Vault, answer judged, none kept.

Also the files that go with pairs: trust bundles, kubeconfigs, the user's own templates. Nodes and operators share this.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from vaultpki import assets
from vaultpki.anchor import shown_certificate
from vaultpki.certificates import (
    BUNDLES,
    ISSUING_CAS,
    MOST_ISSUERS,
    ROOT,
    bundle,
    ca_subject,
    chain_bundle,
    pair_files,
    sign_parameters,
)
from vaultpki.errors import BadAnswer, CertificateRefused, CertificateUnreadable, StoreError, TemplateError
from vaultpki.facts import Facts, Stranger, Trust
from vaultpki.model import Certificate, UserTemplate
from vaultpki.store import Directory, File
from vaultpki.values import dataclass
from vaultpki.vault import Request, Vault

KEY_MODE: Final = 0o600
CERTIFICATE_MODE: Final = 0o644


@dataclass(frozen=True, slots=True)
class Issuers:
    """The certificates that the CA mounts show, as PEM: of each issuing CA all live ones, and the root's."""

    issuing: Mapping[str, tuple[str, ...]]
    roots: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose files are laid down; None is the user this runs as."""

    uid: int | None = None
    gid: int | None = None


@dataclass(frozen=True, slots=True)
class Signed:
    """A new pair, checked: its facts, and the contents of its three files by name."""

    certificate: Certificate
    facts: Facts
    contents: Mapping[str, bytes]

    def __repr__(self) -> str:
        return f"Signed({self.certificate.name})"


def fetch_issuers(vault: Vault, prefix: str) -> Issuers:
    """Every issuer of the cluster's CA mounts; the engine shows them to anybody."""
    mounts = [f"{prefix}/{ca}" for ca in (ROOT, *ISSUING_CAS)]
    listed = vault.many([Request("LIST", f"{mount}/issuers") for mount in mounts])
    wanted = []
    for mount, answer in zip(mounts, listed, strict=True):
        if not answer.keys or len(answer.keys) > MOST_ISSUERS:
            raise BadAnswer(
                f"{mount} shows {len(answer.keys)} issuers, and a CA has one to {MOST_ISSUERS}; "
                "run `vaultpki plan` where the cluster is applied"
            )
        wanted += [(mount, name) for name in answer.keys]
    found: dict[str, list[str]] = {mount: [] for mount in mounts}
    answers = vault.many([Request("GET", f"{mount}/issuer/{name}/json") for mount, name in wanted])
    for (mount, name), answer in zip(wanted, answers, strict=True):
        found[mount].append(shown_certificate(mount, name, answer))
    root, *issuing = (tuple(found[mount]) for mount in mounts)
    return Issuers(dict(zip(ISSUING_CAS, issuing, strict=True)), root)


def trusts(issuers: Issuers, root_sha256: str, now: datetime, *, cluster: str) -> dict[str, Trust]:
    """Each CA's trust, held to the pinned root and to the name that a CA of `cluster` has on its own mount.

    What else a mount shows is a stranger there. CertificateRefused where the root mount does not show the pinned root.
    """
    from vaultpki import x509

    roots = dict(_fingerprints(issuers.roots))
    root = roots.get(root_sha256) or next(iter(roots.values()), issuers.roots[0])
    return {
        ca: x509.trust(
            [pem.encode() for pem in issuers.issuing[ca]],
            root.encode(),
            root_sha256,
            now,
            name=ca_subject(cluster, ca),
        )
        for ca in ISSUING_CAS
    }


def keeping(
    issuers: Issuers, held: Mapping[str, Sequence[str]], root_sha256: str, now: datetime, *, cluster: str
) -> Issuers:
    """The same, and of each CA whose mount shows a stranger also what was trusted before: `held`, as PEM by CA.

    So whoever may write to a mount takes no CA away by putting another one in its place. What was held counts by the
    same rules; its date is not asked for, as it is not of what a mount shows. Raises as `trusts`.
    """
    shown = trusts(issuers, root_sha256, now, cluster=cluster)
    if not any(known.strangers for known in shown.values()):
        return issuers
    before = {ca: tuple(held.get(ca, ())) for ca in ISSUING_CAS}
    known = trusts(replace(issuers, issuing=before), root_sha256, now, cluster=cluster)
    return replace(
        issuers,
        issuing={
            ca: (
                *issuers.issuing[ca],
                *(facts.pem for facts in known[ca].issuing if trust.strangers and facts not in trust.issuing),
            )
            for ca, trust in shown.items()
        },
    )


def lying(directory: Directory) -> dict[str, str]:
    """The issuing-only bundles that lie in a directory, as text by CA; none of those that cannot be read."""
    found = {}
    for ca in ISSUING_CAS:
        name = bundle(ca)
        with contextlib.suppress(StoreError, UnicodeDecodeError):
            found[ca] = (directory.read(BUNDLES, [name])[name].data or b"").decode("ascii")
    return {ca: text for ca, text in found.items() if text}


def strangers(issuers: Issuers, trust: Mapping[str, Trust]) -> Iterator[tuple[str, Stranger]]:
    """What each CA mount shows that nobody trusts there, behind the CA's name; the root mount's too.

    Of each CA at most as many as a mount may show issuers: in one of these a lying server can put any number.
    """
    from vaultpki import x509

    pinned = {known.root.fingerprint for known in trust.values()}
    for fingerprint, pem in dict(_fingerprints(issuers.roots)).items():
        if fingerprint not in pinned:
            subject = x509.read_certificates(pem.encode())[0].subject_text
            yield ROOT, Stranger(subject, fingerprint, "it is not the pinned root CA")
    for ca, known in trust.items():
        for stranger in known.strangers[:MOST_ISSUERS]:
            yield ca, stranger


def _fingerprints(pems: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The SHA-256 of each certificate, and its PEM; what cannot be read is passed over."""
    from vaultpki import x509

    for pem in pems:
        with contextlib.suppress(CertificateUnreadable):
            yield x509.fingerprint(pem.encode()), pem


def sign(vault: Vault, want: Certificate, trust: Trust, now: datetime) -> Signed:
    """A new pair for `want`: made here, signed by Vault, and given back only if it is exactly what was asked."""
    from vaultpki import x509

    if not trust.live:
        why = "no issuing CA of {0} is in date; check this machine's clock, then the CA"
        if not trust.issuing:
            why = (
                "the mount of {0} shows no issuing CA of this cluster; run `vaultpki plan` where the cluster is applied"
            )
        raise CertificateRefused(f"{want.name}: {why.format(want.ca)}", reason="nothing-live")
    key = x509.generate_key(want.key)
    parameters = sign_parameters(want, x509.request(key, want.subject))
    answer = vault.write(f"{want.mount}/sign/{want.role}", parameters, once=True)
    pem = (answer.get("data") or {}).get("certificate")
    if not isinstance(pem, str):
        raise BadAnswer(f"Vault signed nothing for {want.name}; is this address really a Vault?")
    leaf = x509.check_signed(pem.encode(), key, want, trust.live, trust.root, now)
    issuer = x509.issuer_of(leaf, trust.live)
    assert issuer is not None  # noqa: S101 - for mypy: check_signed has found it
    key_pem, chain = x509.key_pem(key), (leaf.pem + issuer.pem).encode()
    crt_name, key_name, pem_name = pair_files(want.stem)
    return Signed(want, leaf, {crt_name: chain, key_name: key_pem, pem_name: key_pem + chain})


def pair(contents: Mapping[str, bytes], owner: Owner, key_mode: int = KEY_MODE) -> dict[str, File]:
    """The files of a pair as they shall lie on disk; everything but the .crt holds the key."""
    return {
        name: File(data, CERTIFICATE_MODE if name.endswith(".crt") else key_mode, owner.uid, owner.gid)
        for name, data in contents.items()
    }


def whole(contents: Mapping[str, bytes], want: Certificate) -> None:
    """Raises unless the bytes read back from the disk are a pair that belongs together."""
    from vaultpki import x509

    crt, key, pem = (contents.get(name) for name in pair_files(want.stem))
    read = x509.read_pair(crt, key, pem, None)
    if read.missing or read.unreadable or not read.matches:
        raise CertificateUnreadable(f"{want.name}: what was written is not what the disk gives back; check the disk")


def companions(
    trust: Mapping[str, Trust],
    certificates: Iterable[Certificate],
    *,
    cluster: str,
    endpoint: str,
    directory: str,
    owner: Owner,
    chain: bool,
) -> dict[str, File]:
    """The unit BUNDLES, but for the user's own files: all bundles, and the kubeconfigs of `certificates`.

    A CA of which nothing is trusted has no bundle, rather than an empty one.
    `chain` makes kubeconfigs name the bundle with the root, which a person's OpenSSL-based tools need; the components
    are Go and do with less.
    """
    made: dict[str, File] = {}
    for ca, known in trust.items():
        if not known.issuing:
            continue
        made[bundle(ca)] = File(known.bundle.encode(), CERTIFICATE_MODE, owner.uid, owner.gid)
        made[chain_bundle(ca)] = File(known.chain_bundle.encode(), CERTIFICATE_MODE, owner.uid, owner.gid)
    for certificate in certificates:
        if certificate.kubeconfig:
            crt, key, _ = pair_files(certificate.stem)
            text = assets.kubeconfig(
                cluster=cluster,
                server=endpoint,
                ca_file=f"{directory}/{(chain_bundle if chain else bundle)(certificate.ca)}",
                user=certificate.subject.common_name,
                certificate=f"{directory}/{crt}",
                key=f"{directory}/{key}",
            )
            made[certificate.kubeconfig] = File(text.encode(), KEY_MODE, owner.uid, owner.gid)
    return made


def user_file(
    template: UserTemplate,
    taken: Collection[str],
    *,
    cluster: str,
    endpoint: str,
    directory: str,
    node: str,
    owner: Owner,
) -> File:
    """A file of the user's own; TemplateError where its name is one of `taken` or leaves the directory."""
    if not assets.plain_file_name(template.file) or template.file in taken:
        raise TemplateError(f"template {template.name}: {template.file!r} cannot be its file; choose another name")
    text = assets.user_file(
        template.text, name=template.name, cluster=cluster, endpoint=endpoint, directory=directory, node=node
    )
    return File(text.encode(), KEY_MODE, owner.uid, owner.gid)
