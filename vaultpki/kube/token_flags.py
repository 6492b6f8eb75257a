"""Knows by which flags kube-apiserver limits how long tokens live, and what a running cluster shows of them; pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from vaultpki.kube.flags import flags_of
from vaultpki.kube.objects import mapping, metadata
from vaultpki.redact import moment, printable

YEAR: Final = 365 * 86400
"""How long the token of a pod lives at most where kube-apiserver extends it (`ExpirationExtensionSeconds` of kubernetes
pkg/serviceaccount/claims.go), in seconds. It is counted, too, where no flag sets a limit."""


OIDC_DISCOVERY: Final = "/.well-known/openid-configuration"
"""What stands below the URL of an issuer (OpenID Connect Discovery 1.0, section 4)."""


@dataclass(frozen=True, slots=True)
class TokenFlags:
    """The flags of one kube-apiserver that decide how long tokens live.

    `extends` is `--service-account-extend-token-expiration`, on by default. `longest` is
    `--service-account-max-token-expiration` in seconds, 0 if it is not set. `issuer` is the first
    `--service-account-issuer`, whose tokens it issues, and `jwks_uri` is `--service-account-jwks-uri`; "" if not set.
    """

    extends: bool = True
    longest: int = 0
    issuer: str = ""
    jwks_uri: str = ""

    @property
    def life(self) -> int:
        """The longest life of a token that it issues, in seconds; a year if nothing limits what is asked for."""
        return max(YEAR if self.extends or not self.longest else 0, self.longest)


@dataclass(frozen=True, slots=True)
class LegacyToken:
    """A Secret of type `kubernetes.io/service-account-token`: `NAMESPACE/NAME`, and when it was made.

    Its token never expires.
    """

    name: str
    created: datetime | None


@dataclass(frozen=True, slots=True)
class TokensInUse:
    """What a running cluster shows of its tokens.

    `flags` are those of kube-apiserver by node. `legacy` are the Secrets with tokens that never expire, None if they
    could not be listed. `stale` is the counter `serviceaccount_stale_tokens_total` by node, of those that show it:
    requests with a token that is older than the hour that was asked for. `unread` says what could not be read.
    """

    flags: Mapping[str, TokenFlags]
    legacy: tuple[LegacyToken, ...] | None = None
    stale: Mapping[str, int] | None = None
    unread: tuple[str, ...] = ()


_EXTENDS: Final = "service-account-extend-token-expiration"
_LONGEST: Final = "service-account-max-token-expiration"
_ISSUER: Final = "service-account-issuer"
_JWKS: Final = "service-account-jwks-uri"
_STALE: Final = re.compile(rb"^serviceaccount_stale_tokens_total ([0-9.e+]+)$", re.MULTILINE)
_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
# What Go's strconv.ParseBool takes for false.
_FALSE: Final = frozenset({"0", "f", "F", "false", "FALSE", "False"})
_LONGEST_NAME: Final = 300


def token_flags(arguments: Sequence[str]) -> TokenFlags | None:
    """Return what the arguments of a kube-apiserver say of the life of tokens; None if a value cannot be read."""
    given = flags_of(arguments)
    longest = go_duration(given.get(_LONGEST, "0"))
    if longest is None:
        return None
    issuer, jwks_uri = (printable(found)[:_LONGEST_NAME] for found in (_first_issuer(arguments), given.get(_JWKS, "")))
    return TokenFlags(given.get(_EXTENDS, "true") not in _FALSE, longest, issuer, jwks_uri)


def _first_issuer(arguments: Sequence[str]) -> str:
    """Return the first of the issuers that a command line names: the others are only accepted."""
    for index in range(len(arguments)):
        if found := flags_of(arguments[index : index + 2]).get(_ISSUER):
            return found
    return ""


def go_duration(text: str) -> int | None:
    """Return a duration of a Go flag, such as 24h0m0s, in whole seconds, rounded up; None if it is none."""
    if text == "0":
        return 0
    parts = list(_PART.finditer(text))
    if not parts or "".join(part[0] for part in parts) != text:
        return None
    seconds = sum(float(part[1]) * _SECONDS[part[2]] for part in parts)
    return -int(-seconds // 1)


def legacy_tokens(items: Iterable[object]) -> Iterator[LegacyToken]:
    """Yield the Secrets in a list of objects without their content, which is not asked for."""
    for item in items:
        about = mapping(metadata(item))
        name, namespace = about.get("name"), about.get("namespace")
        if isinstance(name, str) and isinstance(namespace, str):
            shown = printable(f"{namespace}/{name}"[:_LONGEST_NAME])
            yield LegacyToken(shown, moment(about.get("creationTimestamp")))


def stale_tokens(metrics: bytes) -> int | None:
    """Return the counter of requests with stale tokens in an API server's metrics; None if it is not there."""
    found = _STALE.search(metrics)
    try:
        return int(float(found[1])) if found is not None else None
    except (ValueError, OverflowError):
        return None
