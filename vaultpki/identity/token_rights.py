"""Checks before the first write that a token has the capabilities which a command needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from vaultpki.errors import Denied
from vaultpki.model import Cluster
from vaultpki.vault import Json, Vault

# The answer has each path twice: all paths of a large cluster would make it larger than any answer may be.
PATHS_AT_ONCE: Final = 1000


def granted(vault: Vault, paths: Iterable[str], *, token: str | None = None) -> Json:
    """Return the server's list of the capabilities at each path, of the vault's own token or of another one."""
    wanted, said = sorted({*paths}), dict[str, Any]()
    for start in range(0, len(wanted), PATHS_AT_ONCE):
        # One text: both servers refuse a request with some hundred strings.
        asked = ",".join(wanted[start : start + PATHS_AT_ONCE])
        said |= vault.api.sys.get_capabilities(asked, token=token).data
    return said


def missing_right(vault: Vault, needs: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the first path and capability of `needs` that the token lacks, else None.

    None also for a token that may not ask (sys/capabilities-self is in the default policy): its first write is refused.
    """
    try:
        said = granted(vault, needs)
    except Denied:
        return None
    for path, need in needs.items():
        has = said.get(path)
        # Vault itself decides path by path whether a write is a create.
        enough = {"root", need, *(["create"] if need == "update" else [])}
        if isinstance(has, list) and not enough & {*has}:
            return path, need
    return None


def refuse_weak_token(cluster: Cluster, vault: Vault, needs: Mapping[str, str]) -> None:
    """Raise Denied if the token lacks one of these capabilities, which are by path."""
    if lacking := missing_right(vault, needs):
        path, need = lacking
        text = f"it may not {need} {path}; `vaultpki policy{cluster.file_option} applier` prints what it needs"
        raise Denied(text, weak=True)
