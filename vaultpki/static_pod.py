"""Restarting a static pod: its manifest gets another annotation, so the kubelet sees another pod and starts that one.

The kubelet derives a static pod's UID from all that its manifest says (kubernetes pkg/kubelet/config/common.go,
applyDefaults), and replaces a pod whose UID changed. The manifest is never moved away and back, which is the usual
recipe: a kill in between would leave the node without its etcd.
"""

from __future__ import annotations

import copy
import json
import os
import stat
from collections.abc import Mapping
from typing import Any, Final

from vaultpki.errors import StoreError
from vaultpki.files import open_folder, read_at, swap, told

FOLDER: Final = "/etc/kubernetes/manifests"
ANNOTATION: Final = "vaultpki/restarted-for"

_KEPT = 16


def manifest(name: str) -> str:
    """The path of a static pod's manifest: as kubeadm has it, unless `name` is a path already."""
    return name if name.startswith("/") else f"{FOLDER}/{name}.yaml"


def restart(name: str, changes: Mapping[str, str]) -> None:
    """Has the kubelet restart the static pod for these changes (digests by key); nothing where it was for all of them.

    StoreError where the manifest is not one that can be changed safely; it is then as it was.
    """
    path = manifest(name)
    folder_path, file = os.path.split(path)
    folder = open_folder(folder_path, create=False)
    try:
        with told(path):
            data, about = read_at(file, folder)
            changed = annotated(data, changes, path)
            if changed is None:
                return

            def unchanged() -> None:
                now = os.stat(file, dir_fd=folder, follow_symlinks=False)
                if (now.st_ino, now.st_mtime_ns, now.st_size) != (about.st_ino, about.st_mtime_ns, about.st_size):
                    raise StoreError(f"{path}: somebody else changed it in this very moment; it will be tried again")

            mode = stat.S_IMODE(about.st_mode)
            swap(file, folder, changed, mode, about.st_uid, about.st_gid, check=unchanged)
    finally:
        os.close(folder)


def annotated(data: bytes, changes: Mapping[str, str], path: str) -> bytes | None:
    """The manifest with the annotation for these changes, all else byte for byte; None where it has that already.

    StoreError, which names `path`, for what is no manifest of one pod, or cannot be changed in this way.
    """
    import yaml

    try:
        text = data.decode()
        before = yaml.safe_load(_readable(text))
        old = _held(before, path)
        value = _value(old, changes)
        if value == old:
            return None
        made = _edited(text, yaml.compose(_readable(text), Loader=yaml.SafeLoader), value)
        wanted = copy.deepcopy(before)
        wanted["metadata"]["annotations"] = {**(wanted["metadata"].get("annotations") or {}), ANNOTATION: value}
        if made is not None and yaml.safe_load(_readable(made)) == wanted:
            return made.encode()
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        raise StoreError(f"{path}: this is no YAML or JSON of one pod; mend it, or name another manifest") from None
    raise StoreError(
        f"{path}: its metadata is written in a way that cannot be changed safely; write the annotation "
        f'`{ANNOTATION}: ""` into metadata.annotations by hand once'
    )


def _readable(text: str) -> str:
    """The text, character for character, as PyYAML can read it: unlike the kubelet it takes no tabs in JSON."""
    return text.replace("\t", " ") if text.lstrip().startswith("{") else text


def _held(manifest: Any, path: str) -> str | None:
    """The annotation's value so far."""
    metadata = manifest.get("metadata") if isinstance(manifest, dict) and manifest.get("kind") == "Pod" else None
    annotations = (metadata.get("annotations") or {}) if isinstance(metadata, dict) else None
    if not isinstance(metadata, dict) or not isinstance(annotations, dict):
        raise StoreError(f"{path}: this is no manifest of a pod; name the file that the kubelet starts it from")
    if metadata.get("uid"):
        # applyDefaults again: a UID of the manifest's own is kept, and then no change of annotations restarts anything.
        raise StoreError(f"{path}: it sets metadata.uid, so the kubelet would not restart the pod; take the uid out")
    held = annotations.get(ANNOTATION)
    return held if isinstance(held, str) else None


def _value(old: str | None, changes: Mapping[str, str]) -> str:
    """What the pod was last restarted for, by key, since several keys may share a hook and be tried again alone."""
    held = dict(part.split("=", 1) for part in (old or "").split(",") if "=" in part)
    held.update({key: digest[:_KEPT] for key, digest in changes.items()})
    return ",".join(f"{key}={held[key]}" for key in sorted(held))


def _edited(text: str, root: Any, value: str) -> str | None:
    """The text with the annotation set at the one place where it belongs; None where that is not plain to see."""
    end = "\r\n" if "\r\n" in text else "\n"
    entry = f"{json.dumps(ANNOTATION)}: {json.dumps(value)}"
    metadata = _child(root, "metadata")
    annotations = _child(metadata, "annotations")
    if annotations is None:
        return _inserted(text, metadata, f'"annotations": {{{entry}}}', f"annotations:{end}{{indent}}  {entry}", end)
    if annotations.id == "scalar":
        return _replaced(text, annotations, f"{{{entry}}}", end)
    held = _child(annotations, ANNOTATION)
    if held is not None:
        return _replaced(text, held, json.dumps(value), end)
    return _inserted(text, annotations, entry, entry, end)


def _replaced(text: str, scalar: Any, new: str, end: str) -> str:
    """The text with `new` in place of a scalar, which may be no character at all, or lines that end with a line end."""
    start, stop = scalar.start_mark.index, scalar.end_mark.index
    return f"{text[:start]}{' ' if start == stop else ''}{new}{end if scalar.style in ('|', '>') else ''}{text[stop:]}"


def _inserted(text: str, mapping: Any, in_braces: str, in_lines: str, end: str) -> str | None:
    """The text with a new first entry in a mapping; `{indent}` in `in_lines` is the blanks before the others."""
    at = mapping.start_mark.index
    if mapping.flow_style:
        if text[at] != "{":
            return None
        return f"{text[: at + 1]}{in_braces}{', ' if mapping.value else ''}{text[at + 1 :]}"
    at = mapping.value[0][0].start_mark.index
    indent = text[text.rfind("\n", 0, at) + 1 : at]
    if indent.strip(" "):
        return None
    return f"{text[:at]}{in_lines.replace('{indent}', indent)}{end}{indent}{text[at:]}"


def _child(mapping: Any, key: str) -> Any:
    """The node below `key` of a mapping node; None where there is none."""
    if mapping is None or mapping.id != "mapping":
        return None
    return next((value for name, value in mapping.value if name.value == key), None)
