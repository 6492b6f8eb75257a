"""Issues an operator's certificate and kubeconfig, and writes the manifests for the operator to apply."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from vaultpki import assets
from vaultpki.certificates import BUNDLES, ROOT, ca_subject, file_set, pair_files, resolve, row_named, rows
from vaultpki.disk import owner_mark
from vaultpki.disk.files import open_folder, write_private
from vaultpki.disk.folders import Folders
from vaultpki.disk.store import OLD_FILES_GRACE
from vaultpki.errors import ArgumentError, StateConflict
from vaultpki.identity import anchor
from vaultpki.issue import signing
from vaultpki.issue.bundles_and_kubeconfigs import Site, bundle_files, embedded_kubeconfig, keep_bundles, kubeconfig
from vaultpki.issue.issuers import (
    Issuers,
    certificates,
    fetch_issuers,
    follow,
    installed_bundles,
    installed_roots,
    roots_below,
    shown_roots,
    untrusted_cas,
)
from vaultpki.issue.rotations import fetch_rotations, read_rotations
from vaultpki.issue.signing import FileOwner
from vaultpki.layout import TRUST_BUNDLES
from vaultpki.model import Certificate, Cluster
from vaultpki.pki.facts import Facts, Trust
from vaultpki.pki.foreign_cas import with_foreign
from vaultpki.pki.roots import successors
from vaultpki.pki.succession import default_signs
from vaultpki.places import PKI, Layout
from vaultpki.records.foreign_cas import pins
from vaultpki.vault import Vault

MANIFESTS: Final = "manifests"


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that was installed in a folder: what it says, and the files that a person uses.

    `untrusted` are sentences about certificates on the CAs' mounts that are not trusted. `drift` is that of
    `anchor.Place`.
    """

    facts: Facts
    kubeconfig: str | None
    manifests: tuple[str, ...]
    untrusted: tuple[str, ...] = ()
    drift: tuple[str, ...] = ()


def issue(
    cluster: Cluster, vault: Vault, name: str, directory: str, now: datetime, *, grace: float = OLD_FILES_GRACE
) -> Issued:
    """Issue an operator's row into `directory`, beside the operator's other rows.

    Replaced files are removed after `grace` seconds, for which it waits. Raises ArgumentError if the row is not an
    operator's, and the errors of `anchor.find`, `signing.sign` and the store.
    """
    try:
        row = row_named(cluster, name)
    except KeyError:
        row = None
    if row is None or not row.operator:
        known = ", ".join(row.name for row in rows(cluster) if row.operator)
        raise ArgumentError(f"{name!r} is not an operator's certificate; choose one of: {known}")
    place = anchor.find(cluster, vault, now)
    rotations = read_rotations(fetch_rotations(vault, cluster.prefix), cluster.prefix)
    views = rotations.views({}, {})
    issuers = fetch_issuers(vault, cluster.prefix, rotations.named())
    record = rotations.records.get(ROOT)
    want = resolve(row, cluster, None)
    with Folders.open({PKI: os.path.abspath(directory)}) as store:
        store.claim(_owner(cluster, place.root_sha256, store, issuers, now))
        store.sweep()
        held = {ca: [text] for ca, text in installed_bundles(store, Layout.DOCUMENT).items()}
        pinned = anchor.every_pin(cluster, place.root_sha256)
        above = roots_below(issuers, pinned, record, now, cluster=cluster.name, held=held, views=views)
        trust = follow(issuers, held, views, above, now, cluster=cluster.name)
        # What a person's own cluster.yaml names needs no further pin.
        named = cluster.authority.also_trust
        offered = {ca: [each.pem for each in named if each.ca == ca] for ca in trust}
        trust = with_foreign(trust, offered, pins(named), above.parked)
        signing_ca = trust[want.ca]
        default = issuers.defaults.get(want.ca)
        if signing_ca.signers and not default_signs(signing_ca, default, signing_ca.signers):
            raise StateConflict(
                f"the server does not sign with the CA of {want.ca} that nodes use: run "
                f"`vaultpki ca status{cluster.file_option}`"
            )
        signed = signing.sign(vault, want, signing_ca, now)
        sets = {file_set for _, file_set in store.file_sets()}
        present = [r for r in rows(cluster) if r.operator and (r.name == name or file_set(r.stem) in sets)]
        # The folder of an operator has the same names whatever the layout of the nodes.
        site = Site(cluster.name, str(cluster.api_server.endpoint), Layout.DOCUMENT, store.paths, FileOwner())
        made = bundle_files(site, TRUST_BUNDLES[Layout.DOCUMENT], trust)
        for error in keep_bundles(site, store, made, TRUST_BUNDLES[Layout.DOCUMENT]).values():
            raise error
        files = made[PKI]
        for each in (resolve(r, cluster, None) for r in present):
            if each.kubeconfig and cluster.layout is Layout.DOCUMENT:
                files[each.kubeconfig] = kubeconfig(site, each, chain=True)
            elif each.kubeconfig and (contents := signed.contents if each == want else _pair(store, each)):
                files[each.kubeconfig] = embedded_kubeconfig(site, each, trust[each.ca], contents)
        store.install(PKI, BUNDLES, files)
        store.install(
            PKI,
            file_set(want.stem),
            signing.pair(signed.contents, FileOwner()),
            check=lambda back: signing.whole(back, want),
        )
        manifests = tuple(_write_manifests(cluster, trust["kubelet"], store.path))
        store.settle(grace)
    file = f"{store.path}/{want.kubeconfig}" if want.kubeconfig else None
    sentences = tuple(each.sentence(ca) for ca, each in untrusted_cas(issuers, trust, above, record, cluster.name))
    return Issued(signed.facts, file, manifests, sentences, place.drift)


def _owner(
    cluster: Cluster, root_sha256: str, store: Folders, issuers: Issuers, now: datetime
) -> owner_mark.DirectoryOwner:
    """Return whose the folder is; a root in it that vouches for this one is an earlier one of the same operator."""
    held = tuple(certificates(installed_roots(store, Layout.DOCUMENT)))
    name = ca_subject(cluster.name, ROOT)
    known = [facts for facts in held if root_sha256 in _successors(facts, issuers, now, name)]
    return owner_mark.DirectoryOwner(cluster.name, None, root_sha256, frozenset(facts.fingerprint for facts in known))


def _successors(root: Facts, issuers: Issuers, now: datetime, name: str) -> set[str]:
    return {facts.fingerprint for facts in successors([root], shown_roots(issuers), now, name=name)}


def _pair(store: Folders, certificate: Certificate) -> Mapping[str, bytes] | None:
    """Return the files of an installed pair; None if one cannot be read."""
    names = pair_files(certificate.stem)
    found = {name: stored.data for name, stored in store.read(PKI, file_set(certificate.stem), names).items()}
    whole = {name: data for name, data in found.items() if data is not None}
    return whole if len(whole) == len(names) else None


def _write_manifests(cluster: Cluster, kubelets: Trust, directory: str) -> list[str]:
    folder = f"{directory}/{MANIFESTS}"
    os.close(open_folder(folder, create=True))
    texts = {
        row.manifest: assets.manifest(
            row.manifest,
            user=row.common_name,
            group=row.organization[0] if row.organization else "",
            people=cluster.signer is not None and cluster.signer.people is not None,
            approves=cluster.signer is not None and cluster.signer.approve_serving,
        )
        for row in rows(cluster)
        if row.manifest
    }
    if kubelets.issuing:
        texts[assets.KUBELET_SERVING_CA] = assets.kubelet_serving_ca(
            bundle=kubelets.bundle, chain_bundle=kubelets.chain_bundle
        )
    for name, text in texts.items():
        write_private(f"{folder}/{name}", text.encode(), 0o644)
    return [f"{folder}/{name}" for name in texts]
