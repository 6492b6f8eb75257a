"""Finds pairs of the old CAs that flags of static pods and of the kubelet name, and that no state replaces."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from vaultpki.disk.generations import link_of
from vaultpki.kube.flags import named_paths
from vaultpki.kube.objects import entries, mapping
from vaultpki.pki.facts import Facts
from vaultpki.records.adoption_report import Held
from vaultpki.takeover import folders, mounted
from vaultpki.takeover.arrangement import FolderKind
from vaultpki.takeover.context import TakeOver
from vaultpki.takeover.journal import read
from vaultpki.takeover.machine import COMPONENT_KUBECONFIGS, KUBELET_CONF, PEOPLE
from vaultpki.values.yaml_edit import UnsafePlace, YamlText

# A flag with its value in a file of the environment, or a key with its value in the kubelet's configuration.
_NAMED: Final = re.compile(r"""([A-Za-z][A-Za-z-]*)["']?[ \t]*[=: ][ \t]*["']?(/[^\s"',:]+)""")
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
        for name, value in _NAMED.findall(_text(path)):
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
        spec = mapping(pod.get("spec"))
        for container in map(mapping, [*entries(spec.get("initContainers")), *entries(spec.get("containers"))]):
            words = [*entries(container.get("command")), *entries(container.get("args"))]
            for name, value in named_paths([word for word in words if isinstance(word, str)]):
                if found := _on_the_host(spec, value):
                    yield os.path.basename(path), name, found
    if run.machine.has_kubelet():
        for path in (run.machine.kubelet_settings, *_environments(run)):
            yield from ((path, name, value) for name, value in _NAMED.findall(_text(path)))


def _environments(run: TakeOver) -> tuple[str, ...]:
    """Return the files with flags of the kubelet: kubeadm's, and those of its unit (kubeadm's 10-kubeadm.conf)."""
    top = os.path.dirname(run.where.kubeconfigs)
    return run.machine.kubelet_flags, f"{top}/default/kubelet", f"{top}/sysconfig/kubelet"


def _on_the_host(spec: Mapping[str, Any], path: str) -> str:
    """Return where a path of a pod lies on this machine; "" for one in its image or elsewhere."""
    paths = mounted.volumes(spec)
    best = ("", "")
    for name, part, place in mounted.mounts(spec):
        if name in paths and mounted.is_below(path, place) and len(place) >= len(best[0]):
            best = (place, "/".join(filter(None, (paths[name].rstrip("/"), part))))
    return f"{best[1]}{path[len(best[0].rstrip('/')) :]}" if best[0] else ""


def _changes(run: TakeOver, path: str) -> bool:
    """Return whether a state changes this file: one of the table, or of a row of the user's own at the same place."""
    where, known = run.where, folders.known_files()
    configs = (*COMPONENT_KUBECONFIGS.values(), KUBELET_CONF, *PEOPLE)
    if path in {f"{where.kubeconfigs}/{name}" for name in configs}:
        return True
    if any(mounted.is_below(path, each) for each in (where.aside, where.kubelet, where.kubelet_aside)):
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
