"""The `jwt` of a pool in cluster.yaml: how its nodes prove who they are by a token of an issuer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from vaultpki import words
from vaultpki.config.shape import Field, Found, ListOf, Record, Text
from vaultpki.errors import SpecError
from vaultpki.model import Jwt, Pool
from vaultpki.words import quoted

_URL = re.compile(r"https://(\[[0-9a-fA-F:.]+\]|[^/:@?#\[\]]+)(:\d{1,5})?((?:/[A-Za-z0-9._~%+=&?:-]+)*/?)", re.ASCII)
_MOST_KEYS = 16

_T = TypeVar("_T")


def _printed(what: str, example: str) -> Callable[[str], str]:
    """A check of text that Vault compares with a claim byte by byte."""

    def check(text: str) -> str:
        if not re.fullmatch(r"[!-~]{1,512}", text):
            raise SpecError(
                f"{quoted(text)} is no {what}: write up to 512 printable ASCII characters, such as {example}"
            )
        return text

    return check


def _claim(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,127}|(?:/[A-Za-z0-9_.:~-]{1,64}){1,8}", text):
        raise SpecError(
            f"{quoted(text)} is no claim: write its name, such as node, or a JSON pointer to it, such as "
            "/kubernetes.io/node/name"
        )
    return text


def _jwks_url(text: str) -> str:
    # Whoever can change what is fetched there can be any node of the pool.
    if not text.startswith("https://"):
        raise SpecError(f"{quoted(text)} does not begin with https://: write such as https://issuer.example.com/jwks")
    if "@" in text:
        # Not quoted: what stands before the @ is a password as often as not.
        raise SpecError("the URL holds a user or password: write such as https://issuer.example.com/jwks, without them")
    match = _URL.fullmatch(text)
    if match is None or len(text) > 1024:
        raise SpecError(f"{quoted(text)} is no URL of keys: write such as https://issuer.example.com/jwks")
    return f"https://{words.host(match[1])}{match[2] or ''}{match[3]}"


JWT: Final = Record(
    {
        "issuer": Field(
            Text(_printed("issuer", "https://issuer.example.com"), "an issuer", r"^[!-~]{1,512}$"),
            "The issuer of the nodes' tokens, exactly as their claim iss says it; one for all pools",
            required=True,
        ),
        "audiences": Field(
            ListOf(Text(_printed("audience", "vaultpki"), "an audience", r"^[!-~]{1,512}$", ("vaultpki",)), 1, 16),
            "The audiences of which a token must name one",
            required=True,
        ),
        "node_claim": Field(
            Text(_claim, "a claim", r"^[A-Za-z0-9_/][A-Za-z0-9_.:/~-]*$", ("node", "/kubernetes.io/node/name")),
            "The claim that holds the node's name, or a JSON pointer to it",
            required=True,
        ),
        "public_keys_file": Field(
            Text(words.file_path, "a path"),
            "PEM file with the issuer's public keys, seen from this file's folder; or jwks_url",
        ),
        "jwks_url": Field(
            Text(_jwks_url, "an https:// URL", "^https://", ("https://issuer.example.com/jwks",)),
            "Where Vault itself fetches the issuer's public keys; or public_keys_file",
        ),
        "jwks_ca_file": Field(
            Text(words.file_path, "a path"),
            "PEM file with the CA of that URL, seen from this file's folder; left out: the roots of Vault's machine",
        ),
    }
)


def read(found: Found, text_of: Callable[[Found], str]) -> Jwt:
    """The `jwt` of one pool; `text_of` gives the text of the file that a value names."""
    by_file, by_url = found.has("public_keys_file"), found.has("jwks_url")
    if by_file == by_url:
        place = found["jwks_url"] if by_url else found
        raise place.refuse("the issuer's keys come from one place: write either public_keys_file or jwks_url")
    if by_file and found.has("jwks_ca_file"):
        raise found["jwks_ca_file"].refuse("nothing is fetched where public_keys_file is: leave jwks_ca_file out")
    return Jwt(
        issuer=found.get("issuer"),
        audiences=found.get("audiences"),
        node_claim=found.get("node_claim"),
        public_keys=_checked(found["public_keys_file"], text_of, _public_keys) if by_file else (),
        jwks_url=found.get("jwks_url"),
        jwks_ca_pem=_checked(found["jwks_ca_file"], text_of, words.pem_certificates)
        if found.has("jwks_ca_file")
        else None,
    )


def refuse_second_issuer(pools: Iterable[tuple[Pool, Found]]) -> None:
    """Raises where two pools trust different issuers or keys: the one mount has one configuration."""
    first: Pool | None = None
    for pool, found in pools:
        if pool.jwt is None:
            continue
        if first is not None and first.jwt is not None and pool.jwt.trust != first.jwt.trust:
            raise found["jwt"].refuse(
                f"the issuer or its keys are others than those of pool {first.name}, and a cluster has one: write "
                "the same in both"
            )
        first = first or pool


def _checked(found: Found, text_of: Callable[[Found], str], check: Callable[[str], _T]) -> _T:
    try:
        return check(text_of(found))
    except SpecError as error:
        if error.file:
            raise
        raise found.refuse(error.problem) from None


def _public_keys(text: str) -> tuple[str, ...]:
    """The PEM public keys (RFC 7468 section 13) of a file, each as Vault reads it back."""
    if "PRIVATE KEY" in text:
        raise SpecError("the file holds a private key: name a file of public keys (`openssl pkey -pubout` makes one)")
    bodies = words.pem_bodies(text, "PUBLIC KEY")
    if not bodies or len(bodies) != text.count("-----BEGIN"):
        raise SpecError("the file holds something else than whole PEM public keys: name one of BEGIN PUBLIC KEY blocks")
    if len(bodies) > _MOST_KEYS:
        raise SpecError(f"the file holds {len(bodies)} keys: keep at most {_MOST_KEYS}")
    keys = []
    for body in bodies:
        if not words.decodes(body):
            raise SpecError("the file holds a PEM public key that does not decode: copy it anew")
        encoded = "".join(body.split())
        lines = [encoded[at : at + 64] for at in range(0, len(encoded), 64)]
        keys.append("\n".join(("-----BEGIN PUBLIC KEY-----", *lines, "-----END PUBLIC KEY-----")))
    return tuple(dict.fromkeys(keys))
