"""What a certificate must say to be a CA of a cluster: small pure checks, each with the reason it gives.

Who signed it, `x509` tells. Most of these are what Go's crypto/x509, which Kubernetes and etcd use, holds against all
that such a CA signs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from vaultpki.facts import Facts
from vaultpki.model import Subject

SANE_SIGNATURES: Final = frozenset({"sha256", "sha384", "sha512", "ed25519"})
"""The hashes, or ed25519, by which a certificate of ours may be signed."""

# Object identifiers of extensions (RFC 5280, section 4.2.1).
_KEY_USAGE: Final = "2.5.29.15"
_SUBJECT_ALTERNATIVE_NAME: Final = "2.5.29.17"
_BASIC_CONSTRAINTS: Final = "2.5.29.19"
_NAME_CONSTRAINTS: Final = "2.5.29.30"
_EXTENDED_KEY_USAGE: Final = "2.5.29.37"

LEAF_CRITICAL: Final = frozenset({_BASIC_CONSTRAINTS, _KEY_USAGE, _EXTENDED_KEY_USAGE, _SUBJECT_ALTERNATIVE_NAME})
"""The extensions that a leaf of ours may mark critical; RFC 5280 section 4.2 lets anybody reject the rest."""

_Check = Callable[[Facts], str | None]


def named(facts: Facts, name: str) -> bool:
    """Whether its subject is this CN alone: `name`, or that with the number of a later key (` 2`, ` 3`, ...)."""
    pattern = rf"{re.escape(name)}(?: (?:[2-9]|[1-9][0-9]+))?"
    whole = not facts.further_names and facts.subject == Subject(facts.subject.common_name)
    return whole and re.fullmatch(pattern, facts.subject.common_name) is not None


def no_issuing_ca(facts: Facts, name: str) -> str | None:
    """Returns why it is no issuing CA called `name`, as the rest of a sentence about it; None where it is one."""
    if not named(facts, name):
        return f"its name is not CN={name} alone"
    return no_signer(facts)


def no_signer(facts: Facts) -> str | None:
    """Returns why nothing may be trusted that it signed as an issuing CA of whatever name; None where it may."""
    return _first(_ISSUING, facts)


def no_root(facts: Facts) -> str | None:
    """Returns why it cannot be a root CA above issuing CAs; None where it can."""
    return _first(_ROOT, facts)


def _first(checks: tuple[_Check, ...], facts: Facts) -> str | None:
    return next(filter(None, (check(facts) for check in checks)), None)


def _signs_nothing(facts: Facts) -> str | None:
    may = facts.is_ca and "key_cert_sign" in facts.key_usage
    return None if may else "it is no CA that may sign certificates"


def _signs_cas(facts: Facts) -> str | None:
    return None if facts.path_length == 0 else "its path length is not 0, so it could make further CAs"


def _signs_no_cas(facts: Facts) -> str | None:
    return "its path length is 0, so no CA may stand below it" if facts.path_length == 0 else None


def _for_some_uses(facts: Facts) -> str | None:
    # Go holds the EKUs of every CA of a chain against the leaf.
    return "it has an extended key usage" if _EXTENDED_KEY_USAGE in facts.extensions else None


def _for_some_names(facts: Facts) -> str | None:
    return "it has name constraints" if _NAME_CONSTRAINTS in facts.extensions else None


def _strange(facts: Facts) -> str | None:
    unknown = facts.critical - {_BASIC_CONSTRAINTS, _KEY_USAGE}
    return f"it has a critical extension that no CA of ours has ({min(unknown)})" if unknown else None


def _weak(facts: Facts) -> str | None:
    if facts.key is None:
        return "its key is of a kind or size that no CA of ours has"
    return None if facts.signature in SANE_SIGNATURES else f"its signature is weak ({facts.signature})"


_ANY: Final[tuple[_Check, ...]] = (_for_some_uses, _for_some_names, _strange, _weak)
_ISSUING: Final[tuple[_Check, ...]] = (_signs_nothing, _signs_cas, *_ANY)
_ROOT: Final[tuple[_Check, ...]] = (_signs_nothing, _signs_no_cas, *_ANY)
