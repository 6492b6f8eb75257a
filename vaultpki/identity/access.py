"""Computes who a node is to Vault and what it may do: auth mounts, AppRoles, jwt roles, policies; pure."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final

from vaultpki import assets
from vaultpki.certificates import node_rows, resolve, rows, signing_rows
from vaultpki.csr_roles import NODE_PREFIX, NODES_GROUP, RESERVED, CsrRole, SignerFacts, csr_roles, signer_facts
from vaultpki.identity import imported, outside_signer
from vaultpki.model import NODE, Certificate, Cluster, Jwt, Node, NodeRole, Pool
from vaultpki.places import Layout
from vaultpki.records.adoption import OLD_CAS
from vaultpki.records.paths import LOCKED
from vaultpki.records.server_facts import Fields, ServerFacts
from vaultpki.values import hosts, names

APPROLE: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
"""The AppRole names, also those of others, that fit into a path."""

CertificatesByHolder = Mapping[Node | Pool, tuple[Certificate, ...]]

_ADOPTER: Final = "adopter"
WRITTEN: Final = ("operator", "enroller", "viewer", "locker", _ADOPTER)
"""Those whose policies apply writes, to be given to people by name; the last only where there is a CA to take over."""
POLICIES: Final = ("applier", *WRITTEN, "importer")
"""Everybody who runs commands. The applier's policy is what apply itself needs, so it is written by hand.

So is that of the importer, who is needed once or never.
"""
MOVER: Final = "mover"
"""Whoever moves a cluster, at the server to which it moves; at the old one the applier's policy is enough."""

SIGNER_LOGINS: Final = "signer"
"""The last part of the auth mount of signers, and of the name of their policy."""
SIGNER_TOKEN_TTL: Final = 20 * 60
"""In seconds. A batch token survives its AppRole, and ends before that only with its entity."""

_DAY = 86400
TOKEN_TTL: Final = 2 * 3600
"""In seconds. An agent keeps its token between whole looks, which come hourly, and a look may fail.

A batch token cannot be revoked, so it is no longer than that; `lock` ends its entity.
"""
# In seconds: after an outage shorter than this, no node needs a new join file.
_SECRET_ID_FLOOR = 7 * _DAY

# Those with public keys alone: a public key used as the secret of an HMAC would let anybody sign.
_SIGNATURES: Final = ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "EdDSA")
# In seconds, between the clocks of Vault and the issuer.
_JWT_SKEW: Final = 10


def auth_mounts(cluster: Cluster) -> dict[str, str]:
    """Return the type of each auth mount that the cluster needs, by the last part of its path."""
    jwt = {"jwt": "jwt"} if any(pool.jwt for pool in cluster.pools) else {}
    signer = {SIGNER_LOGINS: "approle"} if cluster.signer is not None else {}
    return {"listed": "approle", "pooled": "approle", **signer, **jwt}


def approle_pools(cluster: Cluster) -> tuple[Pool, ...]:
    """Return the pools whose nodes log in by an AppRole of their own."""
    return tuple(pool for pool in cluster.pools if not pool.jwt)


def takes(pool: Pool, name: str) -> bool:
    """Return whether a node of that name fits the pool."""
    return fits_pattern(pool.node_names, name)


def holder_of(cluster: Cluster, name: str) -> Node | Pool | None:
    """Return the listed node, or the pool that its name fits; None for a name that cluster.yaml does not know."""
    listed = next((node for node in cluster.nodes if node.name == name), None)
    return listed or next((pool for pool in cluster.pools if takes(pool, name)), None)


def fits_pattern(node_names: str, name: str) -> bool:
    """Return whether `name` is a node's name and fits a pool's `node_names`."""
    start = node_names.removesuffix("*")
    return names.fits(name, hosts.node_name) and name.startswith(start) and len(name) > len(start)


def unmatched(cluster: Cluster, nodes: Iterable[str]) -> list[str]:
    """Return those of the nodes that are neither listed nor fit a pool."""
    listed = {node.name for node in cluster.nodes}
    return [name for name in nodes if name not in listed and not any(takes(pool, name) for pool in cluster.pools)]


def jwt_roles(cluster: Cluster) -> str:
    """Return the path of the auth roles of pools with `jwt`."""
    return f"auth/{cluster.prefix}/jwt/role"


def secret_id_ttl(certificates: tuple[Certificate, ...]) -> int:
    """Return the TTL of a node's secret id in seconds: twice its longest leaf's, and at least a week."""
    return max(_SECRET_ID_FLOOR, 2 * max((c.ttl for c in certificates), default=0))


def node_certificates(cluster: Cluster, holder: Node | Pool) -> tuple[Certificate, ...]:
    return tuple(resolve(row, cluster, holder) for row in node_rows(cluster, holder))


def signing_certificates(cluster: Cluster, node: Node, numbers: Iterable[int] = (1,)) -> tuple[Certificate, ...]:
    """Return the certificates that say whose service-account keys with these numbers are: none, or the node's."""
    held = [row for row in signing_rows(cluster) if row.node_roles & node.roles]
    return tuple(resolve(row, cluster, node, number) for row in held for number in numbers)


def policies(cluster: Cluster, facts: ServerFacts, certificates: CertificatesByHolder) -> dict[str, Fields]:
    """Return the rules of every policy that apply writes, by the policy's name."""
    people = [who for who in WRITTEN if who != _ADOPTER or may_be_taken_over(cluster)]
    written = {f"{cluster.prefix}/{who}": policy_of(cluster, who, facts.imported) for who in people}
    for node in cluster.nodes:
        rules = policy("node.json", {"prefix": cluster.prefix, "node": node.name})
        signed = (*certificates[node], *_of_former_ca(cluster, facts, certificates[node]))
        signing = signing_certificates(cluster, node, facts.numbers_of(node.name))
        written[f"{cluster.prefix}/node/{node.name}"] = rules | _sign_rules(signed) | _numbered(signing)
    for pool in cluster.pools:
        values = {"prefix": cluster.prefix, "pool": pool.name, "accessor": facts.accessor(pool.auth_mount)}
        rules = policy("pool-jwt.json" if pool.jwt else "pool.json", values)
        signed = (*certificates[pool], *_of_former_ca(cluster, facts, certificates[pool]))
        written[f"{cluster.prefix}/pool/{pool.name}"] = rules | _sign_rules(signed, pool.node_names)
    return written


def _of_former_ca(cluster: Cluster, facts: ServerFacts, certificates: tuple[Certificate, ...]) -> Iterator[Certificate]:
    """Yield the same certificates at the mounts of imported CAs, of which nodes that go back get theirs.

    The server refuses them all as long as the issuer there has the usage that it has at rest.
    """
    for each in certificates:
        if each.ca in facts.imported:
            yield imported.of_old_ca(each, cluster.prefix)


def may_be_taken_over(cluster: Cluster) -> bool:
    """Return whether cluster.yaml names CAs of kubeadm's; any other cluster needs nobody who leads an adoption."""
    return cluster.layout is Layout.KUBEADM and bool(cluster.authority.also_trust)


def policy_of(cluster: Cluster, who: str, former: Collection[str] = ()) -> Fields:
    """Return the rules for one of `POLICIES` or the MOVER: whoever runs commands with an operator's token.

    `former` are the domains whose old CA was imported with its key.
    """
    if who == "importer":
        return _of_mounts(cluster, who, OLD_CAS)
    if who == MOVER:
        named = {"entity": cluster.prefix.replace("/", "-")}
        locks = any(pool.jwt for pool in cluster.pools)
        return policy_of(cluster, "applier") | (policy("mover.json", named) if locks else {})
    rules = policy(f"{who}.json", {"prefix": cluster.prefix})
    if who == _ADOPTER:
        rules |= _of_mounts(cluster, who, sorted(former))
    if who == "applier":
        rules |= outside_signer.rule(cluster)
    elif who == "operator":
        rules |= _sign_rules(resolve(row, cluster, None) for row in rows(cluster) if row.operator)
    elif who == "enroller":
        _bind_approles(cluster, rules)
    return rules


def _of_mounts(cluster: Cluster, who: str, former: Iterable[str]) -> Fields:
    """Return the rules for `ca import --key`, or for who leads the adoption, on the mounts of imported CAs."""
    name = {"importer": "importer.json", "adopter": "adopter-imported.json"}[who]
    rules: Fields = {}
    for ca in former:
        rules |= policy(name, {"prefix": cluster.prefix, "mount": imported.mount(cluster, ca)})
    return rules


def _bind_approles(cluster: Cluster, rules: Fields) -> None:
    """Let an enroller create AppRoles of pools as we do and end locks of their nodes, and no others."""
    made = [pooled_approle(cluster, pool) for pool in approle_pools(cluster)]
    values = {name: sorted({fields[name] for fields in made}) for name in (made[0] if made else ())}
    for pool in approle_pools(cluster):
        # `enroll` asks before it ends the lock of a node, and removes the record of it then.
        rules[f"{cluster.prefix}/config/data/{LOCKED}/{pool.node_names}"] = {"capabilities": ["read"]}
        rules[f"{cluster.prefix}/config/metadata/{LOCKED}/{pool.node_names}"] = {"capabilities": ["delete"]}
    rule = rules[f"auth/{cluster.prefix}/pooled/role/+"]
    if values:
        # Vault allows an empty text for every value; an empty TTL or type would be the mount's.
        empty = {name: [""] for name in values}
        rule |= {"allowed_parameters": values, "denied_parameters": empty, "required_parameters": sorted(values)}
    else:
        del rules[f"auth/{cluster.prefix}/pooled/role/+"]


def pooled_approle(cluster: Cluster, pool: Pool) -> dict[str, str]:
    """Return the parameters with which a pooled node's AppRole is made.

    All are texts: the two servers compare other types in a policy's `allowed_parameters` differently.
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
    """Return the rules of a policy in `policies/`, path by path."""
    rules: Fields = json.loads(assets.render(assets.text("policies", name), values, name=name))["path"]
    return rules


def approle_mount(certificates: CertificatesByHolder) -> Fields:
    # A mount's maximum, by default 32 days, silently limits the TTL of a secret id.
    longest = max(map(secret_id_ttl, certificates.values()), default=0)
    # Five logins with a wrong secret id lock a node out for 15 minutes (api-docs/system/user-lockout), and a role id is
    # no secret: anybody could keep a node from renewing. A secret id cannot be guessed.
    return {"default_ttl": TOKEN_TTL, "max_ttl": max(longest, _SECRET_ID_FLOOR), "lockout": False}


def _sign_rules(certificates: Iterable[Certificate], pattern: str | None = None) -> Fields:
    return {f"{each.mount}/sign/{each.role}": sign_rule(each, pattern) for each in certificates}


def _numbered(certificates: Iterable[Certificate]) -> Fields:
    """Return the rules of certificates that differ in their common names alone."""
    rules: Fields = {}
    for each in certificates:
        rule = rules.setdefault(f"{each.mount}/sign/{each.role}", sign_rule(each))
        names = rule["allowed_parameters"]["common_name"]
        rule["allowed_parameters"]["common_name"] = [*dict.fromkeys((*names, each.subject.common_name))]
    return rules


def sign_rule(certificate: Certificate, pattern: str | None = None) -> Fields:
    """Return the parameters and values that a holder may send to `sign`. `pattern` is a pool's `node_names`."""
    subject = certificate.subject
    parameters: dict[str, list[Any]] = {
        "csr": [],
        "format": ["pem"],
        "exclude_cn_from_sans": ["true"],
        "common_name": [subject.common_name if pattern is None else subject.common_name.replace(NODE, pattern)],
    }
    if subject.dns:
        # One text with all names. Of a pool's node only the first one, its own, is bound here; the role binds all.
        parameters["alt_names"] = [",".join(subject.dns) if pattern is None else _pooled_names(subject.dns, pattern)]
    if subject.ips:
        parameters["ip_sans"] = [",".join(subject.ips)]
    # Without it the CN would be a DNS SAN too. Vault, unlike OpenBao, allows an empty text for every value.
    denied: dict[str, list[Any]] = {"exclude_cn_from_sans": [""]}
    if pattern is not None and NODE in subject.common_name:
        denied["common_name"] = [*_NO_NODE_NAMES, "*,*"]
    if subject.dns and pattern is not None:
        denied["alt_names"] = [*_NO_NODE_NAMES, "*:*", *(["*,*"] if len(subject.dns) == 1 else [])]
    return {
        "capabilities": ["update"],
        "allowed_parameters": parameters,
        "denied_parameters": denied,
        "required_parameters": ["exclude_cn_from_sans"],
    }


# A glob binds only the beginning of a text. Of the rest, the role would allow a mail address at an allowed name, and
# the engine silently drops what is not a host name. A claim of an issuer's token is any text: `c-*`, `c-1/` or
# `c-2,c-1` would get certificates in that name. (`*X*` matches a text with X in it.)
_NO_NODE_NAMES: Final = ("*@*", "* *", "***", "*/*", "*+*", "*%*")


def _pooled_names(names: tuple[str, ...], pattern: str) -> str:
    text = ",".join(names)
    before, found, _ = text.partition(NODE)
    # A glob of Vault has one `*`, at the end.
    return before + pattern if found else text


def jwt_config(jwt: Jwt) -> Fields:
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


def jwt_role(cluster: Cluster, pool: Pool, jwt: Jwt, facts: ServerFacts) -> Fields:
    return {
        "role_type": "jwt",
        # It names the alias: two nodes with the same claim would be the same node.
        "user_claim": jwt.node_claim,
        "user_claim_json_pointer": jwt.node_claim.startswith("/"),
        "bound_claims": {jwt.node_claim: [pool.node_names]},
        "bound_claims_type": "glob",
        "bound_audiences": list(jwt.audiences),
        "bound_subject": "",
        "claim_mappings": {},
        "groups_claim": "",
        # Less than zero means none, zero means Vault's default of 150 s.
        "expiration_leeway": -1,
        "not_before_leeway": -1,
        "clock_skew_leeway": _JWT_SKEW,
        "max_age": 0,
        **_token(f"{cluster.prefix}/pool/{pool.name}", facts),
    }


def approle(
    cluster: Cluster,
    node: Node,
    certificates: tuple[Certificate, ...],
    facts: ServerFacts,
    policy_name: str = "",
    life: int = TOKEN_TTL,
) -> Fields:
    """Return the AppRole of a listed node; with another policy and life of its tokens (seconds), that of a signer."""
    return {
        **_token(policy_name or f"{cluster.prefix}/node/{node.name}", facts, life),
        "bind_secret_id": True,
        "secret_id_num_uses": 0,
        "secret_id_ttl": secret_id_ttl(certificates),
        "secret_id_bound_cidrs": [],
    }


def _token(policy_name: str, facts: ServerFacts, life: int = TOKEN_TTL) -> Fields:
    """Return the fields of a node's token, which are the same for AppRole and jwt."""
    fields: Fields = {
        "token_policies": [policy_name],
        "token_no_default_policy": True,
        "token_type": "batch",
        "token_ttl": life,
        "token_max_ttl": life,
        "token_explicit_max_ttl": 0,
        # A batch token has neither: if somebody sets one by hand, the server refuses every write that has batch tokens
        # and does not reset it.
        "token_period": 0,
        "token_num_uses": 0,
        "token_bound_cidrs": [],
    }
    if facts.openbao:
        fields["token_strictly_bind_ip"] = False
    return fields


def signer_nodes(cluster: Cluster) -> tuple[Node, ...]:
    """Return the nodes on which a signer may run: the control planes, none without `signer` in cluster.yaml."""
    planes = (node for node in cluster.nodes if NodeRole.CONTROL_PLANE in node.roles)
    return tuple(planes) if cluster.signer is not None else ()


def signer_policies(cluster: Cluster, facts: ServerFacts) -> dict[str, Fields]:
    """Return the policy of the signer by its name; none without `signer` in cluster.yaml."""
    known = signer_facts(cluster)
    if known is None:
        return {}
    rules = policy("signer.json", {"prefix": cluster.prefix, "accessor": facts.accessor(SIGNER_LOGINS)})
    for role in csr_roles(cluster):
        rules[f"{cluster.mount(role.ca)}/sign/{role.name}"] = _csr_rule(role, known, openbao=facts.openbao)
    return {f"{cluster.prefix}/{SIGNER_LOGINS}": rules}


def _csr_rule(role: CsrRole, known: SignerFacts, *, openbao: bool) -> Fields:
    """Return the parameters and values that the signer may send to `sign`; all are texts but a list of addresses."""
    parameters: dict[str, list[Any]] = {
        "csr": [],
        "format": ["pem"],
        "exclude_cn_from_sans": ["true"],
        "common_name": [*role.common_names],
        "ttl": [],
    }
    # Vault takes an empty text for a value of every list.
    denied: dict[str, list[Any]] = {"exclude_cn_from_sans": [""]}
    # A glob crosses dots, and no name of such a node has one behind what its pattern begins with.
    dots = [] if any("." in each for each in role.common_names) else ["*.*"]
    if role.organization == (NODES_GROUP,):
        listed = [f"{NODE_PREFIX}{node}" for node in known.nodes]
        denied["common_name"] = ["", *_NO_NODE_NAMES, "*,*", *dots, *listed]
    else:
        taken = dict.fromkeys((*(f"{each}*" for each in RESERVED), *known.nodes, *known.common_names))
        denied["common_name"] = ["", *_NO_NODE_NAMES[1:], "*,*", *taken]
    if role.usage.server:
        parameters["alt_names"] = [*role.dns]
        denied["alt_names"] = [*_NO_NODE_NAMES, "*:*", "*,*", *dots, *known.nodes]
        # OpenBao compares a list as one value, and its role binds the addresses. Vault has no such role, and compares
        # each address of a list.
        parameters["ip_sans"] = (
            [] if openbao else [text for net in role.networks for text in hosts.address_patterns(net)]
        )
        denied["ip_sans"] = ["*,*"]
    return {
        "capabilities": ["update"],
        "allowed_parameters": parameters,
        "denied_parameters": denied,
        "required_parameters": ["common_name", "csr", "exclude_cn_from_sans", "ttl"],
    }
