"""Computes how long a token may live after its key is used no more, by the flags of every API server; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vaultpki.kube.token_flags import TokenFlags


@dataclass(frozen=True, slots=True)
class TokenLife:
    """The longest life of tokens in seconds, None if it is not known of every node.

    `unknown` are the nodes whose flags nobody knows.
    """

    seconds: int | None
    unknown: tuple[str, ...] = ()


def longest_life(nodes: Iterable[str], flags: Mapping[str, TokenFlags]) -> TokenLife:
    """Return the longest life of tokens of these nodes' API servers; `flags` are those that are known, by node."""
    wanted = sorted(set(nodes))
    unknown = tuple(node for node in wanted if node not in flags)
    known = [flags[node] for node in wanted if node in flags]
    seconds = None if unknown or not known else max(each.life for each in known)
    return TokenLife(seconds, unknown)
