"""Look at what reads a bundle only when it starts: since when each one runs, with which CAs, and whether it is healthy.

A hook may succeed and restart nothing, and a person may restart a component without a hook. So what counts is the
process. Starts and installations are compared on the clock since boot, which nobody sets.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit

from vaultpki import kubernetes_versions, readers
from vaultpki.agent.context import Context
from vaultpki.certificates import ROOT, SERVICE_ACCOUNT
from vaultpki.host import boot_time, processes
from vaultpki.host.boot_time import Moment
from vaultpki.host.processes import Process
from vaultpki.model import AgentConfig
from vaultpki.node import state as node_state
from vaultpki.node.assignment import Assignment
from vaultpki.node.state import AgentState, ReaderSeen, Since, VersionSeen
from vaultpki.readers import KUBECONFIG_SERVERS
from vaultpki.records.service_account import SERVICE_ACCOUNT_KEYS
from vaultpki.redact import printable

AGAIN: Final = 10.0
"""Seconds until a resident agent looks again at what a rotation waits for on this node."""

# Seconds for one component: three of them must not hold up a pass for long.
_TIMEOUT: Final = 3.0
_API_SERVER: Final = "kube-apiserver"

OF_TOKEN_KEYS: Final = f"{SERVICE_ACCOUNT}/{_API_SERVER}"
"""The reader of `sa.key` and `sa.pub`, which reads both only when it starts (kubernetes pkg/kubeapiserver/options)."""
_LONGEST: Final = 300


def read_at_start(
    context: Context, wanted: Assignment, key: str, *, roots: bool = False
) -> tuple[tuple[str, str], ...]:
    """Return CA and component of what on this node reads the bundle of the hooks `key` only when it starts.

    With `roots` a component whose bundle has the roots too is listed under the root as well. The versions of components
    count as the last pass that looked at them saw them.
    """
    if key == SERVICE_ACCOUNT_KEYS:
        return ((SERVICE_ACCOUNT, _API_SERVER),) if wanted.token_key is not None else ()
    ca = readers.CA_OF_BUNDLE.get(key)
    found = readers.start_only(ca, wanted.roles, context.config.layout, versions(context.state.value)) if ca else ()
    named = tuple((each.ca, each.component) for each in found)
    return named + tuple((ROOT, each.component) for each in found if roots and each.chain)


def versions(state: AgentState) -> dict[str, int]:
    """Return the minor versions of Kubernetes 1 that components of this node have, where they are known."""
    return kubernetes_versions.minors(node_state.kubernetes(state))


def note(context: Context, wanted: Assignment) -> None:
    """Look at the readers of this node, and record in the state what was seen of each.

    What a process started with is known if it started after the bundle was installed, or was seen before.
    """
    running = _running(context.config, {each.component for each in readers.READERS})
    _note_versions(context, wanted, running)
    state = context.state.value
    names = _names(context, wanted)
    seen = {component: _judged(component, running) for component in {component for _, component in names}}
    ended = {component for component, (process, _) in seen.items() if process is None and _stopped(component, wanted)}
    found = {}
    for ca, component in names:
        name, (process, problem) = f"{ca}/{component}", seen[component]
        before = state.readers.get(name)
        if process is None:
            last = before or ReaderSeen()
            since = (last.stopped or context.clock) if component in ended else 0.0
            found[name] = replace(last, running=False, problem=problem, stopped=since)
            continue
        if before is None or before.moment != process.started:
            before = _started(context, process)
        runs = replace(before, running=True, problem=problem, stopped=0.0)
        found[name] = replace(runs, sha256=_cas_in_memory(context, ca, runs))
    found |= _held_servers(context, wanted, running)
    process = seen[_API_SERVER][0] if wanted.token_key is not None else None
    flags = None
    if process is not None:
        from vaultpki.kube.token_flags import token_flags

        flags = token_flags(process.arguments)
    life = {"extends": int(flags.extends), "longest": flags.longest} if flags is not None else {}
    named = {"issuer": flags.issuer, "jwks_uri": flags.jwks_uri} if flags is not None else {}
    issuer = {flag: each for flag, each in named.items() if each}
    context.state.value = replace(state, readers=found, token_life=life, token_issuer=issuer)


def _held_servers(
    context: Context, wanted: Assignment, running: Mapping[str, tuple[Process, ...]]
) -> dict[str, ReaderSeen]:
    """Return the components that use kubeconfigs, each with the digest of the servers that it was started with.

    One that was there when the agent first looked counts as started with those of then.
    """
    state, found = context.state.value, dict[str, ReaderSeen]()
    named = state.leaves.get(KUBECONFIG_SERVERS)
    for component in readers.server_readers(wanted.roles, context.config.layout):
        name, process = f"{KUBECONFIG_SERVERS}/{component}", next(iter(running.get(component, ())), None)
        if named is None or process is None:
            continue
        seen = state.readers.get(name)
        if seen is None or seen.moment != process.started:
            read = named.moment is None or process.started.later_than(named.moment)
            seen = replace(_started(context, process), sha256=named.sha256 if read else ())
        old = seen.sha256 != named.sha256
        found[name] = replace(seen, problem=readers.not_started_again(component, KUBECONFIG_SERVERS) if old else "")
    return found


def _started(context: Context, process: Process) -> ReaderSeen:
    since = context.clock - max(boot_time.now().uptime - process.started.uptime, 0.0)
    return ReaderSeen(since=max(since, 0.0), moment=process.started, running=True)


def _note_versions(context: Context, wanted: Assignment, running: Mapping[str, tuple[Process, ...]]) -> None:
    """Record the versions of the components whose version decides how they read a bundle.

    That of a process is asked for until it is known. Until then, and while the component is stopped, the last one
    counts: a start that is owed stays owed.
    """
    config, before, found = context.config, context.state.value.versions, {}
    for component in readers.versioned(wanted.roles, config.layout):
        process = next(iter(running[component]), None)
        seen = before.get(component)
        if process is not None and (seen is None or seen.moment != process.started):
            from vaultpki.host import component_version

            version = component_version.of_process(process)
            seen = VersionSeen(version, process.started) if version else seen
        if seen is not None:
            found[component] = seen
    context.state.value = replace(context.state.value, versions=found)


def _names(context: Context, wanted: Assignment) -> tuple[tuple[str, str], ...]:
    keys = (*readers.CA_OF_BUNDLE, SERVICE_ACCOUNT_KEYS)
    return tuple(each for key in keys for each in read_at_start(context, wanted, key, roots=True))


def _running(config: AgentConfig, components: Collection[str]) -> dict[str, tuple[Process, ...]]:
    """Return the processes of components of this node, those that have run longest first."""
    return processes.find_all(components, tuple(config.paths.values()))


def _judged(component: str, running: Mapping[str, tuple[Process, ...]]) -> tuple[Process | None, str]:
    """Return the process of a component that has run longest, and what is wrong; "" if each of them is healthy."""
    found = running[component]
    if not found:
        return None, f"no process of {component} was seen that reads this node's files"
    from vaultpki.host import component_health

    problems = (component_health.why_unhealthy(each, _TIMEOUT) for each in found)
    return found[0], printable(next(filter(None, problems), ""))[:_LONGEST]


def _stopped(component: str, wanted: Assignment) -> bool:
    """Return whether a component of which no process was seen is known not to run."""
    from vaultpki.host import stopped

    addresses = {each for one in wanted.certificates for each in one.subject.ips}
    ports = {urlsplit(wanted.server).port or 443} if component == _API_SERVER else ()
    return stopped.is_stopped(component, addresses, ports)


def _cas_in_memory(context: Context, ca: str, seen: ReaderSeen) -> tuple[str, ...]:
    """Return the CAs that a running process has in memory; empty if that is not known."""
    bundle, former = context.state.value.bundles.get(ca), context.state.at_start.bundles.get(ca)
    if started_with(seen, bundle):
        return bundle.sha256 if bundle is not None else ()
    if seen.sha256 or former is None or former == bundle:
        return seen.sha256
    # This pass has installed another bundle, and the process was there before it began.
    there = seen.moment is not None and context.began.later_than(seen.moment)
    return former.sha256 if there and started_with(seen, former) else ()


def started_with(seen: ReaderSeen | None, bundle: Since | None) -> bool:
    """Return whether a process that runs was started after the bundle was installed, so that it has read it."""
    if seen is None or bundle is None or not seen.running or seen.moment is None or bundle.moment is None:
        return False
    return seen.moment.later_than(bundle.moment)


def hold_servers(context: Context, wanted: Assignment) -> bool:
    """Return whether every component that uses kubeconfigs is seen, and was started with the servers of now."""
    names = readers.server_readers(wanted.roles, context.config.layout)
    seen = [context.state.value.readers.get(f"{KUBECONFIG_SERVERS}/{component}") for component in names]
    return bool(seen) and all(one is not None and one.running and not one.problem for one in seen)


def installed(state: AgentState, keys: Iterable[str]) -> dict[str, Moment]:
    """Return a moment after the newest file of each of these keys of hooks was installed, where it is known."""
    boot, found = boot_time.boot(), {}
    for key in keys:
        if key == SERVICE_ACCOUNT_KEYS:
            files = [state.bundles.get(SERVICE_ACCOUNT)]
        elif key in readers.CA_OF_BUNDLE:
            names = (readers.CA_OF_BUNDLE[key], *((ROOT,) if readers.reads_roots(key) else ()))
            files = [state.bundles.get(name) for name in names]
        else:
            files = [state.leaves.get(key)]
        moments = [each.moment if each is not None else None for each in files]
        known = [moment for moment in moments if moment is not None]
        if len(known) == len(moments):
            found[key] = max(known, key=lambda moment: (moment.boot == boot, moment.uptime))
    return found


def behind(state: AgentState) -> dict[str, str]:
    """Return what is wrong with components that run here, by `CA/COMPONENT`, as a part of a sentence about each."""
    return {name: text for name in state.readers if (text := _wrong(state, name))}


def _wrong(state: AgentState, name: str) -> str:
    ca, _, component = name.partition("/")
    seen, bundle = state.readers[name], state.bundles.get(ca)
    if not seen.running or ca == KUBECONFIG_SERVERS:
        return seen.problem if seen.running else ""
    # What a process holds is not known if it was there before this agent, or if the agent's state was lost.
    held = set(seen.sha256)
    if bundle is not None and held and held != set(bundle.sha256) and not started_with(seen, bundle):
        return readers.not_started_again(component, ca, versions(state).get(component))
    return readers.not_healthy(component, seen.problem) if seen.problem else ""


def awaited(context: Context, wanted: Assignment) -> dict[str, ReaderSeen]:
    """Return what this node still owes in a rotation that is under way: readers that are not as its gates want them."""
    state, rotations = context.state.value, wanted.rotations
    active = {
        domain
        for domain, record in rotations.records.items()
        if (record.active or record.turn) and not rotations.frozen(domain, state.revisions)
    }
    active |= {SERVICE_ACCOUNT} if awaits_token_keys(context, wanted) else set()
    return {
        name: seen
        for name, seen in state.readers.items()
        for ca in [name.partition("/")[0]]
        if ca in active and (seen.problem or not started_with(seen, state.bundles.get(ca)))
    }


def awaits_token_keys(context: Context, wanted: Assignment) -> bool:
    """Return whether the record of service-account keys waits for restarts: in a rotation, and while it gives turns."""
    record, highest = wanted.keys.record, context.state.value.revisions.get(SERVICE_ACCOUNT_KEYS, 0)
    return record is not None and bool(record.active or record.turn) and not wanted.keys.frozen(highest)


def changed(config: AgentConfig, before: Mapping[str, ReaderSeen]) -> bool:
    """Return whether one of these readers differs from what a pass saw. Asks nobody but the components."""
    components = {name.partition("/")[2]: seen for name, seen in before.items()}
    running = _running(config, components)
    for component, seen in components.items():
        process, problem = _judged(component, running)
        if (process is not None, problem) != (seen.running, seen.problem):
            return True
        if process is not None and process.started != seen.moment:
            return True
    return False
