"""Restart a static pod: change an annotation in its manifest, so that the kubelet sees another pod and starts that one.

The kubelet derives a static pod's UID from the whole manifest (kubernetes pkg/kubelet/config/common.go, applyDefaults),
and replaces a pod whose UID changes. The usual way, to move the manifest out and back, would leave the node without its
etcd if it were interrupted.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from typing import Any, Final

from vaultpki.disk.files import closing, open_folder, read_at, storage_errors, swap
from vaultpki.errors import StoreError

MANIFEST_FOLDER: Final = "/etc/kubernetes/manifests"
ANNOTATION: Final = "vaultpki/restarted-for"

_KEPT = 16


def manifest(name: str) -> str:
    """Return the path of a static pod's manifest: kubeadm's, unless `name` is a path."""
    return name if name.startswith("/") else f"{MANIFEST_FOLDER}/{name}.yaml"


def restart(name: str, changes: Mapping[str, str]) -> None:
    """Make the kubelet restart the static pod for these changes (digests by key), unless it has for all of them.

    StoreError if the manifest cannot be changed safely; it stays as it was.
    """
    path = manifest(name)
    folder_path, file = os.path.split(path)
    with closing(open_folder(folder_path, create=False)) as folder, storage_errors(path):
        data, about = read_at(file, folder)
        changed = annotated(data, changes, path)
        if changed is None:
            return

        def unchanged() -> None:
            now = os.stat(file, dir_fd=folder, follow_symlinks=False)
            if (now.st_ino, now.st_mtime_ns, now.st_size) != (about.st_ino, about.st_mtime_ns, about.st_size):
                raise StoreError(f"{path}: another program changed it at the same time; this is tried again")

        mode = stat.S_IMODE(about.st_mode)
        swap(file, folder, changed, mode, about.st_uid, about.st_gid, check=unchanged)


def annotated(data: bytes, changes: Mapping[str, str], path: str) -> bytes | None:
    """Return the manifest with the annotation for these changes, and nothing else changed; None if it has it already.

    StoreError, about `path`, if it is not the manifest of one pod, or cannot be changed in this way.
    """
    import yaml

    try:
        text = data.decode()
        manifest = yaml.safe_load(_readable(text))
        old = _annotation(manifest, path)
        value = _value(old, changes)
        if value == old:
            return None
        made = _edited(text, yaml.compose(_readable(text), Loader=yaml.SafeLoader), value)
        metadata = manifest["metadata"]
        metadata["annotations"] = {**(metadata.get("annotations") or {}), ANNOTATION: value}
        if made is not None and yaml.safe_load(_readable(made)) == manifest:
            return made.encode()
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        raise StoreError(f"{path}: this is not YAML or JSON of one pod; correct it, or name another file") from None
    raise StoreError(
        f"{path}: the form of its metadata cannot be changed safely; add the annotation "
        f'`{ANNOTATION}: ""` to metadata.annotations once by hand'
    )


def _readable(text: str) -> str:
    """Return the text for PyYAML, with the same positions: it does not accept tabs in JSON, as the kubelet does."""
    return text.replace("\t", " ") if text.lstrip().startswith("{") else text


def _annotation(manifest: Any, path: str) -> str | None:
    """Return the value of our annotation; StoreError if this is not a manifest that we can use."""
    metadata = manifest.get("metadata") if isinstance(manifest, dict) and manifest.get("kind") == "Pod" else None
    annotations = (metadata.get("annotations") or {}) if isinstance(metadata, dict) else None
    if not isinstance(metadata, dict) or not isinstance(annotations, dict):
        raise StoreError(f"{path}: this is not the manifest of a pod; name the file that the kubelet starts it from")
    if metadata.get("uid"):
        # applyDefaults keeps a UID of the manifest's own.
        raise StoreError(f"{path}: it sets metadata.uid, so the kubelet would not restart the pod; remove the uid")
    value = annotations.get(ANNOTATION)
    return value if isinstance(value, str) else None


def _value(old: str | None, changes: Mapping[str, str]) -> str:
    """Return the digests that the pod was last restarted for, by key, because keys that share a hook may run alone."""
    digests = dict(part.split("=", 1) for part in (old or "").split(",") if "=" in part)
    digests |= {key: digest[:_KEPT] for key, digest in changes.items()}
    return ",".join(f"{key}={digests[key]}" for key in sorted(digests))


def _edited(text: str, root: Any, value: str) -> str | None:
    """Return the text with the annotation, or None if its place is not certain."""
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
    """Return the text with `new` in place of a scalar, which may be empty, or a block that includes its line end."""
    start, stop = scalar.start_mark.index, scalar.end_mark.index
    return f"{text[:start]}{' ' if start == stop else ''}{new}{end if scalar.style in ('|', '>') else ''}{text[stop:]}"


def _inserted(text: str, mapping: Any, in_braces: str, in_lines: str, end: str) -> str | None:
    """Return the text with a new first entry in a mapping; `{indent}` in `in_lines` is its indentation."""
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
    """Return the node below `key` of a mapping node, or None."""
    if mapping is None or mapping.id != "mapping":
        return None
    return next((value for name, value in mapping.value if name.value == key), None)
