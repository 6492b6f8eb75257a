"""`vaultpki adopt node`: what the state of an adoption asks of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vaultpki.cli.common import allow_http_option, config_option

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vaultpki.agent.context import Outcome
    from vaultpki.errors import Busy, VaultpkiError
    from vaultpki.model import AgentConfig
    from vaultpki.node.assignment import Assignment
    from vaultpki.takeover.arrangement import Arrangement
    from vaultpki.takeover.context import TakeOver

# A resident agent's pass may be under way.
_LOCK_WAIT = 60.0


@click.command("node", short_help="Bring this machine to where the adoption stands.")
@config_option
@click.option("--dry-run", is_flag=True, help="Show every file, flag and restart in its order, and change nothing.")
@click.option(
    "--leave",
    is_flag=True,
    help="Before the first bundle is changed, or after the way back: put kubeadm's files back and forget the rest.",
)
@click.option(
    "--finish",
    is_flag=True,
    help="At the end of the adoption: delete the old keys and pairs on this machine. There is no way back from that.",
)
@allow_http_option
def node_command(file: Path, dry_run: bool, leave: bool, finish: bool, allow_http: bool) -> None:
    """Lead this machine to the state in which the adoption of its cluster is, as root.

    The agent's files lie beside kubeadm's. What is not in place yet is exchanged in one step, manifests keep the user's
    own flags and volumes, and each component is healthy before the next one is restarted: etcd, kube-apiserver,
    kube-controller-manager, kube-scheduler, kubelet. On the only control plane etcd and kube-apiserver restart at once,
    so that the API is away for the shortest time; --dry-run says for how long. A run that was killed goes on when it is
    run again, or goes back if the adoption was turned round meanwhile. kubeadm's own files are kept until the adoption
    is done.

    The agent does the same by itself where agent.yaml says `adopt: {by_agent: true}`, but for the end: what cannot be
    undone happens only with --finish, or by such an agent a day after it has seen retired.

    It asks Vault first where the adoption stands; --dry-run does so too, and writes nothing. Where Vault does not say,
    it goes by what the agent was told last, and says when that was.

    Exit 3 if etcd or kube-apiserver must wait until it is this machine's turn, or if the end needs --finish.

    \b
    Example:
      vaultpki adopt node --dry-run
      vaultpki adopt node
      vaultpki adopt node --finish
    """
    from vaultpki.cli.one_pass import tell_outcome
    from vaultpki.config.agent import load_agent
    from vaultpki.errors import Attention, StateConflict
    from vaultpki.redact import printable
    from vaultpki.takeover import carry_out

    config = load_agent(file, allow_http=allow_http)
    known, busy = _known(config, only_looks=dry_run or leave, allow_http=allow_http)
    asked = carry_out.asked_of(config, known)
    if leave:
        carry_out.refuse_leaving(config, known)
        targets = carry_out.way_home(config)
    else:
        targets = (asked.target,) if asked.target is not None else ()
        if asked.stays and not targets:
            raise StateConflict(asked.stays)
        if asked.stays:
            click.echo(printable(asked.stays), err=True)
    if not targets:
        click.echo("no adoption is under way, so no step is to be taken on this machine")
        return
    runs = _runs(config, known, targets, finish=finish, allow_http=allow_http)
    if dry_run:
        lines = list(carry_out.lines(next(runs)))
        click.echo("\n".join(lines) if lines else f"nothing is left to do for {targets[0].name}")
        for later in targets[1:]:
            click.echo(f"After that comes what is left to do for {later.name}.")
        return
    for made in runs:
        if busy is not None and not carry_out.is_whole(made):
            raise busy
        if not carry_out.carry_out(made):
            click.echo(f"nothing was left to do for {made.target.name}")
    if targets[-1].home:
        credentials = f"end its credentials (`vaultpki lock {config.node}`)"
        click.echo(f"this machine is as kubeadm left it; stop its agent, and {credentials}")
        return
    if busy is None:
        tell_outcome(_agent_pass(config, allow_http=allow_http))
    if asked.stays:
        raise Attention("the record of the adoption is not followed; see above")


def _known(config: AgentConfig, *, only_looks: bool, allow_http: bool) -> tuple[Assignment, Busy | None]:
    """Return what Vault says now, with the error of a pass that could not be made since another process is at work.

    With `only_looks` no pass is made. Where Vault does not say, that is told, and the agent's copy is what counts.
    """
    from dataclasses import replace

    from vaultpki.cli.one_pass import tell_outcome
    from vaultpki.config.taken_over import located
    from vaultpki.errors import Busy, StateConflict
    from vaultpki.node import assignment
    from vaultpki.procedures import adoption
    from vaultpki.redact import printable

    busy: Busy | None = None
    away: VaultpkiError | None = None
    if config.taken_over is not None and not only_looks:
        try:
            passed = _agent_pass(config, allow_http=allow_http)
            away = passed.failures.get("vault")
            # What keeps the record from being followed is said by the command itself.
            tell_outcome(replace(passed, failures={k: v for k, v in passed.failures.items() if k != "adoption"}))
        except Busy as error:
            # Whoever is at work may be so for long, and nothing may be left to do here.
            busy = error
    known = assignment.read_copy(located(config), (adoption.OWN_RECORD,))
    if known is None:
        raise StateConflict("the agent has not asked Vault yet; run `vaultpki agent --once`")
    unread = adoption.unread(known, away) if away is not None else ""
    if config.taken_over is not None and (only_looks or busy is not None):
        known, unread = adoption.look(config, known, allow_http=allow_http)
    if unread:
        click.echo(printable(unread), err=True)
    return known, busy


def _runs(
    config: AgentConfig, known: Assignment, targets: tuple[Arrangement, ...], *, finish: bool, allow_http: bool
) -> Iterator[TakeOver]:
    """Yield the run to each target, made once the one before has ended."""
    from vaultpki.takeover import carry_out, old_pairs
    from vaultpki.takeover.processes import RunningComponents

    for target in targets:
        sign = old_pairs.vault_signer(config, allow_http=allow_http)
        components = RunningComponents()
        yield carry_out.prepare(config, known, target, components, tell=click.echo, sign=sign, finish=finish)


def _agent_pass(config: AgentConfig, *, allow_http: bool) -> Outcome:
    """Make a pass that asks Vault, and no step of the take-over."""
    from dataclasses import replace

    from vaultpki.agent import run
    from vaultpki.procedures import ON_NODES

    machine = config.taken_over
    by_hand = config if machine is None else replace(config, taken_over=replace(machine, by_agent=False))
    return run.run(by_hand, run.PassOptions(ON_NODES, allow_http=allow_http, wait=_LOCK_WAIT, share=0.0))
