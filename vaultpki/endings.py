"""Whose identity an apply ends, and how it finds their tokens again where it was cut off in between."""

from __future__ import annotations

from vaultpki.identities import fits_pattern, takes
from vaultpki.model import VERSION, Cluster
from vaultpki.observe import Sight
from vaultpki.plan import Change, Plan
from vaultpki.reading import LEAVING
from vaultpki.vault import Request, Vault


class Endings:
    """The pooled nodes whose AppRoles one run removes, or an earlier one removed and did not end."""

    def __init__(self, cluster: Cluster, vault: Vault, sight: Sight) -> None:
        self._cluster, self._vault, self._sight = cluster, vault, sight
        self._notes: dict[str, list[str]] = {}

    @property
    def nodes(self) -> list[str]:
        return sorted(self._notes)

    @property
    def role_ids(self) -> list[str]:
        """The role ids by which the entities of these nodes are found."""
        return sorted({role_id for ids in self._notes.values() for role_id in ids})

    def note(self, todo: Plan) -> None:
        """Writes down how the tokens of pooled nodes are found, before the AppRoles that tell it are removed."""
        mount = f"auth/{self._cluster.prefix}/pooled/role"
        going = [change.name.rpartition("/")[2] for change in todo.changes if self._ends(change)]
        answers = self._vault.many([Request("GET", f"{mount}/{name}/role-id") for name in going])
        found = {name: answer.data.get("role_id") for name, answer in zip(going, answers, strict=True) if answer.found}
        self._notes = self._noted()
        requests = []
        for name, role_id in found.items():
            ids = self._notes[name] = sorted({*self._notes.get(name, ()), str(role_id)})
            requests.append(Request("POST", self._path("data", name), {"data": {"version": VERSION, "role_ids": ids}}))
        self._vault.many(requests)

    def forget(self) -> None:
        """Removes the notes of those who have ended."""
        self._vault.many([Request("DELETE", self._path("metadata", name)) for name in self.nodes])

    def by_token(self, todo: Plan) -> list[str]:
        """The nodes that got in by an issuer's token and fit no pool any more, as far as their reports tell.

        An alias there is the node's own name, so nothing of an AppRole is found by one.
        """
        if "jwt" not in self._sight.known.accessors:
            return []
        head = f"{self._cluster.mount('config')}/pools/"
        records = [change for change in todo.changes if change.kind == "config" and change.name.startswith(head)]
        patterns = [
            str(change.fields["node_names"][0])
            for change in records
            if change.action != "create" and "node_names" in change.fields
        ]
        if not patterns:
            return []
        listed = {node.name for node in self._cluster.nodes}
        return [
            name
            for name in self._vault.names(f"{self._cluster.mount('config')}/metadata/reports")
            if any(fits_pattern(pattern, name) for pattern in patterns)
            and name not in listed
            and not any(takes(pool, name) for pool in self._cluster.pools)
        ]

    def _ends(self, change: Change) -> bool:
        pooled = change.name.startswith(f"{self._cluster.prefix}/pooled/")
        return change.action == "delete" and change.kind == "approle" and pooled

    def _noted(self) -> dict[str, list[str]]:
        """The role ids in the notes that are there already, by node."""
        names = self._sight.ending
        answers = self._vault.many([Request("GET", self._path("data", name)) for name in names])
        found = {name: answer.data.get("data") for name, answer in zip(names, answers, strict=True) if answer.found}
        ids = {name: note.get("role_ids") for name, note in found.items() if isinstance(note, dict)}
        return {name: list(map(str, some)) for name, some in ids.items() if isinstance(some, list)}

    def _path(self, folder: str, name: str) -> str:
        return f"{self._cluster.mount('config')}/{folder}/{LEAVING}/{name}"
