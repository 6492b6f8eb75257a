"""Tells agents of what a command on CAs changes, before its first write and at its end."""

from __future__ import annotations

from contextlib import AbstractContextManager

from vaultpki.certificates import all_cas
from vaultpki.errors import SpecError
from vaultpki.identity import change_notice
from vaultpki.identity.adoption_record import follow_adoption
from vaultpki.identity.change_notice import ChangeNotice
from vaultpki.model import Cluster
from vaultpki.provision.read_back import own_issuers
from vaultpki.provision.rotation_records import existing, read_key_record
from vaultpki.records.followed import of_rotation
from vaultpki.vault import Vault


def announced(cluster: Cluster, vault: Vault, *, urgent: bool = False) -> AbstractContextManager[ChangeNotice]:
    """Give the work within a notice, as `change_notice.announced`; at its end it digests what a rotation changes."""

    def digests() -> dict[str, str]:
        cas = all_cas(cluster)
        lists = [vault.prepare.secrets.pki.list_issuers(mount_point=cluster.mount(ca)) for ca in cas]
        issuers = {ca: own_issuers(ca, answer) for ca, answer in zip(cas, vault.many(lists), strict=True)}
        try:
            keys = read_key_record(cluster, vault).record if cluster.service_account_keys else None
            return of_rotation(existing(cluster, vault), issuers, follow_adoption(cluster, vault).record, keys)
        except SpecError:
            # The digests are for `plan` alone, which says what cannot be read, and the step has been made.
            return {}

    return change_notice.announced(cluster, vault, digests, urgent=urgent)
