"""The node's report, for people and for the gates of a rotation: what it holds, whom it trusts, what it restarted."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Final

from vaultpki.agent import bundles, ca_trust, hook_schedule, readers_seen
from vaultpki.agent.context import Contact, Context
from vaultpki.agent.pairs import PairStatus
from vaultpki.agent.token_keys import KeysOnDisk, signing_mark
from vaultpki.certificates import ROOT, SERVICE_ACCOUNT
from vaultpki.errors import VaultpkiError
from vaultpki.host import boot_time
from vaultpki.model import AgentConfig
from vaultpki.node import credential
from vaultpki.node import pins as pins_of_node
from vaultpki.node import state as node_state
from vaultpki.node.assignment import Assignment
from vaultpki.node.secret_id import SecretIdFiles
from vaultpki.node.state import AgentState, ReaderSeen, Since
from vaultpki.pki.facts import Facts, Trust
from vaultpki.readers import KUBECONFIG_SERVERS
from vaultpki.records import node_report, report_paths
from vaultpki.records.node_report import (
    SURPLUS,
    BundleReport,
    CertificateReport,
    NodeReport,
    ReaderReport,
    TokenKeysReport,
)
from vaultpki.records.rotation import EVERY_DOMAIN
from vaultpki.records.service_account import SERVICE_ACCOUNT_KEYS
from vaultpki.vault import Vault

_KEYS_CA: Final = f"{SERVICE_ACCOUNT} CA"
"""The name in the state of the CAs that have signed the certificates of service-account keys."""


def note_installed(
    context: Context,
    wanted: Assignment,
    items: Collection[PairStatus],
    keys: KeysOnDisk | None = None,
    servers: Collection[str] = (),
) -> None:
    """Record in the state which CAs each installed bundle has, which leaf each pair has, and since when.

    So it does with the two files that kube-apiserver reads of `keys`, and with the `servers` in kubeconfigs.
    """
    state = context.state.value
    needed = bundles.needed(context.config, wanted)
    held = bundles.installed(context.folders, needed)
    pins = frozenset(_pins(context, wanted))
    roots = bundles.installed_roots(context.folders, needed, pins, context.config.also_trust)
    held |= {ROOT: roots} if roots else {}
    held |= {SERVICE_ACCOUNT: frozenset(keys.fingerprints)} if keys is not None and keys.fingerprints else {}
    leaves = {} if keys is None else {_KEYS_CA: keys.issuing}
    before = state.leaves.get(KUBECONFIG_SERVERS)
    if servers:
        leaves[KUBECONFIG_SERVERS] = (sha256("\n".join(sorted(servers)).encode()).hexdigest(),)
    elif before is not None:
        # None can be read now, and what changed before stays a change.
        leaves[KUBECONFIG_SERVERS] = before.sha256
    leaves |= {
        item.want.name: (item.leaf.fingerprint, *(facts.fingerprint for facts in item.served))
        for item in items
        if item.leaf is not None
    }
    installed = _since(state.leaves, leaves, context.clock)
    if KUBECONFIG_SERVERS in installed and before is None:
        # Nobody knows since when, and so which component has read another one.
        installed[KUBECONFIG_SERVERS] = replace(installed[KUBECONFIG_SERVERS], moment=None)
    context.state.value = replace(
        state,
        bundles=_since(state.bundles, {ca: tuple(sorted(found)) for ca, found in held.items()}, context.clock),
        leaves=installed,
    )


def _since(before: Mapping[str, Since], now: Mapping[str, tuple[str, ...]], clock: float) -> dict[str, Since]:
    kept = {name: each for name, each in before.items() if each.sha256 == now.get(name)}
    moment = boot_time.now()
    return {name: kept.get(name) or Since(clock, sha256, moment=moment) for name, sha256 in now.items()}


def _pins(context: Context, wanted: Assignment) -> tuple[str, ...]:
    above = ca_trust.roots_of(context.config, wanted, context.state.value, context.now)
    return tuple(facts.fingerprint for facts in above.trusted)


def build(
    context: Context,
    wanted: Assignment,
    items: Collection[PairStatus],
    untrusted: Collection[str],
    trust: Mapping[str, Trust],
    keys: KeysOnDisk | None = None,
) -> NodeReport:
    """Return the report of this moment. Its times are Vault's, as far as its clock is known.

    A foreign CA is no CA of a bundle there, since the gates of rotations count those.
    """
    from vaultpki import __version__

    state, files, when = context.state.value, SecretIdFiles(context.config.credentials), context.state.value.by_vault
    installed = {name: when(each.since) for name, each in state.leaves.items()}
    foreign = {ca: frozenset(facts.fingerprint for facts in known.foreign) for ca, known in trust.items()}
    held = {ca: foreign[ca].intersection(one.sha256) for ca, one in state.bundles.items() if ca in foreign}
    ignored = {ca: frozenset(each.fingerprint for each in known.foreign_ignored) for ca, known in trust.items()}
    made = NodeReport(
        time=when(context.clock),
        agent=__version__,
        seen=wanted.rotations.seen(state.revisions),
        certificates={item.want.name: _certificate(item, installed.get(item.want.name)) for item in items},
        bundles={
            ca: BundleReport(frozenset(one.sha256) - held.get(ca, frozenset()), when(one.since))
            for ca, one in state.bundles.items()
            if ca != SERVICE_ACCOUNT
        }
        | _keys_ca(state, when),
        readers={
            name: _reader(seen, state.bundles.get(name.partition("/")[0]), when)
            for name, seen in state.readers.items()
            if name != readers_seen.OF_TOKEN_KEYS and (seen.problem or not name.startswith(f"{KUBECONFIG_SERVERS}/"))
        },
        owed=tuple(sorted(state.owed)),
        failed=tuple(sorted(key for key, each in state.owed.items() if each.attempts)),
        waiting=hook_schedule.waiting(context, wanted),
        pins=_pins(context, wanted),
        written_pins=pins_of_node.written(context.config),
        failures=tuple(sorted(context.found.failures)),
        untrusted=tuple(untrusted),
        # Without a runner nothing says when the agent runs again.
        poll=context.config.poll if context.runner is not None else 0,
        look=wanted.look if context.runner is not None else 0,
        trust=state.trust,
        not_followed=wanted.rotations.not_followed,
        lost=files.lost(context.clock),
        in_use=files.in_use() if context.config.auth.method == "approle" else (),
        kubernetes=node_state.kubernetes(state),
        foreign={ca: found for ca, found in held.items() if found},
        foreign_ignored={ca: found for ca, found in ignored.items() if found},
        by_hand=state.by_hand,
        token_keys=_token_keys(wanted, keys, state, when) if keys is not None else None,
        surplus={each.place: _held(each.ca, SURPLUS, each.leaf, each.served) for each in wanted.surplus},
    )
    for each in context.options.procedures:
        made = each.report(made, context.config, wanted, state, context.clock)
    return made


def _keys_ca(state: AgentState, when: Callable[[float], datetime]) -> dict[str, BundleReport]:
    """Return the CAs by which certificates of service-account keys are checked, as the gates of their rotation count.

    No file holds them.
    """
    known = state.leaves.get(_KEYS_CA)
    if known is None or not known.sha256:
        return {}
    return {SERVICE_ACCOUNT: BundleReport(frozenset(known.sha256), when(known.since))}


def _token_keys(
    wanted: Assignment, keys: KeysOnDisk, state: AgentState, when: Callable[[float], datetime]
) -> TokenKeysReport:
    files, reader = state.bundles.get(SERVICE_ACCOUNT), state.readers.get(readers_seen.OF_TOKEN_KEYS, ReaderSeen())
    held, own = keys.held, keys.held.own
    loaded = set(reader.sha256) if reader.running else set()
    signing = [facts.fingerprint for facts in own.values() if signing_mark(facts) in loaded]
    return TokenKeysReport(
        wanted.keys.seen(state.revisions.get(SERVICE_ACCOUNT_KEYS, 0)),
        own={number: facts.pem for number, facts in own.items()},
        union=frozenset(facts.fingerprint for facts in held.union),
        signing=own[held.signing].fingerprint if held.signing is not None else "",
        installed=when(files.since) if files is not None else None,
        loaded_union=frozenset(each for each in loaded if ":" not in each),
        loaded_signing=next(iter(signing), ""),
        reader=replace(_reader(reader, files, when), sha256=frozenset()),
        extends=bool(state.token_life["extends"]) if state.token_life else None,
        longest=state.token_life["longest"] if state.token_life else None,
        issuer=state.token_issuer.get("issuer", ""),
        jwks_uri=state.token_issuer.get("jwks_uri", ""),
        shared=keys.shared,
        shared_key=keys.shared_key,
        admitted=not state.not_admitted,
    )


def send(context: Context, vault: Vault, report: NodeReport) -> None:
    """Write the report, and note in the state that it was written."""
    value, place = node_report.to_json(report), place_of(context.config, vault)
    if place is None:
        return
    try:
        write = vault.api.secrets.kv.v2.create_or_update_secret
        write(place, value, mount_point=f"{context.config.prefix}/config")
    except VaultpkiError:
        # The next pass that asks Vault writes it; until then a gate waits, and nothing else depends on it.
        return
    context.state.value = replace(context.state.value, reported=digest(value))


def place_of(config: AgentConfig, vault: Vault) -> str | None:
    """Return where this node's report belongs in the config store; None if Vault has not said which entity it is."""
    if config.pool is None:
        return report_paths.listed(config.node)
    if config.auth.method != "jwt":
        return report_paths.pooled(config.pool, config.node)
    return report_paths.by_token(config.pool, vault.entity) if report_paths.is_entity(vault.entity) else None


def is_news(context: Context, report: NodeReport) -> bool:
    """Return whether a report says something else than the last one that Vault has taken; its time does not count."""
    return digest(node_report.to_json(report)) != context.state.value.reported


def send_if_awaited(context: Context, contact: Contact, wanted: Assignment, report: NodeReport) -> None:
    """Write the report if it says something new while a rotation is under way, so that its gate need not wait."""
    rotations, revisions = wanted.rotations, context.state.value.revisions
    awaited = any(record.active for record in rotations.records.values())
    awaited = awaited or any(rotations.frozen(domain, revisions) for domain in EVERY_DOMAIN)
    awaited = awaited or readers_seen.awaits_token_keys(context, wanted)
    if contact.away is not None or not awaited or not is_news(context, report):
        return
    rest = context.options.rest
    try:
        vault = (
            rest.vault if rest is not None else credential.login(context.config, allow_http=context.options.allow_http)
        )
    except VaultpkiError:
        return
    send(context, vault, report)


def _reader(seen: ReaderSeen, bundle: Since | None, when: Callable[[float], datetime]) -> ReaderReport:
    """Return what to report of a component; `when` makes a time of Vault's clock out of one of this machine's.

    A gate compares its start with the time of the bundle, to the second and on Vault's clock, so the two times must
    say what the clock since boot says.
    """
    if not seen.running:
        return ReaderReport(None, problem=seen.problem, stopped=when(seen.stopped) if seen.stopped else None)
    started = when(seen.since)
    if readers_seen.started_with(seen, bundle):
        started = max(started, when(bundle.since)) if bundle is not None else started
    elif bundle is not None:
        started = min(started, when(bundle.since) - timedelta(seconds=1))
    return ReaderReport(started, frozenset(seen.sha256), running=True, healthy=not seen.problem, problem=seen.problem)


def _certificate(item: PairStatus, installed: datetime | None) -> CertificateReport:
    held = _held(item.want.ca, item.verdict.state.value, item.leaf, item.served)
    return replace(held, installed=installed, renew_after=item.verdict.renew_after)


def _held(ca: str, state: str, leaf: Facts | None, served: Iterable[Facts]) -> CertificateReport:
    return CertificateReport(
        ca=ca,
        state=state,
        not_after=leaf.not_after if leaf else None,
        serial=f"{leaf.serial:x}" if leaf else "",
        issuer_key_id=(leaf.authority_key_id or "") if leaf else "",
        served=tuple(facts.fingerprint for facts in served),
        not_before=leaf.not_before if leaf else None,
    )


def digest(value: Mapping[str, Any]) -> str:
    """Return a digest of a report without its time."""
    content = {name: entry for name, entry in value.items() if name != "time"}
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
