"""Says which files of its host a pod mounts, and which its flags name; pure, of what is read from any manifest."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from vaultpki.kube.flags import named_paths
from vaultpki.kube.objects import entries, mapping
from vaultpki.places import is_below

_MOST: Final = 1000

# A flag with its value in a file of the environment, or a key with its value in the kubelet's configuration.
_NAMED: Final = re.compile(r"""([A-Za-z][A-Za-z-]*)["']?[ \t]*[=: ][ \t]*["']?(/[^\s"',:]+)""")


def host_paths(pod: Mapping[str, Any]) -> Iterator[str]:
    """Yield the paths of the host that the containers of a pod mount, and those of volumes that none mounts."""
    spec = mapping(pod.get("spec"))
    mounted = list(mounts(*_containers(spec)))
    for name, (path, _) in host_volumes(spec).items():
        parts = [part for volume, part, _ in mounted if volume == name]
        yield from (posixpath.normpath(f"{path}/{part}") for part in parts or [""])


def named_files(pod: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each flag of a pod's containers that names a file of the host, and the path of that on the host."""
    spec = mapping(pod.get("spec"))
    for container in _containers(spec):
        words = [*entries(container.get("command")), *entries(container.get("args"))]
        for name, value in named_paths([word for word in words if isinstance(word, str)]):
            if found := _on_the_host(spec, value):
                yield name, found


def named_in(text: str) -> Iterator[tuple[str, str]]:
    """Yield each flag or key and the absolute path that it names, in flags of an environment or in settings."""
    yield from _NAMED.findall(text)


def _containers(spec: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from map(mapping, [*entries(spec.get("initContainers")), *entries(spec.get("containers"))])


def host_volumes(spec: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return the path and the type of each volume of a pod that is from the host, by the name of the volume."""
    found = {}
    for volume in map(mapping, entries(spec.get("volumes"))[:_MOST]):
        host = mapping(volume.get("hostPath"))
        path = host.get("path")
        if isinstance(path, str) and path.startswith("/"):
            found[str(volume.get("name"))] = path, str(host.get("type") or "")
    return found


def mounts(*containers: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield the volume, the part of it, and the place of each mount in these containers of a pod."""
    for container in containers[:_MOST]:
        for mount in map(mapping, entries(container.get("volumeMounts"))[:_MOST]):
            yield str(mount.get("name")), str(mount.get("subPath") or ""), str(mount.get("mountPath") or "")


def _on_the_host(spec: Mapping[str, Any], path: str) -> str:
    """Return where a path of a pod lies on the host; "" for one in its image or elsewhere."""
    paths, best = host_volumes(spec), ("", "")
    for name, part, place in mounts(*_containers(spec)):
        if name in paths and place and is_below(path, place) and len(place) >= len(best[0]):
            best = (place, "/".join(filter(None, (paths[name][0].rstrip("/"), part))))
    return f"{best[1]}{path[len(best[0].rstrip('/')) :]}" if best[0] else ""
