"""Computes how long a token may live after its key is used no more, by the flags of every API server; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

YEAR: Final = 365 * 86400
"""How long the token of a pod lives at most where kube-apiserver extends it (`ExpirationExtensionSeconds` of kubernetes
pkg/serviceaccount/claims.go), in seconds. It is counted, too, where no flag sets a limit."""


@dataclass(frozen=True, slots=True)
class TokenFlags:
    """The flags of one kube-apiserver that decide how long tokens live.

    `extends` is `--service-account-extend-token-expiration`, on by default. `longest` is
    `--service-account-max-token-expiration` in seconds, 0 if it is not set.
    """

    extends: bool = True
    longest: int = 0

    @property
    def life(self) -> int:
        """The longest life of a token that it issues, in seconds; a year if nothing limits what is asked for."""
        return max(YEAR if self.extends or not self.longest else 0, self.longest)


@dataclass(frozen=True, slots=True)
class TokenLife:
    """The longest life of tokens in seconds, None if it is not known of every node.

    `unknown` are the nodes whose flags nobody knows. `unlimited` are those whose kube-apiserver sets no limit for what
    a client may ask for: tokens that somebody asked for a longer time than a year outlive this.
    """

    seconds: int | None
    unknown: tuple[str, ...] = ()
    unlimited: tuple[str, ...] = ()


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


def longest_life(nodes: Iterable[str], flags: Mapping[str, TokenFlags]) -> TokenLife:
    """Return the longest life of tokens of these nodes' API servers; `flags` are those that are known, by node."""
    wanted = sorted(set(nodes))
    unknown = tuple(node for node in wanted if node not in flags)
    known = [flags[node] for node in wanted if node in flags]
    seconds = None if unknown or not known else max(each.life for each in known)
    unlimited = tuple(node for node in wanted if node in flags and not flags[node].longest)
    return TokenLife(seconds, unknown, unlimited)
