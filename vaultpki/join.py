"""join.json: what an enroller hands to a node, once, and for a short while. Reading it is strict; it is JSON."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from vaultpki import regular, words
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
    "version cluster prefix namespace node pool addresses ca_pem root_sha256 role_id wrap_token expires".split()  # noqa: SIM905
)


@dataclass(frozen=True, slots=True)
class Join:
    """A join file. `pool` is None for a listed node, `ca_pem` where the system's CAs verify Vault.

    `namespace` is the one in Vault that the cluster lies in; None is the one above all.
    """

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
    namespace: str | None = None


def dump_join(join: Join) -> str:
    """The text of the file; it holds the wrapping token, so it is written 0600."""
    value = {
        "version": VERSION,
        "cluster": join.cluster,
        "prefix": join.prefix,
        "namespace": join.namespace,
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
    """The join file at `path`. SpecError names the file and the field that is not as an enroller writes it.

    Also where it is no regular file, belongs to neither root nor this user, or others may read or write it: then it may
    not be a secret any more.
    """
    raw, about = read(path)
    if about.st_uid not in (0, os.geteuid()):
        raise SpecError(
            f"belongs to the user {about.st_uid}, who may have changed it; if you trust it, give it to the user that "
            "joins (`chown`), else ask for a new one",
            file=str(path),
        )
    if about.st_mode & 0o077:
        raise SpecError(
            "others may read or write it; `chmod 600` it, and ask for a new one if they did", file=str(path)
        )
    return parse(raw, str(path))


def parse(raw: bytes, file: str) -> Join:
    """The join file that these bytes are. SpecError names `file` and the field that is not as an enroller writes it."""
    value = _object(raw)
    if value is None:
        raise SpecError("is no join file; ask whoever enrolled this node for a new one", file=file)
    version = value.get("version")
    if isinstance(version, int) and version > VERSION:
        raise SpecError(
            f"is of version {version} and this vaultpki speaks {VERSION}; install the newer vaultpki on this node",
            file=file,
            field="version",
        )
    return _Reading(value, file).join()


def owner(path: Path) -> tuple[str, str, str] | None:
    """Whose join file lies at `path`, of whatever version: cluster, prefix and node; None where it is none."""
    try:
        value = _object(read(path)[0]) or {}
    except SpecError:
        return None
    checks = {"cluster": words.cluster_name, "prefix": words.prefix, "node": words.node_name}
    found = tuple(value[key] for key, check in checks.items() if words.fits(value.get(key), check))
    return (found[0], found[1], found[2]) if len(found) == len(checks) and "wrap_token" in value else None


def read(path: Path) -> tuple[bytes, os.stat_result]:
    """The bytes of the file at `path`, and what `fstat` says of it.

    SpecError where it cannot be read, is no regular file or is too large; no link is followed.
    """
    try:
        return regular.read(path, _LARGEST, follow=False)
    except regular.TooLarge:
        raise SpecError("is no join file; ask whoever enrolled this node for a new one", file=str(path)) from None
    except (IsADirectoryError, regular.NotRegular):
        raise SpecError("is no file; name the join file you were given", file=str(path)) from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "the path is not usable"
        if isinstance(error, OSError) and error.errno == errno.ELOOP:
            why = "it is a symbolic link"
        raise SpecError(f"cannot be read ({why}); name the join file you were given", file=str(path)) from None


def _object(raw: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


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
        if ca_pem is not None and not words.fits(ca_pem, words.pem_certificates):
            raise self._wrong("ca_pem")
        try:
            expires = datetime.strptime(self._text("expires", re.compile(".{20}")), _STAMP).replace(tzinfo=UTC)
        except ValueError:
            raise self._wrong("expires") from None
        return Join(
            cluster=self._word("cluster", words.cluster_name),
            prefix=self._word("prefix", words.prefix),
            node=self._word("node", words.node_name),
            namespace=None if self._value.get("namespace") is None else self._word("namespace", words.vault_namespace),
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
