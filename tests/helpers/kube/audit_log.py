"""What API servers were asked, and refused, by their audit logs."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

# An API server that starts looks for the account of a token. Where the client has gone meanwhile its audit log has 401,
# which nobody was told (kubernetes apiserver/pkg/endpoints/filters/authentication.go).
_GIVEN_UP: Final = re.compile(r"^E\d{4} (\S+) .*Unable to authenticate the request.*context canceled", re.MULTILINE)


@dataclass(slots=True)
class AuditLog:
    """The audit log of an API server in the folder of its machine, from a position on; it may not be there yet."""

    folder: Path
    position: int = 0

    def lines(self) -> list[bytes]:
        """What has been written since the last call."""
        with contextlib.suppress(FileNotFoundError), (self.folder / "audit.log").open("rb") as file:
            file.seek(self.position)
            # Read at once: the server may be writing, and two reads could return one line in two parts. The last line
            # may still be on its way to the disk.
            written = file.read()
            whole = written[: written.rfind(b"\n") + 1]
            self.position += len(whole)
            return whole.splitlines()
        return []

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines()]

    def skip(self) -> int:
        """Where the log ends now: what is read is what comes later."""
        self.lines()
        return self.position


def refused(folder: Path, since: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the events with 401 in `audit.log` of this folder, from a position on, of which a client was told."""
    lines = [line for line in AuditLog(folder, since).lines() if b'"code":401' in line]
    log = folder / "kube-apiserver.log"
    given_up = _GIVEN_UP.findall(log.read_text(errors="replace")) if lines and log.exists() else []
    for event in map(json.loads, lines):
        begin, end = (event[f"{which}Timestamp"][11:26] for which in ("requestReceived", "stage"))
        if event.get("responseStatus", {}).get("code") == 401 and not any(begin <= each <= end for each in given_up):
            yield event
