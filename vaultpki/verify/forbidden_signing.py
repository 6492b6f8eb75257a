"""Lists everything that Vault must refuse to a node's token, from the table and the cluster: a new row needs no code.

Each request to `sign` is one that the node may make (`allowed`) with one thing changed, so a refusal is for that thing.
Requests that are not signing are in `forbidden_paths.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from itertools import product
from typing import Any, Final
from urllib.parse import quote

from vaultpki.certificates import (
    all_cas,
    all_rows,
    node_rows,
    pool_role,
    resolve,
    rows,
    sign_parameters,
    signing_rows,
)
from vaultpki.model import NODE, Certificate, Cluster, KeyType, Node, Pool, Subject
from vaultpki.verify.forbidden_paths import Forbidden, HeldBy, forbidden_paths

Csr = Callable[[KeyType, Subject], str]
"""Makes a certificate request in PEM, with a key of that kind, for that subject."""

# A name that no cluster.yaml has.
_UNKNOWN_NAME: Final = "stranger"
# The first few are enough: a policy has all addresses in one text.
_ADDRESSES_TRIED: Final = 6


@dataclass(frozen=True, slots=True)
class Allowed:
    """A request to `sign` that the node may make, for exactly `certificate`."""

    certificate: Certificate
    path: str
    body: Mapping[str, Any]


def for_node(certificate: Certificate, name: str) -> Certificate:
    """Return a pool's certificate with the node's own name filled in."""
    subject = certificate.subject
    dns = tuple(entry.replace(NODE, name) for entry in subject.dns)
    return replace(certificate, subject=replace(subject, common_name=subject.common_name.replace(NODE, name), dns=dns))


def certificates_of(cluster: Cluster, name: str, holder: Node | Pool) -> tuple[Certificate, ...]:
    """Return the certificates for TLS of the node `name`, as a listed node or as one of a pool."""
    return tuple(for_node(resolve(row, cluster, holder), name) for row in node_rows(cluster, holder))


def signable(cluster: Cluster, name: str, holder: Node | Pool) -> tuple[Certificate, ...]:
    """Return everything that the node `name` may have signed: its certificates, and that of its service-account key."""
    signing = (row for row in signing_rows(cluster) if row.node_roles & holder.roles)
    return certificates_of(cluster, name, holder) + tuple(resolve(row, cluster, holder) for row in signing)


def allowed(cluster: Cluster, name: str, holder: Node | Pool, csr: Csr) -> tuple[Allowed, ...]:
    """Return the node's own requests: a refusal proves nothing unless these succeed."""
    return tuple(
        Allowed(own, f"{own.mount}/sign/{own.role}", sign_parameters(own, csr(own.key, own.subject)))
        for own in signable(cluster, name, holder)
    )


def forbidden(cluster: Cluster, name: str, holder: Node | Pool, csr: Csr) -> tuple[Forbidden, ...]:
    """Return every request that Vault must refuse to the node `name`, each once, in a fixed order."""
    own = allowed(cluster, name, holder, csr)
    others = _others(cluster, name)
    found = [
        *_other_rows(cluster, name, holder, csr),
        *_other_ways_to_sign(cluster, own),
        *(each for mine in own for each in _changed(cluster, name, mine, others, csr)),
        *forbidden_paths(cluster, name, holder, others),
    ]
    kept: dict[str, Forbidden] = {}
    for each in found:
        body = {key: value for key, value in (each.body or {}).items() if each.group == _REQUEST or key != "csr"}
        kept.setdefault(f"{each.method} {each.path} {sorted(body.items())!r} {each.wrap_ttl}", each)
    return tuple(kept.values())


_ROWS: Final = "rows of others"
_WAYS: Final = "other ways to sign"
_NAMES: Final = "names of others"
_SPELLING: Final = "its own name in other spelling"
_ADDRESSES: Final = "addresses"
_REQUEST: Final = "names in the certificate request"
_PARAMETERS: Final = "further parameters"


def _sign(
    group: str,
    path: str,
    body: Mapping[str, Any],
    why: str,
    own: Certificate | None = None,
    held_by: HeldBy = "refusal",
) -> Forbidden:
    return Forbidden(group, "POST", path, body, why, own, held_by, signs=True)


def _others(cluster: Cluster, name: str) -> tuple[str, ...]:
    """Return names of other nodes: possible nodes of pools, listed nodes, then names that resemble its own."""
    alike = (f"{name}x", name[:-1].rstrip("-."), f"x{name}")
    pooled = [f"{pool.node_names.removesuffix('*')}{end}" for pool in cluster.pools for end in ("other", "0")]
    nodes = [node.name for node in cluster.nodes]
    return tuple(dict.fromkeys(other for other in (*pooled, *nodes, *alike, _UNKNOWN_NAME) if other and other != name))


def _other_rows(cluster: Cluster, name: str, holder: Node | Pool, csr: Csr) -> Iterator[Forbidden]:
    """Yield a request for every role that is not the node's, as its holder would send it, with the node's own name."""
    held = {(own.mount, own.role) for own in signable(cluster, name, holder)}
    for row in all_rows(cluster):
        roles = [row.name, *(pool_role(row, pool) for pool in cluster.pools)]
        # A listed node requests addresses, a pooled one does not.
        nobody = Node(name, row.node_roles, ("192.0.2.1",))
        wanted = for_node(resolve(row, cluster, holder if isinstance(holder, Node) else nobody), name)
        bare = replace(wanted, subject=replace(wanted.subject, ips=()))
        for role, certificate in product(dict.fromkeys(roles), (wanted, bare)):
            if (certificate.mount, role) not in held:
                body = sign_parameters(certificate, csr(certificate.key, certificate.subject))
                why = f"it would be {certificate.subject.common_name} ({row.name})"
                for verb in ("sign", "issue"):
                    sent = body if verb == "sign" else _without(body, "csr")
                    yield _sign(_ROWS, f"{certificate.mount}/{verb}/{role}", sent, why)
                yield Forbidden(_ROWS, "PUT", f"{certificate.mount}/sign/{role}", body, why, signs=True)


def _other_ways_to_sign(cluster: Cluster, own: tuple[Allowed, ...]) -> Iterator[Forbidden]:
    """Yield the node's own request at every other path that signs or issues, on every mount."""
    for mine in own:
        role = mine.certificate.role
        for ca in all_cas(cluster):
            mount = cluster.mount(ca)
            issuers = [f"{mount}/issuer/{ref}" for ref in ("default", f"{ca}-1")]
            paths = [f"{mount}/issue/{role}", f"{mount}/sign-verbatim/{role}", f"{mount}/sign-verbatim"]
            for issuer in issuers:
                paths += [f"{issuer}/{verb}/{role}" for verb in ("sign", "issue", "sign-verbatim")]
                paths += [f"{issuer}/sign-verbatim"]
            if mount != mine.certificate.mount:
                paths.append(f"{mount}/sign/{role}")
            for path in paths:
                sent = _without(mine.body, "csr") if "/issue/" in path else mine.body
                yield _sign(_WAYS, path, sent, "past the role's and the policy's limits")


def _changed(cluster: Cluster, name: str, mine: Allowed, others: tuple[str, ...], csr: Csr) -> Iterator[Forbidden]:
    """Yield the node's own request with one thing changed."""
    own, subject = mine.certificate, mine.certificate.subject

    def but(group: str, why: str, held_by: HeldBy = "refusal", **changes: Any) -> Forbidden:
        return _sign(group, mine.path, {**mine.body, **changes}, why, own, held_by)

    # The first name in every spelling; for the others the plain name is enough.
    for text in (*_spellings(others[0]), *others[1:], *_names_of_the_cluster(cluster, own)):
        yield from _with_name(but, name, own, text)
    yield from _with_other_rows(but, cluster, own)
    if not own.usage.tls:
        yield from _with_number(but, own)
    yield from _respelt(but, name, own)
    for address in _addresses(cluster, own):
        yield from _with_address(but, own, address)
    yield from _in_request(but, mine, others[0], csr)
    for parameter, values in _PARAMETERS_SENT.items():
        for value in values:
            yield but(_PARAMETERS, f"{parameter} is not the node's to choose", **{parameter: value})
    for parameter in mine.body:
        # Names may be left out; a parameter that limits the certificate may not.
        held_by: HeldBy = "indifference" if parameter in ("alt_names", "ip_sans", "format") else "refusal"
        yield _sign(_PARAMETERS, mine.path, _without(mine.body, parameter), f"without {parameter}", own, held_by)
        yield but(_PARAMETERS, f"an empty {parameter}", held_by, **{parameter: ""})
        yield but(_PARAMETERS, f"an empty list for {parameter}", held_by, **{parameter: []})
    if subject.dns:
        yield but(_PARAMETERS, "a parameter in other case", ALT_NAMES=f"{mine.body['alt_names']},{others[0]}")
    yield but(_PARAMETERS, "a parameter in other case", Common_Name=others[0])


_But = Callable[..., Forbidden]


def _with_name(but: _But, name: str, own: Certificate, text: str) -> Iterator[Forbidden]:
    common, dns = own.subject.common_name, ",".join(own.subject.dns)
    why = f"it would pass for {text!r}"
    cns = [text, f"{common},{text}", f"{text},{common}", f"{common}\n{text}", [common, text]]
    if name in common:
        cns += [common.replace(name, text), [common.replace(name, text)]]
    for value in cns:
        yield but(_NAMES, why, common_name=value)
    sans: list[Any] = [text, [text]]
    if dns:
        sans += [f"{dns},{text}", f"{text},{dns}", [*own.subject.dns, text], f"{dns}, {text}", f"{dns},,{text}"]
    if name in dns:
        sans.append(dns.replace(name, text))
    for value in sans:
        yield but(_NAMES, why, alt_names=value)
    yield but(_NAMES, why, uri_sans=f"spiffe://{text}")
    yield but(_NAMES, why, other_sans=f"1.3.6.1.4.1.311.20.2.3;UTF8:{text}")


def _spellings(name: str) -> tuple[str, ...]:
    head, _, tail = name.partition("-")
    return (
        *(name, name.upper(), name.capitalize(), f"{name}.", f"*.{name}", f"*{name}", f"{head}*"),
        *(f"x.{name}", f"x@{name}", f"@{name}", f" {name}", f"{name}\t", f"{name}\0"),
        quote(name, safe="").replace("-", "%2d") + "%00",
        f"{head}\N{NON-BREAKING HYPHEN}{tail}",
        f"{name}\N{ZERO WIDTH SPACE}",
        f"https://{name}:6443",
    )


def _names_of_the_cluster(cluster: Cluster, own: Certificate) -> tuple[str, ...]:
    """Return the names that other rows have and this one does not: the API server's, localhost."""
    every = {name for row in rows(cluster) for name in resolve(row, cluster, None).subject.dns if NODE not in name}
    return tuple(sorted(every - {*own.subject.dns}))


def _with_other_rows(but: _But, cluster: Cluster, own: Certificate) -> Iterator[Forbidden]:
    for row in rows(cluster):
        common = row.common_name
        if NODE not in common and common != own.subject.common_name:
            for value in (common, common.upper(), f"{own.subject.common_name},{common}", [common], f"x@{common}"):
                yield but(_NAMES, f"it would pass for {row.name}", common_name=value)
            yield but(_NAMES, f"it would pass for {row.name}", alt_names=common)
        for group in row.organization:
            yield but(_NAMES, f"it would be of the group {group}", organization=group)


def _with_number(but: _But, own: Certificate) -> Iterator[Forbidden]:
    """Yield the certificate of a service-account key with a number that the operator has not given it."""
    head = own.subject.common_name.rpartition(":")[0]
    for number in ("0", "2", "3", "01", "11", "1 ", "*", ""):
        why = "a node would bring its own retired key back, or the next one too early"
        yield but(_NAMES, why, common_name=f"{head}:{number}")
    yield but(_NAMES, "it would have no number", common_name=head)


def _respelt(but: _But, name: str, own: Certificate) -> Iterator[Forbidden]:
    """Yield the node's own names in other spellings; Vault folds case, so it may sign some for a pool's node."""
    common, dns = own.subject.common_name, own.subject.dns
    folded = [text for text in _folds(name) if text != name]
    wholes = [common.upper(), common.capitalize()] if name not in common else []
    for value in [*wholes, *(common.replace(name, text) for text in folded if name in common)]:
        if value != common:
            yield but(_SPELLING, f"{value!r} is not exactly its name", "check", common_name=value)
    for text in folded if name in dns else ():
        spelt = ",".join(text if entry == name else entry for entry in dns)
        yield but(_SPELLING, f"{text!r} is not exactly its name", "check", alt_names=spelt)
    for text in (f"{name}.", f"*.{name}", f"x@{name}", f"x.{name}"):
        value = common.replace(name, text) if name in common else f"{common}."
        if value != common:
            yield but(_SPELLING, f"{value!r} is not its name", common_name=value)
        yield but(_SPELLING, f"{text!r} is not its name", alt_names=",".join((*dns, text)))
        if dns:
            yield but(_SPELLING, f"{text!r} is not its name", alt_names=text)


def _folds(name: str) -> tuple[str, ...]:
    # For Go's EqualFold the Kelvin sign equals k and the long s equals s (Unicode's simple case folding).
    unicode = name.replace("k", "\N{KELVIN SIGN}").replace("s", "\N{LATIN SMALL LETTER LONG S}")
    head, dash, tail = name.partition("-")
    return tuple(dict.fromkeys((name.upper(), name.capitalize(), f"{head}{dash}{tail.upper()}", unicode)))


def _addresses(cluster: Cluster, own: Certificate) -> tuple[str, ...]:
    held = {*own.subject.ips}
    api = {ip for row in rows(cluster) for ip in resolve(row, cluster, None).subject.ips}
    nodes = [address for node in cluster.nodes for address in node.addresses][:_ADDRESSES_TRIED]
    every = dict.fromkeys((*nodes, *sorted(api), "127.0.0.1", "192.0.2.1", "2001:db8::1", "0.0.0.0"))  # noqa: S104
    return tuple(address for address in every if address not in held)


def _with_address(but: _But, own: Certificate, address: str) -> Iterator[Forbidden]:
    ips = ",".join(own.subject.ips)
    why = f"it would pass for {address}"
    spelt = [address, [address], f"{address},", f" {address}", f"{address}/32"]
    if ip_address(address).version == 4:
        spelt += [
            f"::ffff:{address}",
            f"::FFFF:{address}",
            "::ffff:{:02x}{:02x}:{:02x}{:02x}".format(*ip_address(address).packed),
        ]
    else:
        spelt += [ip_address(address).exploded, address.upper()]
    if ips:
        spelt += [f"{ips},{address}", f"{address},{ips}", [*own.subject.ips, address]]
    for value in spelt:
        yield but(_ADDRESSES, why, ip_sans=value)
    dns = ",".join(own.subject.dns)
    for value in (address, f"{dns},{address}" if dns else f"{address},{address}", f"[{address}]"):
        yield but(_ADDRESSES, why, alt_names=value)
    yield but(_ADDRESSES, why, common_name=address)


def _in_request(but: _But, mine: Allowed, other: str, csr: Csr) -> Iterator[Forbidden]:
    """Yield requests whose CSR has other names: Vault must ignore these, and sign nothing without parameters."""
    own = mine.certificate
    subject = own.subject
    bad = [Subject(other), replace(subject, common_name=other), replace(subject, organization=("system:masters",))]
    bad += [replace(subject, dns=(*subject.dns, name)) for name in (other, other.upper(), f"*.{other}", f"x@{other}")]
    bad += [replace(subject, ips=(*subject.ips, address)) for address in ("192.0.2.1", "::ffff:192.0.2.1")]
    for each in bad:
        text = csr(own.key, each)
        why = "the request names what the parameters do not"
        yield but(_REQUEST, why, "indifference", csr=text)
        yield _sign(_REQUEST, mine.path, {"csr": text, "format": "pem"}, why, own)
    for kind in (KeyType.RSA_2048, KeyType.EC_P256, KeyType.ED25519):
        # The node may choose a longer key of the same type.
        if kind.vault_type != own.key.vault_type or kind.vault_bits < own.key.vault_bits:
            yield but(_REQUEST, f"a key of another kind, {kind.value}", csr=csr(kind, subject))
    yield but(_REQUEST, "no request at all", csr="")


_PARAMETERS_SENT: Final[Mapping[str, tuple[Any, ...]]] = {
    "ttl": ("87600h", 315360000, "1s"),
    "TTL": ("87600h",),
    "not_after": ("2099-12-31T23:59:59Z", "9999-12-31T23:59:59Z"),
    "Not_After": ("2099-12-31T23:59:59Z",),
    "not_before": ("2001-01-01T00:00:00Z",),
    "not_before_duration": ("8760h",),
    "max_ttl": ("87600h",),
    "format": ("der", "pem_bundle", ["pem", "der"]),
    "private_key_format": ("pkcs8",),
    "exclude_cn_from_sans": (False, "false", 0),
    "serial_number": ("1234",),
    "user_ids": ("root",),
    "organization": ("system:masters",),
    "ou": ("x",),
    "country": ("XX",),
    "key_usage": ("CertSign,CRLSign",),
    "ext_key_usage": ("ServerAuth,ClientAuth,Any",),
    "ext_key_usage_oids": ("2.5.29.37.0",),
    "max_path_length": (3,),
    "cn_validations": ("disabled",),
    "policy_identifiers": ("2.23.140.1.2.1",),
    "signature_bits": (512,),
    "issuer_ref": ("default",),
    "role": ("super-admin",),
    "cert_metadata": ("e30=",),
    **dict.fromkeys(("remove_roots_from_chain", "server_flag", "client_flag", "is_ca", "use_pss", "no_store"), (True,)),
    **dict.fromkeys(("use_csr_values", "use_csr_common_name", "use_csr_sans"), (True,)),
    **dict.fromkeys(("basic_constraints_valid_for_non_ca", "allow_any_name", "generate_lease"), (True,)),
}


def _without(body: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    return {name: value for name, value in body.items() if name != key}
