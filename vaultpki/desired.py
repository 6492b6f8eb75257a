"""Every Vault object that a cluster should have, computed purely from the table, the spec and what only Vault knows.

An object is its kind, its name and the fields we manage, in the normal form of `plan.py`: TTLs as seconds, lists as
tuples turned lists, policies as parsed JSON. What Vault itself decides (accessors, the root's fingerprint) comes in as
`Known`; before it exists, UNKNOWN stands in its place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import field
from functools import cache
from typing import Any, Final

from vaultpki import assets, records
from vaultpki.certificates import (
    ISSUING_CAS,
    LEAF_BACKDATE,
    ROOT,
    node_rows,
    pool_role,
    resolve,
    rows,
)
from vaultpki.model import NODE, Certificate, Cluster, Jwt, Node, Pool, Row
from vaultpki.values import dataclass

UNKNOWN: Final = "(known after apply)"

_DAY = 86400
_HOUR = 3600
# A node's token serves one pass of its agent; a batch token cannot be taken back, so it is short.
TOKEN_TTL: Final = 20 * 60
# An outage shorter than this needs no person on any node (the secret id outlives it).
_SECRET_ID_FLOOR = 7 * _DAY

# All that a public key can verify: one of them taken for the secret of an HMAC would let anybody sign.
_SIGNATURES: Final = ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "EdDSA")
# How far, in seconds, the clocks of Vault and the issuer may differ.
_JWT_SKEW: Final = 10

# Where a login's alias says who the node is, by auth mount.
_ALIAS_OF: Final = {"listed": "metadata.role_name", "pooled": "metadata.role_name", "jwt": "name"}

# What a new store says of itself. With a check-and-set nobody could write a record; with an age records would vanish.
STORE_OPTIONS: Final[Mapping[str, Any]] = {"cas_required": False, "delete_version_after": "0s", "max_versions": 0}

# How the description of every mount of ours begins, whichever cluster's it is.
MARK: Final = "made by vaultpki for cluster "

# Below `config/` of every CA's mount.
ENGINE_CONFIG: Final = ("urls", "crl", "auto-tidy", "acme")

Fields = dict[str, Any]
Key = tuple[str, str]

_Held = Mapping[Node | Pool, tuple[Certificate, ...]]


@dataclass(frozen=True, slots=True)
class Known:
    """What only the server knows: accessors of the auth mounts by their last part, the root's SHA-256, role ids.

    `addresses` and `ca_pem` are where nodes find Vault, `namespace` is the one that the cluster lies in there, if any.
    `bounds_dates`, `bounds_addresses` and `binds_tokens` are the server's capabilities of these names.
    """

    addresses: tuple[str, ...] = ()
    ca_pem: str | None = None
    namespace: str = ""
    accessors: Mapping[str, str] = field(default_factory=dict)
    root_sha256: str = UNKNOWN
    role_ids: Mapping[str, str] = field(default_factory=dict)
    bounds_dates: bool = False
    bounds_addresses: bool = False
    binds_tokens: bool = False

    def accessor(self, mount: str) -> str:
        return self.accessors.get(mount, UNKNOWN)


def desired(cluster: Cluster, known: Known) -> dict[Key, Fields]:
    """Every object by (kind, name), in an order in which each stands behind what it needs."""
    wanted: dict[Key, Fields] = {}
    holders: tuple[Node | Pool, ...] = (*cluster.nodes, *cluster.pools)
    held = {who: node_certificates(cluster, who) for who in holders}
    for ca in (ROOT, *ISSUING_CAS):
        wanted["mount", cluster.mount(ca)] = _pki_mount(cluster, ca)
    wanted["mount", cluster.mount("config")] = {"type": "kv", "version": "2", **STORE_OPTIONS}
    for mount, kind in auth_mounts(cluster).items():
        wanted["auth", f"{cluster.prefix}/{mount}"] = {
            "type": kind,
            # Of `service` or `batch` would be every token, whatever the auth roles say (api-docs/system/auth).
            "token_type": "default-service",
            **(_approle_mount(held) if kind == "approle" else {}),
        }
    for ca in (ROOT, *ISSUING_CAS):
        wanted["issuer", cluster.mount(ca)] = _issuer(cluster, ca)
        for name, fields in _engine_config(cluster, ca, known).items():
            wanted["config", f"{cluster.mount(ca)}/config/{name}"] = fields
    for role, fields in _roles(cluster, known).items():
        wanted["role", role] = fields
    for policy, rules in _policies(cluster, known, held).items():
        wanted["policy", policy] = rules
    for node in cluster.nodes:
        wanted["approle", f"{cluster.prefix}/listed/{node.name}"] = _approle(cluster, node, held[node], known)
    for pool in cluster.pools:
        if pool.jwt:
            wanted["config", f"auth/{cluster.prefix}/jwt/config"] = _jwt_config(pool.jwt)
            wanted["config", f"{jwt_roles(cluster)}/{pool.name}"] = _jwt_role(cluster, pool, pool.jwt, known)
    for record, value in _records(cluster, known, held).items():
        wanted["config", f"{cluster.mount('config')}/{record}"] = value
    return wanted


def auth_mounts(cluster: Cluster) -> dict[str, str]:
    """The type of each auth mount that the cluster needs, by the last part of its path."""
    jwt = {"jwt": "jwt"} if any(pool.jwt for pool in cluster.pools) else {}
    return {"listed": "approle", "pooled": "approle", **jwt}


def jwt_roles(cluster: Cluster) -> str:
    """The path below which the auth roles of pools with `jwt` lie."""
    return f"auth/{cluster.prefix}/jwt/role"


def marker(cluster: Cluster) -> str:
    """The description by which a mount is known as ours."""
    return f"{MARK}{cluster.name}"


def ca_subject(cluster: str, ca: str) -> str:
    """The common name of a CA's certificate."""
    return f"{cluster} {ca} CA"


def secret_id_ttl(certificates: tuple[Certificate, ...]) -> int:
    """How long, in seconds, a node's secret id lives: twice its longest leaf, and never under a week."""
    return max(_SECRET_ID_FLOOR, 2 * max((c.ttl for c in certificates), default=0))


def node_certificates(cluster: Cluster, holder: Node | Pool) -> tuple[Certificate, ...]:
    return tuple(resolve(row, cluster, holder) for row in node_rows(cluster, holder))


def _policies(cluster: Cluster, known: Known, held: _Held) -> dict[str, Fields]:
    """The rules of every policy that apply writes, by the policy's name."""
    written = {
        f"{cluster.prefix}/operator": operator_policy(cluster),
        f"{cluster.prefix}/enroller": enroller_policy(cluster),
    }
    for node in cluster.nodes:
        rules = policy("node.json", {"prefix": cluster.prefix, "node": node.name})
        for certificate in held[node]:
            rules[f"{certificate.mount}/sign/{certificate.role}"] = _sign_rule(certificate, exact=True)
        written[f"{cluster.prefix}/node/{node.name}"] = rules
    for pool in cluster.pools:
        values = {"prefix": cluster.prefix, "pool": pool.name, "accessor": known.accessor(pool.auth_mount)}
        rules = policy("pool-jwt.json" if pool.jwt else "pool.json", values)
        for certificate in held[pool]:
            rules[f"{certificate.mount}/sign/{certificate.role}"] = _sign_rule(
                certificate, exact=False, pattern=pool.node_names
            )
        written[f"{cluster.prefix}/pool/{pool.name}"] = rules
    return written


def operator_policy(cluster: Cluster) -> Fields:
    """What a person needs to issue the operator's rows, and no more."""
    rules = policy("operator.json", {"prefix": cluster.prefix})
    for row in rows(cluster):
        if row.operator:
            certificate = resolve(row, cluster, None)
            rules[f"{certificate.mount}/sign/{certificate.role}"] = _sign_rule(certificate, exact=True)
    return rules


def enroller_policy(cluster: Cluster) -> Fields:
    """What whoever enrols pooled nodes needs: make an AppRole as we would, once, and mint its secret id wrapped."""
    rules = policy("enroller.json", {"prefix": cluster.prefix})
    made = [pooled_approle(cluster, pool) for pool in cluster.pools if not pool.jwt]
    values = {name: sorted({fields[name] for fields in made}) for name in (made[0] if made else ())}
    rule = rules[f"auth/{cluster.prefix}/pooled/role/+"]
    if values:
        # Vault takes an empty text for any value allowed, and an empty TTL or type is the mount's.
        empty = {name: [""] for name in values}
        rule |= {"allowed_parameters": values, "denied_parameters": empty, "required_parameters": sorted(values)}
    else:
        del rules[f"auth/{cluster.prefix}/pooled/role/+"]
    return rules


def pooled_approle(cluster: Cluster, pool: Pool) -> dict[str, str]:
    """The parameters with which a pooled node's AppRole is made.

    Each is text: a policy's `allowed_parameters` hold text alike on both servers, and lists and numbers not.
    """
    return {
        "token_policies": f"{cluster.prefix}/pool/{pool.name}",
        "token_no_default_policy": "true",
        "token_type": "batch",
        "token_ttl": str(TOKEN_TTL),
        "token_max_ttl": str(TOKEN_TTL),
        "bind_secret_id": "true",
        "secret_id_num_uses": "0",
        "secret_id_ttl": str(secret_id_ttl(node_certificates(cluster, pool))),
    }


def policy(name: str, values: Mapping[str, str]) -> Fields:
    """The rules of a policy in `policies/`, path by path."""
    rules: Fields = json.loads(assets.render(_shipped(name), values, name=name))["path"]
    return rules


@cache
def _shipped(name: str) -> str:
    return assets.text("policies", name)


def _approle_mount(held: _Held) -> Fields:
    # A mount's maximum, by default 32 days, cuts a secret id's life short, and Vault does not say so.
    longest = max(map(secret_id_ttl, held.values()), default=0)
    # Five logins with a wrong secret id would lock a node out for a quarter of an hour, and a role id is no secret
    # (api-docs/system/user-lockout): anybody could keep it from renewing. Secret ids are not to be guessed.
    return {"default_ttl": TOKEN_TTL, "max_ttl": max(longest, _SECRET_ID_FLOOR), "lockout": False}


def _pki_mount(cluster: Cluster, ca: str) -> Fields:
    authority = cluster.authority
    if ca == ROOT:
        return {"type": "pki", "default_ttl": authority.issuing_ttl, "max_ttl": authority.root_ttl}
    return {"type": "pki", "default_ttl": min(cluster.ttl, authority.issuing_ttl), "max_ttl": authority.issuing_ttl}


def _issuer(cluster: Cluster, ca: str) -> Fields:
    return {
        "common_name": ca_subject(cluster.name, ca),
        "key": cluster.authority.key.value,
        "ttl": cluster.authority.root_ttl if ca == ROOT else cluster.authority.issuing_ttl,
        "issuer_name": f"{ca}-1",
        "leaf_not_after_behavior": "err",
        "usage": "crl-signing,issuing-certificates,ocsp-signing,read-only",
        # An issuer's own URLs, where it has any, go before the mount's.
        "issuing_certificates": [],
        "crl_distribution_points": [],
        "ocsp_servers": [],
        # Roles sign with the mount's default issuer.
        "default": True,
        # A server cut off while it made the first key of a mount has not set it.
        "default_key": True,
    }


def _engine_config(cluster: Cluster, ca: str, known: Known) -> dict[str, Fields]:
    # Who fetches a CRL sends no header, so the namespace stands in the path (Vault's docs, enterprise/namespaces).
    within = f"{known.namespace}/" if known.namespace else ""
    base = [f"{address}/v1/{within}{cluster.mount(ca)}" for address in known.addresses]
    return {
        # By issuer id, so that a leaf points at its own issuer's CRL when a mount has two.
        "urls": {
            "issuing_certificates": [f"{url}/issuer/{{{{issuer_id}}}}/der" for url in base],
            "crl_distribution_points": [f"{url}/issuer/{{{{issuer_id}}}}/crl/der" for url in base],
            "ocsp_servers": [f"{url}/ocsp" for url in base],
            "enable_templating": True,
        },
        "crl": {
            "disable": False,
            "expiry": "72h",
            "auto_rebuild": True,
            "auto_rebuild_grace_period": "12h",
            "ocsp_disable": False,
        },
        "auto-tidy": {
            "enabled": True,
            "interval_duration": 12 * _HOUR,
            "tidy_cert_store": True,
            "tidy_revoked_certs": True,
            "safety_buffer": 3 * _DAY,
        },
        # It would sign whatever name a client proves to own, past every role.
        "acme": {"enabled": False},
    }


def _roles(cluster: Cluster, known: Known) -> dict[str, Fields]:
    made: dict[str, Fields] = {}
    for row in rows(cluster):
        pools = [pool for pool in cluster.pools if row.node_roles & pool.roles]
        shared = [pool for pool in pools if pool_role(row, pool) == row.name]
        mounts = ["listed", *sorted({pool.auth_mount for pool in shared})]
        made[f"{cluster.mount(row.ca)}/{row.name}"] = _role(cluster, row, None, mounts, known)
        for pool in pools:
            if pool not in shared:
                name = f"{cluster.mount(row.ca)}/{pool_role(row, pool)}"
                made[name] = _role(cluster, row, pool, [pool.auth_mount], known)
    return made


def _role(cluster: Cluster, row: Row, pool: Pool | None, mounts: list[str], known: Known) -> Fields:
    sample = resolve(row, cluster, pool or Pool("any", row.node_roles, "*"))
    names = dict.fromkeys((sample.subject.common_name, *sample.subject.dns))
    own = [f"{{{{identity.entity.aliases.{known.accessor(mount)}.{_ALIAS_OF[mount]}}}}}" for mount in mounts]
    domains = [name.replace(NODE, who) for name in names for who in (own if NODE in name else [""])]
    fields: Fields = {
        "key_type": sample.key.vault_type,
        "key_bits": sample.key.vault_bits,
        "server_flag": row.usage.server,
        "client_flag": row.usage.client,
        "code_signing_flag": False,
        "email_protection_flag": False,
        # RFC 5280, 4.2.1.12: key encipherment goes with serverAuth, and not with clientAuth alone.
        "key_usage": ["DigitalSignature", *(["KeyEncipherment"] if sample.key.rsa and row.usage.server else [])],
        "ext_key_usage": [],
        "ext_key_usage_oids": [],
        "allowed_domains": domains,
        "allowed_domains_template": any(NODE in name for name in names),
        "allow_bare_domains": True,
        "allow_subdomains": False,
        "allow_glob_domains": False,
        "allow_any_name": False,
        "allow_localhost": False,
        "allow_wildcard_certificates": False,
        # Not "email", which would let `x@NAME` pass; not "disabled", which skips allowed_domains altogether.
        "cn_validations": ["hostname"],
        "enforce_hostnames": False,
        "require_cn": True,
        "allow_ip_sans": row.addressed and pool is None,
        "allowed_uri_sans": [],
        "allowed_uri_sans_template": False,
        "allowed_other_sans": [],
        "allowed_user_ids": [],
        "allowed_serial_numbers": [],
        "use_csr_common_name": False,
        "use_csr_sans": False,
        "organization": list(row.organization),
        **{name: [] for name in ("ou", "country", "locality", "province", "street_address", "postal_code")},
        "policy_identifiers": [],
        "basic_constraints_valid_for_non_ca": False,
        "not_before_duration": LEAF_BACKDATE,
        "ttl": sample.ttl,
        "max_ttl": sample.ttl,
        # A date here would go before both.
        "not_after": "",
        "use_pss": False,
        "generate_lease": False,
        "no_store": False,
        "issuer_ref": "default",
    }
    if known.bounds_dates:
        fields |= {"not_before": "", "not_before_bound": "forbid", "not_after_bound": "forbid"}
    if known.bounds_addresses:
        # A listed node's addresses are held by its policy; a network here would refuse nodes outside it.
        fields["allowed_ip_sans_cidr"] = []
    return fields


def _sign_rule(certificate: Certificate, *, exact: bool, pattern: str = "") -> Fields:
    """The only parameters a holder may send to `sign`, each with the only values it may have."""
    subject = certificate.subject
    parameters: dict[str, list[Any]] = {
        "csr": [],
        "format": ["pem"],
        "exclude_cn_from_sans": ["true"],
        "common_name": [subject.common_name if exact else subject.common_name.replace(NODE, pattern)],
    }
    if subject.dns:
        # A list of values is one string here. Of a pool's nodes the first name is its own; the role holds them all.
        parameters["alt_names"] = [",".join(subject.dns) if exact else _pooled_names(subject.dns, pattern)]
    if subject.ips:
        parameters["ip_sans"] = [",".join(subject.ips)]
    # Left out, the CN would be a DNS SAN too; and Vault takes an empty text for any value allowed (OpenBao does not).
    denied: dict[str, list[Any]] = {"exclude_cn_from_sans": [""]}
    if subject.dns and not exact:
        denied["alt_names"] = [*_NO_HOST_NAMES, *(["*,*"] if len(subject.dns) == 1 else [])]
    return {
        "capabilities": ["update"],
        "allowed_parameters": parameters,
        "denied_parameters": denied,
        "required_parameters": ["exclude_cn_from_sans"],
    }


# A glob holds only how a text begins. Of what may follow, the role lets an address of mail at an allowed name through,
# and the engine drops what is no host's name without a word. (Between two `*` stands what is looked for.)
_NO_HOST_NAMES: Final = ("*@*", "* *", "*:*", "***")


def _pooled_names(names: tuple[str, ...], pattern: str) -> str:
    text = ",".join(names)
    before, found, _ = text.partition(NODE)
    # Vault's globs have one `*`, at the end.
    return before + pattern if found else text


def _jwt_config(jwt: Jwt) -> Fields:
    return {
        "bound_issuer": jwt.issuer,
        "jwt_validation_pubkeys": list(jwt.public_keys),
        "jwks_url": jwt.jwks_url or "",
        "jwks_ca_pem": jwt.jwks_ca_pem or "",
        "jwt_supported_algs": list(_SIGNATURES),
        "default_role": "",
        "oidc_discovery_url": "",
        "oidc_discovery_ca_pem": "",
    }


def _jwt_role(cluster: Cluster, pool: Pool, jwt: Jwt, known: Known) -> Fields:
    return {
        "role_type": "jwt",
        # The alias gets its name from it: a claim that two nodes share would make one of them the other.
        "user_claim": jwt.node_claim,
        "user_claim_json_pointer": jwt.node_claim.startswith("/"),
        "bound_claims": {jwt.node_claim: [pool.node_names]},
        "bound_claims_type": "glob",
        "bound_audiences": list(jwt.audiences),
        "bound_subject": "",
        "claim_mappings": {},
        "groups_claim": "",
        # Less than zero is none; zero would be Vault's own 150 s. A token that names no end has none but the skew.
        "expiration_leeway": -1,
        "not_before_leeway": -1,
        "clock_skew_leeway": _JWT_SKEW,
        "max_age": 0,
        **_token(f"{cluster.prefix}/pool/{pool.name}", known),
    }


def _approle(cluster: Cluster, node: Node, certificates: tuple[Certificate, ...], known: Known) -> Fields:
    return {
        **_token(f"{cluster.prefix}/node/{node.name}", known),
        "bind_secret_id": True,
        "secret_id_num_uses": 0,
        "secret_id_ttl": secret_id_ttl(certificates),
        "secret_id_bound_cidrs": [],
    }


def _token(policy_name: str, known: Known) -> Fields:
    """What a node's token is, whichever way it logs in."""
    fields: Fields = {
        "token_policies": [policy_name],
        "token_no_default_policy": True,
        "token_type": "batch",
        "token_ttl": TOKEN_TTL,
        "token_max_ttl": TOKEN_TTL,
        "token_explicit_max_ttl": 0,
        # A batch token is neither renewed nor counted: with one of these set by hand, the server refuses every write
        # that asks for batch tokens and does not take it back.
        "token_period": 0,
        "token_num_uses": 0,
        "token_bound_cidrs": [],
    }
    if known.binds_tokens:
        fields["token_strictly_bind_ip"] = False
    return fields


def _records(cluster: Cluster, known: Known, held: _Held) -> dict[str, Fields]:
    made = {"cluster": records.cluster_record(cluster, known.addresses, known.ca_pem, known.root_sha256)}
    for pool in cluster.pools:
        made[f"pools/{pool.name}"] = records.pool_record(pool, held[pool])
    for node in cluster.nodes:
        made[f"nodes/{node.name}"] = records.node_record(node, held[node], known.role_ids.get(node.name, UNKNOWN))
    return made
