"""The part of the forbidden list that is not signing: everything else that Vault can do, path by path.

The lists are data. A row is (methods, path, body): it stands for every method with every path. `{a,b}` in a path stands
for each of these texts, `{name}` for each value that the caller gives for that name. Only writes send the body.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final, Literal

from vaultpki.certificates import all_cas, all_rows
from vaultpki.identity.access import POLICIES
from vaultpki.model import Certificate, Cluster, Node, Pool
from vaultpki.records import report_paths
from vaultpki.records.changes import CHANGES
from vaultpki.records.rotation import ROTATION_FOLDER
from vaultpki.records.service_account import KEYS_RECORD

HeldBy = Literal["refusal", "check", "indifference"]

# Methods, path and body; an entry has one method and a whole path.
_Row = tuple[str, str, Mapping[str, Any] | None]
_Entry = tuple[str, str, Mapping[str, Any] | None]

_MINUTE: Final = "60s"
# The form of an entity's id.
_ENTITY: Final = "00000000-0000-4000-8000-000000000000"
# The first other nodes are tried with every request, the rest with the most dangerous ones only.
_IN_FULL: Final = 4
_PLACE: Final = re.compile(r"\{(.*?)\}")


@dataclass(frozen=True, slots=True)
class Forbidden:
    """One request that Vault must refuse to a node; `why` says what the node would gain.

    `own` is the node's certificate if the request is the node's own for it with one thing changed. `held_by` says what
    must happen: Vault's refusal; or `check_signed` rejects the answer, if Vault folds case; or Vault ignores the
    change, so the answer may hold `own` or less, and nothing else. `signs` marks what would only sign a certificate.
    `spent` marks a request that only its parameters forbid, at the node's own AppRole: it is tried without a trace once
    that AppRole is gone, and then only a 403 is a refusal. `wrap_ttl` is for how long the answer is to be wrapped,
    empty for no wrapping.
    """

    group: str
    method: str
    path: str
    body: Mapping[str, Any] | None
    why: str
    own: Certificate | None = None
    held_by: HeldBy = "refusal"
    signs: bool = False
    spent: bool = False
    wrap_ttl: str = ""

    @property
    def harmless(self) -> bool:
        """Return whether it would change nothing if it were allowed: it reads, or signs what can be thrown away."""
        # Making a new CRL is a GET (api-docs/secret/pki, "Rotate CRLs").
        return self.signs or (self.method in ("GET", "LIST") and "/crl/rotate" not in self.path)


def forbidden_paths(cluster: Cluster, name: str, holder: Node | Pool, others: tuple[str, ...]) -> Iterator[Forbidden]:
    """Yield every request of the node `name` that is not signing; `others` are other nodes' names."""
    for ca in all_cas(cluster):
        roles = [row.name for row in all_rows(cluster) if row.ca == ca] or ["any"]
        values: dict[str, Sequence[str]] = {"mount": [cluster.mount(ca)], "ca": [ca], "role": roles}
        for method, path, body in _expand(_ENGINE, values):
            yield Forbidden("the CAs' own settings", method, path, body, "the CA would be the node's")
    values = _values(cluster, name, holder, others)
    for method, path, body in _expand(_OWN_ROLE, values):
        spent = method == "POST" and path.endswith(("/secret-id", "/destroy"))
        # A node may create wrapped secret ids only, so any other request would be refused whatever its body.
        wrap_ttl = _MINUTE if method == "POST" and path.endswith("/secret-id") else ""
        why = "its identity would be wider or longer"
        yield Forbidden("its own AppRole", method, path, body, why, spent=spent, wrap_ttl=wrap_ttl)
    for wrap_ttl in ("", "61s", "720h"):
        path, why = f"{values['own'][0]}/secret-id", "a secret id put aside for longer than a minute"
        yield Forbidden("its own AppRole", "POST", path, {}, why, spent=True, wrap_ttl=wrap_ttl)
    for group, why, table in _GROUPS:
        for method, path, body in _expand(table, values):
            yield Forbidden(group, method, path, body, why)


def _values(cluster: Cluster, name: str, holder: Node | Pool, others: tuple[str, ...]) -> dict[str, Sequence[str]]:
    """Return what each name in the paths stands for, except those of one CA."""
    prefix, pools = cluster.prefix, [f"pools/{pool.name}" for pool in cluster.pools]
    kind, other_kind = ("pooled", "listed") if isinstance(holder, Pool) else ("listed", "pooled")
    mine = f"pools/{holder.name}" if isinstance(holder, Pool) else f"nodes/{name}"
    # Its own name in the place of another kind is another node's.
    reports = _foreign_reports(cluster, name, holder, others)
    theirs = [f"nodes/{other}" for other in others] + reports
    theirs += [*pools, f"nodes/{name}", "applied", f"leaving/{name}"]
    ends = [*POLICIES, f"node/{name}", "of-my-own", *(f"pool/{p.name}" for p in cluster.pools)]
    parent = prefix.rpartition("/")[0]
    own = _own_reports(name, holder)
    rotations = [f"{ROTATION_FOLDER}/{domain}" for domain in all_cas(cluster)]
    rotations += [KEYS_RECORD] if cluster.service_account_keys else []
    records = ["cluster", CHANGES, mine, reports[0], f"nodes/{others[0]}", rotations[0]]
    # Who wrote this one would have tokens refused.
    records += [KEYS_RECORD] if cluster.service_account_keys else []
    return {
        "name": [name],
        "NAME": [name.upper()],
        "other": others,
        "first": [others[0]],
        # Not its own name in upper case: OpenBao takes that for the same AppRole.
        "near": (*others[:_IN_FULL], others[0].upper()),
        "bent": [f"{name}%2f..%2f{others[0]}", "*", "+", f"{name}%20", f"{name}."],
        "prefix": [prefix],
        "sibling": [*([f"{parent}/other", parent] if parent else ["other"]), f"{prefix}-2", f"{prefix}/deeper"],
        "kind": [kind],
        "own": [f"auth/{prefix}/{kind}/role/{name}"],
        # Its own name on the other mount is another node.
        "namesake": [f"auth/{prefix}/{other_kind}/role/{name}"],
        "mount": [cluster.mount(mount) for mount in (*all_cas(cluster), "config")],
        "sign": [f"{row.ca}/sign/{row.name}" for row in all_rows(cluster)],
        "store": [cluster.mount("config")],
        "read": ["cluster", CHANGES, mine, *rotations],
        "theirs": [record for record in dict.fromkeys(theirs) if record != mine],
        "record": [*records, *own],
        "reports": [report_paths.REPORT_FOLDER, *sorted({place.rpartition("/")[0] for place in (*reports, *own)})],
        "elsewhere": ["cluster", f"nodes/{name}", *pools],
        "policy": [*(f"{prefix}/{end}" for end in ends), "default", "root", "of-my-own"],
    }


def _foreign_reports(cluster: Cluster, name: str, holder: Node | Pool, others: Sequence[str]) -> list[str]:
    """Return the places of reports that the node must not write: of other names, other kinds and other pools."""
    found = [report_paths.former(other) for other in others]
    found += [report_paths.listed(each) for each in (name, *others)]
    for pool in cluster.pools:
        found += [report_paths.pooled(pool.name, each) for each in (name, *others)]
        found += [report_paths.by_token(pool.name, each) for each in (name, _ENTITY)]
    return [place for place in found if place not in _own_reports(name, holder)]


def _own_reports(name: str, holder: Node | Pool) -> list[str]:
    """Return the place of the node's own report; none for one by token, whose entity only Vault knows."""
    if not isinstance(holder, Pool):
        return [report_paths.listed(name)]
    return [] if holder.jwt else [report_paths.pooled(holder.name, name)]


def _expand(table: Iterable[_Row], values: Mapping[str, Sequence[str]]) -> Iterator[_Entry]:
    """Yield each request that the rows stand for."""
    for methods, path, body in table:
        # Texts at even places, names or alternatives at odd ones.
        parts = _PLACE.split(path)
        choices = [values.get(part, part.split(",")) if at % 2 else [part] for at, part in enumerate(parts)]
        for chosen, method in product(product(*choices), methods.split()):
            yield method, "".join(chosen), body if method in ("POST", "PUT", "PATCH") else None


_LOOSE_ROLE: Final = {"allow_any_name": True, "enforce_hostnames": False, "max_ttl": "87600h"}
_MINE: Final = {"common_name": "mine"}
_DEFAULT: Final = {**_MINE, "default": "x"}
_SIGN_CA: Final = {"csr": "x", "certificate": "x", **_MINE}
_IMPORT: Final = {"pem_bundle": "x", "certificate": "x"}
_ISSUER: Final = {"issuer_name": "mine", "leaf_not_after_behavior": "permit"}
_CONFIG: Final = {"default": "x", "enabled": True, "path": "https://192.0.2.1/v1/x"}

_ENGINE: Final[tuple[_Row, ...]] = (
    ("POST PATCH DELETE GET", "{mount}/roles/{role}", _LOOSE_ROLE),
    ("POST", "{mount}/roles/of-my-own", _LOOSE_ROLE),
    ("LIST", "{mount}/{roles,keys,certs,certs/revoked}", None),
    ("GET POST", "{mount}/config/{urls,crl,cluster,issuers,keys,auto-tidy,acme}", _CONFIG),
    ("POST", "{mount}/{config/ca,issuers/import/cert,issuers/import/bundle,intermediate/set-signed}", _IMPORT),
    ("POST", "{mount}/{root,intermediate}/generate/{internal,exported}", _MINE),
    ("POST", "{mount}/issuers/generate/{root,intermediate}/internal", _MINE),
    ("POST", "{mount}/{root/rotate/internal,root/replace,intermediate/cross-sign,keys/generate/internal}", _DEFAULT),
    ("POST", "{mount}/keys/import", {"pem_bundle": "x"}),
    ("POST", "{mount}/{root,issuer/default}/{sign-intermediate,sign-self-issued}", _SIGN_CA),
    ("POST", "{mount}/issuer/default/{resign-crls,sign-revocation-list,revoke}", {"crl_number": 1, "crls": []}),
    ("DELETE", "{mount}/root", None),
    ("DELETE GET POST", "{mount}/issuer/default", _ISSUER),
    ("DELETE GET POST", "{mount}/{issuer,key}/{ca}-1", _ISSUER),
    ("PATCH", "{mount}/issuer/default", {"leaf_not_after_behavior": "permit"}),
    ("POST", "{mount}/{revoke,revoke-with-key}", {"serial_number": "00:11", "private_key": "x"}),
    ("POST", "{mount}/{tidy,tidy-cancel}", {"tidy_cert_store": True, "safety_buffer": "1s"}),
    ("GET", "{mount}/{tidy-status,crl/rotate,crl/rotate-delta}", None),
)


_RECORD: Final = {"data": {"version": 1}}

_RECORDS: Final[tuple[_Row, ...]] = (
    ("GET POST", "{store}/data/{theirs}", _RECORD),
    ("POST PUT", "{store}/data/{read}", _RECORD),
    ("PATCH DELETE", "{store}/data/{record}", _RECORD),
    ("DELETE GET POST", "{store}/metadata/{record}", {"max_versions": 1}),
    ("GET", "{store}/subkeys/{record}", None),
    ("POST", "{store}/{delete,undelete,destroy}/{record}", {"versions": [1]}),
    ("LIST", "{store}/metadata/{,nodes,pools,leaving,rotation}", None),
    ("LIST", "{store}/metadata/{reports}", None),
    ("GET POST", "{store}/config", {"max_versions": 1}),
)


_ROLE_FIELDS: Final[Mapping[str, Mapping[str, Any]]] = {
    "policies": {"policies": "root"},
    "token-policies": {"token_policies": "root"},
    "token-ttl": {"token_ttl": "8760h"},
    "token-max-ttl": {"token_max_ttl": "8760h"},
    "token-num-uses": {"token_num_uses": 0},
    "token-bound-cidrs": {"token_bound_cidrs": "0.0.0.0/0"},
    "period": {"token_period": "8760h"},
    "bind-secret-id": {"bind_secret_id": False},
    "secret-id-num-uses": {"secret_id_num_uses": 0},
    "secret-id-ttl": {"secret_id_ttl": "8760h"},
    "secret-id-bound-cidrs": {"secret_id_bound_cidrs": "0.0.0.0/0"},
    "bound-cidr-list": {"bound_cidr_list": "0.0.0.0/0"},
    "local-secret-ids": {"local_secret_ids": True},
    "role-id": {"role_id": "mine"},
    "custom-secret-id": {"secret_id": "of-my-own"},
}


_WIDE_ROLE: Final = {"token_policies": "root", "secret_id_ttl": "8760h"}

_OTHER_ROLES: Final[tuple[_Row, ...]] = (
    ("LIST", "auth/{prefix}/{listed,pooled}/role", None),
    ("POST", "auth/{prefix}/{listed,pooled}/tidy/secret-id", {}),
    ("POST", "auth/{prefix}/{listed,pooled}/role/of-my-own", _WIDE_ROLE),
    ("POST", "auth/{prefix}/{listed,pooled}/role/{other}/secret-id", {}),
    ("GET", "auth/{prefix}/{listed,pooled}/role/{other}/role-id", None),
    ("GET POST DELETE", "auth/{prefix}/{kind}/role/{near}", _WIDE_ROLE),
    ("LIST POST", "auth/{prefix}/{kind}/role/{near}/secret-id", {}),
    ("POST", "auth/{prefix}/{kind}/role/{near}/secret-id/{lookup,destroy}", {"secret_id": "x"}),
    ("POST", "auth/{prefix}/{kind}/role/{near}/secret-id-accessor/{lookup,destroy}", {"secret_id_accessor": "x"}),
    ("POST", "{namesake}/secret-id", {}),
    ("GET", "{namesake}/role-id", None),
    *(("POST", f"auth/{{prefix}}/{{kind}}/role/{{near}}/{field}", body) for field, body in _ROLE_FIELDS.items()),
)

_MINTED: Final[tuple[Mapping[str, Any], ...]] = (
    {"metadata": '{"role_name": "another"}'},
    {"metadata": {"role_name": "another"}},
    {"Metadata": '{"role_name": "another"}'},
    *({"cidr_list": "0.0.0.0/0"}, {"cidr_list": ["0.0.0.0/0"]}, {"token_bound_cidrs": "0.0.0.0/0"}),
    *({"num_uses": 0}, {"num_uses": 1000}, {"ttl": "8760h"}, {"ttl": 0}),
    *({"secret_id": "of-my-own"}, {"role_name": "another"}),
)

_OWN_ROLE: Final[tuple[_Row, ...]] = (
    ("GET POST PATCH DELETE", "{own}", {"token_policies": "root"}),
    ("LIST", "{own}/secret-id", None),
    *(("POST", "{own}/secret-id", body) for body in _MINTED),
    ("POST", "{own}/secret-id/lookup", {"secret_id": "x"}),
    ("DELETE", "{own}/secret-id/destroy", None),
    ("POST", "{own}/secret-id/destroy", {"secret_id": "x", "role_name": "another"}),
    ("POST", "{own}/secret-id/destroy", {"secret_id_accessor": "x"}),
    ("POST", "{own}/secret-id-accessor/{lookup,destroy}", {"secret_id_accessor": "x"}),
    *(("POST GET DELETE", f"{{own}}/{field}", body) for field, body in _ROLE_FIELDS.items()),
)

_READ_ALL: Final = {"policy": '{"path": {"*": {"capabilities": ["read"]}}}'}

_POLICIES: Final[tuple[_Row, ...]] = (
    ("GET POST DELETE", "sys/{policies/acl,policy}/{policy}", _READ_ALL),
    ("LIST", "sys/{policies/acl,policy}", None),
    ("GET", "sys/policies/password/{kind}", None),
)

_ANOTHER: Final = {"name": "another", "policies": ["root"]}

_TOKENS: Final[tuple[_Row, ...]] = (
    ("POST", "auth/token/{create,create-orphan,create/any}", {"policies": ["root"], "ttl": "8760h"}),
    ("POST", "auth/token/create", {}),
    ("POST", "auth/token/create", {"entity_alias": "another", "type": "batch"}),
    ("POST", "auth/token/create", {"no_parent": True, "id": "of-my-own"}),
    ("GET", "auth/token/lookup-self", None),
    ("LIST", "auth/token/{accessors,roles}", None),
    ("POST", "auth/token/{renew-self,revoke-self,tidy}", {}),
    ("POST", "auth/token/{lookup,renew,revoke,revoke-orphan}", {"token": "x"}),
    ("POST", "auth/token/{lookup-accessor,renew-accessor,revoke-accessor}", {"accessor": "x"}),
    ("POST", "auth/token/roles/of-my-own", {"allowed_policies": "root"}),
    ("LIST", "identity/{entity,entity-alias,group,group-alias}/{id,name}", None),
    ("POST", "identity/{entity,entity-alias,group,group-alias}", {**_ANOTHER, "canonical_id": "x"}),
    ("GET POST DELETE", "identity/{entity,entity-alias,group,group-alias}/id/x", _ANOTHER),
    ("POST", "identity/lookup/{entity,group}", {"name": "x"}),
    ("POST", "identity/{entity,group}/name/x", {"policies": ["root"]}),
    ("POST", "identity/entity/merge", {"from_entity_ids": ["x"], "to_entity_id": "y"}),
    ("POST", "identity/entity/batch-delete", {"entity_ids": ["x"]}),
    ("POST", "identity/{alias,persona}", {"name": "x"}),
    ("GET", "identity/oidc/token/x", None),
    ("LIST", "identity/oidc/key", None),
    ("POST", "identity/oidc/key/x", {}),
    ("POST", "sys/leases/{lookup,renew,revoke}", {"lease_id": "x"}),
    ("POST", "sys/leases/{revoke-prefix,revoke-force}/{prefix}", {}),
    ("LIST", "sys/leases/lookup/auth", None),
    ("POST", "sys/capabilities-self", {"paths": ["sys/mounts"]}),
    ("POST", "sys/capabilities", {"token": "x", "paths": ["sys/mounts"]}),
    ("POST", "sys/capabilities-accessor", {"accessor": "x", "paths": ["sys/mounts"]}),
    # A batch token has no cubbyhole.
    ("GET POST", "cubbyhole/x", {"a": "b"}),
    ("LIST", "cubbyhole/", None),
    ("POST", "sys/wrapping/wrap", {"a": "b"}),
)

_SERVER: Final[tuple[_Row, ...]] = (
    ("GET", "sys/{mounts,auth,audit,rotate/config,key-status,config/state/sanitized,config/cors}", None),
    ("GET", "sys/{plugins/catalog,raw/core/keyring,pprof/heap,host-info,metrics,in-flight-req,loggers}", None),
    ("GET", "sys/{config/auditing/request-headers,config/ui/headers/X-Custom,quotas/config,experiments}", None),
    ("GET", "sys/storage/raft/{configuration,snapshot,autopilot/state}", None),
    ("GET", "sys/internal/{counters/tokens,counters/entities,inspect/router/root}", None),
    ("LIST", "sys/{plugins/catalog/auth,raw/,namespaces,quotas/rate-limit,version-history}", None),
    ("POST", "sys/{seal,step-down,rotate,config/reload/log}", None),
    ("POST", "sys/mounts/of-my-own", {"type": "kv"}),
    ("POST", "sys/remount", {"from": "secret", "to": "mine"}),
    ("POST", "sys/auth/of-my-own", {"type": "approle"}),
    ("POST", "sys/audit/of-my-own", {"type": "file", "options": {"file_path": "/dev/null"}}),
    ("DELETE", "sys/audit/main", None),
    ("POST", "sys/audit-hash/main", {"input": "x"}),
    ("POST", "sys/config/cors", {"allowed_origins": "*"}),
    ("POST", "sys/plugins/catalog/secret/mine", {"command": "x", "sha256": "00"}),
    ("POST", "sys/plugins/reload/backend", {"plugin": "pki"}),
    ("POST", "sys/storage/raft/remove-peer", {"server_id": "x"}),
    ("POST", "sys/namespaces/mine", {}),
    ("POST", "sys/quotas/rate-limit/mine", {"rate": 0.1}),
    ("POST", "sys/loggers", {"level": "trace"}),
    ("POST", "sys/tools/random", {}),
    ("POST", "sys/tools/hash", {"input": "eA=="}),
    ("POST", "sys/control-group/request", {"accessor": "x"}),
)

_OTHER_MOUNTS: Final[tuple[_Row, ...]] = (
    ("GET POST", "secret/data/x", {"data": {}}),
    ("LIST", "secret/metadata/", None),
    ("GET", "{kv/x,database/creds/any,aws/creds/any,auth/approle/role/any/role-id}", None),
    ("POST", "pki/sign/any", {"common_name": "x"}),
    ("POST", "pki/root/sign-intermediate", {"csr": "x"}),
    ("POST", "ssh/sign/any", {"public_key": "x"}),
    ("POST", "transit/decrypt/any", {"ciphertext": "x"}),
    ("POST", "transit/keys/any", {}),
    ("POST", "auth/approle/role/any/secret-id", {}),
    ("POST", "auth/userpass/users/any", {"password": "x", "token_policies": "root"}),
    ("POST", "auth/kubernetes/role/any", {"token_policies": "root"}),
    ("POST", "auth/jwt/config", {"jwt_validation_pubkeys": "x"}),
    ("POST", "auth/cert/certs/any", {"certificate": "x"}),
)

_ELSEWHERE: Final[tuple[_Row, ...]] = (
    ("POST", "{sibling}/{sign}", {"common_name": "x", "csr": "x"}),
    ("GET", "{sibling}/config/data/{elsewhere}", None),
    ("POST", "{sibling}/config/data/reports/{,listed/}{name}", {"data": {}}),
    ("POST", "auth/{sibling}/{kind}/role/{name}/secret-id", {}),
    ("GET", "auth/{sibling}/{kind}/role/{name}/role-id", None),
    ("POST GET", "sys/mounts/{mount}/tune", {"max_lease_ttl": "876000h"}),
    ("DELETE", "sys/mounts/{mount}", None),
    ("POST GET", "sys/auth/{prefix}/{listed,pooled}/tune", {"default_lease_ttl": "8760h"}),
    ("DELETE", "sys/auth/{prefix}/{listed,pooled}", None),
)

_BENT: Final[tuple[_Row, ...]] = (
    ("GET POST", "{store}/data/nodes/{name}%2f..%2f{first}", {"data": {}}),
    ("GET POST", "{store}/data/reports/{name}{%2F..%2F,/}{first}", {"data": {}}),
    ("GET POST", "{store}/data/reports/{listed,pooled,jwt}/{name}{%2F..%2F,/}{first}", {"data": {}}),
    ("GET POST", "{store}/data/reports/{,listed/}{name}%00", {"data": {}}),
    ("GET POST", "{store}/data/reports/{NAME}", {"data": {}}),
    ("GET POST", "{store}/data/reports/{,listed/}{*,+,%7B%7Bidentity.entity.name%7D%7D}", {"data": {}}),
    ("GET POST", "{store}/data/Nodes/{first}", {"data": {}}),
    ("POST", "auth/{prefix}/{kind}/role/{bent}/secret-id", {}),
    ("POST", "auth/{prefix}/{kind}/role/{bent}/custom-secret-id", {"secret_id": "of-my-own"}),
)

# Group, reason and requests.
_GROUPS: Final[tuple[tuple[str, str, tuple[_Row, ...]], ...]] = (
    ("records", "records of others are not the node's", _RECORDS),
    ("AppRoles of others", "it would be another node", _OTHER_ROLES),
    ("policies", "who writes or reads policies can become root", _POLICIES),
    ("tokens and entities", "a token of another, or one that does not expire", _TOKENS),
    ("the server", "the server is not the node's", _SERVER),
    ("other mounts", "secrets of others", _OTHER_MOUNTS),
    ("other clusters", "another cluster's identity", _ELSEWHERE),
    ("paths bent", "another's, by a path like its own", _BENT),
)
