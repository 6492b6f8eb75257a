"""Makes the files that go with pairs: trust bundles, kubeconfigs and the user's own templates."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from vaultpki import assets
from vaultpki.certificates import BUNDLES, pair_files
from vaultpki.disk.folders import Folders
from vaultpki.disk.generations import File
from vaultpki.errors import StoreError, TemplateError
from vaultpki.issue.signing import CERTIFICATE_MODE, KEY_MODE, FileOwner
from vaultpki.layout import TrustBundle, bundle_of
from vaultpki.model import Certificate, UserTemplate
from vaultpki.pki.facts import Trust
from vaultpki.places import PKI, Layout


@dataclass(frozen=True, slots=True)
class Site:
    """What the files of a node or an operator name. `paths` are the paths of the folders by name.

    `owners` are those of certificates, by name, whose files have another owner than all others.
    """

    cluster: str
    endpoint: str
    layout: Layout
    paths: Mapping[str, str]
    owner: FileOwner
    owners: Mapping[str, FileOwner] = field(default_factory=dict)


def bundle_files(site: Site, bundles: Iterable[TrustBundle], trust: Mapping[str, Trust]) -> dict[str, dict[str, File]]:
    """Return the bundles by folder and name; there is none of a CA without a trusted issuer."""
    made: dict[str, dict[str, File]] = {}
    for each in bundles:
        known = trust[each.ca]
        if known.issuing:
            file = File(bundle_text(each, known).encode(), CERTIFICATE_MODE, site.owner.uid, site.owner.gid)
            made.setdefault(each.folder, {})[each.file] = file
    return made


def bundle_text(bundle: TrustBundle, known: Trust) -> str:
    """Return what a bundle holds of the trust in its CA, as PEM."""
    return known.chain_bundle if bundle.chain else known.bundle


def keep_bundles(
    site: Site, folders: Folders, files: dict[str, dict[str, File]], bundles: Iterable[TrustBundle]
) -> dict[str, StoreError]:
    """Add the installed bundles that `files` lacks, since no CA of theirs is trusted now.

    A file set is replaced as a whole, and a bundle is never removed because its trust is empty. Return the folders
    whose set cannot be replaced, and why: a bundle there cannot be read.
    """
    failures = {}
    for each in bundles:
        made = files.setdefault(each.folder, {})
        if each.file in made:
            continue
        try:
            old = folders.read(each.folder, BUNDLES, [each.file])[each.file]
        except StoreError as error:
            failures[each.folder] = error
            continue
        if old.data is not None:
            made[each.file] = File(old.data, CERTIFICATE_MODE, site.owner.uid, site.owner.gid)
        elif old.problem not in ("missing", "foreign"):
            path = f"{folders.paths[each.folder]}/{each.file}"
            failures[each.folder] = StoreError(f"{path}: it cannot be read ({old.problem}), and must stay")
    return failures


def kubeconfig(site: Site, certificate: Certificate, *, chain: bool = False) -> File:
    """Return the kubeconfig of a certificate, which names files by absolute paths.

    `chain` makes it name the bundle with the root, which a person's OpenSSL-based tools need; the components are
    written in Go and do not.
    """
    crt, key, _ = pair_files(certificate.stem)
    ca = bundle_of(site.layout, certificate.ca, certificate.folder, chain=chain)
    folder = site.paths[certificate.folder]
    text = assets.kubeconfig(
        cluster=site.cluster,
        server=site.endpoint,
        ca_file=f"{site.paths[ca.folder]}/{ca.file}",
        user=certificate.subject.common_name,
        certificate=f"{folder}/{crt}",
        key=f"{folder}/{key}",
    )
    owner = site.owners.get(certificate.name, site.owner)
    return File(text.encode(), KEY_MODE, owner.uid, owner.gid)


def names_pair(data: bytes, folder: str, stem: str) -> bool:
    """Return whether the bytes of a kubeconfig name the pair `stem` of `folder` in lines as we write them."""
    crt, key, _ = pair_files(stem)
    lines = [line.strip() for line in data.decode(errors="replace").splitlines()]
    return all(
        f"{field}: {json.dumps(f'{folder}/{file}', ensure_ascii=False)}" in lines
        for field, file in (("client-certificate", crt), ("client-key", key))
    )


def named_server(data: bytes) -> tuple[str, str] | None:
    """Return the server and the path of its CA file in the bytes of a kubeconfig with lines as we write them."""
    lines = (line.strip().partition(": ") for line in data.decode(errors="replace").splitlines())
    fields = {name: value for name, _, value in lines}
    try:
        return str(json.loads(fields["server"])), str(json.loads(fields["certificate-authority"]))
    except (KeyError, ValueError):
        return None


def embedded_kubeconfig(site: Site, certificate: Certificate, trust: Trust, contents: Mapping[str, bytes]) -> File:
    """Return the kubeconfig of a certificate that holds the pair itself; `contents` are the pair's files by name.

    The signer of the certificate is the first of its CAs: kubeadm compares that one with its ca.crt.
    """
    crt, key, _ = pair_files(certificate.stem)
    text = assets.embedded_kubeconfig(
        cluster=site.cluster,
        server=site.endpoint,
        ca_pem=leading(trust, [contents[crt]]).chain_bundle.encode(),
        user=certificate.subject.common_name,
        certificate_pem=contents[crt],
        key_pem=contents[key],
    )
    return File(text.encode(), KEY_MODE, site.owner.uid, site.owner.gid)


def leading(trust: Trust, certificates: Iterable[bytes]) -> Trust:
    """Return the trust with the CA first that signed most of these certificates, each PEM of leaf and issuing CA."""
    signers = [facts for pem in certificates for facts in trust.issuing if facts.pem.encode() in pem]
    if not signers:
        return trust
    first = max(signers, key=signers.count)
    return replace(trust, issuing=(first, *(facts for facts in trust.issuing if facts != first)))


def user_file(site: Site, template: UserTemplate, taken: Collection[str], *, node: str) -> File:
    """Fill in one of the user's templates; raises TemplateError if its file name is in `taken` or has a folder."""
    if not assets.plain_file_name(template.file) or template.file in taken:
        raise TemplateError(f"template {template.name}: {template.file!r} cannot be its file; choose another name")
    text = assets.user_file(
        template.text,
        name=template.name,
        cluster=site.cluster,
        endpoint=site.endpoint,
        directory=site.paths[PKI],
        node=node,
    )
    return File(text.encode(), KEY_MODE, site.owner.uid, site.owner.gid)
