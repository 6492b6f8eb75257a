"""What API servers refuse, by their audit logs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from helpers.kube import audit_log
from helpers.kube.token_load import AGENT


class Audit:
    """What API servers answer with 401 from now on to others than the load's tokens; each folder may have a log."""

    def __init__(self, folders: Sequence[Path]) -> None:
        logs = {folder: folder / "audit.log" for folder in folders}
        self._begin = {folder: log.stat().st_size if log.exists() else 0 for folder, log in logs.items()}

    def unauthorized(self) -> Iterator[str]:
        """Yield a sentence for each."""
        for folder, begin in self._begin.items():
            for event in audit_log.refused(folder, begin):
                client = event.get("userAgent", "")
                if not client.startswith(AGENT):
                    yield f"401 from {folder.name} for {event['verb']} {event['requestURI']} of {client or 'nobody'}"
