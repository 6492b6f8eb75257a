"""Which nodes the clusters of the soak of service-account keys have, as cluster.yaml says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

FIRST: Final = {"cp-1": "198.51.100.11", "cp-2": "198.51.100.12", "cp-3": "198.51.100.13"}
"""Control planes with etcd, by name."""

LATER: Final = {"cp-4": "198.51.100.14", "cp-5": "198.51.100.15", "cp-6": "198.51.100.16"}
"""Machines of control planes that join, by name."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What cluster.yaml says of keys: whether nodes have their own, and of which type, "" for the usual one."""

    own: bool = True
    key: str = ""


def spec(planes: Mapping[str, str], asked: Asked) -> str:
    """The rest of cluster.yaml for control planes by name and address, and workers of a pool."""
    lines = [
        f"- {{name: {name}, roles: [control-plane{', etcd' if name in FIRST else ''}], addresses: [{address}]}}\n"
        for name, address in planes.items()
    ]
    server = "kind: server, ca: kubernetes, common_name: extension, names: [extension.default.svc], roles: [etcd]"
    return (
        f"service_account_keys: {str(asked.own).lower()}\n"
        'api_server: {endpoint: "https://api.example.com:6443", names: [api.example.com]}\n'
        f"nodes:\n{''.join(lines)}"
        'pools:\n- {name: autoscaled, roles: [worker], node_names: "w-*"}\n'
        f"certificates:\n  extension: {{{server}}}\n"
        f"{f'  service-account: {{key: {asked.key}}}' if asked.key else ''}\n"
    )
