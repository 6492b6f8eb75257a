"""Reads all that a command on CAs decides by, once: the root, the rotation records, who takes part, and the time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from vaultpki.ca.facts import participants, read_above, read_mount, read_root, refuse_unknown
from vaultpki.certificates import ROOT, issuing_cas
from vaultpki.errors import SpecError, StateConflict
from vaultpki.identity import outside_signer, root_in_force
from vaultpki.identity.change_notice import ChangeNotice
from vaultpki.identity.nodes import Member, NodeList, read_nodes
from vaultpki.model import Cluster
from vaultpki.pki.facts import Facts
from vaultpki.provision.rotation_records import (
    other_operator,
    read_key_record,
    read_move_record,
    read_record,
    read_records,
    write_record,
)
from vaultpki.records.move import MoveRecord
from vaultpki.records.rotation import RotationRecord
from vaultpki.records.service_account import SERVICE_ACCOUNT_KEYS, KeyRecord
from vaultpki.rotation import root_gates
from vaultpki.rotation.gates import Participant
from vaultpki.rotation.mount_steps import RotationMount
from vaultpki.vault import Vault
from vaultpki.vault.kv import Stored


@dataclass(frozen=True, slots=True)
class Scene:
    """A cluster as a command found it: the root that signs now, the records by domain, who takes part, and the time.

    `cluster` has the root that signs now, and `target` the one that cluster.yaml asks for. `above` are the CAs of
    chains of roots from outside on the root's mount, if these differ or the root is rotated.
    `counted` are by domain those that its gates count, made once: a fleet is large. `now` is the server's time.
    `notice` is begun before each write, since nodes follow all of them. `unknown` says who can log in and is not in
    cluster.yaml, where that stops nothing. `move` is the record of a move to another server, which replaces all issuing
    CAs while it is under way.
    """

    cluster: Cluster
    vault: Vault
    root: Facts
    records: Mapping[str, Stored[RotationRecord]]
    members: tuple[Member, ...]
    counted: Mapping[str, tuple[Participant, ...]] = field(repr=False)
    now: datetime
    notice: ChangeNotice
    unknown: str = ""
    target: Cluster = field(kw_only=True)
    above: tuple[Facts, ...] = ()
    move: MoveRecord | None = None

    def nodes(self, domain: str) -> tuple[Participant, ...]:
        """Return those that the gates of a domain count."""
        return self.counted[domain]

    def record(self, domain: str) -> RotationRecord:
        """Return the record of a domain that has one; ValueError for any other."""
        found = self.records[domain].record
        if found is None:
            raise ValueError(f"there is no record of {domain}")
        return found

    def active(self, domain: str) -> bool:
        """Return whether a domain's CA is being rotated."""
        found = self.records[domain].record
        return found is not None and found.active

    @property
    def moves(self) -> bool:
        """Whether cluster.yaml asks for another root than the one that signs now."""
        return root_in_force.differs(self.target, self.root)

    def mount(self, domain: str, root: Facts | None = None) -> RotationMount:
        """Read the mount of a CA; below `root` CAs are looked for, by default below the one that signs now."""
        incoming = chain_of(self.target) if domain == ROOT else ()
        return read_mount(self.cluster, self.vault, domain, root or self.root, incoming=incoming, above=self.above)

    def with_root(self, root: Facts) -> Scene:
        """Return the scene with the root that signs now."""
        above = read_above(self.target, self.vault) if self.active(ROOT) or self.above else self.above
        cluster = root_in_force.in_force(self.target, root, [facts.pem for facts in above])
        return replace(self, root=root, cluster=cluster, above=above)

    def refuse_changed(self, domain: str) -> None:
        """Raise ChangedMeanwhile if another operator has written the record of a domain since it was read."""
        if read_record(self.cluster, self.vault, domain).version != self.records[domain].version:
            raise other_operator(self.cluster, domain)

    def writing(self, record: RotationRecord) -> Scene:
        """Write a record over the one that was read, and return the scene with it; Refused if somebody was faster."""
        self.notice.begin()
        stored = write_record(self.cluster, self.vault, record, self.records[record.domain].version)
        return replace(self, records={**self.records, record.domain: stored})


def read_scene(
    cluster: Cluster,
    vault: Vault,
    now: datetime,
    *,
    strict: bool = True,
    needed: str = "",
    found: NodeList | None = None,
    notice: ChangeNotice | None = None,
) -> Scene:
    """Read the scene from the server's active node; this reads the report of every node, unless they are `found`.

    `notice` is that of the command, None for one that writes nothing. Raises SpecError as `facts.refuse_unknown`,
    if it is `strict`. `needed` is as in `read_records`.
    """
    vault.pin_to_leader()
    # As records have it.
    now = now.replace(microsecond=0)
    root, records, unknown = read_root(cluster, vault, now), read_records(cluster, vault, needed), ""
    move = read_move_record(cluster, vault).record
    if found is None:
        found = read_nodes(cluster, vault)
    try:
        refuse_unknown(cluster, vault, found)
    except SpecError as error:
        if strict:
            raise
        unknown = error.problem
    counted = {ca: participants(cluster, found.members, ca) for ca in issuing_cas(cluster)}
    counted[ROOT] = root_gates.without_leaves(counted["kubernetes"])
    notice = notice or ChangeNotice(cluster, vault)
    rotated = records[ROOT].record is not None and records[ROOT].record.active
    # Below a root from outside nodes get the chain from its mount, which keeps what something is still below.
    outside = cluster.authority.outside is not None or root_in_force.differs(cluster, root)
    above = read_above(cluster, vault) if rotated or outside else ()
    forced = root_in_force.in_force(cluster, root, [facts.pem for facts in above])
    return Scene(
        *(forced, vault, root, records, found.members, counted, now, notice, unknown),
        target=cluster,
        above=above,
        move=move,
    )


def chain_of(cluster: Cluster) -> tuple[Facts, ...]:
    """Return the certificates of a root from outside, the anchor first; none for a root of ours."""
    outside = cluster.authority.outside
    return outside_signer.chain_of(cluster, outside) if outside is not None else ()


def read_old_root(scene: Scene) -> Facts | None:
    """Return the root that is being replaced, as its mount shows it; None if none is, or if it is gone."""
    if not scene.active(ROOT):
        return None
    record = scene.record(ROOT)
    issuer = scene.mount(ROOT).issuer(record.old.issuer)
    return issuer.facts if issuer is not None else None


def keys_in_the_way(cluster: Cluster, vault: Vault) -> str:
    """Return why no rotation of a CA may begin for that of service-account keys, as a sentence; "" if it may.

    While these only wait for tokens to expire, which may take a year, it may.
    """
    record = read_key_record(cluster, vault).record if cluster.service_account_keys else None
    if record is None or not record.active or record.waits_for_tokens:
        return ""
    return keys_under_way(cluster, record)


def keys_under_way(cluster: Cluster, record: KeyRecord) -> str:
    """Return why nothing else may begin while service-account keys are being rotated, as a sentence."""
    return (
        f"{SERVICE_ACCOUNT_KEYS} are being rotated ({record.state.value}), and one rotation goes on at a time; go on "
        f"with `vaultpki ca continue{cluster.file_option}`, or back with `vaultpki ca abort`"
    )


def refuse_active(cluster: Cluster, records: Mapping[str, Stored[RotationRecord]]) -> None:
    """Raise StateConflict if one of these says that a rotation is under way."""
    for domain, each in records.items():
        if each.record is not None and each.record.active:
            raise StateConflict(
                f"the CA {domain} is being rotated ({each.record.state.value}), and one is rotated at a time; go on "
                f"with `vaultpki ca continue{cluster.file_option}`, or back with `vaultpki ca abort`"
            )
