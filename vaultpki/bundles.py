"""A node's bundles, kubeconfigs and files of the user's own: one unit of the directory, laid down in one step.

New trust comes before any leaf that needs it, and old trust goes after the last one: what a bundle holds in between is
said here, the order is the pass's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from hashlib import sha256

from vaultpki import assets, issuance
from vaultpki.certificates import BUNDLES, bundle, chain_bundle, pair_files
from vaultpki.errors import CertificateRefused, CertificateUnreadable, StoreError, TemplateError, VaultpkiError
from vaultpki.facts import Trust
from vaultpki.holding import Holding
from vaultpki.hooks import BUNDLES as HOOKED
from vaultpki.model import AgentConfig
from vaultpki.pairs import Item, owner_of
from vaultpki.renewal import Reason
from vaultpki.store import Directory, File


def with_outgoing(
    directory: Directory, trust: Mapping[str, Trust], items: Iterable[Item], now: datetime
) -> Mapping[str, Trust]:
    """The trust until leaves of CAs that Vault has no more are replaced: these CAs are still in it."""
    from vaultpki import x509

    wide = dict(trust)
    for ca in {item.want.ca for item in items if Reason.ISSUER_CHANGED in item.verdict.reasons}:
        live, name = trust[ca], bundle(ca)
        held = directory.read(BUNDLES, [name])[name].data or b""
        with contextlib.suppress(CertificateRefused, CertificateUnreadable):
            issuing = [facts.pem.encode() for facts in (*live.issuing, *x509.read_certificates(held))]
            wide[ca] = x509.trust(issuing, live.root.pem.encode(), live.root.fingerprint, now)
    return wide


def lay(
    config: AgentConfig, directory: Directory, spec: Holding, trust: Mapping[str, Trust]
) -> tuple[bool, dict[str, VaultpkiError]]:
    """Makes the unit what it should be: whether that changed anything, and what failed, by name."""
    owner = owner_of(config.owner)
    failures: dict[str, VaultpkiError] = {}
    files = issuance.companions(
        trust,
        spec.certificates,
        cluster=config.cluster,
        endpoint=spec.endpoint,
        directory=config.directory,
        owner=owner,
        chain=False,
    )
    taken = {*files, *(name for want in spec.certificates for name in pair_files(want.stem))}
    for template in spec.templates:
        try:
            files[template.file] = issuance.user_file(
                template,
                taken,
                cluster=config.cluster,
                endpoint=spec.endpoint,
                directory=config.directory,
                node=config.node,
                owner=owner,
            )
        except TemplateError as error:
            # A template that went bad takes neither the file it made before nor anybody's certificate with it.
            failures[f"template {template.name}"] = error
            if template.file not in taken and assets.plain_file_name(template.file):
                old = directory.read(BUNDLES, [template.file])[template.file].data
                if old is not None:
                    files[template.file] = File(old, issuance.KEY_MODE, owner.uid, owner.gid)
        else:
            taken.add(template.file)
    try:
        return directory.install(BUNDLES, files), failures
    except StoreError as error:
        return False, {**failures, "bundles": error}


def digests(directory: Directory) -> dict[str, str]:
    """A digest of both bundles of each CA that lie there, by the key that hooks have for them."""
    found = {}
    for key, ca in HOOKED.items():
        stored = directory.read(BUNDLES, (bundle(ca), chain_bundle(ca)))
        data = b"".join(one.data or b"" for one in stored.values())
        if data:
            found[key] = sha256(data).hexdigest()[:32]
    return found
