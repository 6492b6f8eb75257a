"""Names the issuers of CAs by their numbers, and holds what Vault lets an issuer do; pure."""

from __future__ import annotations

from typing import Final

from vaultpki.records.rotation import Method

FULL: Final = "crl-signing,issuing-certificates,ocsp-signing,read-only"
"""The usage of an issuer that signs."""

NO_SIGNING: Final = "crl-signing,ocsp-signing,read-only"
"""The usage of an issuer that signs no certificate any more."""

READ_ONLY: Final = "read-only"
"""The usage of an issuer without a key: a CA of a root from outside, which nodes read."""

CUT_SHORT: Final = "truncate"
"""What an issuing CA does near its end: leaves end with it. If they were refused, the first ones would end half a TTL
before the CA."""


def number(name: str) -> int:
    """Return the number of a CA's key: 2 for `etcd-2` and for `etcd-2r3`."""
    return int(name.rpartition("-")[2].partition("r")[0])


def successor_name(domain: str, highest: int, method: Method, old: str) -> tuple[str, int]:
    """Return the name of the next CA and the highest number that is then used: `etcd-2`, or `etcd-1r2` for one key."""
    if method is not Method.SAME_KEY:
        return f"{domain}-{highest + 1}", highest + 1
    key, _, last = old.rpartition("-")
    current, _, renewal = last.partition("r")
    return f"{key}-{current}r{int(renewal or 1) + 1}", highest
