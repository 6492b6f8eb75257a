"""Reads all by which a cluster is judged, as `ca.fleet`, and where the rotation of its service-account keys stands."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from vaultpki.ca import fleet
from vaultpki.ca.token_key_certificates import key_holders
from vaultpki.errors import BadAnswer, Denied, ForeignObject, Refused, SpecError, StateConflict
from vaultpki.key_rotation import commands
from vaultpki.kube.objects import KubeTrust
from vaultpki.model import Cluster
from vaultpki.provision.cluster_facts import ClusterFacts
from vaultpki.provision.rotation_records import read_key_record
from vaultpki.records.service_account import KEYS_RECORD
from vaultpki.token_keys.holders import refused_at
from vaultpki.vault import Vault


def read(cluster: Cluster, vault: Vault, now: datetime, today: datetime, pods: KubeTrust | None = None) -> ClusterFacts:
    """Read a cluster; arguments are as of `ca.fleet.read`. Keys at rest cost one request."""
    found = fleet.read(cluster, vault, now, today, pods)
    if not cluster.service_account_keys:
        return found
    try:
        stored = read_key_record(cluster, vault)
        record = stored.record
        if record is None:
            return found
        found = replace(found, written={**found.written, KEYS_RECORD: stored.written})
        differ = any(refused_at(record, each) for each in key_holders(cluster, found.nodes.members).values())
        if not (record.active or record.turn or record.departed or differ):
            return found
        return replace(found, keys=commands.status(cluster, vault, now, found=found.nodes))
    except (SpecError, StateConflict, ForeignObject, Denied, Refused, BadAnswer) as error:
        problem = f"where service-account keys stand is not known: {error}"
        return replace(found, problems=(*found.problems, problem))
