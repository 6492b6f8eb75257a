"""A node's bundles, kubeconfigs and files of the user's own: one unit of the directory, laid down in one step.

New trust comes before any leaf that needs it, and old trust goes after the last one: what a bundle holds in between is
said here, the order is the pass's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from hashlib import sha256

from vaultpki import assets, issuance
from vaultpki.certificates import BUNDLES, bundle, ca_subject, chain_bundle, pair_files
from vaultpki.errors import CertificateRefused, CertificateUnreadable, StoreError, TemplateError, VaultpkiError
from vaultpki.facts import Trust
from vaultpki.holding import Holding
from vaultpki.hooks import BUNDLES as HOOKED
from vaultpki.model import AgentConfig
from vaultpki.pairs import Item, owner_of
from vaultpki.renewal import Reason
from vaultpki.store import Directory, File
from vaultpki.values import dataclass


def with_outgoing(
    directory: Directory, trust: Mapping[str, Trust], items: Iterable[Item], now: datetime, *, cluster: str
) -> Mapping[str, Trust]:
    """The trust until leaves of CAs that Vault has no more are replaced: these CAs are still in it."""
    from vaultpki import x509

    wide = dict(trust)
    for ca in {item.want.ca for item in items if Reason.ISSUER_CHANGED in item.verdict.reasons}:
        live, file = trust[ca], bundle(ca)
        held = directory.read(BUNDLES, [file])[file].data or b""
        with contextlib.suppress(CertificateRefused, CertificateUnreadable):
            issuing = [facts.pem.encode() for facts in (*live.issuing, *x509.read_certificates(held))]
            name = ca_subject(cluster, ca)
            wide[ca] = x509.trust(issuing, live.root.pem.encode(), live.root.fingerprint, now, name=name)
    return wide


@dataclass(frozen=True, slots=True)
class Laid:
    """Whether anything changed, what failed by name, and whether a kubeconfig was kept as it was."""

    changed: bool
    failures: Mapping[str, VaultpkiError]
    kept: bool


def lay(
    config: AgentConfig,
    directory: Directory,
    spec: Holding,
    trust: Mapping[str, Trust],
    waiting: Collection[str] = (),
) -> Laid:
    """Makes the unit what it should be, but for names that somebody's own files have.

    `waiting` names certificates that do not lie there yet as they should: a kubeconfig that names another pair for now
    goes on with that one.
    """
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
    kept = _keep(directory, files, [want.kubeconfig for want in spec.certificates if want.name in waiting])
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
    for name in tuple(files):
        try:
            directory.refuse_taken(BUNDLES, [name])
        except StoreError as error:
            failures[name] = error
            del files[name]
    try:
        return Laid(bool(files) and directory.install(BUNDLES, files), failures, kept)
    except StoreError as error:
        return Laid(False, {**failures, "bundles": error}, kept)


def _keep(directory: Directory, files: dict[str, File], names: Iterable[str | None]) -> bool:
    """Puts what lies there in place of these files; whether one was another."""
    kept = False
    for name in filter(None, names):
        old = directory.read(BUNDLES, [name])[name].data
        if old is not None and old != files[name].data:
            files[name], kept = replace(files[name], data=old), True
    return kept


def distrusted(directory: Directory, ca: str, known: Trust) -> StoreError | None:
    """Why no leaf of this CA may come yet: whoever checks it by the bundle that lies there would not know its CA."""
    name = bundle(ca)
    held = directory.read(BUNDLES, [name])[name].data or b""
    if all(facts.pem.encode() in held for facts in known.live):
        return None
    return StoreError(
        f"{directory.path}/{name}: it is not there with every CA of {ca}, so no certificate of that CA may come"
    )


def digests(directory: Directory) -> dict[str, str]:
    """A digest of both bundles of each CA that lie there, by the key that hooks have for them."""
    found = {}
    for key, ca in HOOKED.items():
        data = b""
        with contextlib.suppress(StoreError):
            stored = directory.read(BUNDLES, (bundle(ca), chain_bundle(ca)))
            data = b"".join(one.data or b"" for one in stored.values())
        if data:
            found[key] = sha256(data).hexdigest()[:32]
    return found
