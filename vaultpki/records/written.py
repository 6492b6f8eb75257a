"""Says who wrote a version of a record, and when. It informs people; nothing is decided by it.

The name and the entity are those of the token, as the server's look-up showed them to the command that wrote. Whoever
may write a record may write another name into it: the server's audit log has the request, by its path and version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from vaultpki.redact import escaped, hide, moment, stamp, stamped

_FIELD: Final = "written"
# Names come from auth methods, and from people.
_LONGEST: Final = 200
_MOST_VERSIONS: Final = 1 << 53


@dataclass(frozen=True, slots=True)
class Written:
    """Who wrote what, and when: the display name and the entity's id of the token, "" if they are not known.

    `version` is that of the record in the KV store, 0 if it is not known, and `at` when the server stored it.
    """

    by: str = ""
    entity: str = ""
    version: int = 0
    at: datetime | None = None

    @property
    def who(self) -> str:
        """The writer in a sentence, in which nothing can steer a terminal."""
        if not (self.by or self.entity):
            return "somebody who is not recorded"
        name = escaped(self.by) or "a token without a name"
        return f"{name} (entity {escaped(self.entity)})" if self.entity else name

    @property
    def sentence(self) -> str:
        """What views show beside the path of the record."""
        version = f"version {self.version}, " if self.version else ""
        return f"{version}written {f'{stamp(self.at)} ' if self.at else ''}by {self.who}"

    @property
    def document(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "version": self.version or None,
            "at": stamped(self.at),
            "by": self.by or None,
            "entity": self.entity or None,
        }


def signed(record: Mapping[str, Any], by: str, entity: str) -> dict[str, Any]:
    """Return the record with who writes it; as it is if neither is known."""
    return {**record, _FIELD: {"by": by, "entity": entity}} if by or entity else {**record}


def of_record(record: object, version: int = 0, at: datetime | None = None) -> Written:
    """Return who wrote a record that a KV store has in this version, since `at`. Raises nothing."""
    found = of_document(record.get(_FIELD)) if isinstance(record, Mapping) else Written()
    return Written(found.by, found.entity, version, at)


def of_document(found: object) -> Written:
    """Return what `Written.document` made; what is not of its form counts as not known."""
    value = found if isinstance(found, Mapping) else {}
    version = value.get("version")
    known = version if type(version) is int and 0 < version < _MOST_VERSIONS else 0
    return Written(_text(value.get("by")), _text(value.get("entity")), known, moment(value.get("at")))


def _text(value: object) -> str:
    return hide(value)[:_LONGEST] if isinstance(value, str) else ""
