"""Writes and reads the file of `plan -o`: what a person approved, and digests of what it was computed from.

No apply carries it out: `apply FILE` computes the plan again and compares. It has no secret.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from vaultpki.errors import SpecError
from vaultpki.redact import stamp
from vaultpki.values import json_object
from vaultpki.values.json_object import DIGEST, DIGEST_OR_EMPTY, TIME, ByName, Items, JsonObject, JsonText

_KIND: Final = "vaultpki plan"
_VERSION: Final = 1

PLAN_MARK: Final = f'{{"kind": "{_KIND}", "version": {_VERSION},'
"""The first line of the file, by which a file that may be overwritten is known."""

MOST_PLAN_BYTES: Final = 64 * 1024 * 1024
"""The largest size of the file: about 1,000 bytes for each of 5,000 nodes, and room."""

_FILE: Final = JsonText(re.compile(r"[^\0]{1,4095}").fullmatch)
"""A path, which Linux limits to 4,095 bytes (limits.h, PATH_MAX)."""
_DIGESTS: Final = ByName(lambda name: True, DIGEST)
# Two lines of a plan may be the same.
_LINES: Final = Items(JsonText(), doubles=True)
_WRONG: Final = (
    "is not as `vaultpki plan -o` writes it: it was changed or cut off, or is another file; save the plan again"
)


@dataclass(frozen=True, slots=True)
class Basis:
    """What a plan was computed from, as far as it is known before the server is asked.

    `release` is the version of vaultpki. `addresses` and `namespace` (as in a URL's path, empty for none) are those of
    the server. `spec` is the digest of what cluster.yaml says, `files` the digests of the files that it names, by the
    keys that name them. A digest is a SHA-256 in lower-case hex.
    """

    release: str
    cluster: str
    prefix: str
    addresses: tuple[str, ...]
    namespace: str
    spec: str
    files: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SavedPlan:
    """A plan that was saved.

    `file` is the path of cluster.yaml as it was given. `root_sha256` is empty if there was no root CA. `objects` are
    the digests of what the plan compared on the server, `changes` those of the changes, each by kind and name. `shown`
    are the lines of the changes, `losses` the grave ones of `impact`, which are all sentences on what the plan means
    for nodes. `reported` and `pooled` are the nodes that took part then, by which `impact` is computed again. After
    `until` the plan is not applied any more.
    """

    file: str
    basis: Basis
    root_sha256: str
    objects: Mapping[str, str]
    changes: Mapping[str, str]
    shown: tuple[str, ...]
    losses: tuple[str, ...]
    impact: tuple[str, ...]
    reported: tuple[str, ...]
    pooled: tuple[str, ...]
    until: datetime


def dump_plan(saved: SavedPlan) -> str:
    """Return the text of the file."""
    basis = saved.basis
    document = {
        "file": saved.file,
        "vaultpki": basis.release,
        "cluster": basis.cluster,
        "prefix": basis.prefix,
        "addresses": list(basis.addresses),
        "namespace": basis.namespace,
        "plan": list(saved.shown),
        "impact": list(saved.impact),
        "loses_access": list(saved.losses),
        "until": stamp(saved.until),
        "took_part": {"reported": list(saved.reported), "pooled": list(saved.pooled)},
        "root_sha256": saved.root_sha256,
        "digests": {
            "cluster.yaml": basis.spec,
            "files": dict(basis.files),
            "server": dict(saved.objects),
            "changes": dict(saved.changes),
        },
    }
    rest = json.dumps(document, indent=2).removeprefix("{\n")
    return f"{PLAN_MARK}\n{rest}\n"


def parse_plan(text: str, file: str) -> SavedPlan:
    """Return the plan in this text; raise SpecError with `file` and the field if no vaultpki wrote it like this."""
    value = json_object.parse(text.encode())
    if value is None and text.startswith(PLAN_MARK):
        raise SpecError(_WRONG, file=file)
    if value is None or value.get("kind") != _KIND:
        raise SpecError(
            "is not a plan that `vaultpki plan -o` has saved: name such a file, or pass `-f` for a cluster.yaml",
            file=file,
        )
    read = JsonObject(value, file, _WRONG)
    read.refuse_other_version(_VERSION)
    took_part, digests = read.part("took_part"), read.part("digests")
    saved = SavedPlan(
        file=read.get("file", _FILE),
        basis=Basis(
            release=read.get("vaultpki", JsonText()),
            cluster=read.get("cluster", JsonText()),
            prefix=read.get("prefix", JsonText()),
            addresses=read.get("addresses", Items(JsonText())),
            namespace=read.get("namespace", JsonText()),
            spec=digests.get("cluster.yaml", DIGEST),
            files=digests.get("files", _DIGESTS),
        ),
        root_sha256=read.get("root_sha256", DIGEST_OR_EMPTY),
        objects=digests.get("server", _DIGESTS),
        changes=digests.get("changes", _DIGESTS),
        shown=read.get("plan", _LINES),
        losses=read.get("loses_access", _LINES),
        impact=read.get("impact", _LINES),
        reported=took_part.get("reported", _LINES),
        pooled=took_part.get("pooled", _LINES),
        until=read.get("until", TIME),
    )
    # A key that is not known would be lost.
    if json_object.parse(dump_plan(saved).encode()) != value:
        known = json.loads(dump_plan(saved)).keys()
        raise read.wrong(next((str(name) for name in value if name not in known), "digests"))
    return saved
