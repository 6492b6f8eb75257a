"""Finds files beside the table that matter on a machine: of other containers, of people, and those that flags name.

A mounted file or folder stays the one that it was when the container began, however often another one takes its place.
A container that mounts a folder above all of them, such as `/`, is not looked at. A pair of an old CA that a flag of a
static pod or of the kubelet names is changed by no state.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from vaultpki.disk.generations import link_of
from vaultpki.host.boot_time import Moment
from vaultpki.host.mounts import MountHolder, changed_since, remote
from vaultpki.kube import kubeconfig, kubelet_flags
from vaultpki.kube.objects import mapping
from vaultpki.kube.pod_files import host_paths, named_files, named_in
from vaultpki.pki import x509
from vaultpki.pki.facts import Facts
from vaultpki.places import is_below
from vaultpki.records.adoption import AdoptionState
from vaultpki.records.adoption_report import (
    MOST_KUBECONFIGS,
    RESTART_ORDER,
    STATIC_POD,
    Held,
    KubeconfigReport,
    MountReport,
    common,
)
from vaultpki.takeover import folders
from vaultpki.takeover.arrangement import SIGNER_FOLDER, FolderKind
from vaultpki.takeover.context import TakeOver
from vaultpki.takeover.journal import read
from vaultpki.takeover.machine import COMPONENT_KUBECONFIGS, KUBELET_CONF, PEOPLE, KubeadmMachine
from vaultpki.values import input_file
from vaultpki.values.yaml_edit import UnsafePlace, YamlText

_LARGEST: Final = 1 << 20
# People write these, and each pass reads them all.
_LARGEST_OF_PEOPLE: Final = 1 << 17
_MOST_HOMES: Final = 200


@dataclass(frozen=True, slots=True)
class MountingPod:
    """A static pod that is no component: the path of its manifest, its name, and what of kubeadm's files it mounts."""

    manifest: str
    name: str
    paths: tuple[str, ...]


def pods(machine: KubeadmMachine) -> Iterator[MountingPod]:
    """Yield the static pods beside the components that mount kubeadm's files."""
    components = set(machine.static_pods().values())
    for path, data in machine.manifest_files():
        pod = _pod(data) if path not in components else {}
        found = tuple(dict.fromkeys(each for each in host_paths(pod) if _is_kubeadms(machine, each)))
        if found:
            yield MountingPod(path, str(mapping(pod.get("metadata")).get("name") or os.path.basename(path)), found)


def unreadable(machine: KubeadmMachine) -> Iterator[str]:
    """Yield a sentence about each manifest that cannot be read and may mount kubeadm's files."""
    for path, data in machine.manifest_files():
        try:
            YamlText(data)
        except UnsafePlace as error:
            if any(os.fsencode(folder) in data for folder in _folders(machine)):
                yield f"{path}: {error}, and it may mount kubeadm's files; write it without that"


def _pod(data: bytes) -> Mapping[str, Any]:
    try:
        return mapping(YamlText(data).value)
    except UnsafePlace:
        return {}


def _folders(machine: KubeadmMachine) -> tuple[str, ...]:
    where = machine.where
    return tuple(dict.fromkeys((where.kubeconfigs, where.directory, where.kubelet, where.kubelet_aside)))


def _is_kubeadms(machine: KubeadmMachine, path: str) -> bool:
    """Return whether a path is one of kubeadm's folders, or in one; manifests and the signer's copy do not count."""
    others = (machine.manifests, f"{machine.where.aside}/{SIGNER_FOLDER}")
    return any(is_below(path, each) for each in _folders(machine)) and not any(is_below(path, each) for each in others)


def holders(run: TakeOver) -> tuple[MountHolder, ...]:
    """Return the containers that have kubeadm's files mounted now, whoever runs them, the oldest first."""
    found = run.components.holders(_folders(run.machine))
    # What a component has read is known otherwise.
    return tuple(e for e in found if e.program not in RESTART_ORDER and _is_kubeadms(run.machine, e.path))


def paths(run: TakeOver) -> frozenset[str]:
    """Return what of kubeadm's files is mounted: by static pods, and by whatever runs now."""
    return frozenset(
        (*(path for pod in pods(run.machine) for path in pod.paths), *(each.path for each in holders(run)))
    )


def digest(run: TakeOver, pod: MountingPod) -> str:
    """Return a digest of what a pod reads there if it is started now."""
    said = [part for path in pod.paths for part in _contents(run.machine, path)]
    return sha256("\n".join(said).encode()).hexdigest()[:16]


def _contents(machine: KubeadmMachine, path: str) -> Iterator[str]:
    if os.path.isfile(path):
        yield f"{path}={_hash(path)}"
        return
    for folder in (machine.where.directory, machine.where.kubelet):
        if is_below(path, folder) or is_below(folder, path):
            kind = folders.kind(folder)
            yield f"{folder}={kind.value if kind is not None else ''}"
    yield from (f"{each}={_hash(each)}" for each in _configs(path))


def _configs(path: str) -> list[str]:
    """Return the kubeconfigs at a path: itself, or those in this folder."""
    if os.path.isfile(path):
        return [path] if path.endswith(".conf") else []
    if not os.path.isdir(path):
        return []
    found = (f"{path}/{name}" for name in sorted(os.listdir(path)) if name.endswith(".conf"))
    return [each for each in found if os.path.isfile(each)]


def _hash(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return sha256(file.read(1 << 20)).hexdigest()
    except OSError:
        return ""


def is_started(run: TakeOver, pod: MountingPod, moment: Moment) -> bool:
    """Return whether a container that mounts what a static pod mounts was started after a moment."""
    wanted = {os.path.realpath(path) for path in pod.paths}
    return any(
        not each.gone and os.path.realpath(each.path) in wanted and each.started.later_than(moment)
        for each in holders(run)
    )


def report(run: TakeOver, ready: Mapping[str, bool]) -> tuple[MountReport, ...]:
    """Return what is to be said of mounted files; `ready` says of each static pod whether it has those of now."""
    static, found = tuple(pods(run.machine)), list[MountReport]()
    for pod in static:
        found += [_said(run, f"{STATIC_POD}{pod.name}", path, fresh=ready[pod.manifest]) for path in pod.paths]
    waiting = {path for pod in static if not ready[pod.manifest] for path in pod.paths}
    known = {path for pod in static for path in pod.paths}
    for each in holders(run):
        # One that has the file of before may be of a static pod that is still to be restarted.
        old = _is_old(run, each) and each.path not in waiting
        if old or (each.path not in known and _configs(each.path)):
            found.append(_said(run, f"{each.program} (process {each.pid})", each.path, fresh=not old))
    return tuple(dict.fromkeys(found))


def has_old(run: TakeOver) -> bool:
    """Return whether any container has a file or folder of before."""
    return any(_is_old(run, each) for each in holders(run))


def _is_old(run: TakeOver, holder: MountHolder) -> bool:
    """Return whether a container has a file or folder of before."""
    where = run.where
    if holder.gone or any(is_below(holder.path, each) for each in (where.aside, where.kubelet_aside)):
        return True
    return any(changed_since(each, holder.started) for each in _configs(holder.path))


def _said(run: TakeOver, who: str, path: str, *, fresh: bool) -> MountReport:
    configs = _configs(path) if os.path.isfile(path) else []
    trust = common(run.cas.trusted(run.machine.kubeconfig_cas(each), "kubernetes") for each in configs)
    leaves = [run.cas.signer(leaf, "kubernetes") for each in configs for leaf in run.machine.kubeconfig_leaf(each)[:1]]
    return MountReport(who, path, fresh, trust, common(leaves))


# -- what people have -------------------------------------------------------------------------------------------------


def kubeconfigs(run: TakeOver) -> tuple[KubeconfigReport, ...]:
    """Return the kubeconfigs of this machine that are no component's and hold a CA or a pair of either side.

    At rest nobody asks for them, and nothing is read.
    """
    if run.target.state in (None, AdoptionState.PREPARED, AdoptionState.DONE):
        return ()
    where, elsewhere, found = run.where, remote(), list[KubeconfigReport]()
    components = {f"{where.kubeconfigs}/{name}" for name in (*COMPONENT_KUBECONFIGS.values(), KUBELET_CONF)}

    def names(folder: str) -> list[str]:
        return _names(folder) if not any(is_below(folder, point) for point in elsewhere) else []

    for path in kubeconfig.places(where.kubeconfigs, names, _root(run.machine)):
        if path in components or any(is_below(path, point) for point in elsewhere):
            continue
        parts = kubeconfig.parts(_text_of_people(path))
        if parts is None:
            continue
        trust = run.cas.trusted(x509.readable(parts.ca_pem), "kubernetes")
        leaves = common(run.cas.signer(leaf, "kubernetes") for leaf in x509.readable(parts.certificate_pem)[:1])
        if {trust, leaves} != {Held.UNKNOWN}:
            found.append(KubeconfigReport(path, trust, leaves))
    return tuple(found[:MOST_KUBECONFIGS])


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))[:_MOST_HOMES]
    except OSError:
        return []


def _text_of_people(path: str) -> str:
    """Return a file; empty if it is none, is too large, or a link leads to it: whoever has the folder makes these."""
    folder, name = os.path.split(path)
    home = os.path.dirname(folder)
    try:
        if not is_below(os.path.realpath(folder), os.path.realpath(home)):
            return ""
        return input_file.read(f"{folder}/{name}", _LARGEST_OF_PEOPLE, follow=False)[0].decode("utf-8", "replace")
    except (OSError, ValueError):
        return ""


# -- what flags name --------------------------------------------------------------------------------------------------


def named_pairs(run: TakeOver) -> tuple[str, ...]:
    """Return each certificate of an old CA that goes on beside the table: its path, and what names it."""
    found = dict[str, str]()
    for where, name, path in _named(run):
        if path not in found and not _changes(run, path) and _is_of_old_ca(run, path):
            found[path] = f"{path} (--{name} of {where})"
    return tuple(found.values())


def still_trusting(run: TakeOver) -> Iterator[str]:
    """Yield each kubeconfig of people's that trusts an old CA at the end: it was issued while the new side did too."""
    old = run.machine.old.get("kubernetes", frozenset())
    for name in PEOPLE if run.target.state is AdoptionState.DONE else ():
        path = f"{run.where.kubeconfigs}/{name}"
        if os.path.isfile(path) and any(facts.fingerprint in old for facts in run.machine.kubeconfig_cas(path)):
            yield f"{path} (trusts the old CA)"


def lost_with_the_folder(machine: KubeadmMachine) -> Iterator[str]:
    """Yield a sentence about each file of the kubelet's folder that its own flags name: the agent's has none of it."""
    for path, text in _environments(machine).items():
        for name, value in named_in(text):
            if value.startswith(f"{machine.where.kubelet}/"):
                yield (
                    f"{path}: --{name} names {value}, which is put aside from switched on, so the kubelet would not "
                    "start. Take that flag out (its configuration gets the agent's pair), and run this again"
                )


def beaten_by_flags(machine: KubeadmMachine) -> Iterator[str]:
    """Yield a sentence about each flag of the kubelet that beats what a state writes for it."""
    if machine.has_kubelet():
        where = machine.where
        places = {
            "kubeconfig": f"{where.kubeconfigs}/{KUBELET_CONF}",
            "config": machine.kubelet_settings,
            "cert-dir": where.kubelet,
            "client-ca-file": f"{where.directory}/ca.crt",
        }
        yield from kubelet_flags.beating(kubelet_flags.flags_in(_environments(machine)), places)


def _named(run: TakeOver) -> Iterator[tuple[str, str, str]]:
    """Yield what names a file of this machine, by which flag or key, and the path of that."""
    for path, data in run.machine.manifest_files():
        try:
            pod = mapping(YamlText(data).value)
        except UnsafePlace:
            continue
        yield from ((os.path.basename(path), name, found) for name, found in named_files(pod))
    if run.machine.has_kubelet():
        machine = run.machine
        texts = {machine.kubelet_settings: _text(machine.kubelet_settings), **_environments(machine)}
        yield from ((path, name, value) for path, text in texts.items() for name, value in named_in(text))


def _environments(machine: KubeadmMachine) -> dict[str, str]:
    """Return the text of the files with flags of the kubelet: kubeadm's, and those of its unit."""
    flags = machine.kubelet_flags

    def names(folder: str) -> list[str]:
        place = machine.place(folder)
        return sorted(os.listdir(place)) if os.path.isdir(place) else []

    def text(path: str) -> str:
        return _text(machine.place(path))

    return {flags: text(flags), **kubelet_flags.flag_files(names, text, _root(machine))}


def _root(machine: KubeadmMachine) -> str:
    """Return the root folder of the machine, "" for its own."""
    return os.path.dirname(os.path.dirname(machine.where.kubeconfigs)).rstrip("/")


def _changes(run: TakeOver, path: str) -> bool:
    """Return whether a state changes this file: one of the table, or of a row of the user's own at the same place."""
    where, known = run.where, folders.known_files()
    configs = (*COMPONENT_KUBECONFIGS.values(), KUBELET_CONF, *PEOPLE)
    if path in {f"{where.kubeconfigs}/{name}" for name in configs}:
        return True
    if any(is_below(path, each) for each in (where.aside, where.kubelet, where.kubelet_aside)):
        return True
    name = path.removeprefix(f"{where.directory}/")
    return name != path and (name in known or bool(link_of(f"{run.machine.folder(FolderKind.AGENT)}/{name}")))


def _is_of_old_ca(run: TakeOver, path: str) -> bool:
    return any(run.cas.signer(leaf, ca) is Held.OLD for leaf in _leaf(run, path) for ca in run.cas.old)


def _leaf(run: TakeOver, path: str) -> tuple[Facts, ...]:
    """Return the certificate in a file, or in the kubeconfig that it is; CAs are none."""
    if not os.path.isfile(path) or os.path.getsize(path) > _LARGEST:
        return ()
    found = run.machine.certificates(path)[:1]
    if not found and "client-certificate" in _text(path):
        found = run.machine.kubeconfig_leaf(path)[:1]
    return tuple(facts for facts in found if not facts.is_ca)


def _text(path: str) -> str:
    found = read(path) if os.path.isfile(path) else None
    return found[0].decode("utf-8", "replace") if found is not None else ""
