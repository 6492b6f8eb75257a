"""What follows from what lies there once a pass is done: hooks that are owed run, and people are told the rest."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import replace
from hashlib import sha256

from vaultpki import bundles, hooks
from vaultpki.certificates import pair_files
from vaultpki.holding import Holding
from vaultpki.log import Event, Value
from vaultpki.memory import Memory
from vaultpki.model import AgentConfig
from vaultpki.pairs import Item
from vaultpki.store import Directory
from vaultpki.values import dataclass


@dataclass(frozen=True, slots=True)
class Aftermath:
    """`memory` knows what hooks ran for and what is owed; `again` are the moments (Unix time) of what waits."""

    memory: Memory
    events: tuple[Event, ...]
    again: tuple[float, ...]


def live(directory: Directory, items: Iterable[Item]) -> dict[str, str]:
    """A digest of what lies on the disk for each key that hooks may have: certificates and bundles."""
    found = {}
    for item in items:
        stored = item.stored.get(pair_files(item.want.stem)[0])
        if stored is not None and stored.data is not None:
            found[item.want.name] = sha256(stored.data).hexdigest()[:32]
    return found | bundles.digests(directory)


def follow(
    config: AgentConfig,
    found: Mapping[str, str],
    spec: Holding,
    known: Memory,
    runner: hooks.Runner | None,
    now: float,
) -> Aftermath:
    """Has hooks run for what changed: in the background where there is a `runner`, whose results the next pass takes.

    `found` is what `live` says, `spec` what this node holds, `now` Unix time. Without a runner they have run when this
    returns.
    """
    events = list(_told(config, found, spec, known.hooked))
    done, owing = dict(known.hooked), dict(known.owed)

    def take(results: Iterable[hooks.Result]) -> None:
        for result in results:
            about: dict[str, Value] = {"hook": result.key, "attempts": result.attempts}
            if result.ok:
                done[result.key] = result.digest
                events.append(Event("hook", f"ran the hooks of {result.key}", fields=about))
            else:
                before = owing.get(result.key) or hooks.Owed(since=now)
                owing[result.key] = hooks.failed(before, result.error, now, random.random())  # noqa: S311 - jitter
                events.append(Event("hook-failed", result.error, "warning", about))

    if runner is not None:
        take(runner.results())
        # Where the memory cannot be written, what has worked is known in this process alone.
        done |= {key: digest for key, digest in found.items() if runner.ran.get(key) == digest}
    done = hooks.settled(found, done, config.hooks)
    owing = hooks.pending(hooks.owed(found, done, config.hooks), owing, now)
    # A person who mended a hook and runs once waits for no pause, which is there for an agent that stays.
    jobs = hooks.jobs(config, owing if runner is None else hooks.ready(owing, now), found, owing)
    if runner is None:
        take(hooks.run_now(jobs) if jobs else ())
        owing = hooks.pending(hooks.owed(found, done, config.hooks), owing, now)
        waiting = list(owing)
    else:
        runner.submit(jobs)
        waiting = [key for key in owing if key not in runner.busy]
    again = tuple(owing[key].not_before for key in waiting if owing[key].not_before > now)
    trust = sha256("-".join(found.get(key, "") for key in hooks.BUNDLES).encode()).hexdigest()[:16]
    since = known.trust_since if trust == known.trust else now
    return Aftermath(replace(known, hooked=done, owed=owing, trust=trust, trust_since=since), tuple(events), again)


def _told(config: AgentConfig, found: Mapping[str, str], spec: Holding, done: Mapping[str, str]) -> Iterable[Event]:
    """What a person must restart, where new trust came and no hook is there to do it; and what agent.yaml says of none.

    A name that nothing here has is told, since it may be another that was misspelt.
    """
    for key, digest in found.items():
        if done.get(key, digest) != digest and not config.hooks.get(key):
            advice = hooks.advice(key, spec.roles)
            if advice:
                yield Event("advice", advice, "warning", {"bundle": key})
    names = {want.name for want in spec.certificates}
    for key in hooks.unknown(config, names.union(hooks.BUNDLES)):
        text = f"{config.file}: hooks: {key} is no certificate or bundle of this node; its hooks never run"
        yield Event("config", text, "warning", {"hook": key})
    for name in config.certificates:
        if name not in names:
            text = (
                f"{config.file}: certificates: {name} is no certificate of this node; its owner and mode are nobody's"
            )
            yield Event("config", text, "warning", {"certificate": name})
