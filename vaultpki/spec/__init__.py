"""Reads the documents of people and servers (cluster.yaml, agent.yaml, join.json, records) into frozen values.

Errors name file, line and field. It imports only the plain modules, and is the room that reads YAML. Entry:
`load_cluster` and `load_agent`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from vaultpki.spec.agent_config import dump_agent, load_agent
    from vaultpki.spec.cluster import load_cluster
    from vaultpki.spec.cluster_schema import schema
    from vaultpki.spec.durations import format_duration, parse_duration

__all__ = ["dump_agent", "format_duration", "load_agent", "load_cluster", "parse_duration", "schema"]

_MODULES: Final = {
    "dump_agent": "agent_config",
    "format_duration": "durations",
    "load_agent": "agent_config",
    "load_cluster": "cluster",
    "parse_duration": "durations",
    "schema": "cluster_schema",
}


def __getattr__(name: str) -> Any:
    """Load the module of a name on first use (PEP 562): an agent does not need the declarations of cluster.yaml."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
