"""Finds the agent.yaml of each node in a folder of nodes, and reads how each node is; asks no server.

Only what lies in the folder is read. agent.yaml names absolute places, which after a copy are those of the originals or
of another machine: the copies are found by the ends of these paths.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from vaultpki.agent import status
from vaultpki.config.agent import load_agent
from vaultpki.errors import StoreError, VaultpkiError
from vaultpki.layout import DIRECTORY
from vaultpki.model import AgentConfig
from vaultpki.node.procedures import Procedures
from vaultpki.places import AGENT_FILE
from vaultpki.redact import printable

MOST_ENTRIES: Final = 10_000
"""The most entries of a folder of nodes."""

_FILE: Final = "agent.yaml"
# Where it lies below a folder into which a node's file system was collected.
_COLLECTED: Final = AGENT_FILE.lstrip("/")
_DENIED: Final = "permission denied; run as its owner or as root"


@dataclass(frozen=True, slots=True)
class NodeFolder:
    """One node's folder. `problem` says why this user cannot look into it; empty if there is an agent.yaml.

    `file` is the place of that below the folder.
    """

    path: Path
    problem: str = ""
    file: str = _FILE


def find_all(directory: Path) -> tuple[NodeFolder, ...]:
    """Return the folders of nodes: DIR/nodes/NODE as `demo --dir` leaves them, DIR/NODE, or DIR; empty if none.

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
    own = _folder(directory)
    if own is not None and not own.problem:
        return (own,)
    found = _folders(directory)
    return found if any(not folder.problem for folder in found) else ()


def collected(folder: Path) -> Path | None:
    """Return where the certificates are below a folder into which a node's file system was collected; None if nowhere.

    An agent.yaml that is wrong names no directory, so the usual one counts.
    """
    file = folder / _COLLECTED
    if not os.path.lexists(file):
        return None
    directory = DIRECTORY
    with contextlib.suppress(VaultpkiError):
        directory = load_agent(file, allow_http=True).directory
    return _copy(directory, folder)


def collected_with(directory: Path) -> NodeFolder | None:
    """Return the folder in which `directory` was collected as the one with a node's certificates; None if in none.

    The root of this machine is no such folder.
    """
    real = os.path.realpath(directory)
    for above in directory.absolute().parents[:-1]:
        found = collected(above)
        if found is not None and os.path.realpath(found) == real:
            return NodeFolder(above, file=_COLLECTED)
    return None


def further_places(config: AgentConfig, folder: Path) -> dict[str, Path]:
    """Return where in `folder` the further folders of an agent.yaml were copied, by name, of those that are there."""
    copies = {name: _copy(place, folder) for name, place in config.folders.items()}
    return {name: place for name, place in copies.items() if place is not None}


def read(folder: NodeFolder, now: datetime, procedures: Procedures, *, allow_http: bool = False) -> status.Status:
    """Return how a node is, however broken; its agent.yaml is held to the same rules as on the node.

    `procedures` are as in PassOptions.
    """
    path = folder.path / folder.file
    try:
        if folder.problem:
            raise StoreError(f"{printable(str(folder.path))}: {folder.problem}")
        if path.is_symlink():
            raise StoreError(f"{printable(str(path))}: it is a symbolic link; put the file itself there")
        config = load_agent(path, allow_http=allow_http)
    except VaultpkiError as error:
        return status.Status(None, None, (), {_FILE: str(error)}, {}, None, None)
    named = (config.directory, config.state, *config.folders.values())
    if all(inside(Path(place), folder.path) for place in named):
        return status.of_node(config, now, procedures, ask=False, allow_http=allow_http)
    return _of_copies(config, folder.path, now, procedures)


def _of_copies(config: AgentConfig, folder: Path, now: datetime, procedures: Procedures) -> status.Status:
    """Return how a node is by the copies of its files in `folder`; nothing is read elsewhere."""
    owned = {name: replace(options, owner=None) for name, options in config.certificates.items()}
    named = replace(config, owner=None, certificates=owned)
    directory, state = _copy(config.directory, folder), _copy(config.state, folder)
    places = {name: str(place) for name, place in further_places(config, folder).items()}
    lacking = [place for name, place in config.folders.items() if name not in places]
    if directory is None:
        text = f"{config.directory} of agent.yaml is not in {folder}, and nothing is read elsewhere: copy it there"
        return status.Status(config.node, None, (), {"directory": printable(text)}, {}, None, None, pool=config.pool)
    if state is None or lacking:
        gone = ", ".join([*([config.state] if state is None else []), *lacking])
        note = f"{gone} of agent.yaml is not in {folder}: the certificates were judged by themselves"
        found = status.of_folder(str(directory), now, places)
        return replace(found, node=config.node, pool=config.pool, notes=(printable(note),))
    copied = replace(named, directory=str(directory), state=str(state), folders=places)
    return status.of_node(named, now, procedures, ask=False, copied=copied)


def _copy(place: str, folder: Path) -> Path | None:
    """Return where in `folder` a place of the node was copied: by the longest end of its path that is there."""
    parts = Path(place).parts[1:]
    found = (folder.joinpath(*parts[start:]) for start in range(len(parts)))
    return next((path for path in found if path.is_dir() and inside(path, folder)), None)


def inside(path: Path, folder: Path) -> bool:
    """Return whether a path lies in a folder, or is it, with all links followed."""
    return f"{os.path.realpath(path)}/".startswith(f"{os.path.realpath(folder).rstrip('/')}/")


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
            for file in (_FILE, _COLLECTED):
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    os.lstat(path / file)
                    return NodeFolder(path, file=file)
    except FileNotFoundError:
        return None
    except OSError as error:
        return NodeFolder(path, _reason(error))
    return None


def _reason(error: OSError) -> str:
    return _DENIED if isinstance(error, PermissionError) else f"it cannot be read ({error.strerror})"
