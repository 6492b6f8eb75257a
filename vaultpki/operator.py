"""The operator's part: a person's own certificate and kubeconfig, and the manifests that a cluster must be told."""

from __future__ import annotations

import os
from datetime import datetime
from typing import Final

from vaultpki import anchor, assets, issuance, marks
from vaultpki.certificates import BUNDLES, resolve, row_named, rows, unit
from vaultpki.errors import SpecError
from vaultpki.facts import Facts, Trust
from vaultpki.files import open_folder, write_private
from vaultpki.issuance import Owner
from vaultpki.model import Cluster
from vaultpki.store import GRACE, Directory
from vaultpki.values import dataclass
from vaultpki.vault import Vault

MANIFESTS: Final = "manifests"


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that lies in a folder now: what it says, and the files a person uses.

    `strangers` are sentences about what the CAs' mounts show and nobody trusts. `drift` is as `anchor.Place` has it.
    """

    facts: Facts
    kubeconfig: str | None
    manifests: tuple[str, ...]
    strangers: tuple[str, ...] = ()
    drift: tuple[str, ...] = ()


def issue(cluster: Cluster, vault: Vault, name: str, directory: str, now: datetime, *, grace: float = GRACE) -> Issued:
    """Issues an operator's row into `directory`, beside what other rows of the operator's lie there.

    What it replaces is gone `grace` seconds later, for which it waits. SpecError where the row is a node's; the errors
    of `anchor.find`, `issuance.sign` and the store.
    """
    try:
        row = row_named(cluster, name)
    except KeyError:
        row = None
    if row is None or not row.operator:
        known = ", ".join(row.name for row in rows(cluster) if row.operator)
        raise SpecError(f"{name!r} is no certificate of an operator's; these are: {known}")
    place = anchor.find(cluster, vault, now)
    issuers = issuance.fetch_issuers(vault, cluster.prefix)
    issuance.trusts(issuers, place.root_sha256, now, cluster=cluster.name)
    want = resolve(row, cluster, None)
    with Directory.open(directory) as store:
        marks.claim(store, marks.Holder(cluster.name, None, place.root_sha256))
        store.sweep()
        held = {ca: [text] for ca, text in issuance.lying(store).items()}
        issuers = issuance.keeping(issuers, held, place.root_sha256, now, cluster=cluster.name)
        trust = issuance.trusts(issuers, place.root_sha256, now, cluster=cluster.name)
        signed = issuance.sign(vault, want, trust[want.ca], now)
        lying = [r for r in rows(cluster) if r.operator and (r.name == name or unit(r.stem) in store.units())]
        files = issuance.companions(
            trust,
            [resolve(r, cluster, None) for r in lying],
            cluster=cluster.name,
            endpoint=str(cluster.api_server.endpoint),
            directory=store.path,
            owner=Owner(),
            chain=True,
        )
        store.install(BUNDLES, files)
        store.install(
            unit(want.stem),
            issuance.pair(signed.contents, Owner()),
            check=lambda back: issuance.whole(back, want),
        )
        manifests = tuple(_write_manifests(cluster, trust["kubelet"], store.path))
        store.settle(grace)
    kubeconfig = f"{store.path}/{want.kubeconfig}" if want.kubeconfig else None
    strangers = tuple(stranger.sentence(ca) for ca, stranger in issuance.strangers(issuers, trust))
    return Issued(signed.facts, kubeconfig, manifests, strangers, place.drift)


def _write_manifests(cluster: Cluster, kubelets: Trust, directory: str) -> list[str]:
    folder = f"{directory}/{MANIFESTS}"
    os.close(open_folder(folder, create=True))
    texts = {
        row.manifest: assets.manifest(
            row.manifest, user=row.common_name, group=row.organization[0] if row.organization else ""
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
