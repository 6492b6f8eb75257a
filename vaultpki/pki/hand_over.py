"""What a hand-over is: the certificate by which the old server's CA kubernetes names the new server to nodes."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Final

from vaultpki.model import Subject
from vaultpki.pki.facts import Facts
from vaultpki.pki.trust import in_date, signed_by
from vaultpki.redact import stamp

HAND_OVER_EKU: Final = "1.2.840.113556.1.8000.2554.61798.56129.43648.16875.46277.14081858.80451"
"""The only extended key usage of a hand-over, so that no TLS peer takes one.

Made from a random UUID below the arc for those, in parts that both servers can read.
"""

HAND_OVER_SIGNER: Final = "kubernetes"
"""The CA of the old server that signs hand-overs."""

HAND_OVER_LIFE: Final = 7 * 86400
"""How long a hand-over lives, in seconds."""

# Both servers begin a certificate some seconds before they sign it.
_SLACK: Final = 3600
# How `Facts.further_names` has a URI.
_URI: Final = "UniformResourceIdentifier:"


def common_name(cluster: str) -> str:
    """Return the common name of a cluster's hand-overs."""
    return f"{cluster} hand-over"


def problem(hand_over: Facts, issuers: Collection[Facts], uri: str, cluster: str, now: datetime) -> str | None:
    """Return why it is not the hand-over that binds `uri`, as the rest of a sentence about it; None if it is.

    `issuers` are the CAs that may have signed it: the old server's CA kubernetes, as far as the node trusts it.
    """
    if not any(signed_by(hand_over, issuer) and in_date(issuer, now) for issuer in issuers):
        return "it was not signed by the CA kubernetes of this node's own server"
    if not in_date(hand_over, now):
        return f"it ended at {stamp(hand_over.not_after)}" if now >= hand_over.not_after else "it is not valid yet"
    if hand_over.not_after - hand_over.not_before > timedelta(seconds=HAND_OVER_LIFE + _SLACK):
        return "it lives longer than a hand-over may"
    if hand_over.is_ca or hand_over.usages != {HAND_OVER_EKU}:
        return "it is a certificate for something else"
    if hand_over.subject != Subject(common_name(cluster)):
        return f"it is not called {common_name(cluster)}"
    if hand_over.further_names != (f"{_URI}{uri}",):
        return "it binds another server than the record names"
    return None
