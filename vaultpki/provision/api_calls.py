"""Makes the requests that read and delete the objects of a cluster, by hvac's method for each kind if it has one."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from vaultpki.identity.access import jwt_roles
from vaultpki.model import Cluster
from vaultpki.records.paths import is_record, record_name
from vaultpki.records.server_facts import Key
from vaultpki.vault import Request, Vault

_UNMOUNT_SECONDS: Final = 300.0


def object_path(cluster: Cluster, vault: Vault, key: Key) -> str:
    """Return the path at which an object is created; of an issuer, the path of its mount."""
    request = delete_request if key[0] in ("mount", "auth") else read_request
    return request(cluster, vault, key).path


def read_request(cluster: Cluster, vault: Vault, key: Key) -> Request:
    """Return the read of a policy, a PKI role, an AppRole, an auth role, a record or a configuration."""
    made, (kind, name) = vault.prepare, key
    pki, jwt = made.secrets.pki, made.auth.jwt
    folder, _, last = name.rpartition("/")
    # hvac has no method for the other configurations of a PKI mount (config/cluster, config/auto-tidy).
    request = Request("GET", name)
    if kind == "policy":
        request = made.sys.read_acl_policy(name)
    elif kind == "role":
        request = pki.read_role(last, mount_point=folder)
    elif kind == "approle":
        request = made.auth.approle.read_role(last, mount_point=folder)
    elif is_record(cluster, key):
        kv, record = made.secrets.kv.v2, record_name(cluster, key)
        request = kv.read_secret(record, mount_point=cluster.mount("config"), raise_on_deleted_version=False)
    elif folder == jwt_roles(cluster):
        request = jwt.read_role(last, path=f"{cluster.prefix}/jwt")
    elif name == f"auth/{cluster.prefix}/jwt/config":
        request = jwt.read_config(path=f"{cluster.prefix}/jwt")
    elif last == "urls":
        request = pki.read_urls(mount_point=folder.removesuffix("/config"))
    elif last == "crl":
        request = pki.read_crl_configuration(mount_point=folder.removesuffix("/config"))
    return request


def delete_request(cluster: Cluster, vault: Vault, key: Key) -> Request:
    """Return the deletion of a mount, a policy, a PKI role, an AppRole, an auth role or a record with its versions."""
    made, (kind, name) = vault.prepare, key
    folder, _, last = name.rpartition("/")
    # As in read_request.
    request = Request("DELETE", name)
    if kind in ("mount", "auth"):
        unmount = made.sys.disable_secrets_engine if kind == "mount" else made.sys.disable_auth_method
        # The server deletes what is on a mount before it answers, and a second try meanwhile fails.
        request = replace(unmount(name), seconds=_UNMOUNT_SECONDS)
    elif kind == "policy":
        request = made.sys.delete_acl_policy(name)
    elif kind == "role":
        request = made.secrets.pki.delete_role(last, mount_point=folder)
    elif kind == "approle":
        request = made.auth.approle.delete_role(last, mount_point=folder)
    elif is_record(cluster, key):
        delete = made.secrets.kv.v2.delete_metadata_and_all_versions
        request = delete(record_name(cluster, key), mount_point=cluster.mount("config"))
    elif folder == jwt_roles(cluster):
        request = made.auth.jwt.delete_role(last, path=f"{cluster.prefix}/jwt")
    return request
