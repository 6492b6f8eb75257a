"""Computes every Vault object that a cluster should have, from the table, the spec and what only Vault knows; pure.

An object is its kind, its name and the fields that we manage, in one normal form: TTLs in seconds, policies as parsed
JSON. What Vault itself decides (accessors, the root's SHA-256) is in `ServerFacts`; UNKNOWN until it exists.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from vaultpki.certificates import (
    LEAF_BACKDATE,
    ROOT,
    all_cas,
    all_rows,
    ca_subject,
    issuing_cas,
    pool_role,
    resolve,
    stored,
)
from vaultpki.csr_roles import NODES_GROUP, CsrRole, csr_roles, signer_facts
from vaultpki.identity import access, imported
from vaultpki.identity.access import SIGNER_LOGINS, CertificatesByHolder, auth_mounts, jwt_roles, node_certificates
from vaultpki.layout import own_server
from vaultpki.model import NODE, Certificate, Cluster, KeyType, Node, Pool, Row, Subject
from vaultpki.pki.facts import EKU
from vaultpki.records import above, published, signer
from vaultpki.records.server_facts import UNKNOWN, Fields, Key, ServerFacts
from vaultpki.records.signer import SIGNER_RECORD
from vaultpki.vault.issuer import CUT_SHORT, FULL, NO_SIGNING, READ_ONLY, number

_DAY = 86400
_HOUR = 3600

# The part of a login's alias that is the node's name, by auth mount.
_ALIAS_OF: Final = {"listed": "metadata.role_name", "pooled": "metadata.role_name", "jwt": "name"}

# The options of a new store. With `cas_required` nobody could write a record; with an age, records would be deleted.
STORE_OPTIONS: Final[Mapping[str, Any]] = {"cas_required": False, "delete_version_after": "0s", "max_versions": 0}

MADE_BY: Final = "made by vaultpki for cluster "
"""The start of the description of every mount of ours, whatever the cluster."""

CHAIN: Final = "chain"
"""The field of a root from outside with the names of the issuers that hold the other CAs of its chain."""

ENGINE_CONFIG: Final = ("urls", "crl", "auto-tidy", "acme")
"""What is configured below `config/` of every CA's mount."""


def desired(cluster: Cluster, facts: ServerFacts) -> dict[Key, Fields]:
    """Return every object by kind and name, each after what it needs."""
    wanted: dict[Key, Fields] = {}
    holders: tuple[Node | Pool, ...] = (*cluster.nodes, *cluster.pools)
    certificates = {who: node_certificates(cluster, who) for who in holders}
    for ca in all_cas(cluster):
        wanted["mount", cluster.mount(ca)] = _pki_mount(cluster, ca, facts)
    for ca in sorted(facts.imported):
        wanted["mount", imported.mount(cluster, ca)] = imported_mount()
    wanted["mount", cluster.mount("config")] = {"type": "kv", "version": "2", **STORE_OPTIONS}
    for mount, kind in auth_mounts(cluster).items():
        wanted["auth", f"{cluster.prefix}/{mount}"] = {
            "type": kind,
            # `service` or `batch` would override the auth roles (api-docs/system/auth).
            "token_type": "default-service",
            **(access.approle_mount(certificates) if kind == "approle" else {}),
        }
    for ca in all_cas(cluster):
        if ca in facts.waiting:
            wanted["key", cluster.mount(ca)] = _waiting_key(cluster, ca)
        else:
            wanted["issuer", cluster.mount(ca)] = _issuer(cluster, ca, facts)
        for name, fields in _engine_config(cluster, ca, facts).items():
            wanted["config", f"{cluster.mount(ca)}/config/{name}"] = fields
    for role, fields in _roles(cluster, facts).items():
        wanted["role", role] = fields
    own_policies = access.policies(cluster, facts, certificates) | access.signer_policies(cluster, facts)
    for policy, rules in own_policies.items():
        wanted["policy", policy] = rules
    for node in cluster.nodes:
        wanted["approle", f"{cluster.prefix}/listed/{node.name}"] = access.approle(
            cluster, node, certificates[node], facts
        )
    for node in access.signer_nodes(cluster):
        wanted["approle", f"{cluster.prefix}/{SIGNER_LOGINS}/{node.name}"] = access.approle(
            cluster, node, certificates[node], facts, f"{cluster.prefix}/{SIGNER_LOGINS}", access.SIGNER_TOKEN_TTL
        )
    for pool in cluster.pools:
        if pool.jwt:
            wanted["config", f"auth/{cluster.prefix}/jwt/config"] = access.jwt_config(pool.jwt)
            wanted["config", f"{jwt_roles(cluster)}/{pool.name}"] = access.jwt_role(cluster, pool, pool.jwt, facts)
    for record, value in _records(cluster, facts, certificates).items():
        wanted["config", f"{cluster.mount('config')}/{record}"] = value
    return wanted


def marker(cluster: Cluster) -> str:
    """Return the description of the cluster's mounts, by which they are known as ours."""
    return f"{MADE_BY}{cluster.name}"


def imported_mount() -> Fields:
    """Return the mount of a CA that was imported with its key."""
    return {"type": "pki", "default_ttl": imported.LEAF_TTL, "max_ttl": imported.LEAF_TTL}


def _pki_mount(cluster: Cluster, ca: str, facts: ServerFacts) -> Fields:
    # A mount keeps the TTLs of the CA it has: another TTL in cluster.yaml needs a rotation.
    if ca == ROOT and cluster.authority.outside is not None:
        # Nothing is ever signed there.
        return {"type": "pki"}
    root = facts.ca_lives.get(ROOT, cluster.authority.root_ttl)
    issuing = {each: facts.ca_lives.get(each, cluster.authority.issuing_ttl) for each in issuing_cas(cluster)}
    if ca == ROOT:
        return {"type": "pki", "default_ttl": min(root, max(issuing.values())), "max_ttl": root}
    return {"type": "pki", "default_ttl": min(cluster.ttl, issuing[ca]), "max_ttl": issuing[ca]}


def _issuer(cluster: Cluster, ca: str, facts: ServerFacts) -> Fields:
    """Return the issuer of a CA: of one that was rotated, the one whose leaves its record has installed."""
    rotation = facts.rotations.get(ca)
    name = f"{ca}-1" if rotation is None else rotation.leaf.name
    outside = cluster.authority.outside
    if ca == ROOT and outside is not None:
        return {
            "issuer_name": name,
            "usage": READ_ONLY,
            CHAIN: sorted(above.names(cluster).keys() - facts.left_out),
            # What agents and commands take for the root.
            "default": True,
        }
    if ca == ROOT and rotation is not None and not rotation.leaf.key:
        # Its key is on the server from which the cluster moves.
        return {"issuer_name": name, "usage": READ_ONLY, "default": True}
    return {
        "common_name": ca_subject(cluster.name, ca, number(name)),
        "key": cluster.authority.key.value,
        "ttl": cluster.authority.root_ttl if ca == ROOT else cluster.authority.issuing_ttl,
        "issuer_name": name,
        "leaf_not_after_behavior": "err" if ca == ROOT else CUT_SHORT,
        "usage": NO_SIGNING if ca in facts.mute else FULL,
        # An issuer's own URLs would override the mount's.
        "issuing_certificates": [],
        "crl_distribution_points": [],
        "ocsp_servers": [],
        # Roles sign with the mount's default issuer.
        "default": True,
        # A server that stopped while it made the first key of a mount has not set it.
        "default_key": True,
    }


def _waiting_key(cluster: Cluster, ca: str) -> Fields:
    """Return the key of an issuing CA that a signer outside has not signed yet."""
    return {
        "key_name": f"{ca}-1",
        "common_name": ca_subject(cluster.name, ca),
        "key": cluster.authority.key.value,
    }


def _engine_config(cluster: Cluster, ca: str, facts: ServerFacts) -> dict[str, Fields]:
    # A client that fetches a CRL sends no header: the namespace is in the path (Vault's docs, enterprise/namespaces).
    within = f"{facts.namespace}/" if facts.namespace else ""
    base = [f"{address}/v1/{within}{cluster.mount(ca)}" for address in facts.addresses]
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
        # ACME would sign any name that a client proves to own, whatever the roles say.
        "acme": {"enabled": False},
    }


def _roles(cluster: Cluster, facts: ServerFacts) -> dict[str, Fields]:
    made: dict[str, Fields] = {}
    for row in all_rows(cluster):
        pools = [pool for pool in cluster.pools if row.node_roles & pool.roles]
        shared = [pool for pool in pools if pool_role(row, pool) == row.name]
        mounts = ["listed", *sorted({pool.auth_mount for pool in shared})]
        own = {row.name: _role(cluster, row, None, mounts, facts)}
        for pool in pools:
            if pool not in shared:
                own[pool_role(row, pool)] = _role(cluster, row, pool, [pool.auth_mount], facts)
        made |= {f"{cluster.mount(row.ca)}/{name}": fields for name, fields in own.items()}
        if row.ca in facts.imported and row.node_roles:
            # The same certificates of the former CA, for nodes that go back to it. By its name, which it gets together
            # with the usage that it has at rest: until then these roles sign nothing.
            former = imported.mount(cluster, row.ca)
            made |= {f"{former}/{name}": fields | imported.OLD_CA_ROLE for name, fields in own.items()}
    for each in csr_roles(cluster):
        made[f"{cluster.mount(each.ca)}/{each.name}"] = _csr_role(each, facts)
    return made


def _role(cluster: Cluster, row: Row, pool: Pool | None, mounts: list[str], facts: ServerFacts) -> Fields:
    anyone = pool or Pool("any", row.node_roles, "*")
    sample = resolve(row, cluster, anyone)
    # Which of the numbers are a node's own, its policy says.
    own_numbers = {n for node in cluster.nodes if row.node_roles & node.roles for n in facts.numbers_of(node.name)}
    numbers = [1] if row.usage.tls or not own_numbers else sorted(own_numbers)
    common_names = (resolve(row, cluster, anyone, number).subject.common_name for number in numbers)
    names = dict.fromkeys((*common_names, *sample.subject.dns))
    own = [f"{{{{identity.entity.aliases.{facts.accessor(mount)}.{_ALIAS_OF[mount]}}}}}" for mount in mounts]
    domains = [name.replace(NODE, who) for name in names for who in (own if NODE in name else [""])]
    return full_role(sample, facts) | {
        "allowed_domains": domains,
        "allowed_domains_template": any(NODE in name for name in names),
        # A listed node's policy binds its addresses; a network here would refuse nodes outside it.
        "allow_ip_sans": row.addressed and pool is None,
        "no_store": not stored(row, cluster),
    }


def _csr_role(role: CsrRole, facts: ServerFacts) -> Fields:
    """Return the role by which the signer has requests signed; its policy binds what is in a request."""
    whose = Subject("", role.organization)
    sample = Certificate(
        role.name, role.usage, whose, role.ca, role.ca, role.name, role.ttl, KeyType.EC_P256, role.name
    )
    fields = full_role(sample, facts) | {
        "key_type": "any",
        "key_bits": 0,
        "allowed_domains": [*role.common_names, *role.dns],
        "allow_glob_domains": True,
        # A person's name may be a mail address.
        "cn_validations": ["hostname"] if role.organization == (NODES_GROUP,) else ["hostname", "email"],
        "allow_ip_sans": role.usage.server,
    }
    return fields | ({"allowed_ip_sans_cidr": [*role.networks]} if facts.openbao else {})


def full_role(sample: Certificate, facts: ServerFacts) -> Fields:
    """Return every field of a role that signs no name yet."""
    fields: Fields = {
        **role_fields(sample),
        "code_signing_flag": False,
        "email_protection_flag": False,
        "ext_key_usage": [],
        "ext_key_usage_oids": [] if sample.usage.tls else sorted(EKU[sample.usage]),
        "allowed_domains": [],
        "allowed_domains_template": False,
        "allow_bare_domains": True,
        "allow_subdomains": False,
        "allow_glob_domains": False,
        "allow_any_name": False,
        "allow_localhost": False,
        "allow_wildcard_certificates": False,
        # "email" would allow `x@NAME`, and "disabled" would skip allowed_domains.
        "cn_validations": ["hostname"],
        "enforce_hostnames": False,
        "require_cn": True,
        "allow_ip_sans": False,
        "allowed_uri_sans": [],
        "allowed_uri_sans_template": False,
        "allowed_other_sans": [],
        "allowed_user_ids": [],
        "allowed_serial_numbers": [],
        "use_csr_common_name": False,
        "use_csr_sans": False,
        **{name: [] for name in ("ou", "country", "locality", "province", "street_address", "postal_code")},
        "policy_identifiers": [],
        "basic_constraints_valid_for_non_ca": False,
        "not_before_duration": LEAF_BACKDATE,
        # A date here would override the TTLs.
        "not_after": "",
        "use_pss": False,
        "generate_lease": False,
        "no_store": False,
        "issuer_ref": "default",
    }
    if facts.openbao:
        fields |= {"not_before": "", "not_before_bound": "forbid", "not_after_bound": "forbid"}
        fields["allowed_ip_sans_cidr"] = []
    return fields


def role_fields(certificate: Certificate) -> Fields:
    """Return the fields of a role that its certificate alone decides."""
    key, usage = certificate.key, certificate.usage
    return {
        "key_type": key.vault_type,
        "key_bits": key.vault_bits,
        "server_flag": usage.server,
        "client_flag": usage.client,
        # RFC 5280, 4.2.1.12: key encipherment goes with serverAuth, and not with clientAuth alone.
        "key_usage": ["DigitalSignature", *(["KeyEncipherment"] if key.rsa and usage.server else [])],
        "organization": list(certificate.subject.organization),
        "ttl": certificate.ttl,
        "max_ttl": certificate.ttl,
    }


def _records(cluster: Cluster, facts: ServerFacts, certificates: CertificatesByHolder) -> dict[str, Fields]:
    made = {"cluster": published.cluster_record(cluster, facts.addresses, facts.ca_pem, facts.root_sha256)}
    if (known := signer_facts(cluster)) is not None:
        made[SIGNER_RECORD] = signer.to_json(known)
    for pool in cluster.pools:
        made[f"pools/{pool.name}"] = published.pool_record(pool, certificates[pool], cluster.layout)
    for node in cluster.nodes:
        made[f"nodes/{node.name}"] = published.node_record(
            node,
            certificates[node],
            facts.role_ids.get(node.name, UNKNOWN),
            cluster.layout,
            own_server(cluster, node),
            next(iter(access.signing_certificates(cluster, node)), None),
        )
    return made
