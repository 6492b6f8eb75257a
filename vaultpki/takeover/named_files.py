"""Finds pairs of the old CAs that flags of static pods and of the kubelet name, and that no state replaces."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from vaultpki.disk.generations import link_of
from vaultpki.kube.objects import mapping
from vaultpki.kube.pod_files import is_below, named_files, named_in
from vaultpki.pki.facts import Facts
from vaultpki.records.adoption_report import Held
from vaultpki.takeover import folders
from vaultpki.takeover.arrangement import FolderKind
from vaultpki.takeover.context import TakeOver
from vaultpki.takeover.journal import read
from vaultpki.takeover.machine import COMPONENT_KUBECONFIGS, KUBELET_CONF, PEOPLE
from vaultpki.values.yaml_edit import UnsafePlace, YamlText

_LARGEST: Final = 1 << 20


def old_pairs(run: TakeOver) -> tuple[str, ...]:
    """Return each certificate of an old CA that goes on beside the table: its path, and what names it."""
    found = dict[str, str]()
    for where, name, path in _named(run):
        if path not in found and not _changes(run, path) and _is_old(run, path):
            found[path] = f"{path} (--{name} of {where})"
    return tuple(found.values())


def lost_with_the_folder(run: TakeOver) -> Iterator[str]:
    """Yield a sentence about each file of the kubelet's folder that its own flags name: the agent's has none of it."""
    for path in _environments(run):
        for name, value in named_in(_text(path)):
            if value.startswith(f"{run.where.kubelet}/"):
                yield (
                    f"{path}: --{name} names {value}, which is put aside from switched on, so the kubelet would not "
                    "start: take that flag out (its configuration gets the agent's pair), and run this again"
                )


def _named(run: TakeOver) -> Iterator[tuple[str, str, str]]:
    """Yield what names a file of this machine, by which flag or key, and the path of that."""
    for path, data in run.machine.manifest_files():
        try:
            pod = mapping(YamlText(data).value)
        except UnsafePlace:
            continue
        yield from ((os.path.basename(path), name, found) for name, found in named_files(pod))
    if run.machine.has_kubelet():
        for path in (run.machine.kubelet_settings, *_environments(run)):
            yield from ((path, name, value) for name, value in named_in(_text(path)))


def _environments(run: TakeOver) -> tuple[str, ...]:
    """Return the files with flags of the kubelet: kubeadm's, and those of its unit (kubeadm's 10-kubeadm.conf)."""
    top = os.path.dirname(run.where.kubeconfigs)
    return run.machine.kubelet_flags, f"{top}/default/kubelet", f"{top}/sysconfig/kubelet"


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


def _is_old(run: TakeOver, path: str) -> bool:
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
