"""What a server has of some CAs and of its nodes' reports at a moment, for a test to bring back as a snapshot does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from helpers.vault.applied_cluster import Site
from vaultpki.provision import authorities


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The records of rotations, the reports, and of each CA the default issuer, and the issuers with what they may do.

    An issuer that was deleted since stays away.
    """

    site: Site
    stored: dict[str, Any]
    defaults: dict[str, str]
    usages: dict[str, dict[str, str]]

    @classmethod
    def of(cls, site: Site, cas: Iterable[str]) -> Snapshot:
        domains = tuple(cas)
        paths = [f"rotation/{domain}" for domain in domains]
        paths += [site.report_place(node.name) for node in site.cluster.nodes]
        stored = {}
        for path in paths:
            answer = site.server.api("GET", f"{site.prefix}/config/data/{path}")
            stored[path] = answer.data["data"] if answer.status == 200 else None
        return cls(
            site,
            stored,
            {ca: str(site.read(f"{site.prefix}/{ca}/config/issuers")["default"]) for ca in domains},
            {ca: {id_: _usage(site, ca, id_) for id_ in _ids(site, ca)} for ca in domains},
        )

    def restore(self) -> None:
        api, prefix = self.site.server.api, self.site.prefix
        for path, value in self.stored.items():
            if value is None:
                assert api("DELETE", f"{prefix}/config/metadata/{path}").status in (200, 204)
            else:
                assert api("POST", f"{prefix}/config/data/{path}", {"data": value}).status == 200
        for ca, default in self.defaults.items():
            assert api("POST", f"{prefix}/{ca}/config/issuers", {"default": default}).status == 200
            for id_ in _ids(self.site, ca):
                usage = self.usages[ca].get(id_)
                if usage is None:
                    assert api("DELETE", f"{prefix}/{ca}/issuer/{id_}").status in (200, 204)
                elif usage != _usage(self.site, ca, id_):
                    authorities.update_issuer(self.site.client(), f"{prefix}/{ca}", id_, {"usage": usage})


def _ids(site: Site, ca: str) -> list[str]:
    return list(site.server.api("LIST", f"{site.prefix}/{ca}/issuers").data["keys"])


def _usage(site: Site, ca: str, issuer: str) -> str:
    return str(site.read(f"{site.prefix}/{ca}/issuer/{issuer}")["usage"])
