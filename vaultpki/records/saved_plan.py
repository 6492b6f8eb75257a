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
from vaultpki.values import json_object
from vaultpki.values.json_object import (
    DIGEST,
    DIGEST_OR_EMPTY,
    TIME,
    ByName,
    Items,
    JsonMember,
    JsonObject,
    JsonText,
    Object,
)

_KIND: Final = "vaultpki plan"
_VERSION: Final = 1

PLAN_MARK: Final = f'{{"kind": "{_KIND}", "version": {_VERSION},'
"""The first line of the file, by which a file that may be overwritten is known."""

MOST_PLAN_BYTES: Final = 64 * 1024 * 1024
"""The largest size of the file: about 1,000 bytes for each of 5,000 nodes, and room."""

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
class SavedPlan(Basis):
    """A plan that was saved, with what it was computed from.

    `file` is the path of cluster.yaml as it was given. `root_sha256` is empty if there was no root CA. `objects` are
    the digests of what the plan compared on the server, `changes` those of the changes, each by kind and name. `shown`
    are the lines of the changes, `losses` the grave ones of `impact`, which are all sentences on what the plan means
    for nodes. `reported` and `pooled` are the nodes that took part then, by which `impact` is computed again. After
    `until` the plan is not applied any more.
    """

    file: str
    root_sha256: str
    objects: Mapping[str, str]
    changes: Mapping[str, str]
    shown: tuple[str, ...]
    losses: tuple[str, ...]
    impact: tuple[str, ...]
    reported: tuple[str, ...]
    pooled: tuple[str, ...]
    until: datetime


_PLAN: Final = Object(
    SavedPlan,
    {
        "file": JsonText(re.compile(r"[^\0]{1,4095}").fullmatch),  # Linux: limits.h, PATH_MAX
        "vaultpki": JsonMember(JsonText(), "release"),
        "cluster": JsonText(),
        "prefix": JsonText(),
        "addresses": Items(JsonText()),
        "namespace": JsonText(),
        "plan": JsonMember(_LINES, "shown"),
        "impact": _LINES,
        "loses_access": JsonMember(_LINES, "losses"),
        "until": TIME,
        "took_part": JsonMember(Object(dict, {"reported": _LINES, "pooled": _LINES}, problem=_WRONG), spread=True),
        "root_sha256": DIGEST_OR_EMPTY,
        "digests": JsonMember(
            Object(
                dict,
                {
                    "cluster.yaml": JsonMember(DIGEST, "spec"),
                    "files": _DIGESTS,
                    "server": JsonMember(_DIGESTS, "objects"),
                    "changes": _DIGESTS,
                },
                problem=_WRONG,
            ),
            spread=True,
        ),
    },
    problem=_WRONG,
)


def dump_plan(saved: SavedPlan) -> str:
    """Return the text of the file."""
    rest = json.dumps(_PLAN.write(saved), indent=2).removeprefix("{\n")
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
    JsonObject(value, file, _WRONG).refuse_other_version(_VERSION)
    saved = _PLAN.read(value, file)
    # A key that is not known would be lost.
    written = json_object.parse(dump_plan(saved).encode())
    if written != value:
        raise _PLAN.wrong(next((name for name in value if name not in (written or {})), "digests"), file)
    return saved
