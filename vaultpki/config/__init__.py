"""cluster.yaml and agent.yaml to frozen values, with errors true to the line."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from vaultpki.config.agent import dump_agent, load_agent
    from vaultpki.config.cluster import load_cluster
    from vaultpki.config.declared import schema
    from vaultpki.config.durations import format_duration, parse_duration
    from vaultpki.config.starter import starter

__all__ = ["dump_agent", "format_duration", "load_agent", "load_cluster", "parse_duration", "schema", "starter"]

_MODULES: Final = {
    "dump_agent": "agent",
    "format_duration": "durations",
    "load_agent": "agent",
    "load_cluster": "cluster",
    "parse_duration": "durations",
    "schema": "declared",
    "starter": "starter",
}


def __getattr__(name: str) -> Any:
    """Loads the module of a name when it is asked for (PEP 562): a node has no use for cluster.yaml's declarations."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    # One function has its module's own name, and to load a module binds that.
    globals()[name] = found
    return found
