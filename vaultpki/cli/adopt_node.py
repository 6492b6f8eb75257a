"""`vaultpki adopt node`: what the state of an adoption asks of this machine."""

from __future__ import annotations

from pathlib import Path

import click

from vaultpki.cli.common import allow_http_option, config_option

# A resident agent's pass may be under way.
_LOCK_WAIT = 60.0


@click.command("node")
@config_option
@click.option("--dry-run", is_flag=True, help="Show every file, flag and restart in its order, and change nothing.")
@click.option(
    "--leave",
    is_flag=True,
    help="Before the first bundle is changed, or after the way back: put kubeadm's files back and forget the rest.",
)
@allow_http_option
def node_command(file: Path, dry_run: bool, leave: bool, allow_http: bool) -> None:
    """Lead this machine to the state in which the adoption of its cluster is, as root.

    The agent's files lie beside kubeadm's. What is not in place yet is exchanged in one step, manifests keep the user's
    own flags and volumes, and each component is healthy before the next one is restarted: etcd, kube-apiserver,
    kube-controller-manager, kube-scheduler, kubelet. A run that was killed goes on when it is run again, or goes back
    if the adoption was turned round meanwhile. kubeadm's own files are kept until the adoption is done.

    The agent does the same by itself where agent.yaml says `adopt: {by_agent: true}`.

    Exit 3 if etcd or kube-apiserver must wait until it is this machine's turn.

    \b
    Example:
      vaultpki adopt node --dry-run
      vaultpki adopt node
    """
    from dataclasses import replace

    from vaultpki.agent import run
    from vaultpki.cli.agent import tell_outcome
    from vaultpki.config.agent import load_agent
    from vaultpki.config.taken_over import located
    from vaultpki.errors import Attention, StateConflict
    from vaultpki.node import assignment
    from vaultpki.redact import printable
    from vaultpki.takeover import carry_out, vault_signer
    from vaultpki.takeover.processes import RunningComponents

    config = load_agent(file, allow_http=allow_http)
    machine = config.taken_over
    options = run.PassOptions(allow_http=allow_http, wait=_LOCK_WAIT, share=0.0)
    by_hand = config if machine is None else replace(config, taken_over=replace(machine, by_agent=False))
    if machine is not None and not dry_run and not leave:
        passed = run.run(by_hand, options)
        # What keeps the record from being followed is said below.
        tell_outcome(replace(passed, failures={k: v for k, v in passed.failures.items() if k != "adoption"}))
    known = assignment.read_copy(located(config))
    if known is None:
        raise StateConflict("the agent has not asked Vault yet; run `vaultpki agent --once`")
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
        click.echo("no adoption is under way, and nothing was changed on this machine")
        return
    for number, target in enumerate(targets):
        sign = vault_signer.of_node(config, allow_http=allow_http)
        made = carry_out.prepare(config, known, target, RunningComponents(), tell=click.echo, sign=sign)
        if dry_run:
            lines = list(carry_out.lines(made))
            click.echo("\n".join(lines) if lines else f"nothing is left to do for {target.name}")
            for later in targets[number + 1 :]:
                click.echo(f"After that comes what is left to do for {later.name}.")
            return
        if not carry_out.carry_out(made):
            click.echo(f"nothing was left to do for {target.name}")
    if targets[-1].home:
        credentials = f"end its credentials (`vaultpki lock {config.node}`)"
        click.echo(f"this machine is as kubeadm left it; stop its agent, and {credentials}")
        return
    tell_outcome(run.run(by_hand, options))
    if asked.stays:
        raise Attention("the record of the adoption is not followed; see above")
