"""Says what a person must know of foreign CAs on a node: not taken, not reported yet, or restarts that wait for them.

Pure. The sentences are those of `pki.foreign_cas`, whether a node tells of itself or its report does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from vaultpki.findings.catalogue import AGENT_ONCE, APPLY
from vaultpki.pki import foreign_cas
from vaultpki.pki.facts import Facts, UntrustedCa
from vaultpki.readers import CA_OF_BUNDLE

if TYPE_CHECKING:
    from vaultpki.agent.status import Status
    from vaultpki.records.node_report import NodeReport

Said = tuple[str, bool, str]
"""A sentence, whether a person must act, and the next command with its places; "" for the kind's, a new join file."""


def of_status(status: Status) -> Iterator[Said]:
    """Yield what a node's own files say."""
    for text in status.foreign:
        # What is no foreign CA leaves cluster.yaml, and no node takes it before.
        yield text, True, "" if foreign_cas.NOT_PINNED in text else APPLY
    yield from _restarts(status.by_hand)
    yield from ((text, False, AGENT_ONCE) for text in status.unused)


def of_report(report: NodeReport, named: Mapping[str, Collection[Facts]]) -> Iterator[Said]:
    """Yield what a node's report says; `named` are the foreign CAs of cluster.yaml by domain."""
    for ca, cas in named.items():
        if ca not in report.bundles:
            # It has no bundle of that CA, or its agent has not installed one.
            continue
        for facts in cas:
            if facts.fingerprint in report.foreign.get(ca, ()):
                continue
            if facts.fingerprint in report.foreign_ignored.get(ca, ()):
                unpinned = UntrustedCa(facts.subject_text, facts.fingerprint, foreign_cas.NOT_PINNED)
                yield foreign_cas.ignored_sentence(ca, unpinned), True, ""
            else:
                what = f"{facts.subject_text} (SHA-256 {facts.fingerprint})"
                text = f"it has not reported yet whether it takes {what} into the bundles of {ca}"
                yield f"{text}: its agent has not read the record yet, or is older than foreign CAs", False, AGENT_ONCE
    yield from _restarts(report.by_hand)


def _restarts(keys: Collection[str]) -> Iterator[Said]:
    names = [CA_OF_BUNDLE[key] for key in keys if key in CA_OF_BUNDLE]
    if names:
        what = f"the foreign CAs of {' and '.join(names)} changed, and components read them only when they start"
        yield f"{what}: run `{AGENT_ONCE}` on one node after the other", True, AGENT_ONCE
