"""Says whether the signer may sign now: not while a command changes CAs, and not while the cluster is taken over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vaultpki.csr_roles import SignerFacts
from vaultpki.errors import SpecError
from vaultpki.places import Layout
from vaultpki.records import adoption, changes, published
from vaultpki.records import signer as signer_record
from vaultpki.records.adoption import AdoptionRecord, AdoptionState
from vaultpki.records.changes import CHANGES, Changes
from vaultpki.records.published import ClusterRecord
from vaultpki.records.signer import SIGNER_RECORD
from vaultpki.vault import Vault
from vaultpki.vault.kv import read_stored

# From closed on no controller manager has the old CA's key.
_NOBODY_SIGNS: Final = (AdoptionState.CLOSED, AdoptionState.RETIRED)


@dataclass(frozen=True, slots=True)
class Permission:
    """Whether the signer signs, and if not, why: a sentence."""

    signs: bool
    why: str = ""


def may_sign(cluster: ClusterRecord, adopted: AdoptionRecord | None, notice: Changes | None) -> Permission:
    """Return whether the signer of this cluster signs; pure.

    `adopted` is the record of an adoption, None if there is none. It counts only in a cluster that names CAs of
    kubeadm, as for nodes. `notice` is the record that agents poll, None if there is none.
    """
    if notice is not None and not notice.settled:
        return Permission(False, "a command changes what nodes follow, or was interrupted: `vaultpki plan` shows it")
    if adopted is None or not adopted.active or cluster.layout is not Layout.KUBEADM or not cluster.also_trust:
        return Permission(True)
    if adopted.state in _NOBODY_SIGNS:
        return Permission(False, f"the adoption is {adopted.state.value}, and joins wait until it is done")
    return Permission(False, f"the adoption is {adopted.state.value}, and controller managers sign with the old CA")


def read_permission(vault: Vault, prefix: str) -> Permission:
    """Return whether the signer signs now, by the records of its cluster, which are read anew.

    A record that cannot be understood is a reason not to sign. Raises what `vault` raises.
    """
    store = f"{prefix}/config"
    try:
        cluster = read_stored(
            vault, store, "cluster", lambda found: published.read_cluster(found, where=f"{store}/cluster")
        )
        where = f"{store}/{adoption.RECORD}"
        adopted = read_stored(vault, store, adoption.RECORD, lambda found: adoption.read(found, where=where))
    except SpecError as error:
        return Permission(False, str(error))
    if cluster.record is None:
        return Permission(False, f"there is no record {store}/cluster; apply the cluster again")
    return may_sign(cluster.record, adopted.record, read_stored(vault, store, CHANGES, changes.read).record)


def read_facts(vault: Vault, prefix: str) -> SignerFacts | None:
    """Return what the signer knows of its cluster; None if cluster.yaml has no `signer` any more.

    Raises SpecError for a record that no vaultpki writes, and what `vault` raises.
    """
    where = f"{prefix}/config/{SIGNER_RECORD}"
    found = read_stored(vault, f"{prefix}/config", SIGNER_RECORD, lambda value: signer_record.read(value, where=where))
    return found.record
