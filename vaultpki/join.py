"""join.json: what an enroller hands to a node, once, and for a short while. Reading it is strict; it is JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from vaultpki import words
from vaultpki.errors import SpecError
from vaultpki.model import VERSION
from vaultpki.values import dataclass
from vaultpki.vault.settings import parse_origin

_LARGEST: Final = 1 << 19
# As many as agent.yaml takes.
_MOST_ADDRESSES: Final = 16
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")
_STAMP = "%Y-%m-%dT%H:%M:%SZ"
_KEYS: Final = (
    "version cluster prefix node pool addresses ca_pem root_sha256 role_id wrap_token expires".split()  # noqa: SIM905
)


@dataclass(frozen=True, slots=True)
class Join:
    """A join file. `pool` is None for a listed node, `ca_pem` where the system's CAs verify Vault."""

    cluster: str
    prefix: str
    node: str
    pool: str | None
    addresses: tuple[str, ...]
    ca_pem: str | None
    root_sha256: str
    role_id: str
    wrap_token: str = field(repr=False)
    expires: datetime


def dump_join(join: Join) -> str:
    """The text of the file; it holds the wrapping token, so it is written 0600."""
    value = {
        "version": VERSION,
        "cluster": join.cluster,
        "prefix": join.prefix,
        "node": join.node,
        "pool": join.pool,
        "addresses": list(join.addresses),
        "ca_pem": join.ca_pem,
        "root_sha256": join.root_sha256,
        "role_id": join.role_id,
        "wrap_token": join.wrap_token,
        "expires": f"{join.expires:{_STAMP}}",
    }
    return json.dumps(value, indent=2) + "\n"


def load_join(path: Path) -> Join:
    """The join file at `path`. SpecError names the file and the field that is not as an enroller writes it."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(_LARGEST + 1)
    except OSError as error:
        raise SpecError(
            f"cannot be read ({error.strerror}); name the join file you were given", file=str(path)
        ) from None
    try:
        value = json.loads(raw) if len(raw) <= _LARGEST else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise SpecError("is no join file; ask for a new one (`vaultpki enroll`)", file=str(path))
    version = value.get("version")
    if isinstance(version, int) and version > VERSION:
        raise SpecError(
            f"is of version {version} and this vaultpki speaks {VERSION}; install the newer vaultpki on this node",
            file=str(path),
            field="version",
        )
    return _Reading(value, str(path)).join()


class _Reading:
    def __init__(self, value: Mapping[str, Any], file: str) -> None:
        self._value, self._file = value, file

    def join(self) -> Join:
        for key in self._value:
            if key not in _KEYS:
                raise self._wrong(str(key)[:40])
        version = self._value.get("version")
        if isinstance(version, bool) or version != VERSION:
            raise self._wrong("version")
        addresses = self._value.get("addresses")
        if not isinstance(addresses, list) or not addresses or len(addresses) > _MOST_ADDRESSES:
            raise self._wrong("addresses")
        for address in addresses:
            if not isinstance(address, str) or not _origin(address):
                raise self._wrong("addresses")
        ca_pem = self._value.get("ca_pem")
        if ca_pem is not None and (not isinstance(ca_pem, str) or "BEGIN CERTIFICATE" not in ca_pem):
            raise self._wrong("ca_pem")
        try:
            expires = datetime.strptime(self._text("expires", re.compile(".{20}")), _STAMP).replace(tzinfo=UTC)
        except ValueError:
            raise self._wrong("expires") from None
        return Join(
            cluster=self._word("cluster", words.cluster_name),
            prefix=self._word("prefix", words.prefix),
            node=self._word("node", words.node_name),
            pool=None if self._value.get("pool") is None else self._word("pool", words.pool_name),
            addresses=tuple(addresses),
            ca_pem=ca_pem,
            root_sha256=self._text("root_sha256", _SHA256),
            role_id=self._text("role_id", _TOKEN),
            wrap_token=self._text("wrap_token", _TOKEN),
            expires=expires,
        )

    def _word(self, key: str, check: Callable[[str], str]) -> str:
        value = self._value.get(key)
        if not words.fits(value, check):
            raise self._wrong(key)
        return value

    def _text(self, key: str, pattern: re.Pattern[str]) -> str:
        value = self._value.get(key)
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise self._wrong(key)
        return value

    def _wrong(self, key: str) -> SpecError:
        return SpecError(
            "is not as `vaultpki enroll` writes it; do not use this file, and ask for a new one",
            file=self._file,
            field=key,
        )


def _origin(address: str) -> bool:
    try:
        # Whether plain http may be spoken is said where the file is used.
        parse_origin(address, allow_http=True)
    except SpecError:
        return False
    return True
