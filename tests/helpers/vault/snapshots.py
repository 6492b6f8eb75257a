"""What a server has of some CAs and of its nodes' reports at one moment, for a test to bring back as a snapshot does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from helpers.vault.applied_cluster import Site


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The records of rotations, the reports, and of each CA the issuers and the default. Deleted issuers stay away."""

    site: Site
    stored: dict[str, Any]
    issuers: dict[str, tuple[str, frozenset[str]]]

    @classmethod
    def of(cls, site: Site, cas: Iterable[str]) -> Snapshot:
        domains = tuple(cas)
        paths = [f"rotation/{domain}" for domain in domains]
        paths += [site.report_place(node.name) for node in site.cluster.nodes]
        stored = {}
        for path in paths:
            answer = site.server.api("GET", f"{site.prefix}/config/data/{path}")
            stored[path] = answer.data["data"] if answer.status == 200 else None
        return cls(site, stored, {domain: (_default(site, domain), _ids(site, domain)) for domain in domains})

    def restore(self) -> None:
        api, prefix = self.site.server.api, self.site.prefix
        for path, value in self.stored.items():
            if value is None:
                assert api("DELETE", f"{prefix}/config/metadata/{path}").status in (200, 204)
            else:
                assert api("POST", f"{prefix}/config/data/{path}", {"data": value}).status == 200
        for domain, (default, ids) in self.issuers.items():
            assert api("POST", f"{prefix}/{domain}/config/issuers", {"default": default}).status == 200
            for id_ in _ids(self.site, domain) - ids:
                assert api("DELETE", f"{prefix}/{domain}/issuer/{id_}").status in (200, 204)


def _default(site: Site, domain: str) -> str:
    return str(site.read(f"{site.prefix}/{domain}/config/issuers")["default"])


def _ids(site: Site, domain: str) -> frozenset[str]:
    return frozenset(site.server.api("LIST", f"{site.prefix}/{domain}/issuers").data["keys"])
