"""What API servers refused, by their audit logs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

# An API server that starts looks for the account of a token. Where the client has gone meanwhile its audit log has 401,
# which nobody was told (kubernetes apiserver/pkg/endpoints/filters/authentication.go).
_GIVEN_UP: Final = re.compile(r"^E\d{4} (\S+) .*Unable to authenticate the request.*context canceled", re.MULTILINE)


def refused(folder: Path, since: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the events with 401 in `audit.log` of this folder, from a position on, of which a client was told."""
    path = folder / "audit.log"
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(since)
        # The last line may still be on its way to the disk.
        lines = [line for line in file if b'"code":401' in line and line.endswith(b"\n")]
    log = folder / "kube-apiserver.log"
    given_up = _GIVEN_UP.findall(log.read_text(errors="replace")) if lines and log.exists() else []
    for event in map(json.loads, lines):
        begin, end = (event[f"{which}Timestamp"][11:26] for which in ("requestReceived", "stage"))
        if event.get("responseStatus", {}).get("code") == 401 and not any(begin <= each <= end for each in given_up):
            yield event
