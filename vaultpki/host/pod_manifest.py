"""Changes flags, folders and one annotation in the manifest of a static pod, and keeps every other byte of it.

Nothing is written here. Only the container of the component is changed, others stay. Its flags stand in `command` or
`args` as `--name=value` (cmd/kubeadm/app/util/arguments.go, ArgumentsToCommand), or as two items, which they stay.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Final, NamedTuple

from vaultpki.errors import StoreError
from vaultpki.host.static_pod import ANNOTATION
from vaultpki.kube.flags import COMPONENTS
from vaultpki.values.yaml_edit import TextChange, UnsafePlace, YamlText

TAKEN_OVER: Final = "vaultpki/taken-over"
"""The annotation that makes the kubelet start the pod anew for a step of a take-over."""


@dataclass(frozen=True, slots=True)
class PodEdits:
    """What a manifest shall have.

    `flags` are with their values; None for one that it must not have. `folders` of the host are mounted at their own
    paths, read-only, by the name of the volume. `mark` is the value of the annotation.
    """

    flags: Mapping[str, str | None] = field(default_factory=dict)
    folders: Mapping[str, str] = field(default_factory=dict)
    mark: str = ""

    def sentences(self, before: PodManifest) -> Iterator[str]:
        """Yield what these edits change, for people."""
        for name, value in self.flags.items():
            old = before.flags.get(name)
            if value is None and old is not None:
                yield f"without --{name}={old}"
            elif value is not None and old != value:
                yield f"--{name}={value}" + (f" instead of {old}" if old is not None else "")
        for name, path in self.folders.items():
            if name not in before.volumes:
                yield f"mounts {path} read-only"


class _Given(NamedTuple):
    """A flag of a container: its list and place there; `apart` is where its value is if that is an item of its own."""

    name: str
    value: str | None
    key: str
    at: int
    apart: tuple[str, int] | None


class PodManifest:
    """The manifest of one pod. Raises StoreError, about `path`, if it is not one that can be changed in this way."""

    def __init__(self, data: bytes, path: str) -> None:
        self.path = path
        try:
            self._document = YamlText(data)
        except UnsafePlace as error:
            raise self._refused(error) from None
        value = self._document.value
        containers = value.get("spec", {}).get("containers") if _is_pod(value) else None
        if not isinstance(containers, list) or not all(isinstance(each, dict) for each in containers):
            raise StoreError(f"{path}: this is not the manifest of a pod, as kubeadm writes them")
        if value["metadata"].get("uid"):
            raise StoreError(f"{path}: it sets metadata.uid, so the kubelet would not restart the pod; remove the uid")
        self._index = _own_container(containers, path)
        self._container = containers[self._index]

    @property
    def component(self) -> str:
        """The program that its container runs."""
        return _program(self._container)

    @property
    def flags(self) -> dict[str, str]:
        """Its flags and their values; of one that is there twice the last."""
        return {each.name: each.value or "" for each in self._given()}

    @property
    def volumes(self) -> dict[str, str]:
        """The paths of the host that it has as volumes, by the name of the volume."""
        spec = self._document.value["spec"]
        return {
            str(each.get("name")): str((each.get("hostPath") or {}).get("path", ""))
            for each in spec.get("volumes") or []
            if isinstance(each, dict)
        }

    @property
    def mark(self) -> str:
        """The value of the annotation; "" without it."""
        value = (self._document.value["metadata"].get("annotations") or {}).get(TAKEN_OVER)
        return value if isinstance(value, str) else ""

    def edited(self, edits: PodEdits) -> bytes:
        """Return the manifest with these edits. Raises StoreError if they cannot be made safely."""
        wanted = copy.deepcopy(self._document.value)
        try:
            changes = [
                *self._flags(edits.flags, wanted),
                *self._folders(edits.folders, wanted),
                *([_mark(self._document, edits.mark, wanted)] if edits.mark and edits.mark != self.mark else []),
            ]
            return self._document.apply(changes, wanted)
        except UnsafePlace as error:
            raise self._refused(error) from None

    def undone(self, edits: PodEdits) -> bytes:
        """Return the manifest with the flags of `edits`, without its folders and the annotations of vaultpki.

        Raises StoreError if that cannot be done safely.
        """
        wanted = copy.deepcopy(self._document.value)
        try:
            changes = [*self._flags(edits.flags, wanted), *self._without_folders(edits.folders, wanted)]
            return plain(self._document.apply(changes, wanted), self.path)
        except UnsafePlace as error:
            raise self._refused(error) from None

    # -- flags -------------------------------------------------------------------------------------------------------

    def _given(self) -> Iterator[_Given]:
        lists = [(key, self._container.get(key)) for key in ("command", "args")]
        words = [(key, i, word) for key, held in lists if isinstance(held, list) for i, word in enumerate(held)]
        for (key, index, word), after in zip_longest(words, words[1:]):
            if not isinstance(word, str) or not word.startswith("-"):
                continue
            name, equals, value = word.lstrip("-").partition("=")
            if equals:
                yield _Given(name, value, key, index, None)
            elif after is not None and isinstance(after[2], str) and not after[2].startswith("-"):
                yield _Given(name, after[2], key, index, after[:2])
            else:
                yield _Given(name, None, key, index, None)

    def _flags(self, flags: Mapping[str, str | None], wanted: Any) -> Iterator[TextChange]:
        held, given = wanted["spec"]["containers"][self._index], list(self._given())
        for name, value in flags.items():
            there = [each for each in given if each.name == name]
            if len(there) > 1:
                raise UnsafePlace(f"the flag --{name} is there twice; keep the line that holds")
            if there and there[0].value is None:
                raise UnsafePlace(f"the flag --{name} has no value; give it one, as `--{name}=VALUE`")
            if not there and value is None:
                continue
            if not there:
                # Never between a flag and its value.
                split = any(each.apart and each.apart[0] != each.key for each in given)
                in_command = len(held.get("command") or ()) > 1 and not split
                key = "command" if in_command or not held.get("args") else "args"
                yield self._document.appended(self._list(key), f"--{name}={value}")
                held[key].append(f"--{name}={value}")
                continue
            (flag,) = there
            if value is None:
                for key, index in filter(None, ((flag.key, flag.at), flag.apart)):
                    yield self._document.removed(self._list(key), index)
                    held[key][index] = None
            elif flag.value != value:
                (key, index), text = (flag.apart, value) if flag.apart else ((flag.key, flag.at), f"--{name}={value}")
                yield self._document.replaced(self._list(key).value[index], text)
                held[key][index] = text
        for key in ("command", "args"):
            if isinstance(held.get(key), list):
                held[key] = [word for word in held[key] if word is not None]

    def _list(self, key: str) -> Any:
        found = self._document.at("spec", "containers", self._index, key)
        if found is None or found.id != "sequence":
            raise UnsafePlace(f"its container has no {key}")
        return found

    # -- folders -----------------------------------------------------------------------------------------------------

    def _folders(self, folders: Mapping[str, str], wanted: Any) -> Iterator[TextChange]:
        spec, container = wanted["spec"], wanted["spec"]["containers"][self._index]
        there = self.volumes
        for number, (name, path) in enumerate((n, p) for n, p in folders.items() if there.get(n) != p):
            if name in there:
                raise UnsafePlace(f"it has a volume {name} that is another one")
            volume = {"hostPath": {"path": path, "type": "Directory"}, "name": name}
            mount = {"mountPath": path, "name": name, "readOnly": True}
            for keys, holder, item in (
                (("spec",), spec, ("volumes", volume)),
                (("spec", "containers", self._index), container, ("volumeMounts", mount)),
            ):
                key, value = item
                sequence = self._document.at(*keys, key)
                if sequence is not None and sequence.id == "sequence" and sequence.value:
                    yield self._document.first_item(sequence, value)
                else:
                    raise UnsafePlace(f"it has no {key}")
                holder[key].insert(number, value)

    def _without_folders(self, folders: Mapping[str, str], wanted: Any) -> Iterator[TextChange]:
        spec, container = wanted["spec"], wanted["spec"]["containers"][self._index]
        for name in folders:
            for keys, holder, key in (
                (("spec",), spec, "volumes"),
                (("spec", "containers", self._index), container, "volumeMounts"),
            ):
                sequence = self._document.at(*keys, key)
                names = [each.get("name") for each in self._at(keys).get(key) or []]
                if name in names:
                    yield self._document.removed(sequence, names.index(name))
                    holder[key] = [each for each in holder[key] if each.get("name") != name]

    def _at(self, keys: tuple[str | int, ...]) -> Any:
        found = self._document.value
        for key in keys:
            found = found[key]
        return found

    def _refused(self, error: UnsafePlace) -> StoreError:
        return StoreError(f"{self.path}: {error}; write it as kubeadm does (`kubeadm init phase`), and run again")


def _own_container(containers: list[dict[str, Any]], path: str) -> int:
    """Return which container of a pod is the component's: the only one, else by its program, else by its name too.

    kubeadm gives a container the name of its program (cmd/kubeadm/app/phases/controlplane/manifests.go).
    """
    if len(containers) == 1:
        return 0
    programs = {index: _program(each) for index, each in enumerate(containers)}
    found = [index for index, program in programs.items() if program in COMPONENTS]
    if len(found) > 1:
        found = [index for index in found if containers[index].get("name") == programs[index]]
    if len(found) != 1:
        which = "several of them run a component" if found else "none of them runs a component"
        raise StoreError(
            f"{path}: the pod has {len(containers)} containers, and {which}. Let one run it by `command`, with the "
            "name of its program, and move the others to manifests of their own"
        )
    return found[0]


def _program(container: Mapping[str, Any]) -> str:
    command = container.get("command")
    first = command[0] if isinstance(command, list) and command else ""
    return os.path.basename(first) if isinstance(first, str) else ""


def _mark(document: YamlText, mark: str, wanted: Any) -> TextChange:
    metadata, annotations = document.at("metadata"), document.at("metadata", "annotations")
    held = wanted["metadata"].get("annotations")
    wanted["metadata"]["annotations"] = {**(held or {}), TAKEN_OVER: mark}
    if annotations is None:
        return document.entry(metadata, "annotations", {TAKEN_OVER: mark})
    if annotations.id != "mapping" or not annotations.value:
        raise UnsafePlace("its annotations are empty; remove that line")
    scalar = document.at("metadata", "annotations", TAKEN_OVER)
    if scalar is not None:
        return document.replaced(scalar, mark)
    return document.entry(annotations, TAKEN_OVER, mark)


def marked(data: bytes, mark: str, path: str) -> bytes:
    """Return the manifest of any pod with the annotation that makes the kubelet start it anew; the rest stays.

    Raises StoreError if that cannot be done safely.
    """
    try:
        document = YamlText(data)
        if not _is_pod(document.value) or document.value["metadata"].get("uid"):
            raise UnsafePlace("it is no pod, or sets metadata.uid")
        wanted = copy.deepcopy(document.value)
        return document.apply([_mark(document, mark, wanted)], wanted)
    except UnsafePlace as error:
        raise StoreError(f"{path}: {error}, so the kubelet could not be made to start it anew; correct that") from None


def plain(data: bytes, path: str) -> bytes:
    """Return a manifest without the annotations of vaultpki. Raises StoreError if they cannot be taken out safely."""
    for name in (TAKEN_OVER, ANNOTATION):
        try:
            document = YamlText(data)
            held = document.value["metadata"].get("annotations") if _is_pod(document.value) else None
            if not isinstance(held, dict) or name not in held:
                continue
            wanted = copy.deepcopy(document.value)
            del wanted["metadata"]["annotations"][name]
            alone = len(held) == 1
            if alone:
                del wanted["metadata"]["annotations"]
            where = document.at("metadata") if alone else document.at("metadata", "annotations")
            data = document.apply([document.without_entry(where, "annotations" if alone else name)], wanted)
        except UnsafePlace as error:
            raise StoreError(f"{path}: {error}; take the annotation {name} out by hand") from None
    return data


def _is_pod(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.get("kind") == "Pod"
        and isinstance(value.get("metadata"), dict)
        and isinstance(value.get("spec"), dict)
        and isinstance(value["metadata"].get("annotations") or {}, dict)
    )
