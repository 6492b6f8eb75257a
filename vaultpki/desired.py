"""Every Vault object that a cluster should have, computed purely from the table, the spec and what only Vault knows.

An object is its kind, its name and the fields we manage, in the normal form of `plan.py`: TTLs as seconds, lists as
tuples turned lists, policies as parsed JSON. What Vault itself decides (accessors, the root's fingerprint) comes in as
`Known`; before it exists, UNKNOWN stands in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from vaultpki import identities, records
from vaultpki.certificates import ISSUING_CAS, LEAF_BACKDATE, ROOT, ca_subject, pool_role, resolve, rows
from vaultpki.identities import Held, auth_mounts, jwt_roles, node_certificates
from vaultpki.known import UNKNOWN, Fields, Key, Known
from vaultpki.model import NODE, Cluster, Node, Pool, Row

_DAY = 86400
_HOUR = 3600

# Where a login's alias says who the node is, by auth mount.
_ALIAS_OF: Final = {"listed": "metadata.role_name", "pooled": "metadata.role_name", "jwt": "name"}

# What a new store says of itself. With a check-and-set nobody could write a record; with an age records would vanish.
STORE_OPTIONS: Final[Mapping[str, Any]] = {"cas_required": False, "delete_version_after": "0s", "max_versions": 0}

# How the description of every mount of ours begins, whichever cluster's it is.
MARK: Final = "made by vaultpki for cluster "

# Below `config/` of every CA's mount.
ENGINE_CONFIG: Final = ("urls", "crl", "auto-tidy", "acme")


def desired(cluster: Cluster, known: Known) -> dict[Key, Fields]:
    """Every object by (kind, name), in an order in which each stands behind what it needs."""
    wanted: dict[Key, Fields] = {}
    holders: tuple[Node | Pool, ...] = (*cluster.nodes, *cluster.pools)
    held = {who: node_certificates(cluster, who) for who in holders}
    for ca in (ROOT, *ISSUING_CAS):
        wanted["mount", cluster.mount(ca)] = _pki_mount(cluster, ca, known)
    wanted["mount", cluster.mount("config")] = {"type": "kv", "version": "2", **STORE_OPTIONS}
    for mount, kind in auth_mounts(cluster).items():
        wanted["auth", f"{cluster.prefix}/{mount}"] = {
            "type": kind,
            # Of `service` or `batch` would be every token, whatever the auth roles say (api-docs/system/auth).
            "token_type": "default-service",
            **(identities.approle_mount(held) if kind == "approle" else {}),
        }
    for ca in (ROOT, *ISSUING_CAS):
        wanted["issuer", cluster.mount(ca)] = _issuer(cluster, ca)
        for name, fields in _engine_config(cluster, ca, known).items():
            wanted["config", f"{cluster.mount(ca)}/config/{name}"] = fields
    for role, fields in _roles(cluster, known).items():
        wanted["role", role] = fields
    for policy, rules in identities.policies(cluster, known, held).items():
        wanted["policy", policy] = rules
    for node in cluster.nodes:
        wanted["approle", f"{cluster.prefix}/listed/{node.name}"] = identities.approle(cluster, node, held[node], known)
    for pool in cluster.pools:
        if pool.jwt:
            wanted["config", f"auth/{cluster.prefix}/jwt/config"] = identities.jwt_config(pool.jwt)
            wanted["config", f"{jwt_roles(cluster)}/{pool.name}"] = identities.jwt_role(cluster, pool, pool.jwt, known)
    for record, value in _records(cluster, known, held).items():
        wanted["config", f"{cluster.mount('config')}/{record}"] = value
    return wanted


def marker(cluster: Cluster) -> str:
    """The description by which a mount is known as ours."""
    return f"{MARK}{cluster.name}"


def _pki_mount(cluster: Cluster, ca: str, known: Known) -> Fields:
    # As long as a CA stays, its mount stays with it: another life of it in cluster.yaml is a rotation's to bring.
    root = known.ca_lives.get(ROOT, cluster.authority.root_ttl)
    issuing = {each: known.ca_lives.get(each, cluster.authority.issuing_ttl) for each in ISSUING_CAS}
    if ca == ROOT:
        return {"type": "pki", "default_ttl": min(root, max(issuing.values())), "max_ttl": root}
    return {"type": "pki", "default_ttl": min(cluster.ttl, issuing[ca]), "max_ttl": issuing[ca]}


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


def _records(cluster: Cluster, known: Known, held: Held) -> dict[str, Fields]:
    made = {"cluster": records.cluster_record(cluster, known.addresses, known.ca_pem, known.root_sha256)}
    for pool in cluster.pools:
        made[f"pools/{pool.name}"] = records.pool_record(pool, held[pool])
    for node in cluster.nodes:
        made[f"nodes/{node.name}"] = records.node_record(node, held[node], known.role_ids.get(node.name, UNKNOWN))
    return made
