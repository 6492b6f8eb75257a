"""The part of the forbidden list that is no signing: everything else a Vault can do, path by path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from vaultpki.certificates import ISSUING_CAS, ROOT, rows
from vaultpki.model import Cluster, Node, Pool
from vaultpki.values import dataclass

_Entry = tuple[str, str, Mapping[str, Any] | None]

_MINUTE: Final = "60s"
# Every other listed node is asked for plainly; the first ones in each way.
_IN_FULL: Final = 4


@dataclass(frozen=True, slots=True)
class Listed:
    """One request; see `forbidden.Forbidden`, whose first fields these are."""

    group: str
    method: str
    path: str
    body: Mapping[str, Any] | None
    why: str
    spent: bool = False
    wrap_ttl: str = ""


def listed(cluster: Cluster, name: str, holder: Node | Pool, others: tuple[str, ...]) -> Iterator[Listed]:
    """Every request of the node `name` that is no signing; `others` are other nodes' names."""
    kind = "pooled" if isinstance(holder, Pool) else "listed"
    for ca in (ROOT, *ISSUING_CAS):
        yield from _each("the CAs' own settings", "the CA would be the node's", _engine(cluster, ca))
    yield from _each("records", "what others say is not the node's", _records(cluster, name, holder, others))
    yield from _each("AppRoles of others", "it would be another node", _others_roles(cluster, kind, name, others))
    for method, path, body in _own_role(f"auth/{cluster.prefix}/{kind}/role/{name}"):
        spent = method == "POST" and path.endswith(("/secret-id", "/destroy"))
        # A node mints wrapped alone, so anything else is refused whatever it says.
        wrap_ttl = _MINUTE if method == "POST" and path.endswith("/secret-id") else ""
        yield Listed("its own AppRole", method, path, body, "its identity would be wider or longer", spent, wrap_ttl)
    mint = f"auth/{cluster.prefix}/{kind}/role/{name}/secret-id"
    for wrap_ttl in ("", "61s", "720h"):
        yield Listed(
            "its own AppRole", "POST", mint, {}, "a secret id put aside for longer than a minute", True, wrap_ttl
        )
    yield from _each("policies", "who writes or reads policies plans its way to root", _policies(cluster, name, kind))
    yield from _each("tokens and entities", "a token of another, or one that lives on", _tokens(cluster))
    yield from _each("the server", "the server is not the node's", _SERVER)
    yield from _each("other mounts", "secrets of others", _OTHER_MOUNTS)
    yield from _each("other clusters", "another cluster's identity", _elsewhere(cluster, name, kind))
    yield from _each("paths bent", "another's, by a path like its own", _bent(cluster, name, kind, others[0]))


def _each(group: str, why: str, entries: Iterator[_Entry] | tuple[_Entry, ...]) -> Iterator[Listed]:
    for method, path, body in entries:
        yield Listed(group, method, path, body, why)


def _engine(cluster: Cluster, ca: str) -> Iterator[_Entry]:
    mount = cluster.mount(ca)
    roles = [row.name for row in rows(cluster) if row.ca == ca] or ["any"]
    loose = {"allow_any_name": True, "enforce_hostnames": False, "max_ttl": "87600h"}
    for role in roles:
        yield "POST", f"{mount}/roles/{role}", loose
        yield "PATCH", f"{mount}/roles/{role}", loose
        yield "DELETE", f"{mount}/roles/{role}", None
        yield "GET", f"{mount}/roles/{role}", None
    yield "POST", f"{mount}/roles/of-my-own", loose
    for listing in ("roles", "keys", "certs", "certs/revoked"):
        yield "LIST", f"{mount}/{listing}", None
    for config in ("urls", "crl", "cluster", "issuers", "keys", "auto-tidy", "acme"):
        yield "GET", f"{mount}/config/{config}", None
        yield "POST", f"{mount}/config/{config}", {"default": "x", "enabled": True, "path": "https://192.0.2.1/v1/x"}
    yield from _authority(mount, ca)


def _authority(mount: str, ca: str) -> Iterator[_Entry]:
    for path in ("config/ca", "issuers/import/cert", "issuers/import/bundle", "intermediate/set-signed"):
        yield "POST", f"{mount}/{path}", {"pem_bundle": "x", "certificate": "x"}
    for kind in ("root", "intermediate"):
        for where in (f"{kind}/generate/internal", f"{kind}/generate/exported", f"issuers/generate/{kind}/internal"):
            yield "POST", f"{mount}/{where}", {"common_name": "mine"}
    for where in ("root/rotate/internal", "root/replace", "intermediate/cross-sign", "keys/generate/internal"):
        yield "POST", f"{mount}/{where}", {"common_name": "mine", "default": "x"}
    yield "POST", f"{mount}/keys/import", {"pem_bundle": "x"}
    for where in ("root", "issuer/default"):
        for verb in ("sign-intermediate", "sign-self-issued"):
            yield "POST", f"{mount}/{where}/{verb}", {"csr": "x", "certificate": "x", "common_name": "mine"}
    for verb in ("resign-crls", "sign-revocation-list", "revoke"):
        yield "POST", f"{mount}/issuer/default/{verb}", {"crl_number": 1, "crls": []}
    for path in ("root", f"issuer/{ca}-1", "issuer/default", f"key/{ca}-1"):
        yield "DELETE", f"{mount}/{path}", None
    for path in ("issuer/default", f"issuer/{ca}-1", f"key/{ca}-1"):
        yield "GET", f"{mount}/{path}", None
        yield "POST", f"{mount}/{path}", {"issuer_name": "mine", "leaf_not_after_behavior": "permit"}
    yield "PATCH", f"{mount}/issuer/default", {"leaf_not_after_behavior": "permit"}
    for path in ("revoke", "revoke-with-key"):
        yield "POST", f"{mount}/{path}", {"serial_number": "00:11", "private_key": "x"}
    for path in ("tidy", "tidy-cancel"):
        yield "POST", f"{mount}/{path}", {"tidy_cert_store": True, "safety_buffer": "1s"}
    for path in ("tidy-status", "crl/rotate", "crl/rotate-delta"):
        yield "GET", f"{mount}/{path}", None


def _records(cluster: Cluster, name: str, holder: Node | Pool, others: tuple[str, ...]) -> Iterator[_Entry]:
    store = cluster.mount("config")
    mine = f"pools/{holder.name}" if isinstance(holder, Pool) else f"nodes/{name}"
    theirs = [f"{kind}/{other}" for other in others for kind in ("nodes", "reports")]
    theirs += [f"pools/{pool.name}" for pool in cluster.pools] + [f"nodes/{name}", "applied", f"leaving/{name}"]
    told = {"data": {"version": 1}}
    for record in dict.fromkeys(record for record in theirs if record != mine):
        yield "GET", f"{store}/data/{record}", None
        yield "POST", f"{store}/data/{record}", told
    for record in ("cluster", mine):
        yield "POST", f"{store}/data/{record}", told
        yield "PUT", f"{store}/data/{record}", told
    for record in ("cluster", mine, f"reports/{name}", f"reports/{others[0]}", f"nodes/{others[0]}"):
        yield "PATCH", f"{store}/data/{record}", told
        yield "DELETE", f"{store}/data/{record}", None
        yield "DELETE", f"{store}/metadata/{record}", None
        yield "GET", f"{store}/metadata/{record}", None
        yield "POST", f"{store}/metadata/{record}", {"max_versions": 1}
        yield "GET", f"{store}/subkeys/{record}", None
        for verb in ("delete", "undelete", "destroy"):
            yield "POST", f"{store}/{verb}/{record}", {"versions": [1]}
    for folder in ("", "nodes", "reports", "pools", "leaving"):
        yield "LIST", f"{store}/metadata/{folder}", None
    yield "GET", f"{store}/config", None
    yield "POST", f"{store}/config", {"max_versions": 1}


_ROLE_FIELDS: Final[tuple[tuple[str, Mapping[str, Any]], ...]] = (
    ("policies", {"policies": "root"}),
    ("token-policies", {"token_policies": "root"}),
    ("token-ttl", {"token_ttl": "8760h"}),
    ("token-max-ttl", {"token_max_ttl": "8760h"}),
    ("token-num-uses", {"token_num_uses": 0}),
    ("token-bound-cidrs", {"token_bound_cidrs": "0.0.0.0/0"}),
    ("period", {"token_period": "8760h"}),
    ("bind-secret-id", {"bind_secret_id": False}),
    ("secret-id-num-uses", {"secret_id_num_uses": 0}),
    ("secret-id-ttl", {"secret_id_ttl": "8760h"}),
    ("secret-id-bound-cidrs", {"secret_id_bound_cidrs": "0.0.0.0/0"}),
    ("bound-cidr-list", {"bound_cidr_list": "0.0.0.0/0"}),
    ("local-secret-ids", {"local_secret_ids": True}),
    ("role-id", {"role_id": "mine"}),
    ("custom-secret-id", {"secret_id": "of-my-own"}),
)


def _others_roles(cluster: Cluster, kind: str, name: str, others: tuple[str, ...]) -> Iterator[_Entry]:
    auth = f"auth/{cluster.prefix}"
    wide = {"token_policies": "root", "secret_id_ttl": "8760h"}
    for mount in ("listed", "pooled"):
        yield "LIST", f"{auth}/{mount}/role", None
        yield "POST", f"{auth}/{mount}/tidy/secret-id", {}
        yield "POST", f"{auth}/{mount}/role/of-my-own", wide
        # Its own name on the other mount is another node.
        for other in (*others, *([name] if mount != kind else [])):
            role = f"{auth}/{mount}/role/{other}"
            yield "POST", f"{role}/secret-id", {}
            yield "GET", f"{role}/role-id", None
    # Not its own in upper case: OpenBao takes that for the same AppRole.
    for other in (*others[:_IN_FULL], others[0].upper()):
        role = f"{auth}/{kind}/role/{other}"
        yield "GET", role, None
        yield "POST", role, wide
        yield "DELETE", role, None
        yield "LIST", f"{role}/secret-id", None
        yield "POST", f"{role}/secret-id", {}
        for verb in ("lookup", "destroy"):
            yield "POST", f"{role}/secret-id/{verb}", {"secret_id": "x"}
            yield "POST", f"{role}/secret-id-accessor/{verb}", {"secret_id_accessor": "x"}
        for field, body in _ROLE_FIELDS:
            yield "POST", f"{role}/{field}", body


def _own_role(role: str) -> Iterator[_Entry]:
    yield "GET", role, None
    yield "POST", role, {"token_policies": "root"}
    yield "PATCH", role, {"token_policies": "root"}
    yield "DELETE", role, None
    yield "LIST", f"{role}/secret-id", None
    for field, body in _ROLE_FIELDS:
        yield "POST", f"{role}/{field}", body
        yield "GET", f"{role}/{field}", None
        yield "DELETE", f"{role}/{field}", None
    for body in (
        {"metadata": '{"role_name": "another"}'},
        {"metadata": {"role_name": "another"}},
        {"Metadata": '{"role_name": "another"}'},
        {"cidr_list": "0.0.0.0/0"},
        {"cidr_list": ["0.0.0.0/0"]},
        {"token_bound_cidrs": "0.0.0.0/0"},
        {"num_uses": 0},
        {"num_uses": 1000},
        {"ttl": "8760h"},
        {"ttl": 0},
        {"secret_id": "of-my-own"},
        {"role_name": "another"},
    ):
        yield "POST", f"{role}/secret-id", body
    yield "POST", f"{role}/secret-id/lookup", {"secret_id": "x"}
    yield "DELETE", f"{role}/secret-id/destroy", None
    yield "POST", f"{role}/secret-id/destroy", {"secret_id": "x", "role_name": "another"}
    yield "POST", f"{role}/secret-id/destroy", {"secret_id_accessor": "x"}
    for verb in ("lookup", "destroy"):
        yield "POST", f"{role}/secret-id-accessor/{verb}", {"secret_id_accessor": "x"}


def _policies(cluster: Cluster, name: str, kind: str) -> Iterator[_Entry]:
    names = [f"{cluster.prefix}/{end}" for end in ("applier", "enroller", "operator", f"node/{name}", "of-my-own")]
    names += [f"{cluster.prefix}/pool/{pool.name}" for pool in cluster.pools] + ["default", "root", "of-my-own"]
    body = {"policy": '{"path": {"*": {"capabilities": ["read"]}}}'}
    for policy in names:
        for base in ("sys/policies/acl", "sys/policy"):
            yield "GET", f"{base}/{policy}", None
            yield "POST", f"{base}/{policy}", body
            yield "DELETE", f"{base}/{policy}", None
    for base in ("sys/policies/acl", "sys/policy"):
        yield "LIST", base, None
    yield "GET", f"sys/policies/password/{kind}", None


def _tokens(cluster: Cluster) -> Iterator[_Entry]:
    for path in ("create", "create-orphan", "create/any"):
        yield "POST", f"auth/token/{path}", {"policies": ["root"], "ttl": "8760h"}
    yield "POST", "auth/token/create", {}
    yield "POST", "auth/token/create", {"entity_alias": "another", "type": "batch"}
    yield "POST", "auth/token/create", {"no_parent": True, "id": "of-my-own"}
    for path in ("lookup-self", "accessors", "roles"):
        yield "LIST" if path != "lookup-self" else "GET", f"auth/token/{path}", None
    for path in ("renew-self", "revoke-self", "tidy"):
        yield "POST", f"auth/token/{path}", {}
    for path in ("lookup", "renew", "revoke", "revoke-orphan"):
        yield "POST", f"auth/token/{path}", {"token": "x"}
    for path in ("lookup-accessor", "renew-accessor", "revoke-accessor"):
        yield "POST", f"auth/token/{path}", {"accessor": "x"}
    yield "POST", "auth/token/roles/of-my-own", {"allowed_policies": "root"}
    for thing in ("entity", "entity-alias", "group", "group-alias"):
        for where in ("id", "name"):
            yield "LIST", f"identity/{thing}/{where}", None
        yield "POST", f"identity/{thing}", {"name": "another", "policies": ["root"], "canonical_id": "x"}
        yield "GET", f"identity/{thing}/id/x", None
        yield "POST", f"identity/{thing}/id/x", {"name": "another", "policies": ["root"]}
        yield "DELETE", f"identity/{thing}/id/x", None
    for thing in ("entity", "group"):
        yield "POST", f"identity/lookup/{thing}", {"name": "x"}
        yield "POST", f"identity/{thing}/name/x", {"policies": ["root"]}
    yield "POST", "identity/entity/merge", {"from_entity_ids": ["x"], "to_entity_id": "y"}
    yield "POST", "identity/entity/batch-delete", {"entity_ids": ["x"]}
    yield "POST", "identity/alias", {"name": "x"}
    yield "POST", "identity/persona", {"name": "x"}
    yield "GET", "identity/oidc/token/x", None
    yield "LIST", "identity/oidc/key", None
    yield "POST", "identity/oidc/key/x", {}
    for path in ("lookup", "renew", "revoke"):
        yield "POST", f"sys/leases/{path}", {"lease_id": "x"}
    for path in ("revoke-prefix", "revoke-force"):
        yield "POST", f"sys/leases/{path}/{cluster.prefix}", {}
    yield "LIST", "sys/leases/lookup/auth", None
    yield "POST", "sys/capabilities-self", {"paths": ["sys/mounts"]}
    yield "POST", "sys/capabilities", {"token": "x", "paths": ["sys/mounts"]}
    yield "POST", "sys/capabilities-accessor", {"accessor": "x", "paths": ["sys/mounts"]}
    # A batch token has no cubbyhole.
    yield "GET", "cubbyhole/x", None
    yield "POST", "cubbyhole/x", {"a": "b"}
    yield "LIST", "cubbyhole/", None
    yield "POST", "sys/wrapping/wrap", {"a": "b"}


_SERVER: Final[tuple[_Entry, ...]] = (
    ("GET", "sys/mounts", None),
    ("POST", "sys/mounts/of-my-own", {"type": "kv"}),
    ("POST", "sys/remount", {"from": "secret", "to": "mine"}),
    ("GET", "sys/auth", None),
    ("POST", "sys/auth/of-my-own", {"type": "approle"}),
    ("GET", "sys/audit", None),
    ("POST", "sys/audit/of-my-own", {"type": "file", "options": {"file_path": "/dev/null"}}),
    ("DELETE", "sys/audit/main", None),
    ("POST", "sys/audit-hash/main", {"input": "x"}),
    ("POST", "sys/seal", None),
    ("POST", "sys/step-down", None),
    ("POST", "sys/rotate", None),
    ("GET", "sys/rotate/config", None),
    ("GET", "sys/key-status", None),
    ("GET", "sys/config/state/sanitized", None),
    ("GET", "sys/config/cors", None),
    ("POST", "sys/config/cors", {"allowed_origins": "*"}),
    ("GET", "sys/config/auditing/request-headers", None),
    ("GET", "sys/config/ui/headers/X-Custom", None),
    ("POST", "sys/config/reload/log", None),
    ("LIST", "sys/plugins/catalog/auth", None),
    ("GET", "sys/plugins/catalog", None),
    ("POST", "sys/plugins/catalog/secret/mine", {"command": "x", "sha256": "00"}),
    ("POST", "sys/plugins/reload/backend", {"plugin": "pki"}),
    ("GET", "sys/storage/raft/configuration", None),
    ("GET", "sys/storage/raft/snapshot", None),
    ("POST", "sys/storage/raft/remove-peer", {"server_id": "x"}),
    ("GET", "sys/storage/raft/autopilot/state", None),
    ("GET", "sys/raw/core/keyring", None),
    ("LIST", "sys/raw/", None),
    ("GET", "sys/pprof/heap", None),
    ("GET", "sys/host-info", None),
    ("GET", "sys/metrics", None),
    ("GET", "sys/in-flight-req", None),
    ("GET", "sys/internal/counters/tokens", None),
    ("GET", "sys/internal/counters/entities", None),
    ("GET", "sys/internal/inspect/router/root", None),
    ("LIST", "sys/namespaces", None),
    ("POST", "sys/namespaces/mine", {}),
    ("GET", "sys/quotas/config", None),
    ("LIST", "sys/quotas/rate-limit", None),
    ("POST", "sys/quotas/rate-limit/mine", {"rate": 0.1}),
    ("LIST", "sys/version-history", None),
    ("GET", "sys/loggers", None),
    ("POST", "sys/loggers", {"level": "trace"}),
    ("GET", "sys/experiments", None),
    ("POST", "sys/tools/random", {}),
    ("POST", "sys/tools/hash", {"input": "eA=="}),
    ("POST", "sys/control-group/request", {"accessor": "x"}),
)

_OTHER_MOUNTS: Final[tuple[_Entry, ...]] = (
    ("GET", "secret/data/x", None),
    ("POST", "secret/data/x", {"data": {}}),
    ("LIST", "secret/metadata/", None),
    ("GET", "kv/x", None),
    ("POST", "pki/sign/any", {"common_name": "x"}),
    ("POST", "pki/root/sign-intermediate", {"csr": "x"}),
    ("POST", "ssh/sign/any", {"public_key": "x"}),
    ("GET", "database/creds/any", None),
    ("GET", "aws/creds/any", None),
    ("POST", "transit/decrypt/any", {"ciphertext": "x"}),
    ("POST", "transit/keys/any", {}),
    ("GET", "auth/approle/role/any/role-id", None),
    ("POST", "auth/approle/role/any/secret-id", {}),
    ("POST", "auth/userpass/users/any", {"password": "x", "token_policies": "root"}),
    ("POST", "auth/kubernetes/role/any", {"token_policies": "root"}),
    ("POST", "auth/jwt/config", {"jwt_validation_pubkeys": "x"}),
    ("POST", "auth/cert/certs/any", {"certificate": "x"}),
)


def _elsewhere(cluster: Cluster, name: str, kind: str) -> Iterator[_Entry]:
    parent = cluster.prefix.rpartition("/")[0]
    siblings = (f"{parent}/other" if parent else "other", f"{cluster.prefix}-2", f"{cluster.prefix}/deeper", parent)
    for prefix in (sibling for sibling in siblings if sibling):
        for row in rows(cluster):
            yield "POST", f"{prefix}/{row.ca}/sign/{row.name}", {"common_name": name, "csr": "x"}
        for record in ("cluster", f"nodes/{name}", *(f"pools/{pool.name}" for pool in cluster.pools)):
            yield "GET", f"{prefix}/config/data/{record}", None
        yield "POST", f"{prefix}/config/data/reports/{name}", {"data": {}}
        yield "POST", f"auth/{prefix}/{kind}/role/{name}/secret-id", {}
        yield "GET", f"auth/{prefix}/{kind}/role/{name}/role-id", None
    for mount in (ROOT, *ISSUING_CAS, "config"):
        yield "POST", f"sys/mounts/{cluster.mount(mount)}/tune", {"max_lease_ttl": "876000h"}
        yield "GET", f"sys/mounts/{cluster.mount(mount)}/tune", None
        yield "DELETE", f"sys/mounts/{cluster.mount(mount)}", None
    for mount in ("listed", "pooled"):
        yield "POST", f"sys/auth/{cluster.prefix}/{mount}/tune", {"default_lease_ttl": "8760h"}
        yield "GET", f"sys/auth/{cluster.prefix}/{mount}/tune", None
        yield "DELETE", f"sys/auth/{cluster.prefix}/{mount}", None


def _bent(cluster: Cluster, name: str, kind: str, other: str) -> Iterator[_Entry]:
    store, roles = cluster.mount("config"), f"auth/{cluster.prefix}/{kind}/role"
    for path in (
        f"{store}/data/nodes/{name}%2f..%2f{other}",
        f"{store}/data/reports/{name}%2F..%2F{other}",
        f"{store}/data/reports/{name}/{other}",
        f"{store}/data/reports/{name}%00",
        f"{store}/data/reports/{name.upper()}",
        f"{store}/data/reports/*",
        f"{store}/data/reports/+",
        f"{store}/data/reports/%7B%7Bidentity.entity.name%7D%7D",
        f"{store}/data/Nodes/{other}",
    ):
        yield "GET", path, None
        yield "POST", path, {"data": {}}
    for path in (
        f"{roles}/{name}%2f..%2f{other}",
        f"{roles}/*",
        f"{roles}/+",
        f"{roles}/{name}%20",
        f"{roles}/{name}.",
    ):
        yield "POST", f"{path}/secret-id", {}
        yield "POST", f"{path}/custom-secret-id", {"secret_id": "of-my-own"}
