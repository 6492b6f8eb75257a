"""The value of an agent.yaml, for tests of what works with one."""

from __future__ import annotations

from typing import Any

from vaultpki.model import AgentConfig, Auth


def agent_config(**fields: Any) -> AgentConfig:
    """A control plane's, with some fields of a test's own."""
    whole: dict[str, Any] = {
        "cluster": "prod",
        "prefix": "vaultpki/prod",
        "node": "cp-1",
        "pool": None,
        "addresses": ("https://v",),
        "ca_file": None,
        "root_sha256": "4f" * 32,
        "auth": Auth("approle", role_id="9a0e"),
        "directory": "/srv/pki",
        "state": "/srv/state",
    }
    return AgentConfig(**{**whole, **fields})
