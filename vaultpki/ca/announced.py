"""Tells agents of what a command on CAs changes, before its first write and at its end."""

from __future__ import annotations

from contextlib import AbstractContextManager

from vaultpki.certificates import all_cas
from vaultpki.errors import SpecError
from vaultpki.identity import change_notice
from vaultpki.identity.adoption_record import read_adoption
from vaultpki.identity.change_notice import ChangeNotice
from vaultpki.model import Cluster
from vaultpki.provision.read_back import own_issuers
from vaultpki.provision.rotation_records import existing, read_key_record
from vaultpki.records.adoption import AdoptionRecord
from vaultpki.records.followed import of_rotation
from vaultpki.records.service_account import KeyRecord
from vaultpki.vault import Vault


def announced(cluster: Cluster, vault: Vault, *, urgent: bool = False) -> AbstractContextManager[ChangeNotice]:
    """Give the work within a notice, as `change_notice.announced`; at its end it digests what a rotation changes."""

    def digests() -> dict[str, str]:
        cas = all_cas(cluster)
        lists = [vault.prepare.secrets.pki.list_issuers(mount_point=cluster.mount(ca)) for ca in cas]
        issuers = {ca: own_issuers(ca, answer) for ca, answer in zip(cas, vault.many(lists), strict=True)}
        return of_rotation(existing(cluster, vault), issuers, _adoption(cluster, vault), _keys(cluster, vault))

    return change_notice.announced(cluster, vault, digests, urgent=urgent)


def _adoption(cluster: Cluster, vault: Vault) -> AdoptionRecord | None:
    """Return the record of an adoption; None if there is none, or if it cannot be read.

    The digests are for `plan` alone, and the step that they follow has been made.
    """
    try:
        return read_adoption(cluster, vault).record
    except SpecError:
        return None


def _keys(cluster: Cluster, vault: Vault) -> KeyRecord | None:
    """Return the record of service-account keys; None if there is none, or if it cannot be read.

    What is wrong with it stops no CA: agents look at it themselves, and plan, apply and the commands on keys say it.
    """
    if not cluster.service_account_keys:
        return None
    try:
        return read_key_record(cluster, vault).record
    except SpecError:
        return None
