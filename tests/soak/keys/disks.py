"""The search for a private key that lies on two machines."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from vaultpki.errors import CertificateUnreadable
from vaultpki.pki import keys

_LARGEST: Final = 256 * 1024
_KEY: Final = re.compile(rb"-----BEGIN ([A-Z ]*)PRIVATE KEY-----.+?-----END \1PRIVATE KEY-----\n?", re.DOTALL)


def on_two_machines(folder: Path, common: frozenset[bytes] = frozenset()) -> list[str]:
    """A sentence for each private key in the folders of two nodes, which are the folders in this one.

    It reads every file, whatever its name is. `common` are public keys, in DER, of keys that several nodes may have.
    """
    places = defaultdict[bytes, dict[str, Path]](dict)
    for node in sorted(folder.iterdir()):
        for path in node.rglob("*"):
            for public in _public_keys(path):
                places[public].setdefault(node.name, path.relative_to(node))
    return [
        f"a private key lies on {' and '.join(f'{node} ({path})' for node, path in found.items())}"
        for public, found in places.items()
        if len(found) > 1 and public not in common
    ]


def _public_keys(path: Path) -> Iterator[bytes]:
    try:
        data = path.read_bytes() if path.is_file() and path.stat().st_size <= _LARGEST else b""
    except OSError:
        # An agent has replaced it just now.
        return
    for found in _KEY.finditer(data):
        try:
            yield keys.public_der(keys.read_key(found[0]))
        except CertificateUnreadable:
            continue
