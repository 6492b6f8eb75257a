"""Reads the `jwt` of a pool in cluster.yaml: how its nodes log in with a token of an issuer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from vaultpki.config import kinds
from vaultpki.config.fields import Field, FieldValue, ListOf, Record, Text
from vaultpki.errors import SpecError
from vaultpki.model import Jwt, Pool
from vaultpki.values import hosts, names, pem
from vaultpki.values.names import quoted

_URL = re.compile(r"https://(\[[0-9a-fA-F:.]+\]|[^/:@?#\[\]]+)(:\d{1,5})?((?:/[A-Za-z0-9._~%+=&?:-]+)*/?)", re.ASCII)
_MOST_KEYS = 16
# Vault compares issuer and audience with the claims byte by byte.
_PRINTED: Final = r"[!-~]{1,512}"
_NOT_PRINTED: Final = "is not valid here: write up to 512 printable ASCII characters, such as "
_issuer: Final = names.matching(_PRINTED, f"{_NOT_PRINTED}https://issuer.example.com")
_audience: Final = names.matching(_PRINTED, f"{_NOT_PRINTED}vaultpki")
_claim: Final = names.matching(
    r"[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,127}|(?:/[A-Za-z0-9_.:~-]{1,64}){1,8}",
    "is not a claim: write its name, such as node, or a JSON pointer to it, such as /kubernetes.io/node/name",
)


def _jwks_url(text: str) -> str:
    # Only https: an attacker who changes the keys on their way can log in as any node of the pool.
    if not text.startswith("https://"):
        raise SpecError(
            f"{quoted(text)} does not begin with https://: write one such as https://issuer.example.com/jwks"
        )
    if "@" in text:
        # The URL is not shown: the part before the @ is often a password.
        raise SpecError(
            "the URL contains a user or password: write such as https://issuer.example.com/jwks, without them"
        )
    match = _URL.fullmatch(text)
    if match is None or len(text) > 1024:
        raise SpecError(f"{quoted(text)} is not a URL of keys: write one such as https://issuer.example.com/jwks")
    return f"https://{hosts.host(match[1])}{match[2] or ''}{match[3]}"


JWT: Final = Record(
    {
        "issuer": Field(
            Text(_issuer, "an issuer", f"^{_PRINTED}$"),
            "The issuer of the nodes' tokens, exactly as in their claim iss; one for all pools",
            required=True,
        ),
        "audiences": Field(
            ListOf(Text(_audience, "an audience", f"^{_PRINTED}$", ("vaultpki",)), 1, 16),
            "The audiences; a token must name one of them",
            required=True,
        ),
        "node_claim": Field(
            Text(_claim, "a claim", r"^[A-Za-z0-9_/][A-Za-z0-9_.:/~-]*$", ("node", "/kubernetes.io/node/name")),
            "The claim that contains the node's name, or a JSON pointer to it",
            required=True,
        ),
        "public_keys_file": Field(
            kinds.FILE_PATH,
            "PEM file with the issuer's public keys, relative to this file's folder; or use jwks_url",
        ),
        "jwks_url": Field(
            Text(_jwks_url, "an https:// URL", "^https://", ("https://issuer.example.com/jwks",)),
            "Where Vault itself fetches the issuer's public keys; or use public_keys_file",
        ),
        "jwks_ca_file": Field(
            kinds.FILE_PATH,
            "PEM file with the CA of that URL, relative to this file's folder; default: the roots of Vault's machine",
        ),
    }
)


def read(found: FieldValue, file_content: Callable[[FieldValue, Callable[[str], Any]], Any]) -> Jwt:
    """Return the `jwt` of one pool; `file_content` reads the file that a value names and checks its text."""
    by_file, by_url = found.has("public_keys_file"), found.has("jwks_url")
    if by_file == by_url:
        place = found["jwks_url"] if by_url else found
        raise place.refuse("the issuer's keys are read from one place only: write either public_keys_file or jwks_url")
    if by_file and found.has("jwks_ca_file"):
        raise found["jwks_ca_file"].refuse("with public_keys_file nothing is fetched: leave jwks_ca_file out")
    return Jwt(
        issuer=found.get("issuer"),
        audiences=found.get("audiences"),
        node_claim=found.get("node_claim"),
        public_keys=file_content(found["public_keys_file"], _public_keys) if by_file else (),
        jwks_url=found.get("jwks_url"),
        jwks_ca_pem=file_content(found["jwks_ca_file"], pem.pem_certificates) if found.has("jwks_ca_file") else None,
    )


def refuse_second_issuer(pools: Iterable[tuple[Pool, FieldValue]]) -> None:
    """Raise SpecError if two pools trust different issuers or keys: the one jwt auth mount has one issuer."""
    first: tuple[str, Jwt] | None = None
    for pool, found in pools:
        if pool.jwt is None:
            continue
        first = first or (pool.name, pool.jwt)
        if pool.jwt.trust != first[1].trust:
            raise found["jwt"].refuse(
                f"the issuer or its keys differ from those of pool {first[0]}, and a cluster has one issuer: write the "
                "same in both"
            )


def _public_keys(text: str) -> tuple[str, ...]:
    """Return the PEM public keys (RFC 7468 section 13) of a file, each in the form in which Vault returns it."""
    if "PRIVATE KEY" in text:
        raise SpecError(
            "the file contains a private key: name a file of public keys (`openssl pkey -pubout` makes one)"
        )
    bodies = pem.pem_bodies(text, "PUBLIC KEY")
    if not bodies or len(bodies) != text.count("-----BEGIN"):
        raise SpecError("the file must contain only whole PEM public keys: name one with BEGIN PUBLIC KEY blocks")
    if len(bodies) > _MOST_KEYS:
        raise SpecError(f"the file contains {len(bodies)} keys: keep at most {_MOST_KEYS}")
    keys = []
    for body in bodies:
        if not pem.decodes(body):
            raise SpecError("the file contains a PEM public key that does not decode: copy it again")
        encoded = "".join(body.split())
        lines = [encoded[at : at + 64] for at in range(0, len(encoded), 64)]
        keys.append("\n".join(("-----BEGIN PUBLIC KEY-----", *lines, "-----END PUBLIC KEY-----")))
    return tuple(dict.fromkeys(keys))
