"""Reads and writes join.json, the short-lived file with which an enroller hands a node its first credential."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Final

from vaultpki.certificates import ISSUING_CAS
from vaultpki.errors import SpecError
from vaultpki.places import Layout
from vaultpki.records import foreign_cas
from vaultpki.values import hosts, input_file, json_object, names, pem
from vaultpki.values.json_object import DIGEST, FLAG, TIME, ByName, Items, JsonMember, JsonObject, Object, OneOf, word

_LARGEST: Final = 1 << 19
# The same limit as in agent.yaml.
_MOST_ADDRESSES: Final = 16
_WRONG: Final = "is not as `vaultpki enroll` writes it; do not use this file, and ask for a new one"
_NOT_A_JOIN_FILE: Final = "is not a join file; ask the person who enrolled this node for a new one"


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """A join file. `pool` is None for a listed node, `ca_pem` if the system's CAs verify Vault.

    That of a `signer` names the node on which it runs.

    `namespace` is the Vault namespace of the cluster; None is the root namespace. `layout` is that of the node's files.
    `also_trust` are the SHA-256 of the foreign CAs that the node accepts, by domain. `former_root_sha256` is a root
    that the node had before: its folders, with all that is in use there, go over to this root.
    """

    cluster: str
    prefix: str
    namespace: str | None = None
    node: str
    pool: str | None
    addresses: tuple[str, ...]
    ca_pem: str | None
    root_sha256: str
    role_id: str
    wrap_token: str = field(repr=False)
    expires: datetime
    layout: Layout = Layout.DOCUMENT
    also_trust: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    former_root_sha256: str | None = None
    signer: bool = False


_JOIN: Final = Object(
    Join,
    {
        "cluster": word(names.cluster_name),
        "prefix": word(names.prefix),
        "namespace": JsonMember(word(names.vault_namespace), null=True),
        "node": word(hosts.node_name),
        "pool": JsonMember(word(names.pool_name), null=True),
        "addresses": Items(word(hosts.vault_address), _MOST_ADDRESSES, least=1),
        "ca_pem": JsonMember(word(pem.pem_certificates), null=True),
        "root_sha256": DIGEST,
        "role_id": word(names.token),
        "wrap_token": word(names.token),
        "expires": TIME,
        # A vaultpki that does not know foreign CAs refuses a file that names some: it could not take them over.
        foreign_cas.FIELD: JsonMember(
            ByName(ISSUING_CAS.__contains__, Items(DIGEST, foreign_cas.MOST_CAS, least=1)), left_out=True
        ),
        # Nor does one take folders over that does not know this.
        "former_root_sha256": JsonMember(DIGEST, left_out=True, null=True),
        # Nor one that knows no signer: it would make an agent of it.
        "signer": JsonMember(FLAG, left_out=True),
        # A vaultpki without layouts reads the file for the layout document, which does not name it.
        "layout": JsonMember(OneOf(Layout), left_out=True),
    },
    problem=_WRONG,
)


def dump_join(join: Join) -> str:
    """Return the text of the file; it contains the wrapping token, so it must be written with mode 0600."""
    return json.dumps({"version": join.layout.version, **_JOIN.write(join)}, indent=2) + "\n"


def load_join(path: Path) -> Join:
    """Return the join file at `path`; raise SpecError with file and field if an enroller did not write it like this.

    Also raises SpecError if it is not a regular file, if its owner is neither root nor this user, or if others may read
    or write it, because then it may no longer be secret.
    """
    raw, about = read(path)
    if about.st_uid not in (0, os.geteuid()):
        raise SpecError(
            f"belongs to the user {about.st_uid}, who may have changed it. If you trust it, give it to the user that "
            "joins (`chown`), else ask for a new one",
            file=str(path),
        )
    if about.st_mode & 0o077:
        raise SpecError(
            "others may read or write it; `chmod 600` it, and ask for a new one if they did", file=str(path)
        )
    return parse(raw, str(path))


def parse(raw: bytes, file: str) -> Join:
    """Return the join file in these bytes; raise SpecError as `load_join`, with `file` as the file's name."""
    value = json_object.parse(raw)
    if value is None:
        raise SpecError(_NOT_A_JOIN_FILE, file=file)
    read = JsonObject(value, file, _WRONG)
    read.layout()
    for key in value:
        if key not in {"version", *(each.name for each in fields(Join))}:
            raise read.wrong(key[:40])
    return _JOIN.read(value, file)


def owner(path: Path) -> tuple[str, str, str] | None:
    """Return cluster, prefix and node of the join file at `path`, of any version; None if it is not a join file."""
    try:
        value = json_object.parse(read(path)[0]) or {}
    except SpecError:
        return None
    checks = {"cluster": names.cluster_name, "prefix": names.prefix, "node": hosts.node_name}
    found = tuple(value[key] for key, check in checks.items() if names.fits(value.get(key), check))
    return (found[0], found[1], found[2]) if len(found) == len(checks) and "wrap_token" in value else None


def read(path: Path) -> tuple[bytes, os.stat_result]:
    """Return the bytes of the file at `path` and its `fstat` result.

    Raises SpecError if it cannot be read, is not a regular file, is a symbolic link or is too large.
    """
    try:
        return input_file.read(path, _LARGEST, follow=False)
    except input_file.TooLarge:
        raise SpecError(_NOT_A_JOIN_FILE, file=str(path)) from None
    except (IsADirectoryError, input_file.NotRegular):
        raise SpecError("is not a file; name the join file you were given", file=str(path)) from None
    except PermissionError:
        raise SpecError("this user may not read the join file; run as root or as its owner", file=str(path)) from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "the path is not usable"
        if isinstance(error, OSError) and error.errno == errno.ELOOP:
            why = "it is a symbolic link"
        raise SpecError(f"cannot be read ({why}); name the join file you were given", file=str(path)) from None
