"""What API servers refuse, by their audit logs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from helpers.kube.token_load import AGENT

# An API server that starts looks for the account of a token. Where the client has gone meanwhile its audit log has 401,
# which nobody was told (kubernetes apiserver/pkg/endpoints/filters/authentication.go).
_GIVEN_UP: Final = re.compile(r"^E\d{4} (\S+) .*Unable to authenticate the request.*context canceled", re.MULTILINE)


class Audit:
    """What API servers answer with 401 from now on to others than the load's tokens; each folder may have a log."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._files = {folder.name: folder / "audit.log" for folder in folders}
        self._begin = {name: file.stat().st_size for name, file in self._files.items() if file.exists()}

    def unauthorized(self) -> Iterator[str]:
        """Yield a sentence for each."""
        for name, path in self._files.items():
            if not path.exists():
                continue
            given_up = _GIVEN_UP.findall((path.parent / "kube-apiserver.log").read_text(errors="replace"))
            with path.open("rb") as file:
                file.seek(self._begin.get(name, 0))
                # The last line may still be on its way to the disk.
                lines = [line for line in file if b'"code":401' in line and line.endswith(b"\n")]
            for event in map(json.loads, lines):
                refused = event.get("responseStatus", {}).get("code") == 401
                client = event.get("userAgent", "")
                begin, end = (event[f"{which}Timestamp"][11:26] for which in ("requestReceived", "stage"))
                if refused and not client.startswith(AGENT) and not any(begin <= each <= end for each in given_up):
                    yield f"401 from {name} for {event['verb']} {event['requestURI']} of {client or 'nobody'}"
