"""Makes a server the cluster's certificate authority: observe, plan, carry out, until nothing is left to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from vaultpki.certificates import ROOT, all_cas, issuing_cas
from vaultpki.errors import BadAnswer, Refused, Sealed, Unavailable
from vaultpki.identity import change_notice, outside_signer, reports
from vaultpki.identity.applied import APPLIED, of_cluster
from vaultpki.identity.token_rights import refuse_weak_token
from vaultpki.model import Cluster
from vaultpki.pki.ca_life import CaLife
from vaultpki.provision import ca_ends, dangers, foreign_cas, leftovers, refused_changes
from vaultpki.provision.ca_facts import rotations_needed
from vaultpki.provision.observe import Observation, observe, refuse_foreign
from vaultpki.provision.plan import (
    Change,
    Danger,
    Impact,
    Live,
    Plan,
    followed,
    is_notice,
    notice_change,
    plan,
    without_notice,
)
from vaultpki.provision.read_back import CaMount
from vaultpki.records import report_paths
from vaultpki.records.changes import CHANGES, Changes
from vaultpki.records.followed import digests
from vaultpki.records.server_facts import ServerFacts
from vaultpki.redact import named
from vaultpki.vault import Vault
from vaultpki.vault.kv import Stored

# In seconds: an election (8 to 14 s by default) and a slow one after it.
_AWAY_SECONDS = 90.0
_MOST_ROUNDS = 8

Progress = Callable[[Change], None]
StepProgress = Callable[[Change, int], None]
"""Is called after each change, from any thread, with how many there are in all."""


def observe_and_plan(cluster: Cluster, vault: Vault, where: ServerFacts) -> tuple[Observation, Plan]:
    """Return what is there, and what an apply would change; writes nothing.

    Of `where` count the addresses, CA and namespace by which nodes find Vault if cluster.yaml does not say it. Raises
    ForeignObject if an object of others is in the place of ours, SpecError for another layout while nodes take part,
    and SpecError or StateConflict for what an adoption or a rotation that is under way needs.
    """
    now = datetime.now(UTC)
    seen = observe(cluster, vault, where)
    cluster = seen.cluster
    refused_changes.refuse_moved(cluster, seen)
    refuse_foreign(cluster, seen)
    foreign_cas.refuse_unfit(cluster, seen, now)
    refused_changes.refuse_layout(cluster, vault, seen)
    refused_changes.refuse_by_adoption(cluster, vault, seen)
    refused_changes.refuse_key_type(cluster, seen)
    records = seen.found.rotations
    moving = seen.found.move is not None and seen.found.move.active
    # Those of a move are led by its own commands.
    active = tuple(record for record in records.values() if record.active and not moving)
    waiting = tuple(ca for ca in issuing_cas(cluster) if ca in seen.facts.waiting)
    todo = replace(plan(seen.wanted, seen.observed), waiting=waiting)
    there = ("mount", cluster.mount("config")) in seen.observed.objects
    return seen, replace(
        todo,
        changes=(*todo.changes, *_corrected(cluster, seen, todo)),
        dangers=(
            *todo.dangers,
            *_of_signer(cluster, vault, todo),
            # In a move nodes have read records of both servers.
            *(dangers.nodes_apart(cluster, vault, records) if there and not moving else ()),
        ),
        rotations=rotations_needed(cluster, seen.cas, records, moves=seen.moves),
        active=active,
        expires=ca_ends.of(
            cluster,
            seen.cas,
            now,
            {record.domain for record in records.values() if record.active},
            _lives_above(cluster, seen),
        ),
    )


def _of_signer(cluster: Cluster, vault: Vault, todo: Plan) -> tuple[Danger, ...]:
    """Return what is in the way of a signer outside, as long as there is something to sign."""
    if cluster.authority.outside is None:
        return ()
    keys = {change.key for change in todo.changes if change.action == "create"}
    missing = [ca for ca in issuing_cas(cluster) if ("issuer", cluster.mount(ca)) in keys or ca in todo.waiting]
    outside = cluster.authority.outside
    name = "the root from outside" if outside.by_people else f"signer {outside.mount}/issuer/{outside.issuer}"
    return tuple(Danger(name, why) for why in outside_signer.problems(cluster, vault, missing))


def _lives_above(cluster: Cluster, seen: Observation) -> tuple[CaLife, ...]:
    mounts = seen.found.cas
    pems = {ca: mounts[mount].pem for ca in all_cas(cluster) if (mount := cluster.mount(ca)) in mounts}
    shown = mounts[cluster.mount(ROOT)].certificates.values() if ROOT in pems else ()
    return ca_ends.lives_above(cluster, pems, shown)


def _corrected(cluster: Cluster, seen: Observation, todo: Plan) -> tuple[Change, ...]:
    """Return the change of the record that agents poll; none if it is right.

    None, too, if the plan changes what nodes follow: an apply then writes the record anew, whatever it says. An issuer
    that gets its name back is known by it again.
    """
    if any(followed(cluster, change) or change.kind == "issuer" for change in todo.changes):
        return ()
    change = notice_change(cluster, seen.found.notice.record, _digests(cluster, seen))
    return () if change is None else (change,)


def _digests(cluster: Cluster, seen: Observation) -> dict[str, str]:
    mounts = {ca: seen.found.cas.get(cluster.mount(ca), CaMount()) for ca in all_cas(cluster)}
    issuers = {ca: mount.issuers for ca, mount in mounts.items()}
    # What others put beside our records is followed by nobody.
    own = {key: fields for key, fields in seen.observed.objects.items() if key in seen.wanted}
    return digests(cluster, own, seen.found.as_stored, issuers, seen.found.adopted.record, seen.found.keys)


def with_impact(cluster: Cluster, vault: Vault, seen: Observation, todo: Plan) -> Plan:
    """Return the plan with its impact on nodes that take part already, for which it lists their reports if needed."""
    from vaultpki.provision.impact import concerns_nodes

    live = _live(cluster, vault, seen) if concerns_nodes(cluster, todo.changes) else Live()
    return replace(todo, impact=impact_for(cluster, todo, live), live=live)


def impact_for(cluster: Cluster, todo: Plan, live: Live) -> tuple[Impact, ...]:
    """Return the impact of a plan on these nodes.

    What it means for etcd's quorum and for revocation stands first, and does not depend on reports.
    """
    from vaultpki.provision import quorum
    from vaultpki.provision.impact import concerns_nodes, impact_of, of_signer, of_storage

    first = (*quorum.impact_of(cluster, todo.changes), *of_storage(cluster, todo.changes))
    first += (*of_signer(cluster, todo.changes),)
    return (*first, *impact_of(cluster, todo.changes, live)) if concerns_nodes(cluster, todo.changes) else first


def _live(cluster: Cluster, vault: Vault, seen: Observation) -> Live:
    reported = set(reports.names_in(cluster, vault, report_paths.folder("listed")))
    reported |= {each.name for each in reports.token_identities(cluster, vault)}
    return Live(frozenset(reported), seen.found.pooled)


def apply(
    cluster: Cluster,
    vault: Vault,
    where: ServerFacts,
    *,
    first: Plan | None,
    strict: bool = False,
    progress: Progress,
    step: StepProgress = lambda change, total: None,
    begin: Callable[[Plan], None] = lambda plan: None,
    say: Callable[[str], None] = lambda line: None,
) -> Plan:
    """Carry out what `observe_and_plan` shows until nothing is left to do; returns every change made.

    `first` is the plan that a person agreed to: nothing is written if the server has changed since. With `strict` it
    stops, too, if anything else is left to change once `first` was carried out: others write there. `begin` is called
    with the plan of each round before its first write, the first one with its impact; `progress` with each change once
    its stage is made, `step` after each change at once. `say` is as for `await_logins`. A server that goes away in the
    middle is waited for, and the work continues from what is there then. The record that agents poll says `changing`
    before the first change that nodes follow, and is settled when nothing else is left. At the end secret ids are ended
    whose answers were lost; no plan shows them.
    """
    done: list[Change] = []
    begun: Stored[Changes] | None = None
    give_up = time.monotonic() + _AWAY_SECONDS
    rounds = 0
    impact: tuple[Impact, ...] = ()
    while True:
        try:
            seen, todo = observe_and_plan(cluster, vault, where)
            cluster = seen.cluster
            rest = without_notice(todo.changes)
            if first is not None and rounds == 0:
                _refuse_other(first, rest)
            _refuse_further(vault, first if strict and rounds else None, todo, done)
            through = not rest and seen.found.applied == of_cluster(cluster, seen.facts, seen.wanted)
            if rounds == 0 and (todo.changes or not through):
                todo = with_impact(cluster, vault, seen, todo)
                impact = todo.impact
                refuse_weak_token(cluster, vault, _rights(cluster, vault, seen, todo))
                if through:
                    begin(todo)
            if through and _settled(cluster, vault, seen, todo, begun):
                # What this apply has announced itself is no change of its plan.
                noticed = todo.changes if begun is None else ()
                _report(noticed, done, progress, partial(_step, step, len(done) + len(noticed)))
                # After all else: of what nobody has nothing depends.
                _report(leftovers.end(cluster, vault), done, progress)
                return replace(todo, changes=tuple(done), impact=impact, root_sha256=seen.facts.root_sha256)
            rounds += 1
            if rounds > _MOST_ROUNDS:
                raise _endless(todo)
            if rest:
                begin(todo)
            begun = _begun(cluster, vault, seen, rest, begun)
            total = len(done) + len(todo.changes)
            from vaultpki.provision.carry_out import carry_out

            todo = replace(todo, changes=rest)
            for change in carry_out(cluster, vault, seen, todo, partial(_step, step, total), say):
                done.append(change)
                progress(change)
            # The next observation takes as much memory.
            del seen, todo, rest
        except Sealed:
            raise
        except Refused as error:
            # The last request of a run that was killed may have reached the server after we looked.
            if not any("name already in use" in reason for reason in error.reasons) or time.monotonic() >= give_up:
                raise
            time.sleep(0.5)
        except Unavailable:
            if rounds == 0 or time.monotonic() >= give_up:
                raise
            time.sleep(0.5)


def _report(
    changes: Iterable[Change],
    done: list[Change],
    progress: Progress,
    counted: Callable[[Change], None] = lambda change: None,
) -> None:
    for change in changes:
        counted(change)
        done.append(change)
        progress(change)


def _begun(
    cluster: Cluster, vault: Vault, seen: Observation, rest: Iterable[Change], begun: Stored[Changes] | None
) -> Stored[Changes] | None:
    """Tell agents that what they follow changes, if one of these does, unless this apply has and nobody settled it."""
    if not any(followed(cluster, change) for change in rest):
        return begun
    if begun is not None and begun == seen.found.notice:
        return begun
    return change_notice.begin(cluster, vault, seen.found.notice, applies=True)


def _settled(cluster: Cluster, vault: Vault, seen: Observation, todo: Plan, begun: Stored[Changes] | None) -> bool:
    """Tell agents what they follow now; return False if another command has written the record since it was observed.

    Nothing else is left of the plan. An apply that has changed what they follow does so whatever the record says,
    unless another command is about to.
    """
    found = seen.found.notice
    if begun is None and not any(map(is_notice, todo.changes)):
        return True
    if begun is not None and change_notice.is_changing(found) and found != begun:
        return True
    # Whoever writes the first one ends an apply that was killed before it could.
    applies = begun is not None or found.record is None
    return change_notice.settle(cluster, vault, found, _digests(cluster, seen), applies=applies)


def follows_import(change: Change) -> bool:
    """Return whether an import of CAs brings a change about by itself: settings of their issuers and mounts."""
    return is_notice(change) or (change.action == "update" and change.kind in ("issuer", "mount"))


def _endless(todo: Plan) -> BadAnswer:
    return BadAnswer(
        "changes come back after every apply"
        + "".join(f", such as that of {change.kind} {change.name}" for change in todo.changes[:1])
        + ": something else writes here too"
    )


def _refuse_other(first: Plan, rest: tuple[Change, ...]) -> None:
    if rest != without_notice(first.changes):
        raise Refused(
            "the server has changed since the plan was shown; nothing was written, look at the plan again", status=409
        )


def _refuse_further(vault: Vault, first: Plan | None, todo: Plan, done: list[Change]) -> None:
    """Raise Refused if a change is left of an object that `first` does not change; None allows every change."""
    approved = {change.key for change in (todo if first is None else first).changes}
    further = [f"{each.kind} {each.name}" for each in without_notice(todo.changes) if each.key not in approved]
    if further:
        raise Refused(
            f"somebody else has changed {named(further)} at {vault.address} meanwhile, which the plan does not change. "
            f"{len(done)} changes were made and nothing more was written. Look at a new plan",
            status=409,
        )


def _step(step: StepProgress, total: int, change: Change) -> None:
    step(change, total)


def _rights(cluster: Cluster, vault: Vault, seen: Observation, todo: Plan) -> dict[str, str]:
    """Return the capability that each path of a plan needs."""
    from vaultpki.provision.carry_out import change_path

    needs = {f"{cluster.mount('config')}/data/{record}": "update" for record in (APPLIED, CHANGES)}
    for change in todo.changes:
        patched = change.kind == "issuer" and change.action == "update"
        need = "delete" if change.action == "delete" else "patch" if patched else "update"
        needs[change_path(cluster, vault, change, seen)] = need
        outside = cluster.authority.outside
        if change.kind == "issuer" and change.action == "create" and outside is not None and not outside.by_people:
            needs[outside_signer.signing_path(outside)] = "update"
    return needs
