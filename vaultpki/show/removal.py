"""Shows what a destroy removes and how many nodes depend on it; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from vaultpki.model import Cluster
from vaultpki.provision.destroy import Living, Removal
from vaultpki.redact import escaped, first_few
from vaultpki.show.line import WIDTH, Line, wrapped

_KINDS: Final[Mapping[str, tuple[str, str]]] = {
    "mount": ("mount", "mounts"),
    "auth": ("auth mount", "auth mounts"),
    "policy": ("policy", "policies"),
    "role": ("role", "roles"),
    "approle": ("AppRole", "AppRoles"),
}


def lines(cluster: Cluster, address: str, found: Removal, living: Living) -> list[Line]:
    """Return what is removed by kind, and the nodes that get no new certificates then."""
    shown = [Line(f"This removes {cluster.name} at {address}, also its CAs. It cannot be undone.")]
    for kind, names in _removed(found).items():
        if names:
            text = f"  {len(names)} {_KINDS[kind][len(names) != 1]}: {escaped(first_few(names))}"
            shown += wrapped(text, None, WIDTH)
    return [*shown, *wrapped(_living_text(living), "red" if living.nodes or living.problem else None, WIDTH)]


def to_json(cluster: Cluster, address: str, found: Removal, living: Living, kept: Sequence[str]) -> dict[str, Any]:
    """Return what was removed, and how many nodes lived from it, for programs."""
    counted = {"credentials": living.credentials, "reported": living.reported, "total": living.nodes}
    return {
        "cluster": cluster.name,
        "server": address,
        "removed": _removed(found),
        "kept": list(kept),
        "nodes": {"problem": living.problem} if living.problem else counted,
    }


def _living_text(living: Living) -> str:
    if living.problem:
        return f"It is not known how many nodes depend on it: {escaped(living.problem)}"
    if not living.nodes:
        return "No node depends on it."
    some = "1 node depends" if living.nodes == 1 else f"{living.nodes} nodes depend"
    return (
        f"{some} on it: {living.credentials} can log in, {living.reported} have reported. "
        "Nothing renews their certificates then."
    )


def _removed(found: Removal) -> dict[str, list[str]]:
    """Return the names by kind. Roles go with their mounts."""
    names = [*found.doomed, *(key for key in found.seen.observed.objects if key[0] in ("role", "approle"))]
    return {kind: sorted(name for each, name in names if each == kind) for kind in _KINDS}
