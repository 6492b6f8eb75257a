"""What a pass tells: the report to Vault, hooks to those who read the files, and its outcome to who runs the agent."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from vaultpki.agent import ca_trust, hook_schedule, pairs, readers_seen, report
from vaultpki.agent.context import Contact, Context, Outcome
from vaultpki.agent.done import Done
from vaultpki.agent.pairs import PairStatus
from vaultpki.errors import CertificateRefused, Unsafe, VaultError, VaultpkiError
from vaultpki.node import at_rest
from vaultpki.node import state as agent_state
from vaultpki.node.assignment import Assignment
from vaultpki.node.at_rest import AtRest
from vaultpki.node.procedures import PassMade
from vaultpki.node.state import AgentState
from vaultpki.readers import KUBECONFIG_SERVERS


def tell(context: Context, contact: Contact, done: Done) -> Outcome:
    """Send the report, run hooks, and return the outcome, whose state is in `context` and not yet on the disk."""
    found, config, items = context.found, context.config, done.items
    assigned, trust, keys = done.wanted.assigned, done.wanted.trust, done.keys
    named = context.state.value.leaves.get(KUBECONFIG_SERVERS)
    live = hook_schedule.live(items, done.held, named) | (keys.keys.live if keys.keys is not None else {})
    vault = contact.usable
    before = None
    if vault is not None and context.runner is None:
        # A hook may take long, and may end this process.
        before = report.build(context, assigned, items, done.untrusted, trust, keys.keys)
        report.send(context, vault, before)
    hook_schedule.run_hooks(context, live, assigned, done.held, done.servers)
    last = report.build(context, assigned, items, done.untrusted, trust, keys.keys)
    if vault is None:
        report.send_if_awaited(context, contact, assigned, last)
    elif (before is None and not contact.polled) or report.is_news(context, last):
        report.send(context, vault, last)
    context.state.value = replace(_remembered(context, items, keys.names), next_within=last.next_within)
    if context.folders.unsettled:
        # Settling takes some seconds, and a crash must not lose this.
        context.state.save()
    return Outcome(
        renewed=done.signed.renewed + keys.signed.renewed,
        requested=done.signed.requested + keys.signed.requested,
        failures=found.failures,
        due=min((item.verdict.renew_after for item in items if item.verdict.renew_after is not None), default=None),
        first_expiry=min((item.not_after for item in items if item.not_after is not None), default=None),
        retry_at=min(found.retry_at, default=None),
        reached=contact.reached,
        events=tuple(found.events),
        items=items,
        urgent=min(
            (
                item.not_after
                for item in items
                if item.not_after is not None
                and not pairs.needs_another_ca(item, found.failures.get(item.want.name), context.now)
            ),
            default=None,
        ),
        lives=ca_trust.lives(assigned, trust, cluster=config.cluster),
        foreign=tuple(ca_trust.foreign_complaints(trust)),
        awaited=readers_seen.awaited(context, assigned),
        rest=_at_rest(context, contact, assigned),
        surplus=assigned.surplus,
        mended=done.mended,
        made=PassMade(assigned, last, contact.reached),
    )


def _at_rest(context: Context, contact: Contact, wanted: Assignment) -> AtRest | None:
    """Return what the next pass may poll with; None makes it look at everything.

    After a poll, answered or not, and where Vault was not asked, it is what this pass got. A failure that may be mended
    by looking again ends it.
    """
    if contact.polled and contact.away is not None:
        return context.options.rest
    if any(isinstance(error, VaultError | CertificateRefused) for error in context.found.failures.values()):
        return None
    if contact.by_copy:
        return context.options.rest
    if contact.vault is None:
        return None
    before = context.options.rest if contact.stepped else None
    return at_rest.after_look(context.config, contact.vault, wanted, context.clock, context.began, before)


def remember_failure(context: Context, what: str, error: VaultpkiError) -> None:
    """Add a failure that came after `tell` to the outcome and to the agent's state."""
    context.found.failures[what] = error
    state = context.state.value
    failures = {what: str(error) for what, error in context.found.failures.items()}
    state = agent_state.with_faults(state, failures, context.clock)
    context.state.save(replace(state, state=agent_state.state_of(context.found.failures.values())))


def _remembered(context: Context, items: Collection[PairStatus], further: Collection[str]) -> AgentState:
    """The agent's state after this pass, without what belongs to certificates that this node no longer holds.

    `further` are the names of those that are not for TLS.
    """
    names, failures = {item.want.name for item in items}.union(further), context.found.failures
    serials = {item.want.name: item.leaf.serial for item in items if item.leaf is not None}
    state = agent_state.with_faults(context.state.value, {w: str(e) for w, e in failures.items()}, context.clock)
    return replace(
        state,
        certificates={name: one for name, one in state.certificates.items() if name in names},
        exposed={name: serial for name, serial in state.exposed.items() if name in names},
        unsafe=_unsafe(context),
        spent={name: times for name, times in state.spent.items() if name in names},
        unanswered={name: times for name, times in state.unanswered.items() if name in names},
        held={name: until for name, until in state.held.items() if until > context.clock and name in names},
        revoked={name: serial for name, serial in state.revoked.items() if serials.get(name) == serial},
        postponed={name: each for name, each in state.postponed.items() if serials.get(name) == each.serial},
        state=agent_state.state_of(failures.values()),
    )


def _unsafe(context: Context) -> tuple[str, ...]:
    """Return the paths that others can write to, or whose files could not be replaced since they could."""
    places = {error.place for error in context.found.failures.values() if isinstance(error, Unsafe)}
    return tuple(sorted(places | context.found.unsafe))
