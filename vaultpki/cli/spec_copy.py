"""Copies cluster.yaml and the files that it names beside a join file, for `vaultpki verify` on the node."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

from vaultpki import redact
from vaultpki.disk.files import closing, open_folder, storage_errors, swap
from vaultpki.errors import SpecError, StoreError
from vaultpki.values import yaml_tree

_MOST_BYTES: Final = 4 * 1024 * 1024


def write_spec(file: Path, folder: Path) -> tuple[Path, ...]:
    """Write a cluster.yaml that was read already, and the files that it names, into `folder`, each with mode 0644.

    Each keeps its name relative to cluster.yaml. Returns the paths. Raises SpecError for a name that leads out of the
    folder and for a file with a secret, and StoreError for a different file that is there; nothing is written then.
    """
    text = yaml_tree.read_text(file, _MOST_BYTES)
    spec = yaml_tree.plain_mapping(text, yaml_tree.shown(file))
    wanted = {file.name: text.encode()}
    for name in dict.fromkeys(_named(spec)):
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts:
            raise SpecError(f"{name} is not below the folder of the file, so it cannot be copied", file=str(file))
        wanted[str(pure)] = yaml_tree.read_bytes(file.parent / name, _MOST_BYTES, below=file.parent)
    for name, data in wanted.items():
        shown = data.decode("utf-8", "replace")
        if redact.hide(shown) != shown:
            raise SpecError(f"{name} contains a token or a private key, so it is not copied", file=str(file))
        there = folder / name
        with storage_errors(str(there)):
            if there.is_symlink() or (there.exists() and there.read_bytes() != data):
                raise StoreError(f"{there} is there already and differs: move it away, or name another folder with -o")
    for name, data in wanted.items():
        # One that is there is the same.
        if (folder / name).exists():
            continue
        target = (folder / name).absolute()
        with closing(open_folder(str(target.parent), create=True)) as fd, storage_errors(str(target)):
            swap(target.name, fd, data, 0o644)
    return tuple(folder / name for name in wanted)


def _named(spec: dict[str, Any]) -> Iterator[str]:
    """Yield the names of files in a cluster.yaml that was checked."""
    yield from _texts([(spec.get("vault") or {}).get("ca_file")])
    ca = spec.get("ca") or {}
    yield from _texts([ca.get("root_file")])
    for names in (ca.get("also_trust") or {}).values():
        yield from _texts(names)
    for pool in spec.get("pools") or ():
        jwt = pool.get("jwt") or {}
        yield from _texts([jwt.get("public_keys_file"), jwt.get("jwks_ca_file")])
    for template in (spec.get("templates") or {}).values():
        yield from _texts([template.get("template")])


def _texts(values: Any) -> Iterator[str]:
    yield from (each for each in ([values] if isinstance(values, str) else values) if isinstance(each, str))
