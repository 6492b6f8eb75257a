"""Whether all is as a pass left it that found nothing to do: told from bytes, since to understand them costs more.

To read agent.yaml and the records takes several times as long as to see that neither they nor the files have changed,
and a node asks this far more often than anything is due.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vaultpki import __version__, guard, holding, memory, regular
from vaultpki.errors import StoreError
from vaultpki.memory import Memory
from vaultpki.store import Directory

if TYPE_CHECKING:
    from vaultpki.model import AgentConfig

_STATE: Final = re.compile(rb"^state: *[\"']?(/[^\s\"'#]*)", re.MULTILINE)
_DEFAULT_STATE: Final = "/var/lib/vaultpki"
_LARGEST: Final = 1 << 20


def source_of(data: bytes) -> str:
    """A digest of an agent.yaml, as `AgentConfig.source` has it."""
    from hashlib import sha256

    return sha256(data).hexdigest()


def source(config: AgentConfig) -> str:
    """The digest of the agent.yaml that `config` was read from; of what it says where it came from no file."""
    return config.source or repr(config)


def digest(source: str, spec: str, directory: Directory, *, allow_http: bool) -> str:
    """A digest of all that a pass goes by: this program, agent.yaml, what Vault said last, and the files."""
    from hashlib import sha256

    parts = (__version__, source, str(allow_http), spec, directory.digest())
    return sha256("\0".join(parts).encode()).hexdigest()


def unchanged(
    known: Memory, source: str, *, state: str, directory: str, age: float, allow_http: bool, now: float
) -> bool:
    """Whether a pass would do nothing. `now` is Unix time; what Vault said holds for `age` seconds."""
    if not known.quiet or known.owed or now >= known.quiet_until:
        return False
    if now < known.quiet_since:
        from vaultpki.certificates import SKEW

        if now < known.quiet_since - SKEW:
            return False
    spec = holding.stamp(state)
    if spec is None or not 0 <= now - spec[0] < age:
        return False
    try:
        with Directory.open(directory, write=False) as lying:
            return digest(source, spec[1], lying, allow_http=allow_http) == known.quiet
    except StoreError:
        return False


def due(file: Path, *, allow_http: bool, now: float) -> float | None:
    """When the next certificate is due, as Unix time, where a pass by this agent.yaml would do nothing now.

    None says nothing: then agent.yaml has to be read. `now` is Unix time.
    """
    try:
        data = regular.content(guard.open_file(str(file)), _LARGEST)
    except (OSError, ValueError, StoreError):
        return None
    # Only a hint where to look: what lies there was written by a pass that had read these very bytes, or says nothing.
    found = _STATE.search(data)
    state = found[1].decode("ascii", "replace") if found else _DEFAULT_STATE
    known = memory.load(state)
    same = unchanged(
        known,
        source_of(data),
        state=state,
        directory=known.quiet_directory,
        age=known.quiet_poll,
        allow_http=allow_http,
        now=now,
    )
    return known.quiet_until if same else None
