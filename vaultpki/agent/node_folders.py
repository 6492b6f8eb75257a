"""Finds the agent.yaml of each node in a folder of nodes, and reads how each node is; asks no server."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from vaultpki.agent import status
from vaultpki.config.agent import load_agent
from vaultpki.errors import StoreError, VaultpkiError
from vaultpki.redact import printable

MOST_ENTRIES: Final = 10_000
"""The most entries of a folder of nodes."""

_FILE: Final = "agent.yaml"
_DENIED: Final = "permission denied; run as its owner or as root"


@dataclass(frozen=True, slots=True)
class NodeFolder:
    """One node's folder. `problem` says why this user cannot look into it; empty if there is an agent.yaml."""

    path: Path
    problem: str = ""


def find(directory: Path) -> tuple[NodeFolder, ...]:
    """Return the folders of nodes: DIR/nodes/NODE as `demo --dir` leaves them, or DIR/NODE; empty if there are none.

    A folder that this user may not look into counts as one beside others, and below DIR/nodes. There is none in a
    `directory` that cannot be read: `status.of_folder` says why. Raises StoreError if `nodes` cannot be read, or if
    there are too many.
    """
    below = directory / "nodes"
    if not _is_folder(directory):
        return ()
    if _is_folder(below):
        return _folders(below)
    if not os.access(directory, os.R_OK, effective_ids=True):
        return ()
    found = _folders(directory)
    return found if any(not folder.problem for folder in found) else ()


def read(folder: NodeFolder, now: datetime, *, allow_http: bool = False) -> status.Status:
    """Return how a node is, however broken; its agent.yaml is held to the same rules as on the node."""
    path = folder.path / _FILE
    try:
        if folder.problem:
            raise StoreError(f"{printable(str(folder.path))}: {folder.problem}")
        if path.is_symlink():
            raise StoreError(f"{printable(str(path))}: it is a symbolic link; put the file itself there")
        config = load_agent(path, allow_http=allow_http)
    except VaultpkiError as error:
        return status.Status(None, None, (), {_FILE: str(error)}, {}, None, None)
    return status.of_node(config, now, ask=False, allow_http=allow_http)


def _is_folder(path: Path) -> bool:
    """Return whether it is a folder itself, and not a link to one."""
    with contextlib.suppress(OSError, ValueError):
        return stat.S_ISDIR(os.lstat(path).st_mode)
    return False


def _folders(directory: Path) -> tuple[NodeFolder, ...]:
    found = []
    try:
        with os.scandir(directory) as entries:
            for number, entry in enumerate(entries):
                if number == MOST_ENTRIES:
                    raise StoreError(
                        f"{directory} holds more than {MOST_ENTRIES} entries; name one node's folder with --dir"
                    )
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                    found.append(_folder(Path(entry.path)))
    except OSError as error:
        raise StoreError(f"{directory}: {_reason(error)}") from None
    return tuple(sorted((folder for folder in found if folder is not None), key=lambda folder: folder.path))


def _folder(path: Path) -> NodeFolder | None:
    """Return the folder as a node's; None if it has no agent.yaml."""
    try:
        # Listed first: a folder without the right to list may still let this user open a file by its name.
        with os.scandir(path):
            os.lstat(path / _FILE)
    except FileNotFoundError:
        return None
    except OSError as error:
        return NodeFolder(path, _reason(error))
    return NodeFolder(path)


def _reason(error: OSError) -> str:
    return _DENIED if isinstance(error, PermissionError) else f"it cannot be read ({error.strerror})"
