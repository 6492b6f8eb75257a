"""What a server has of some CAs and of its nodes' reports at a moment, for a test to bring back as a snapshot does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from helpers.vault.applied_cluster import AppliedCluster
from vaultpki.provision import authorities


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The records of rotations, the reports, and of each CA the default issuer, and the issuers with what they may do.

    An issuer that was deleted since stays away.
    """

    cluster: AppliedCluster
    stored: dict[str, Any]
    defaults: dict[str, str]
    usages: dict[str, dict[str, str]]

    @classmethod
    def of(cls, cluster: AppliedCluster, cas: Iterable[str], *, usages: bool = True) -> Snapshot:
        """`usages` is whether the issuers come back as they were too, or stay as they are."""
        domains = tuple(cas)
        paths = [f"rotation/{domain}" for domain in domains]
        paths += [cluster.report_place(node.name) for node in cluster.model.nodes]
        stored = {}
        for path in paths:
            answer = cluster.server.api("GET", f"{cluster.prefix}/config/data/{path}")
            stored[path] = answer.data["data"] if answer.status == 200 else None
        return cls(
            cluster,
            stored,
            {ca: str(cluster.read(f"{cluster.prefix}/{ca}/config/issuers")["default"]) for ca in domains},
            {ca: {id_: _usage(cluster, ca, id_) for id_ in _ids(cluster, ca)} for ca in domains} if usages else {},
        )

    def restore(self) -> None:
        api, prefix = self.cluster.server.api, self.cluster.prefix
        for path, value in self.stored.items():
            if value is None:
                assert api("DELETE", f"{prefix}/config/metadata/{path}").status in (200, 204)
            else:
                assert api("POST", f"{prefix}/config/data/{path}", {"data": value}).status == 200
        for ca, default in self.defaults.items():
            assert api("POST", f"{prefix}/{ca}/config/issuers", {"default": default}).status == 200
            for id_ in _ids(self.cluster, ca) if ca in self.usages else ():
                usage = self.usages[ca].get(id_)
                if usage is None:
                    assert api("DELETE", f"{prefix}/{ca}/issuer/{id_}").status in (200, 204)
                elif usage != _usage(self.cluster, ca, id_):
                    authorities.update_issuer(self.cluster.client(), f"{prefix}/{ca}", id_, {"usage": usage})


def _ids(cluster: AppliedCluster, ca: str) -> list[str]:
    return list(cluster.server.api("LIST", f"{cluster.prefix}/{ca}/issuers").data["keys"])


def _usage(cluster: AppliedCluster, ca: str, issuer: str) -> str:
    return str(cluster.read(f"{cluster.prefix}/{ca}/issuer/{issuer}")["usage"])
