"""Hooks of what a pass changed: which are owed, when they run again, and what a person must do where there is none."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import replace
from hashlib import sha256
from types import MappingProxyType
from typing import Final

from vaultpki import readers
from vaultpki.agent import readers_seen
from vaultpki.agent.bundles import BundleDigest
from vaultpki.agent.context import Context
from vaultpki.agent.pairs import PairStatus
from vaultpki.agent.readers_seen import read_at_start
from vaultpki.certificates import ROOT, pair_files
from vaultpki.config.agent import is_current
from vaultpki.host import hooks
from vaultpki.host.log import Event, Value
from vaultpki.issue.rotations import Rotations
from vaultpki.node.assignment import Assignment
from vaultpki.node.state import AgentState, Since
from vaultpki.readers import KUBECONFIG_SERVERS
from vaultpki.records.rotation import Method, State
from vaultpki.records.service_account import SERVICE_ACCOUNT_KEYS

# The states of an issuing CA that goes along with the root in which its bundle has both certificates of its key.
_BOTH_CERTIFICATES: Final = frozenset({State.SWITCHED, State.RETRUSTING, State.RETURNING})

# Seconds for a server of kubeconfigs to make a handshake: a pass has one or two.
_SERVER_TIMEOUT: Final = 3.0


def live(items: Iterable[PairStatus], held: Mapping[str, BundleDigest], servers: Since | None = None) -> dict[str, str]:
    """Return a digest of what is on disk, by the keys of hooks: the names of certificates and bundles.

    Of a bundle it is that of the files that the hooks' components read; `held` has those of the bundles by
    key, and `servers` that of the servers which kubeconfigs name.
    """
    found = {}
    for item in items:
        stored = item.stored.get(pair_files(item.want.stem)[0])
        if stored is not None and stored.data is not None:
            found[item.want.name] = sha256(stored.data).hexdigest()[:32]
    found |= {KUBECONFIG_SERVERS: servers.sha256[0][:32]} if servers is not None else {}
    return found | {key: each.read for key, each in held.items()}


def waiting(context: Context, wanted: Assignment) -> tuple[str, ...]:
    """Return the CAs whose rotation this node waits for until it may restart something."""
    rotations, revisions = wanted.rotations, context.state.value.revisions
    keys = waiting_for_turn(context, wanted, context.state.value.owed)
    domains = {readers.CA_OF_BUNDLE[key] for key in keys if key in readers.CA_OF_BUNDLE}
    domains |= {rotations.leading(ca, revisions) for ca in domains}
    return tuple(sorted(domains | keys.intersection((SERVICE_ACCOUNT_KEYS,))))


def waiting_for_turn(context: Context, wanted: Assignment, keys: Iterable[str]) -> frozenset[str]:
    """Return those of `keys` whose hooks wait for this node's turn.

    While a CA is rotated, the nodes restart what reads it only at its start one after the other, as its record says.
    """
    return frozenset(
        key
        for key in keys
        if read_at_start(context, wanted, key)
        and not (
            _its_turn_for_keys(context, wanted)
            if key == SERVICE_ACCOUNT_KEYS
            else _its_turn(context, wanted, readers.CA_OF_BUNDLE[key])
        )
    )


def _its_turn_for_keys(context: Context, wanted: Assignment) -> bool:
    """Return whether kube-apiserver may restart for other service-account keys, which it may not by itself at any time.

    Nor is it started by a hook before the record admits its key. After a theft nobody waits for a turn.
    """
    highest = context.state.value.revisions.get(SERVICE_ACCOUNT_KEYS, 0)
    record, node = wanted.keys.record, context.config.node
    if record is None or wanted.keys.frozen(highest):
        return False
    entry = record.nodes.get(node)
    return record.turn == node or (record.hasty and entry is not None and entry.admitted)


def _its_turn(context: Context, wanted: Assignment, ca: str) -> bool:
    rotations, revisions = wanted.rotations, context.state.value.revisions
    domain = rotations.leading(ca, revisions)
    record = rotations.records.get(domain)
    if rotations.frozen(domain, revisions):
        # The record that gives the turns is not the newest.
        return False
    return record is None or not (record.active or record.lingers) or record.turn == context.config.node


def note_trust(context: Context, held: Mapping[str, BundleDigest]) -> None:
    """Record in the state which CAs the bundles have, in one word, and since when; `held` has their digests by key."""
    state = context.state.value
    whole = (held[key].whole if key in held else "" for key in readers.CA_OF_BUNDLE)
    trust = sha256("-".join(whole).encode()).hexdigest()[:16]
    since = state.trust_since if trust == state.trust else context.clock
    context.state.value = replace(state, trust=trust, trust_since=since)


def run_hooks(
    context: Context,
    live: Mapping[str, str],
    wanted: Assignment,
    held: Mapping[str, BundleDigest] = MappingProxyType({}),
    servers: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Run the hooks of what changed, and record in the state what ran and what is owed.

    `live` are the digests of the function of that name, `held` those of the bundles by key, and `servers` those that
    kubeconfigs name, with their CA files. With a runner hooks run in the background, and the next pass takes their
    results; without one they have run when this returns.
    """
    state, runner, now, config = context.state.value, context.runner, context.clock, context.config
    enough = {key: digest for key, digest in live.items() if _enough(context, wanted, key)}
    context.found.events.extend(_advice(context, live, wanted, {**state.hooked, **enough}))
    done, owed = dict(state.hooked), dict(state.owed)
    if runner is not None:
        _take(context, runner.results(), done, owed)
        # If the state cannot be written, only this process knows what has run.
        done |= {key: digest for key, digest in live.items() if runner.ran.get(key) == digest}
    frozen = _frozen(context, live)
    done = hooks.settled(live, done, config.hooks)
    at_start = (key for key in done if key == KUBECONFIG_SERVERS or read_at_start(context, wanted, key))
    for key in [key for key in at_start if done[key] != live[key]]:
        # A bundle that becomes what its hooks have run for again was another one in between, and a component that
        # started meanwhile has read that one.
        del done[key]
        if runner is not None:
            runner.ran.pop(key, None)
    done |= enough
    done = {key: digest for key, digest in done.items() if key not in frozen}
    done |= {key: state.hooked[key] for key in frozen if key in state.hooked}
    known = {key: each for key, each in config.hooks.items() if key not in frozen}
    owed = hooks.pending(hooks.owed(live, done, known), owed, now)
    by_hand = _by_hand(context, wanted, owed, held)
    context.found.events.extend(_requests(context, wanted, by_hand))
    turns = waiting_for_turn(context, wanted, owed)
    waits = turns | by_hand
    for key in sorted(turns):
        what = f"the rotation of the CA of {readers.CA_OF_BUNDLE.get(key)}"
        what = "the record of service-account keys" if key == SERVICE_ACCOUNT_KEYS else what
        text = f"the hooks of {key} wait for this node's turn in {what}"
        context.found.events.append(Event("turn", text, fields={"hook": key}))
    # A person who mended a hook and runs the agent once need not wait for the pause between two tries of the daemon.
    keys = [key for key in (owed if runner is None else hooks.ready(owed, now)) if key not in waits]
    if KUBECONFIG_SERVERS in keys and (error := _unusable(context, servers)):
        keys.remove(KUBECONFIG_SERVERS)
        attempts = owed[KUBECONFIG_SERVERS].attempts + 1
        result = hooks.Result(KUBECONFIG_SERVERS, live[KUBECONFIG_SERVERS], False, error, attempts)
        _take(context, [result], done, owed)
    jobs = hooks.jobs(config, keys, live, owed, readers_seen.installed(state, keys))
    if runner is None:
        if jobs:
            # Most passes run none.
            from vaultpki.host import hook_runner

            _take(context, hook_runner.run_now(jobs), done, owed)
        owed = hooks.pending(hooks.owed(live, done, known), owed, now)
        waiting = list(owed)
    else:
        runner.submit(jobs)
        waiting = [key for key in owed if key not in runner.busy]
    context.found.retry_at.extend(owed[key].not_before for key in waiting if owed[key].not_before > now)
    owns = {key: each.own if done.get(key) == live[key] else _hooked_own(state, key) for key, each in held.items()}
    context.state.value = replace(
        state,
        hooked=done,
        owed=owed | frozen,
        hooked_own={key: own for key, own in owns.items() if own is not None and own != done.get(key)},
        by_hand=tuple(sorted(by_hand & owed.keys())),
    )
    if runner is None and jobs:
        readers_seen.note(context, wanted)


def _unusable(context: Context, servers: Mapping[str, str]) -> str:
    """Return why no component may start with these servers now, as a sentence; "" if it may.

    No record gives turns for this. A wrong address, or a name that kube-apiserver's certificate does not have yet,
    would take every component of the cluster down that restarts.
    """
    if context.runner is not None and KUBECONFIG_SERVERS in context.runner.busy:
        return ""
    if not servers:
        return "the hooks of kubeconfigs wait until one can be read"
    from vaultpki.host import component_health

    for server, ca_file in servers.items():
        if problem := component_health.why_unusable(server, ca_file, _SERVER_TIMEOUT):
            return f"the hooks of kubeconfigs wait until {server} can be used: {problem}"
    return ""


def _by_hand(
    context: Context, wanted: Assignment, keys: Iterable[str], held: Mapping[str, BundleDigest]
) -> frozenset[str]:
    """Return those of `keys` whose hooks wait for a person, since only the foreign CAs of their bundles have changed.

    No record gives turns for that, and every member of etcd would restart at once. A person who runs the agent once, on
    one node after the other, is the turn. While a rotation gives turns, those count.
    """
    if context.runner is None and not context.options.share:
        return frozenset()
    state = context.state.value
    return frozenset(
        key
        for key in keys
        if key in held
        and _hooked_own(state, key) == held[key].own
        and read_at_start(context, wanted, key)
        and not _turns_are_given(wanted.rotations, readers.CA_OF_BUNDLE[key], state.revisions)
    )


def _hooked_own(state: AgentState, key: str) -> str | None:
    """Return the digest of the cluster's own CAs in the bundle that the hooks last ran for; None if it is not known."""
    # Without foreign CAs it is the same digest, and is not kept twice.
    return state.hooked_own.get(key, state.hooked.get(key))


def _turns_are_given(rotations: Rotations, ca: str, revisions: Mapping[str, int]) -> bool:
    record = rotations.records.get(ca)
    led = rotations.leading(ca, revisions) == ROOT
    return led or (record is not None and (record.active or record.lingers))


def _requests(context: Context, wanted: Assignment, keys: Iterable[str]) -> Iterable[Event]:
    for key in sorted(keys):
        names = [component for _, component in read_at_start(context, wanted, key)]
        text = (
            f"the foreign CAs of {readers.CA_OF_BUNDLE[key]} changed, which {' and '.join(names)} reads only at its "
            f"start. The hooks of {key} wait for a person. Run on one node after the other: `vaultpki agent --once`"
        )
        yield Event("by-hand", text, "warning", {"hook": key})


def _frozen(context: Context, live: Mapping[str, str]) -> dict[str, hooks.Owed]:
    """Return what is owed by an agent.yaml that is newer than the one this process has read, and cannot read now.

    It stays owed: nobody knows whether its line is still there, and which commands it has.
    """
    owed = {key: each for key, each in context.state.value.owed.items() if key in live}
    return {} if not owed or is_current(context.config) else owed


def _enough(context: Context, wanted: Assignment, key: str) -> bool:
    """Return whether what the readers of a changed bundle hold is enough, so that nothing is to be restarted now."""
    return (
        (key in context.state.value.by_hand and _started_with_all(context, wanted, key))
        or (key == KUBECONFIG_SERVERS and (_first_servers(context) or readers_seen.hold_servers(context, wanted)))
        or (key == SERVICE_ACCOUNT_KEYS and (_started_with_all(context, wanted, key) or _starts_later(context)))
        or _holds_more(context, wanted, key)
        or _only_renewed(context, wanted, key)
    )


def _started_with_all(context: Context, wanted: Assignment, key: str) -> bool:
    """Return whether every component that reads the bundle only at its start holds just what is in it now."""
    state = context.state.value
    pairs = [
        (state.readers.get(f"{ca}/{component}"), state.bundles.get(ca))
        for ca, component in read_at_start(context, wanted, key, roots=True)
    ]
    return bool(pairs) and all(
        seen is not None and bundle is not None and seen.running and set(seen.sha256) == set(bundle.sha256)
        for seen, bundle in pairs
    )


def _first_servers(context: Context) -> bool:
    """Return whether the first kubeconfigs have come: a component that has none does not run."""
    return KUBECONFIG_SERVERS not in {**context.state.value.hooked, **context.state.value.owed}


def _starts_later(context: Context) -> bool:
    """Return whether the first service-account key has come, and no kube-apiserver runs that has read other files."""
    state = context.state.value
    seen = state.readers.get(readers_seen.OF_TOKEN_KEYS)
    return SERVICE_ACCOUNT_KEYS not in state.hooked and not (seen is not None and seen.running)


def _holds_more(context: Context, wanted: Assignment, key: str) -> bool:
    """Return whether the bundle has only lost a CA of a rotation that was taken back, which its readers still hold.

    It is a root, or has the key of the CA that stays: no record gives turns, and without this rule every member of etcd
    would restart at once. Of another CA `vaultpki ca abort` gives turns.
    """
    ca = readers.CA_OF_BUNDLE.get(key, "")
    rotations, state = wanted.rotations, context.state.value
    records = [rotations.records[domain] for domain in (ca, ROOT) if domain in rotations.records]
    last = max(records, key=lambda record: record.since, default=None)
    if last is None or last.state is not State.STEADY or last.lingers or any(record.active for record in records):
        return False
    if any(rotations.frozen(domain, state.revisions) for domain in (ca, ROOT)):
        return False
    return _lacking(context, wanted, key) == set()


def _only_renewed(context: Context, wanted: Assignment, key: str) -> bool:
    """Return whether the bundle has only got another certificate for the key of a CA that its readers hold.

    The rotation of the root has each issuing CA signed again with its key. Who trusts the certificate of before trusts
    all that this key has signed, until that certificate leaves the bundle: then its readers are restarted, once.
    """
    ca = readers.CA_OF_BUNDLE.get(key, "")
    rotations, state = wanted.rotations, context.state.value
    root, own, bundle = rotations.records.get(ROOT), rotations.records.get(ca), state.bundles.get(ca)
    if root is None or own is None or own.new is None or bundle is None:
        return False
    if not (root.active and own.active and own.method is Method.SAME_KEY and own.state in _BOTH_CERTIFICATES):
        return False
    if own.old.sha256 not in bundle.sha256 or any(rotations.frozen(each, state.revisions) for each in (ca, ROOT)):
        return False
    for domain, component in read_at_start(context, wanted, key, roots=True):
        seen = state.readers.get(f"{domain}/{component}")
        # The gates of the root want a start after the roots that are there now. In a rollback from where the old
        # certificate had left already a reader may hold the new one alone, which goes at the end.
        if domain == ROOT and not readers_seen.started_with(seen, state.bundles.get(ROOT)):
            return False
        if domain != ROOT and (seen is None or own.old.sha256 not in seen.sha256):
            return False
    return _lacking(context, wanted, key) == {own.new.sha256}


def _lacking(context: Context, wanted: Assignment, key: str) -> set[str] | None:
    """Return the certificates of a bundle that one of its readers does not hold; None if that is not known."""
    state, lacking = context.state.value, set[str]()
    names = read_at_start(context, wanted, key, roots=True)
    for ca, component in names:
        bundle, seen = state.bundles.get(ca), state.readers.get(f"{ca}/{component}")
        if bundle is None or seen is None or not seen.running or not seen.sha256:
            return None
        lacking |= set(bundle.sha256) - set(seen.sha256)
    return lacking if names else None


def _take(context: Context, results: Iterable[hooks.Result], done: dict[str, str], owed: dict[str, hooks.Owed]) -> None:
    """Move the results of hooks to `done`, or back to `owed` with a later time."""
    for result in results:
        fields: dict[str, Value] = {"hook": result.key, "attempts": result.attempts}
        if result.ok:
            done[result.key] = result.digest
            context.found.events.append(Event("hook", f"ran the hooks of {result.key}", fields=fields))
        else:
            before = owed.get(result.key) or hooks.Owed(since=context.clock)
            jitter = random.random()  # noqa: S311 - not a secret
            owed[result.key] = hooks.failed(before, result.error, context.clock, jitter)
            context.found.events.append(Event("hook-failed", result.error, "warning", fields))


def _advice(context: Context, live: Mapping[str, str], wanted: Assignment, done: Mapping[str, str]) -> Iterable[Event]:
    """What a person must restart because a bundle changed and has no hook, and names in agent.yaml that nothing has."""
    config, versions = context.config, readers_seen.versions(context.state.value)
    # What an adoption changes it has restarted itself, by turns.
    record = wanted.adoption.record if config.taken_over is not None else None
    led = record is not None and record.active
    for key, digest in ({} if led else live).items():
        if done.get(key, digest) != digest and not config.hooks.get(key):
            advice = hooks.advice(key, wanted.roles, config.layout, versions)
            if advice:
                yield Event("advice", advice, "warning", {"bundle": key})
    # What is owed is run now, or is tried again, and says the same then.
    at_rest = [key for key in config.hooks if done.get(key) == live.get(key)]
    for key in at_rest:
        for hook in config.hooks[key]:
            from vaultpki.host import hook_files

            if problem := hook_files.why_refused(hook, path=hook_files.PATH, own=config.paths.values()):
                yield Event("config", f"{problem}; this hook will not be run", "warning", {"hook": key})
    names = {want.name for want in wanted.certificates}
    own = {SERVICE_ACCOUNT_KEYS} if wanted.token_key is not None else set[str]()
    own |= {KUBECONFIG_SERVERS} if readers.server_readers(wanted.roles, config.layout) else set()
    for key in hooks.unknown(config, names.union(readers.CA_OF_BUNDLE, own)):
        text = f"{config.file}: hooks: {key} is not a certificate or bundle of this node; its hooks never run"
        yield Event("config", text, "warning", {"hook": key})
    own = {wanted.token_key.name} if wanted.token_key is not None else set[str]()
    for name in config.certificates:
        if name not in names.union(own):
            text = (
                f"{config.file}: certificates: {name} is not a certificate of this node; its owner and mode are not "
                "used"
            )
            yield Event("config", text, "warning", {"certificate": name})
