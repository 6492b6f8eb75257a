"""Checks a running cluster, read-only: what its listeners present, who is let in, and what it tells its pods.

The kubeconfig decides only whom to ask. What is right is decided by Vault, by files of `--dir` or by the root's SHA-256
in cluster.yaml. Only GET requests and TLS handshakes are made, each bounded in time and size. What cannot be reached
from here is listed as not checked.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Final

from vaultpki import certificates
from vaultpki.certificates import ISSUING_CAS
from vaultpki.errors import ArgumentError, VaultpkiError
from vaultpki.host import openssl, presented
from vaultpki.host.presented import Presented
from vaultpki.kube import running as kube_live
from vaultpki.kube.cluster import LiveCluster
from vaultpki.kube.key_sets import read_key_sets
from vaultpki.kube.kubeconfig import KubeAccess
from vaultpki.layout import api_port
from vaultpki.live import probes
from vaultpki.live import trust as live_trust
from vaultpki.live.checks import not_checked
from vaultpki.live.copies import BundleWord, bundle_checks, copy_checks
from vaultpki.live.flags import flag_checks
from vaultpki.live.listeners import Endpoint, dns_name, listeners, node_checks
from vaultpki.live.served import NodeContents, read_contents, served_checks
from vaultpki.live.token_keys import KeysExpected, token_key_checks
from vaultpki.live.trust import Expected, Fleet
from vaultpki.model import Cluster, NodeRole
from vaultpki.pki.facts import Facts
from vaultpki.vault import Vault
from vaultpki.verify import folders
from vaultpki.verify.on_disk import Check, Holder, read_bundle
from vaultpki.verify.token_key_files import UNION_FILE

TOTAL: Final = 600.0
"""How many seconds the whole may take: what is not reached by then is not checked."""

# For one listener that does not answer.
_SECONDS: Final = 5.0
_AT_ONCE: Final = 16


def verify(
    cluster: Cluster,
    access: KubeAccess,
    holders: Sequence[Holder],
    vault: Callable[[], Vault],
    now: datetime,
) -> tuple[tuple[Check, ...], str]:
    """Check the running cluster that `access` leads to; return the checks, and what said which CAs are right.

    `holders` are what `--dir` names, none without it. `vault` opens the cluster's Vault; if that fails its part is not
    checked. Raises ArgumentError if nothing says which root is right, and VaultpkiError if the API server cannot be
    asked.
    """
    openssl.program()
    deadline = time.monotonic() + TOTAL
    live = kube_live.read(access, deadline)
    expected, fleet = _expected(cluster, access, holders, vault, live, now)
    known = read_contents(holders, fleet.reports)
    made, left_out = listeners(cluster, live.nodes, access.server, is_local, live.pods)
    asked = {each.label: (each.address, each.port, each.server_name or dns_name(each.address)) for each in made}
    shown = presented.ask_each(asked, _SECONDS, deadline)
    checks = [*node_checks(cluster, live.nodes), *left_out]
    checks += _listener_checks(cluster, expected, made, shown, known, holders, now, deadline)
    checks += copy_checks(live, expected, certificates.rows(cluster), now)
    checks += bundle_checks(tuple(_words(holders, fleet, expected)), expected)
    checks += _unreported(fleet)
    checks += flag_checks(cluster, live, _directories(holders))
    if cluster.service_account_keys:
        checks += _token_key_checks(cluster, access, live, holders, fleet, deadline)
    return tuple(checks), expected.source


def _token_key_checks(
    cluster: Cluster,
    access: KubeAccess,
    live: LiveCluster,
    holders: Sequence[Holder],
    fleet: Fleet,
    deadline: float,
) -> Iterator[Check]:
    """Check the key set of each API server beside the keys that count: as Vault says, else as its node's file does."""
    planes = [node for node in cluster.nodes if NodeRole.CONTROL_PLANE in node.roles]
    nodes = [node.name for node in planes]
    # One without a kubelet has no Node object.
    addresses = {node.name: node.addresses[0] for node in planes if node.addresses}
    addresses |= {node.name: node.addresses[0] for node in live.nodes if node.name in nodes and node.addresses}
    shown = read_key_sets(access, addresses, api_port(cluster), deadline)
    files = {
        holder.name: KeysExpected(held, f"{holder.name}/{UNION_FILE}")
        for holder in holders
        if (held := read_bundle(holder.folder / UNION_FILE))
    }
    expected = files if fleet.keys is None else dict.fromkeys(nodes, fleet.keys)
    why = fleet.keys_unread or "name the files of its node with --dir"
    yield from token_key_checks(nodes, shown, expected, why)


def verify_copies(
    cluster: Cluster, access: KubeAccess, holders: Sequence[Holder], vault: Vault | None, now: datetime
) -> tuple[Check, ...]:
    """Check only the copies of CAs in the objects of the running cluster, as `verify` does.

    Without `vault` the files of `holders` say what is right. Raises as `verify`.
    """
    live = kube_live.read_copies(access, time.monotonic() + TOTAL)
    if vault is not None:
        expected = live_trust.from_vault(cluster, vault, now)
    else:
        expected = _without_vault(cluster, access, holders, live, now, "")
    return tuple(copy_checks(live, expected, certificates.rows(cluster), now))


def is_local(address: str) -> bool:
    """Return whether an IP address belongs to this machine: only then a socket can be bound to it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def _expected(
    cluster: Cluster,
    access: KubeAccess,
    holders: Sequence[Holder],
    vault: Callable[[], Vault],
    live: LiveCluster,
    now: datetime,
) -> tuple[Expected, Fleet]:
    """Return which CAs are right, by the best that says so, and what Vault says of the nodes."""
    why = ""
    try:
        server = vault()
        expected = live_trust.from_vault(cluster, server, now)
        return expected, live_trust.with_token_keys(live_trust.fleet(cluster, server), cluster, server, expected)
    except VaultpkiError as error:
        why = str(error)
    return _without_vault(cluster, access, holders, live, now, why), Fleet(unread=why)


def _without_vault(
    cluster: Cluster, access: KubeAccess, holders: Sequence[Holder], live: LiveCluster, now: datetime, why: str
) -> Expected:
    """Return which CAs are right by files or the root's SHA-256; `why` is why Vault does not say it, "" if not asked.

    Raises ArgumentError if neither says it.
    """
    expected = live_trust.from_files(cluster, holders, now)
    if expected is None:
        shown = (access.ca_pem, *(copy.pem for copy in live.copies))
        expected = live_trust.from_pin(cluster, shown, now)
    if expected is None:
        asked = f", and Vault does not ({why}): reach the cluster's Vault, name" if why else ": name"
        raise ArgumentError(
            f"{cluster.file}: nothing here says which root CA is right{asked} the files of its nodes with --dir, or "
            "write ca.root_sha256 into the file"
        )
    return expected


def _listener_checks(
    cluster: Cluster,
    expected: Expected,
    made: Sequence[Endpoint],
    shown: Mapping[str, Presented | str],
    known: NodeContents,
    holders: Sequence[Holder],
    now: datetime,
    deadline: float,
) -> Iterator[Check]:
    seen = dict(_cas_presented(made, shown, expected))
    who = probes.callers(cluster, expected, seen, holders, now)

    def checks(listener: Endpoint) -> tuple[Check, ...]:
        found = shown[listener.label]
        if isinstance(found, str):
            return (not_checked("listener", listener.label, listener.name, found),)
        own = tuple(served_checks(listener, found, expected, known, now))
        if listener.server_name:
            # It lets in whom it lets in by its other name.
            return own
        if time.monotonic() >= deadline:
            return (*own, not_checked("callers", listener.label, listener.name, "the time of this command is over"))
        return (*own, *probes.probe_as_each(listener, who))

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for found in pool.map(checks, made):
            yield from found
    if not holders:
        why = "name the files of nodes with --dir"
        yield not_checked("another domain", "pairs of the cluster", "every listener", why)


def _cas_presented(
    made: Sequence[Endpoint], shown: Mapping[str, Presented | str], expected: Expected
) -> Iterator[tuple[str, Facts]]:
    """Yield right CAs that listeners present, by domain: forged pairs take their names."""
    for listener in made:
        found = shown[listener.label]
        for facts in found.chain[1:2] if isinstance(found, Presented) else ():
            yield from ((domain, facts) for domain in ISSUING_CAS if expected.why_wrong(facts, domain) is None)


def _words(holders: Sequence[Holder], fleet: Fleet, expected: Expected) -> Iterator[BundleWord]:
    """Yield what each node holds, by its files and by its report; a pinned intermediate counts as a root there."""
    for holder in holders:
        if holder.certificates:
            issuing = {ca: frozenset(each.fingerprint for each in holder.own_cas(ca)) for ca in ISSUING_CAS}
            held_cas = {ca: found for ca, found in issuing.items() if found}
            ends = [facts for facts in holder.authorities() if facts.issuer_text == facts.subject_text]
            pins = [facts for facts in holder.authorities() if facts in expected.roots]
            roots = {*pins, *(facts for facts in ends if facts not in expected.above)}
            yield BundleWord(holder.name, "files", held_cas, frozenset(facts.fingerprint for facts in roots))
    for name, report in fleet.reports.items():
        told = {ca: bundle.sha256 for ca, bundle in report.bundles.items()}
        yield BundleWord(name, f"report of {report.time:%Y-%m-%d %H:%M}Z", told, frozenset(report.pins))


def _unreported(fleet: Fleet) -> Iterator[Check]:
    if fleet.unread:
        yield not_checked("reported", "reports of nodes", "Vault", fleet.unread)
    for name in fleet.silent:
        yield not_checked("reported", name, "Vault", "the node has never reported")


def _directories(holders: Sequence[Holder]) -> dict[str, Mapping[str, str]]:
    """Return the folders of the nodes' files by node, where an agent.yaml beside them says so."""
    found: dict[str, Mapping[str, str]] = {}
    for holder in holders:
        with contextlib.suppress(VaultpkiError):
            config = folders.agent_beside(holder.folder)
            if config is not None:
                found[holder.name] = config.paths
    return found
