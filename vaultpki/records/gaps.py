"""Says where a node and the server do not have the same rotation records, or CAs, and what to do; pure.

`status`, the agent's log, `nodes`, `plan` and `ca status` say it with these words.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from vaultpki import kubernetes_versions, readers
from vaultpki.certificates import SERVICE_ACCOUNT
from vaultpki.records.node_report import NodeReport, Seen
from vaultpki.records.rotation import EVERY_DOMAIN, MOST_AHEAD
from vaultpki.redact import first_few

SERVER_BEHIND = "server-behind"
"""The name of a gap: the node has read a newer record than the server has."""

NOT_FOLLOWED = "record-not-followed"
"""The name of a gap: the server's record is further ahead of what the node has read than any rotation comes."""


@dataclass(frozen=True, slots=True)
class Gap:
    """One gap: the CA's domain, its name for programs, and the rest of a sentence whose subject is the node.

    `what` is that sentence without the command that puts it right.
    """

    domain: str
    name: str
    text: str
    what: str


@dataclass(frozen=True, slots=True)
class LeftOver:
    """A CA that nodes trust and the server does not have: its SHA-256, and the nodes that hold it."""

    sha256: str
    nodes: tuple[str, ...]


def of_report(report: NodeReport, revisions: Mapping[str, int] | None = None) -> Iterator[Gap]:
    """Yield the gaps of a node that reports; `revisions` as in `gaps`."""
    return gaps(report.seen, report.not_followed, revisions)


def gaps(
    seen: Mapping[str, Seen], not_followed: Mapping[str, int], revisions: Mapping[str, int] | None = None
) -> Iterator[Gap]:
    """Yield the gaps of a node that has seen these revisions, by domain, and does not follow those of `not_followed`.

    `revisions` are those of the server's records now, where there are any. Without them it is what the node has found.
    """
    for domain in EVERY_DOMAIN:
        if domain not in seen:
            continue
        highest, now = seen[domain].highest, seen[domain].revision
        if revisions is not None:
            now = revisions.get(domain, 0)
        ahead = not_followed.get(domain, 0) if revisions is None else now
        if ahead > highest + MOST_AHEAD:
            what = _not_followed(domain, highest, ahead)
            how = f"Find out who wrote that record. Then write a right one: `vaultpki ca recover {domain}`"
            yield Gap(domain, NOT_FOLLOWED, f"{what}. {how}", what)
        elif now < highest:
            what = _behind(domain, highest, now)
            yield Gap(domain, SERVER_BEHIND, f"{what}. Correct it: `vaultpki ca recover {domain}`", what)


def readers_behind(report: NodeReport) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with components that run, by `CA/COMPONENT`."""
    versions = kubernetes_versions.minors(report.kubernetes)
    for name, one in report.readers.items():
        ca, _, component = name.partition("/")
        bundle = report.bundles.get(ca)
        if not one.running:
            continue
        if ca == readers.KUBECONFIG_SERVERS:
            # Agents report only what was not started again.
            yield name, readers.not_started_again(component, ca)
            continue
        early = bundle is not None and (one.started is None or one.started < bundle.installed)
        if bundle is not None and one.sha256 and one.sha256 != bundle.sha256 and early:
            yield name, readers.not_started_again(component, ca, versions.get(component))
        elif one.problem:
            yield name, readers.not_healthy(component, one.problem)
    keys = report.token_keys
    if keys is not None and keys.reader.running:
        component = "kube-apiserver"
        held = keys.loaded_union == keys.union and keys.loaded_signing == keys.signing
        if keys.loaded_union and not held:
            yield f"{SERVICE_ACCOUNT}/{component}", readers.not_started_again(component, SERVICE_ACCOUNT)
        elif keys.reader.problem:
            yield f"{SERVICE_ACCOUNT}/{component}", readers.not_healthy(component, keys.reader.problem)


def _behind(domain: str, highest: int, now: int) -> str:
    shown = f"has revision {now}" if now else "has none"
    return (
        f"has read revision {highest} of the record of {domain}, and Vault {shown}. It was restored from a snapshot, "
        f"or somebody changed the record. Nothing of {domain} is dropped or replaced there"
    )


def _not_followed(domain: str, highest: int, ahead: int) -> str:
    return (
        f"has read revision {highest} of the record of {domain}, and does not follow revision {ahead}. No rotation "
        f"comes so far ahead, so no vaultpki wrote it. Nothing of {domain} is dropped or replaced there"
    )


def left_over_sentence(domain: str, sha256: str, nodes: Collection[str]) -> str:
    """Return that nodes trust such a CA, with the command that takes it out, for every view."""
    who = f"{first_few(sorted(nodes), 3)} {'trusts' if len(nodes) == 1 else 'trust'}"
    return (
        f"{domain} CA: {who} a CA that the server does not have (SHA-256 {sha256}): whoever has its key is let in. "
        f"Take it out: `vaultpki ca recover {domain} --drop {sha256}`"
    )
