"""Decides which certificates of service-account keys count: pure rules, each with the reason it gives.

kube-apiserver takes the public key of every certificate in `--service-account-key-file` and checks nothing else
(kubernetes pkg/serviceaccount and client-go util/keyutil), so everything is checked here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from vaultpki.model import Subject, Usage
from vaultpki.pki import chains, trust
from vaultpki.pki.facts import EKU, Facts

_NAME = re.compile(r"sa:([a-z0-9](?:[a-z0-9.-]*[a-z0-9])?):([1-9][0-9]{0,7})")


@dataclass(frozen=True, slots=True, order=True)
class KeyName:
    """The node whose service-account key it is, and the number of the key there."""

    node: str
    number: int


@dataclass(frozen=True, slots=True)
class TokenKeys:
    """The certificates that count, in the order of the file, and why others do not, each in the rest of a sentence.

    `lowest` is, by node, the lowest number that counts from now on.
    """

    certificates: tuple[Facts, ...]
    refused: tuple[tuple[Facts, str], ...] = ()
    lowest: Mapping[str, int] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The content of `sa.pub`."""
        return "".join(facts.pem for facts in self.certificates)


def key_name(common_name: str) -> KeyName | None:
    """Return whose key it is by a common name; None if it is not one of a service-account key."""
    found = _NAME.fullmatch(common_name)
    return KeyName(found[1], int(found[2])) if found else None


def token_keys(
    offered: Iterable[Facts],
    issuing: Sequence[Facts],
    roots: Sequence[Facts],
    nodes: Collection[str],
    known: Mapping[str, int],
    said: Mapping[str, int],
    before: Iterable[Facts] = (),
    *,
    between: Sequence[Facts] = (),
) -> TokenKeys:
    """Return which of the certificates that the record offers count.

    `issuing` are the CAs of this domain below the pinned root, expired ones too, `roots` the trusted roots, and
    `between` the CAs of a PKI outside that stand between them. `nodes` are the control-plane nodes of the cluster.
    `known` is, by node, the lowest number that was accepted here before, and `said` the lowest that the record asks
    for. That number only grows, and never beyond the number after the highest that Vault has certified for the node: a
    forged record must not end keys that are still to be made. That is known of the certificates in the record, and of
    those `before`, which counted until now. Dates are not checked: a certificate stays until the record removes it.
    """
    fit: dict[Facts, KeyName] = {}
    refused: dict[Facts, str] = {}
    for facts in offered:
        why, name = why_no_key(facts, issuing, roots, between), key_name(facts.subject.common_name)
        if why is None and name is not None:
            fit[facts] = name
        else:
            refused[facts] = why or "its name is not that of a service-account key"
    lowest = dict(known)
    former = (key_name(facts.subject.common_name) for facts in before)
    certified = [*fit.values(), *(name for name in former if name is not None)]
    for node, wanted in said.items():
        highest = max((name.number for name in certified if name.node == node), default=known.get(node, 1) - 1)
        lowest[node] = max(known.get(node, 1), min(wanted, highest + 1))
    counting = []
    for facts, name in fit.items():
        if name.node not in nodes:
            refused[facts] = f"{name.node} is no control-plane node of the cluster"
        elif name.number < lowest.get(name.node, 1):
            refused[facts] = f"key {name.number} of {name.node} was retired"
        else:
            counting.append(facts)
    ordered = sorted(counting, key=lambda facts: (fit[facts], facts.not_before, facts.fingerprint))
    return TokenKeys(tuple(ordered), tuple(refused.items()), lowest)


def why_no_key(
    facts: Facts, issuing: Sequence[Facts], roots: Sequence[Facts], between: Sequence[Facts] = ()
) -> str | None:
    """Return why it is not the certificate of a service-account key, as the rest of a sentence; None if it is one."""
    from vaultpki.pki import x509

    common_name = facts.subject.common_name
    checks = (
        (facts.is_ca, "it is a CA"),
        (facts.usages != EKU[Usage.SIGNING], "it does not have exactly the extended key usage of these keys"),
        (not trust.fit_key_usage(facts, Usage.SIGNING), "its key usage is not digitalSignature, marked critical"),
        (facts.critical - trust.LEAF_CRITICAL, "it has a critical extension that no leaf of ours has"),
        (facts.further_names or facts.subject != Subject(common_name), "it has more names than its common name"),
        (key_name(common_name) is None, "its name is not that of a service-account key"),
        (facts.key is None or not facts.key.signs_tokens, "kube-apiserver signs no tokens with a key of that type"),
        (facts.signature not in trust.SANE_SIGNATURES, f"its signature is weak ({facts.signature})"),
    )
    if (problem := next((problem for fails, problem in checks if fails), None)) is not None:
        return problem
    issuer = x509.issuer_of(facts, issuing)
    if issuer is None or trust.no_signer(issuer) or not chains.chain_up(issuer, roots, between):
        return "it was not signed by the CA of these keys below the pinned root"
    return None
