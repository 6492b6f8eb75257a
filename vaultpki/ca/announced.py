"""Tells agents of what a command on CAs changes, before its first write and at its end."""

from __future__ import annotations

from contextlib import AbstractContextManager

from vaultpki.identity import change_notice
from vaultpki.identity.adoption_record import read_adoption
from vaultpki.identity.change_notice import ChangeNotice
from vaultpki.model import Cluster
from vaultpki.provision.read_back import own_issuers
from vaultpki.provision.rotation_records import existing
from vaultpki.records.followed import of_rotation
from vaultpki.records.rotation import DOMAINS
from vaultpki.vault import Vault


def announced(cluster: Cluster, vault: Vault, *, urgent: bool = False) -> AbstractContextManager[ChangeNotice]:
    """Give the work within a notice, as `change_notice.announced`; at its end it digests what a rotation changes."""

    def digests() -> dict[str, str]:
        lists = [vault.prepare.secrets.pki.list_issuers(mount_point=cluster.mount(ca)) for ca in DOMAINS]
        found = zip(DOMAINS, vault.many(lists), strict=True)
        issuers = {ca: own_issuers(ca, answer) for ca, answer in found}
        return of_rotation(existing(cluster, vault), issuers, read_adoption(cluster, vault).record)

    return change_notice.announced(cluster, vault, digests, urgent=urgent)
