"""What people write: cluster.yaml and agent.yaml, their keys, their schema, and whether their parts fit together.

Errors name file, line and field. Entry: `load_cluster` and `load_agent`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from vaultpki.config.agent import dump_agent, load_agent
    from vaultpki.config.cluster import load_cluster
    from vaultpki.config.cluster_schema import schema

__all__ = ["dump_agent", "load_agent", "load_cluster", "schema"]

_MODULES: Final = {"dump_agent": "agent", "load_agent": "agent", "load_cluster": "cluster", "schema": "cluster_schema"}


def __getattr__(name: str) -> Any:
    """Load the module of a name on first use (PEP 562): an agent does not need the declarations of cluster.yaml."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
