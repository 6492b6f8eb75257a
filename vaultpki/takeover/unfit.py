"""Finds what keeps a machine from being taken over as it is, before anything on it is changed: nothing is left out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Final

from vaultpki.errors import StateConflict, StoreError
from vaultpki.host.pod_manifest import PodEdits, PodManifest
from vaultpki.kube.flags import FLAGS, Expect, replaced_etcd_files
from vaultpki.records.adoption import AdoptionState
from vaultpki.records.adoption_report import Held
from vaultpki.takeover import beside, folders, plain_files, settings
from vaultpki.takeover.arrangement import VERIFY, arrangement, edits
from vaultpki.takeover.context import TakeOver
from vaultpki.takeover.machine import COMPONENT_KUBECONFIGS, KUBELET_CONF, named_ca
from vaultpki.values import permissions

_CA_FLAGS: Final = {
    **{(each.component, each.name): each.of for each in FLAGS if each.expect not in (Expect.CERTIFICATE, Expect.KEY)},
    **{
        (component, name): ca
        for component in ("kube-controller-manager", "kube-scheduler")
        for name, ca in (("client-ca-file", "kubernetes"), ("requestheader-client-ca-file", "front-proxy"))
    },
}
"""The CA of each flag that names a file with CAs; the latter are those of the components' own listeners."""

_PAIRS: Final = {pair.row: pair for pair in folders.old_pairs()}
_PAIR_FLAGS: Final = {(each.component, each.name): each.of for each in FLAGS if each.expect is Expect.CERTIFICATE}
_KUBECONFIG_FLAGS: Final = frozenset({"kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"})


def refuse_unreadable(run: TakeOver) -> None:
    """Raise StateConflict, by its name, for a manifest of a component that cannot be read: it would be left out."""
    found = run.machine.unreadable_pods()
    if found:
        raise StateConflict(f"no step of the adoption is taken: {found[0]}")


def refuse_writable(run: TakeOver) -> None:
    """Raise StateConflict for a manifest or a file of the kubelet that others may write: these say what root starts.

    Links are followed, and the file or folder is named that others may write.
    """
    machine = run.machine
    paths = [*machine.static_pods().values(), machine.kubelet_settings, machine.kubelet_flags]
    for path in (*paths, f"{run.where.kubeconfigs}/{KUBELET_CONF}"):
        try:
            # A file that is missing, or none, is a matter of whoever reads it.
            with contextlib.suppress(OSError):
                permissions.refuse_file(path)
        except StoreError as error:
            raise StateConflict(f"nothing was changed: {error}") from None


def refuse_unfit(run: TakeOver) -> None:
    """Raise StateConflict for a manifest that some state could not edit, or a file with CAs that no state changes."""
    found = next(_problems(run), "")
    if found:
        raise StateConflict(f"no step of the adoption is taken: {found}")


def _problems(run: TakeOver) -> Iterator[str]:
    for component, path in run.machine.static_pods().items():
        try:
            before = PodManifest(plain_files.original(run, path) or b"", path)
            yield from _elsewhere(run, component, before)
            if component == "kube-apiserver" and not run.machine.old.get("etcd"):
                # Files of an etcd that keeps its own CA in the folder that is exchanged, where the agent has its own.
                yield from (f"{path}: {each}" for each in replaced_etcd_files(before.flags, run.where.directory))
            wanted = [edits(component, arrangement(state), before.flags, run.where) for state in AdoptionState]
            for index, each in enumerate(wanted):
                if each not in wanted[:index]:
                    before.edited(PodEdits(each.flags, each.folders, "check"))
        except (StoreError, StateConflict) as error:
            yield str(error)
    yield from beside.unreadable(run.machine)
    yield from _not_there_later(run)
    yield from beside.lost_with_the_folder(run)
    yield from beside.beaten_by_flags(run)
    yield from _of_kubelet(run)
    for component, name in (*COMPONENT_KUBECONFIGS.items(), ("kubelet", "kubelet.conf")):
        path = f"{run.where.kubeconfigs}/{name}"
        if component in run.machine.components() and (value := named_ca(plain_files.original(run, path) or b"")):
            yield from _other_file(run, path, "certificate-authority", "kubernetes", value)


def _elsewhere(run: TakeOver, component: str, before: PodManifest) -> Iterator[str]:
    for name, value in before.flags.items():
        ca = _CA_FLAGS.get((component, name))
        if ca is not None and (ca in run.machine.old or name == VERIFY):
            yield from _other_file(run, before.path, f"--{name}", ca, value)
        row = _PAIR_FLAGS.get((component, name))
        wanted = _PAIRS[row].crt if row is not None else ""
        if row is not None and value != f"{run.where.directory}/{wanted}" and _is_old(run, value, _PAIRS[row].ca):
            yield _not_replaced(
                before.path, name, value, f"{run.where.directory}/{wanted}, with its key in the same way"
            )
        config = run.machine.kubeconfig(component)
        if name in _KUBECONFIG_FLAGS and config is not None and value and value != config:
            yield _not_replaced(before.path, name, value, config)


def _is_old(run: TakeOver, path: str, ca: str) -> bool:
    return any(run.cas.signer(leaf, ca) is Held.OLD for leaf in run.machine.certificates(path)[:1])


def _not_replaced(path: str, name: str, value: str, best: str) -> str:
    return (
        f"{path}: --{name} names {value}, which no state changes, so its certificate of the old CA would be refused "
        f"in the end. Let it name {best}, restart what reads it, and run this again"
    )


def _not_there_later(run: TakeOver) -> Iterator[str]:
    """Find mounted files that a state puts aside: in their places the kubelet would make folders."""
    where = run.where
    keys = {f"{where.directory}/{name}" for name in folders.KEY_FILES.values()}
    for path in sorted(beside.paths(run)):
        own = path.startswith((f"{where.kubelet}/kubelet-client-", f"{where.kubelet}/kubelet-server-"))
        if (path in keys or own) and os.path.isfile(path):
            yield (
                f"a pod mounts {path}, which is put aside from switched on, so the pod's next start would make a "
                "folder of that name. Have it mount the folder above, or do without, and run this again"
            )


def _of_kubelet(run: TakeOver) -> Iterator[str]:
    path = run.machine.kubelet_settings
    if not run.machine.has_kubelet():
        return
    found = settings.values_of(plain_files.original(run, path) or b"").get("authentication")
    x509 = found.get("x509") if isinstance(found, dict) else None
    value = x509.get("clientCAFile") if isinstance(x509, dict) else None
    if isinstance(value, str) and value:
        yield from _other_file(run, path, "clientCAFile", "kubernetes", value)


def _other_file(run: TakeOver, path: str, name: str, ca: str, value: str) -> Iterator[str]:
    directory = run.where.directory
    best = f"{directory}/{folders.CA_FILES.get('kubernetes' if ca == 'kubelet' else ca, 'ca.crt')}"
    also = {"kubernetes": {f"{directory}/ca-chain.crt"}, "kubelet": {f"{directory}/kubelet-ca.crt"}}.get(ca, set())
    if value not in {best, *also}:
        what = f"names {value}" if value else "has no value after `=`"
        yield (
            f"{path}: {name} {what}, and a take-over changes only CAs at the places of kubeadm. Let it name {best} "
            "(with the same CA in it), restart what reads it, and run this again"
        )
