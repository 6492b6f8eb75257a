"""Where a story of the resident agent is told."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

import residents
from applied import Seat, Site
from residents import POLL
from servers import Server

from vaultpki.store import GRACE

# A pass, and the pause for watchers that may come before it.
PASS = GRACE + 15


@dataclass(frozen=True, slots=True)
class Stage:
    """A place of its own on the shared server for one story."""

    server: Server
    folder: Path

    def site(self, spec: str = residents.SPEC) -> Site:
        site = Site(self.server, self.folder / "site", f"t{secrets.token_hex(5)}")
        site.write(spec)
        site.apply()
        return site

    def seat(self, site: Site, node: str = "worker-1", further: str = "") -> Seat:
        return site.equip(node, further=f"poll: {POLL}s\n{further}")
