"""Says which pairs of today have expired, or end before an adoption may have replaced them, with the cure; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Final

from vaultpki.adopt import kubelets
from vaultpki.adopt.found import ROWS, ClusterInventory, InUse
from vaultpki.places import ETCD

# Nodes may enrol for weeks, and until switched each has its pair of the old CA.
_SOON: Final = timedelta(days=30)
_DAY: Final = "%Y-%m-%d"
_NO_RESTART: Final = frozenset({"admin", "super-admin", "etcd-healthcheck-client"})
_READERS: Final[Mapping[str, str]] = {
    "etcd-server": "etcd",
    "etcd-peer": "etcd",
    "kube-scheduler": "kube-scheduler",
    "kube-controller-manager": "kube-controller-manager",
}


def ending(found: ClusterInventory) -> Iterator[tuple[str, str, str]]:
    """Yield the kind of obstacle, its node and its text for each pair that has expired or will soon."""
    rotating = {each.node: each for each in kubelets.seen(found)}
    on_disk = {(each.node, each.row): each for each in found.certificates if not each.served}
    told = {each.facts.fingerprint for each in on_disk.values()}
    for each in (*on_disk.values(), *(each for each in found.certificates if each.served)):
        if each.served and each.facts.fingerprint in told:
            continue
        told.add(each.facts.fingerprint)
        expired = each.facts.not_after <= found.now
        if not _counts(each) or (not expired and each.facts.not_after - found.now > _SOON):
            continue
        if each.row in ("kubelet", "kubelet-client"):
            seen = rotating.get(each.node)
            # The kubelet renews these itself, and one whose client's has expired is named as locked out.
            by_itself = seen is None or (seen.asks if each.row == "kubelet" else seen.rotates) is not False
            if (each.row == "kubelet-client" and expired) or (by_itself and not expired):
                continue
        yield ("pair-expired" if expired else "pair-expires"), each.node, _text(found, each, on_disk, expired=expired)


def _counts(each: InUse) -> bool:
    # Nobody checks the certificate that a kubelet has signed itself.
    return bool(each.ca) or (each.row in ROWS and each.row != "kubelet")


def _text(found: ClusterInventory, each: InUse, on_disk: Mapping[tuple[str, str], InUse], *, expired: bool) -> str:
    who = f"{each.row} of {each.node}" if each.node else each.row
    ends = f"{'expired' if expired else 'expires'} on {each.facts.not_after:{_DAY}}"
    there = on_disk.get((each.node, each.row))
    if each.served and there is not None and there.facts.not_after > each.facts.not_after:
        renewed = f"{there.place} has a newer one: restart {_READERS.get(each.row, 'kube-apiserver')} there"
        return f"{who} at {each.place} {ends}, and {renewed}"
    return f"{who} ({each.place}) {ends}: {_cure(found, each)}"


def _cure(found: ClusterInventory, each: InUse) -> str:
    if each.row not in ROWS:
        return "have its owner renew it, and restart what reads it"
    outside = {member.node for member in found.members if not member.stacked}
    if each.row.startswith("etcd-") and each.node in outside:
        return "renew it where it was made, and restart that member"
    if each.row == "kubelet":
        asks = kubelets.asks_for_serving(found, each.node)
        how = "approve its CSR (`kubectl get csr`, `kubectl certificate approve NAME`)" if asks else "renew it by hand"
        return f"{how}, and `systemctl restart kubelet` there"
    if each.row == "kubelet-client":
        return kubelets.client_cure(each.node)
    command = f"`kubeadm certs renew {_kubeadm_name(each.row)}` there"
    if each.row in _NO_RESTART:
        return f"{command}, and give its users the new one" if each.row.endswith("admin") else command
    return f"{command}, then restart {_READERS.get(each.row, 'kube-apiserver')}"


def _kubeadm_name(row: str) -> str:
    """Return what `kubeadm certs renew` calls a row (cmd/kubeadm/app/phases/certs/renewal/manager.go)."""
    place, config = ROWS[row].kubeadm, ROWS[row].kubeconfig
    if config is not None or place is None:
        return config or row
    return f"etcd-{place.stem}" if place.folder == ETCD else place.stem
