"""Finds what keeps a machine from being taken over as it is, before anything on it is changed: nothing is left out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from vaultpki.errors import StateConflict, StoreError
from vaultpki.host.pod_manifest import PodEdits, PodManifest
from vaultpki.kube.flags import FLAGS, Expect, replaced_etcd_files
from vaultpki.model import TakenOver
from vaultpki.pki import x509
from vaultpki.pki.facts import Facts
from vaultpki.records.adoption import AdoptionState
from vaultpki.takeover import beside, folders, plain_files, settings
from vaultpki.takeover.arrangement import VERIFY, arrangement, edits
from vaultpki.takeover.context import TakeOver
from vaultpki.takeover.machine import COMPONENT_KUBECONFIGS, KUBELET_CONF, KubeadmMachine, named_ca
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


@dataclass(frozen=True, slots=True)
class _Examined:
    """A machine with its old CAs by domain, its files as kubeadm or the user has them, and what of them is mounted."""

    machine: KubeadmMachine
    old: Mapping[str, tuple[Facts, ...]]
    original: Callable[[str], bytes]
    mounted: Collection[str]


def on_disk(where: TakenOver, old: Mapping[str, Collection[str]] | None, at: Callable[[str], str]) -> tuple[str, ...]:
    """Return a sentence about each thing that a join or `adopt node` would refuse on a machine of kubeadm's.

    `old` are the SHA-256 of the CAs by domain; with None those that lie there count. `at` says where a path of the
    machine is found, in case its disk is mounted.
    """
    looked = KubeadmMachine(where, {}, at)
    held = {ca: looked.certificates(f"{where.directory}/{name}") for ca, name in folders.CA_FILES.items()}
    cas = {ca: tuple(f for f in held[ca] if old is None or f.fingerprint in old.get(ca, ())) for ca in held}
    machine = KubeadmMachine(where, {ca: [f.fingerprint for f in each] for ca, each in cas.items() if each}, at)
    mounted = frozenset(path for pod in beside.pods(machine) for path in pod.paths)
    examined = _Examined(machine, cas, machine.content, mounted)
    found = (*links(machine), *_writable(machine), *machine.unreadable_pods(), *_problems(examined))
    return tuple(dict.fromkeys(found))


def refuse_unreadable(run: TakeOver) -> None:
    """Raise StateConflict, by its name, for a manifest of a component that cannot be read: it would be left out."""
    found = run.machine.unreadable_pods()
    if found:
        ended = run.target.home or run.journal.value.reached is AdoptionState.DONE
        found += () if ended else _problems(_examined(run))
        raise StateConflict(f"no step of the adoption is taken: {together(found)}")


def refuse_writable(run: TakeOver) -> None:
    """Raise StateConflict for a manifest or a file of the kubelet that others may write: these say what root starts.

    Links are followed, and the file or folder is named that others may write.
    """
    found = tuple(_writable(run.machine))
    if found:
        raise StateConflict(f"nothing was changed: {together(found)}")


def refuse_unfit(run: TakeOver) -> None:
    """Raise StateConflict for a manifest that some state could not edit, or a file with CAs that no state changes."""
    found = tuple(_problems(_examined(run)))
    if found:
        raise StateConflict(f"no step of the adoption is taken: {together(found)}")


def _examined(run: TakeOver) -> _Examined:
    return _Examined(run.machine, run.cas.old, lambda path: plain_files.original(run, path) or b"", beside.paths(run))


def refuse_joining(where: TakenOver, old: Mapping[str, Collection[str]]) -> None:
    """Raise StateConflict with all of it if this machine cannot be taken over as it is."""
    found = on_disk(where, old, str)
    if found:
        raise StateConflict(f"nothing was changed, and the join file is still good: {together(found)}")


def together(found: Sequence[str]) -> str:
    """Return sentences about one machine as one text."""
    every = tuple(dict.fromkeys(found))
    return every[0] if len(every) == 1 else " ".join(f"({n}) {each}." for n, each in enumerate(every, 1))


def _writable(machine: KubeadmMachine) -> Iterator[str]:
    paths = [*machine.static_pods().values(), machine.kubelet_settings, machine.kubelet_flags]
    root = os.path.realpath(machine.place("/")).rstrip("/")
    for path in (*paths, f"{machine.where.kubeconfigs}/{KUBELET_CONF}"):
        try:
            # A file that is missing, or none, is a matter of whoever reads it.
            with contextlib.suppress(OSError):
                permissions.refuse_file(machine.place(path))
        except StoreError as error:
            # Who may write above a mounted disk is nothing of that machine's.
            if str(error).startswith(f"{root}/"):
                yield str(error)


def _problems(run: _Examined) -> Iterator[str]:
    machine = run.machine
    for component, path in machine.static_pods().items():
        try:
            before = PodManifest(run.original(path), path)
        except (StoreError, StateConflict) as error:
            yield str(error)
            continue
        yield from _elsewhere(run, component, before)
        if component == "kube-apiserver" and not machine.old.get("etcd"):
            # Files of an etcd that keeps its own CA in the folder that is exchanged, where the agent has its own.
            yield from (f"{path}: {each}" for each in replaced_etcd_files(before.flags, machine.where.directory))
        wanted = [edits(component, arrangement(state), before.flags, machine.where) for state in AdoptionState]
        for index, each in enumerate(wanted):
            if each not in wanted[:index]:
                try:
                    before.edited(PodEdits(each.flags, each.folders, "check"))
                except StoreError as error:
                    yield str(error)
    told = {each.partition(": ")[0] for each in machine.unreadable_pods()}
    yield from (each for each in beside.unreadable(machine) if each.partition(": ")[0] not in told)
    yield from _not_there_later(run)
    yield from beside.lost_with_the_folder(machine)
    yield from beside.beaten_by_flags(machine)
    yield from _of_kubelet(run)
    for component, name in (*COMPONENT_KUBECONFIGS.items(), ("kubelet", "kubelet.conf")):
        path = f"{machine.where.kubeconfigs}/{name}"
        if component in machine.components() and (value := named_ca(run.original(path))):
            yield from _other_file(run, path, "certificate-authority", "kubernetes", value)


def _elsewhere(run: _Examined, component: str, before: PodManifest) -> Iterator[str]:
    for name, value in before.flags.items():
        ca = _CA_FLAGS.get((component, name))
        if ca is not None and (ca in run.machine.old or name == VERIFY):
            yield from _other_file(run, before.path, f"--{name}", ca, value)
        row = _PAIR_FLAGS.get((component, name))
        wanted = _PAIRS[row].crt if row is not None else ""
        best = f"{run.machine.where.directory}/{wanted}"
        if row is not None and value != best and _is_old(run, value, _PAIRS[row].ca):
            yield _not_replaced(before.path, name, value, f"{best}, with its key in the same way")
        config = run.machine.kubeconfig(component)
        if name in _KUBECONFIG_FLAGS and config is not None and value and value != config:
            yield _not_replaced(before.path, name, value, config)


def _is_old(run: _Examined, path: str, ca: str) -> bool:
    return any(x509.issuer_of(leaf, run.old.get(ca, ())) is not None for leaf in run.machine.certificates(path)[:1])


def _not_replaced(path: str, name: str, value: str, best: str) -> str:
    return (
        f"{path}: --{name} names {value}, which no state changes, so its certificate of the old CA would be refused "
        f"in the end. Let it name {best}, restart what reads it, and run this again"
    )


def _not_there_later(run: _Examined) -> Iterator[str]:
    """Find mounted files that a state puts aside: in their places the kubelet would make folders."""
    where = run.machine.where
    keys = {f"{where.directory}/{name}" for name in folders.KEY_FILES.values()}
    for path in sorted(run.mounted):
        own = path.startswith((f"{where.kubelet}/kubelet-client-", f"{where.kubelet}/kubelet-server-"))
        if (path in keys or own) and run.machine.is_file(path):
            yield (
                f"a pod mounts {path}, which is put aside from switched on, so the pod's next start would make a "
                "folder of that name. Have it mount the folder above, or do without, and run this again"
            )


def _of_kubelet(run: _Examined) -> Iterator[str]:
    path = run.machine.kubelet_settings
    if not run.machine.has_kubelet():
        return
    found = settings.values_of(run.original(path)).get("authentication")
    x509 = found.get("x509") if isinstance(found, dict) else None
    value = x509.get("clientCAFile") if isinstance(x509, dict) else None
    if isinstance(value, str) and value:
        yield from _other_file(run, path, "clientCAFile", "kubernetes", value)


def _other_file(run: _Examined, path: str, name: str, ca: str, value: str) -> Iterator[str]:
    directory = run.machine.where.directory
    best = f"{directory}/{folders.CA_FILES.get('kubernetes' if ca == 'kubelet' else ca, 'ca.crt')}"
    also = {"kubernetes": {f"{directory}/ca-chain.crt"}, "kubelet": {f"{directory}/kubelet-ca.crt"}}.get(ca, set())
    if value not in {best, *also}:
        what = f"names {value}" if value else "has no value after `=`"
        yield (
            f"{path}: {name} {what}, and a take-over changes only CAs at the places of kubeadm. Let it name {best} "
            "(with the same CA in it), restart what reads it, and run this again"
        )


# -- links: what is exchanged or written is the thing itself -----------------------------------------------------------


def has_links(where: TakenOver, old: Mapping[str, Collection[str]]) -> bool:
    """Return whether a machine with one of the old CAs, by domain as SHA-256, has links in the way."""
    machine = KubeadmMachine(where, {}, str)
    held = {
        facts.fingerprint
        for ca, name in folders.CA_FILES.items()
        for facts in machine.certificates(f"{where.directory}/{name}")
        if facts.fingerprint in old.get(ca, ())
    }
    return bool(held) and any(links(machine))


def links(machine: KubeadmMachine) -> Iterator[str]:
    """Yield a sentence about each folder or file of a machine whose path has a link in it."""
    where = machine.where
    tops = (where.kubeconfigs, where.directory, f"{where.directory}/etcd", where.kubelet, machine.manifests)
    # A link above these has other things below it.
    own = (*tops, os.path.dirname(where.kubelet))
    kubelets = (machine.kubelet_settings, machine.kubelet_flags, f"{where.kubeconfigs}/{KUBELET_CONF}")
    told = set[str]()
    for path in (*tops, *machine.static_pods().values(), *kubelets):
        link = _first_link(machine, path)
        if not link or link in told:
            continue
        told.add(link)
        real = _target(machine, link)
        if link in own:
            yield (
                f"{link} is a symbolic link to {real}, and a take-over exchanges the folder itself. Run `systemctl "
                f"stop kubelet && rm {link} && mv {real} {link} && ln -s {link} {real} && systemctl start kubelet`; "
                "pods go on running"
            )
        elif link == path:
            yield (
                f"{link} is a symbolic link to {real}, and the file itself is changed. Run `cp -p --remove-destination "
                f"{real} {link}`"
            )
        else:
            yield f"{link} is a symbolic link to {real}, and no link is followed there. Mount {real} at {link} instead"


def _first_link(machine: KubeadmMachine, path: str) -> str:
    """Return the first link in a path of the machine; "" if there is none."""
    root, at = _root(machine), ""
    for part in path.split("/")[1:]:
        at = f"{at}/{part}"
        if os.path.islink(f"{root}{at}"):
            return at
    return ""


def _target(machine: KubeadmMachine, link: str) -> str:
    root = _root(machine)
    return machine.place(link).removeprefix(root) if root else os.path.realpath(link)


def _root(machine: KubeadmMachine) -> str:
    return machine.place("/").rstrip("/")
