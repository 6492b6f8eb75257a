"""Reads the files of other programs that their flags name, as far as they can be read: settings, certificates, keys."""

from __future__ import annotations

import json
from typing import Any, Final

from vaultpki.values import input_file

_LARGEST: Final = 1024 * 1024


def content(path: str) -> bytes:
    """Return a regular file of at most 1 MiB at an absolute path; empty if there is none that can be read."""
    if not path.startswith("/"):
        return b""
    try:
        return input_file.read(path, _LARGEST)[0]
    except (OSError, ValueError):
        return b""


def mapping(path: str) -> dict[str, Any]:
    """Return the mapping in a file of YAML or JSON; empty if there is none that can be read."""
    data = content(path)
    if not data:
        return {}
    import yaml

    try:
        # JSON may have tabs, which PyYAML refuses.
        found = json.loads(data) if data.lstrip().startswith(b"{") else yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return {}
    return {str(name): value for name, value in found.items()} if isinstance(found, dict) else {}


def etcd(path: str) -> dict[str, str]:
    """Return etcd's configuration file as the flags that it stands for; empty if there is none that can be read.

    The names of its two sections lack what tells them apart on the command line (etcd server/embed/config.go).
    """
    found = mapping(path)
    client, peer = (found.get(f"{name}-transport-security") for name in ("client", "peer"))
    given = {**found, **(client if isinstance(client, dict) else {})}
    given |= {f"peer-{name}": value for name, value in peer.items()} if isinstance(peer, dict) else {}
    return {str(name): value for name, value in given.items() if isinstance(value, str)}
