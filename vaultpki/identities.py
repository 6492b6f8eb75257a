"""Who a node is to Vault, and what each identity may do: auth mounts, AppRoles, roles of tokens, and policies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from vaultpki import assets, words
from vaultpki.certificates import node_rows, resolve, rows
from vaultpki.known import Fields, Known
from vaultpki.model import NODE, Certificate, Cluster, Jwt, Node, Pool

Held = Mapping[Node | Pool, tuple[Certificate, ...]]

_DAY = 86400
# A node's token serves one pass of its agent; a batch token cannot be taken back, so it is short.
TOKEN_TTL: Final = 20 * 60
# An outage shorter than this needs no person on any node (the secret id outlives it).
_SECRET_ID_FLOOR = 7 * _DAY

# All that a public key can verify: one of them taken for the secret of an HMAC would let anybody sign.
_SIGNATURES: Final = ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "EdDSA")
# How far, in seconds, the clocks of Vault and the issuer may differ.
_JWT_SKEW: Final = 10


def auth_mounts(cluster: Cluster) -> dict[str, str]:
    """The type of each auth mount that the cluster needs, by the last part of its path."""
    jwt = {"jwt": "jwt"} if any(pool.jwt for pool in cluster.pools) else {}
    return {"listed": "approle", "pooled": "approle", **jwt}


def approle_pools(cluster: Cluster) -> tuple[Pool, ...]:
    """The pools whose nodes log in by an AppRole of their own."""
    return tuple(pool for pool in cluster.pools if not pool.jwt)


def takes(pool: Pool, name: str) -> bool:
    """Whether a node of that name may be one of the pool's."""
    return fits_pattern(pool.node_names, name)


def fits_pattern(node_names: str, name: str) -> bool:
    """Whether `name` is a node's name and fits a pool's `node_names`."""
    start = node_names.removesuffix("*")
    return words.fits(name, words.node_name) and name.startswith(start) and len(name) > len(start)


def jwt_roles(cluster: Cluster) -> str:
    """The path below which the auth roles of pools with `jwt` lie."""
    return f"auth/{cluster.prefix}/jwt/role"


def secret_id_ttl(certificates: tuple[Certificate, ...]) -> int:
    """How long, in seconds, a node's secret id lives: twice its longest leaf, and never under a week."""
    return max(_SECRET_ID_FLOOR, 2 * max((c.ttl for c in certificates), default=0))


def node_certificates(cluster: Cluster, holder: Node | Pool) -> tuple[Certificate, ...]:
    return tuple(resolve(row, cluster, holder) for row in node_rows(cluster, holder))


def policies(cluster: Cluster, known: Known, held: Held) -> dict[str, Fields]:
    """The rules of every policy that apply writes, by the policy's name."""
    written = {
        f"{cluster.prefix}/operator": operator_policy(cluster),
        f"{cluster.prefix}/enroller": enroller_policy(cluster),
    }
    for node in cluster.nodes:
        rules = policy("node.json", {"prefix": cluster.prefix, "node": node.name})
        for certificate in held[node]:
            rules[f"{certificate.mount}/sign/{certificate.role}"] = sign_rule(certificate, exact=True)
        written[f"{cluster.prefix}/node/{node.name}"] = rules
    for pool in cluster.pools:
        values = {"prefix": cluster.prefix, "pool": pool.name, "accessor": known.accessor(pool.auth_mount)}
        rules = policy("pool-jwt.json" if pool.jwt else "pool.json", values)
        for certificate in held[pool]:
            rules[f"{certificate.mount}/sign/{certificate.role}"] = sign_rule(
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
            rules[f"{certificate.mount}/sign/{certificate.role}"] = sign_rule(certificate, exact=True)
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


def approle_mount(held: Held) -> Fields:
    # A mount's maximum, by default 32 days, cuts a secret id's life short, and Vault does not say so.
    longest = max(map(secret_id_ttl, held.values()), default=0)
    # Five logins with a wrong secret id would lock a node out for a quarter of an hour, and a role id is no secret
    # (api-docs/system/user-lockout): anybody could keep it from renewing. Secret ids are not to be guessed.
    return {"default_ttl": TOKEN_TTL, "max_ttl": max(longest, _SECRET_ID_FLOOR), "lockout": False}


def sign_rule(certificate: Certificate, *, exact: bool, pattern: str = "") -> Fields:
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


def jwt_role(cluster: Cluster, pool: Pool, jwt: Jwt, known: Known) -> Fields:
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


def approle(cluster: Cluster, node: Node, certificates: tuple[Certificate, ...], known: Known) -> Fields:
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
