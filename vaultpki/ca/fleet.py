"""Reads all by which a cluster is judged, once: its nodes, what was revoked, its CAs and their rotations.

`nodes`, `report` and `graph` read it here, and `findings.cluster` judges it, so that they show the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from vaultpki.ca import status
from vaultpki.ca.scene import read_scene
from vaultpki.errors import BadAnswer, Denied, ForeignObject, Refused, SpecError, StateConflict
from vaultpki.identity import change_notice, ending, revoked_list
from vaultpki.identity.adoption_record import FollowedAdoption, shown_adoption
from vaultpki.identity.nodes import read_nodes
from vaultpki.kube.objects import KubeTrust
from vaultpki.model import Cluster
from vaultpki.provision import ca_ends, rotation_records
from vaultpki.provision.cluster_facts import CaStatus, ClusterFacts
from vaultpki.records.adoption import RECORD
from vaultpki.records.rotation import RotationRecord
from vaultpki.records.written import Written
from vaultpki.vault import Vault
from vaultpki.vault.kv import Stored


def read(cluster: Cluster, vault: Vault, now: datetime, today: datetime, pods: KubeTrust | None = None) -> ClusterFacts:
    """Read a cluster. What cannot be read is a problem, but for the nodes, without which there is nothing to judge.

    `now` is the server's time. The ends of CAs go by `today`, this machine's clock, as those of `plan` do. `pods` is
    what the Kubernetes cluster shows, None without `--kubeconfig`.
    """
    nodes = read_nodes(cluster, vault)
    revoked = revoked_list.read(cluster, vault)
    problems, cas, move = [*revoked.problems], tuple[CaStatus, ...](), None
    try:
        scene = read_scene(cluster, vault, now, strict=False, found=nodes)
        problems += [scene.unknown] if scene.unknown else []
        cas, move = status.status(scene, pods), scene.move
    except (SpecError, StateConflict, ForeignObject, Denied, Refused, BadAnswer) as error:
        problems.append(f"where the CAs stand is not known: {error}")
    locks = dict[str, ending.LockRecord]()
    try:
        locks = ending.all_locks(cluster, vault)
    except (Denied, Refused, BadAnswer) as error:
        problems.append(
            f"who locked which node is not known: {error}; `vaultpki policy{cluster.file_option} viewer` prints what "
            "that needs"
        )
    adopted, records = shown_adoption(cluster, vault), rotation_records.shown_records(cluster, vault)
    problems += [adopted.problem] if adopted.problem else []
    return ClusterFacts(
        cluster,
        now,
        nodes,
        revoked,
        None if records is None else {ca: each.record.revision for ca, each in records.items() if each.record},
        ca_ends.read(cluster, vault, today),
        cas,
        tuple(problems),
        adopted.record,
        locks=locks,
        move=move,
        written=written_by(cluster, vault, records or {}, adopted),
    )


def written_by(
    cluster: Cluster, vault: Vault, records: Mapping[str, Stored[RotationRecord]], adopted: FollowedAdoption
) -> dict[str, Written]:
    """Return who wrote the records that nodes follow, by their paths, but that of service-account keys; for views."""
    found = change_notice.shown_writer(cluster, vault) | rotation_records.writers(records)
    return found | ({RECORD: adopted.written} if adopted.record is not None else {})
