"""Return whether anything changed since the last pass that had nothing to do; compares bytes only.

Reading agent.yaml and the records takes several times as long as seeing that neither they nor the files have changed,
and a node asks this far more often than anything is due.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vaultpki import __version__
from vaultpki.disk.folders import Folders
from vaultpki.errors import StoreError
from vaultpki.node import assignment
from vaultpki.node import state as memory
from vaultpki.node.state import AgentState
from vaultpki.places import PKI
from vaultpki.values import input_file, permissions

if TYPE_CHECKING:
    from vaultpki.model import AgentConfig

_STATE: Final = re.compile(rb"^state: *[\"']?(/[^\s\"'#]*)", re.MULTILINE)
_DEFAULT_STATE: Final = "/var/lib/vaultpki"
_LARGEST: Final = 1 << 20


def source_of(data: bytes) -> str:
    """Return the digest of an agent.yaml, as in `AgentConfig.source`."""
    from hashlib import sha256

    return sha256(data).hexdigest()


def source(config: AgentConfig) -> str:
    """Return the digest of the agent.yaml that `config` was read from, or of its values if there is no file."""
    return config.source or repr(config)


def current(config: AgentConfig) -> bool:
    """Return whether agent.yaml is still what `config` was read from; False for one that cannot be read."""
    if not config.source:
        return True
    try:
        return source_of(input_file.content(permissions.open_file(config.file), _LARGEST)) == config.source
    except (OSError, ValueError, StoreError):
        return False


def digest(source: str, spec: str, folders: Folders, *, allow_http: bool) -> str:
    """Return a digest of all that a pass depends on: this program, agent.yaml, Vault's last answer, and the files."""
    from hashlib import sha256

    plain: tuple[str, ...] = ()
    if folders.kubeconfigs is not None:
        from vaultpki.layout import PLAIN_KUBECONFIGS

        plain = PLAIN_KUBECONFIGS
    parts = (__version__, source, str(allow_http), spec, folders.digest(plain))
    return sha256("\0".join(parts).encode()).hexdigest()


def unchanged(
    known: AgentState, source: str, *, state: str, paths: Mapping[str, str], age: float, allow_http: bool, now: float
) -> bool:
    """Return whether a pass would do nothing with the folders at `paths`.

    `now` is Unix time; Vault's last answer is used for `age` seconds.
    """
    if not known.quiet or known.owed or now >= known.quiet_until:
        return False
    if now < known.quiet_since:
        from vaultpki.certificates import SKEW

        if now < known.quiet_since - SKEW:
            return False
    spec = assignment.stamp(state)
    if spec is None or not 0 <= now - spec[0] < age:
        return False
    try:
        with Folders.open(paths, write=False) as folders:
            return digest(source, spec[1], folders, allow_http=allow_http) == known.quiet
    except StoreError:
        return False


def due(file: Path, *, allow_http: bool, now: float) -> float | None:
    """Return when the next certificate is due (Unix time), if a pass by this agent.yaml would do nothing now.

    None means unknown: then agent.yaml has to be read. `now` is Unix time.
    """
    try:
        data = input_file.content(permissions.open_file(str(file)), _LARGEST)
    except (OSError, ValueError, StoreError):
        return None
    # Only a hint where to look: the state there counts only if a pass that read these very bytes wrote it.
    found = _STATE.search(data)
    state = found[1].decode("ascii", "replace") if found else _DEFAULT_STATE
    known = memory.load(state)
    same = unchanged(
        known,
        source_of(data),
        state=state,
        paths={PKI: known.quiet_directory, **known.quiet_folders},
        age=known.quiet_poll,
        allow_http=allow_http,
        now=now,
    )
    return known.quiet_until if same else None
