"""`vaultpki plan`, `vaultpki apply` and `vaultpki destroy`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vaultpki.cli.common import (
    json_option,
    opened,
    path_option,
    print_json,
    server_now,
    spec_option,
    terminal,
    yes_option,
)
from vaultpki.cli.progress import progress, reading
from vaultpki.errors import Attention, VaultpkiError
from vaultpki.redact import escaped

if TYPE_CHECKING:
    from vaultpki.cli.progress import Progress
    from vaultpki.identity.asked_server import AskedServer
    from vaultpki.model import Cluster
    from vaultpki.provision.plan import Plan
    from vaultpki.records.server_facts import ServerFacts
    from vaultpki.show.line import Line
    from vaultpki.vault import Vault


@click.command("plan")
@spec_option
@json_option
@click.option(
    "--detailed-exitcode",
    is_flag=True,
    help="Exit 4 where there are changes, else 3 where something needs a person.",
)
@click.option("--verbose", is_flag=True, help="Every object and every field, uncut.")
@path_option("-o", "--output", help="Save the plan in this file, for `vaultpki apply FILE`.")
@click.option("--valid-for", default="30d", show_default=True, help="With -o: how long the file can be applied.")
def plan_command(
    file: Path,
    allow_http: bool,
    as_json: bool,
    detailed_exitcode: bool,
    verbose: bool,
    output: Path | None,
    valid_for: str,
) -> int:
    """Show what apply would change in Vault, and what that means for the nodes. Writes nothing in Vault.

    \b
    Example:
      vaultpki plan --detailed-exitcode
      vaultpki plan -o plan.json
    """
    from datetime import timedelta

    from vaultpki.cli import saved_plan
    from vaultpki.identity import asked_server
    from vaultpki.provision import apply
    from vaultpki.show import plan as plan_text
    from vaultpki.show.plan import server_lines
    from vaultpki.values.durations import parse_duration

    life = timedelta(seconds=parse_duration(valid_for))
    with opened(file, allow_http=allow_http) as (cluster, vault, where):
        _warn_of_templates(cluster)
        with reading(vault) as counted:
            seen, plan = apply.observe_and_plan(cluster, counted, where)
        plan = apply.with_impact(cluster, vault, seen, plan)
        asked = asked_server.read(cluster, vault)
        if output is not None:
            saved_plan.write(output, cluster, where, seen, plan, server_now(vault) + life)
    if as_json:
        _print_json(plan, asked, vault)
    else:
        _show(server_lines(asked, cluster.file))
        _show(plan_text.lines(cluster, plan, verbose=verbose))
        if output is not None:
            click.echo(f"Saved in {output}: `vaultpki apply {output}` makes these changes, or none.")
    if not detailed_exitcode:
        return 0
    return 4 if plan.changes else 3 if plan.attention else 0


@click.command("apply")
@spec_option
@json_option
@yes_option()
@click.option("--pin", is_flag=True, help="Then write the root's SHA-256 into cluster.yaml (ca.root_sha256).")
@click.argument("plan_file", metavar="[PLAN]", required=False, type=click.Path(path_type=Path))
def apply_command(file: Path, allow_http: bool, as_json: bool, yes: bool, pin: bool, plan_file: Path | None) -> None:
    """Make Vault the certificate authority of the cluster. Run twice, the second changes nothing.

    PLAN is a file of `vaultpki plan -o`. The plan is computed again, from the cluster.yaml that the file names or that
    of -f, and nothing is written if anything differs. Apply does not ask then: such a plan was approved by a person.

    \b
    Example:
      vaultpki apply --yes --pin
      vaultpki apply plan.json
    """
    from vaultpki.identity import asked_server
    from vaultpki.provision import apply
    from vaultpki.show import plan as plan_text

    first, saved = None, None
    if plan_file is not None:
        from vaultpki.cli import saved_plan

        saved = saved_plan.read(plan_file)
        file = saved_plan.spec_path(plan_file, saved, file)
    with opened(file, allow_http=allow_http) as (cluster, vault, where):
        _warn_of_templates(cluster)
        if saved is not None and plan_file is not None:
            first = saved_plan.computed_again(plan_file, saved, cluster, vault, where)
            if not as_json and not first.changes:
                click.echo(f"All that {plan_file} says is applied already.")
            elif not as_json:
                # Whoever approved it has seen it.
                until = f"{saved.until:%Y-%m-%d %H:%M}Z"
                click.echo(f"Applying {plan_file} to {vault.address}: {plan_text.counts(first)} (valid until {until}).")
        elif not yes:
            with reading(vault) as counted:
                seen, first = apply.observe_and_plan(cluster, counted, where)
            if first.changes and (as_json or not terminal()):
                raise VaultpkiError(
                    f"apply would make {len(first.changes)} changes at {vault.address} and there is no terminal to ask "
                    f"on; look at them with `vaultpki plan{escaped(cluster.file_option)}`, and pass --yes"
                )
            if not as_json:
                shown = apply.with_impact(cluster, vault, seen, first)
                _show([*_head(cluster, vault), *plan_text.lines(cluster, shown)])
                del shown
            # It takes much memory in a large cluster, and apply observes again.
            del seen
            if first.changes and not click.confirm(f"Apply these {len(first.changes)} changes to {vault.address}?"):
                raise VaultpkiError("nothing was changed")
        with progress("Applying") as counter:
            done = carry_out(cluster, vault, where, counter, first=first, saved=saved is not None, silent=as_json)
        asked = asked_server.read(cluster, vault) if as_json else None
    written = pin and _pin(cluster, done)
    if as_json:
        _print_json(done, asked, vault)
    else:
        if any(pool.jwt for pool in cluster.pools):
            # These nodes get no join file.
            within = f", vault.namespace: {vault.settings.namespace}" if where.namespace else ""
            laid_out = "" if cluster.layout.value == "document" else f", layout: {cluster.layout.value}"
            click.echo(
                f"For agent.yaml of nodes that join by a token: root_sha256: {done.root_sha256}{within}{laid_out}"
            )
        _tell_root(cluster, done, pin=pin, written=written)
        if yes:
            # With --yes the plan was not shown.
            _show(plan_text.attention_lines(cluster, done))
        click.echo(f"Done: {len(done.changes)} changes, {vault.sent.writes} writes to {vault.address}.")
    if done.waiting:
        raise Attention(plan_text.waiting_sentence(cluster.file, done.waiting))


@click.command("destroy")
@spec_option
@json_option
@click.option("--confirm", metavar="NAME", help="The cluster's name; asked for where it is not given.")
def destroy_command(file: Path, allow_http: bool, as_json: bool, confirm: str | None) -> None:
    """Remove from Vault what apply made, also the CAs. Certificates that were issued stay valid until they expire.

    Shows first what it removes, and how many nodes depend on it. --json needs --confirm.

    \b
    Example:
      vaultpki destroy --confirm prod
    """
    from vaultpki.provision import destroy
    from vaultpki.show import removal

    with opened(file, allow_http=allow_http) as (cluster, vault, where):
        if confirm is None and (as_json or not terminal()):
            raise VaultpkiError(f"destroy removes the CAs of {cluster.name} for good; pass --confirm {cluster.name}")
        if confirm not in (None, cluster.name):
            raise _other_name(cluster)
        with reading(vault) as counted:
            found = destroy.find(cluster, counted, where)
            living = destroy.count_living(cluster, counted)
        if not as_json:
            _show(removal.lines(cluster, vault.address, found, living))
        if confirm is None:
            confirm = click.prompt("Type the cluster's name to go on", default="", show_default=False)
        if confirm != cluster.name:
            raise _other_name(cluster)
        with progress("Removing") as counter:
            kept = destroy.destroy(
                cluster,
                vault,
                where,
                progress=lambda path: None if as_json else counter.say(f"- {escaped(path)}", "red"),
                step=counter.step,
            )
    if as_json:
        print_json(removal.to_json(cluster, vault.address, found, living, kept))
        return
    for name in kept:
        click.echo(f"The policy {name} stays: nothing shows that vaultpki made it. Delete it if nobody uses it.")
    click.echo(f"Done: nothing of {cluster.name} is left at {vault.address}.")


def _other_name(cluster: Cluster) -> VaultpkiError:
    return VaultpkiError(f"that is not the cluster's name ({cluster.name}); nothing was removed")


def carry_out(
    cluster: Cluster,
    vault: Vault,
    where: ServerFacts,
    counter: Progress,
    *,
    first: Plan | None,
    saved: bool,
    silent: bool,
) -> Plan:
    """Apply; unless it is to be silent, show the plan if nobody has seen it, and a line for each stage."""
    from functools import partial

    from vaultpki.cli.stage_log import StageLog
    from vaultpki.provision import apply

    run = partial(apply.apply, cluster, vault, where, first=first, strict=saved, say=counter.tell)
    if silent:
        return run(progress=lambda change: None, step=lambda change, total: counter.step(total))
    log = StageLog(cluster, counter, lambda: _head(cluster, vault), first)
    with log.until_it_stops(saved=saved):
        return run(progress=log.stage_made, step=log.step, begin=log.begin)


def _tell_root(cluster: Cluster, done: Plan, *, pin: bool, written: bool) -> None:
    """Say which root was pinned; once, when it was made, how to pin it."""
    if written:
        click.echo(f"Wrote the SHA-256 of the root CA into {cluster.file} (ca.root_sha256): {done.root_sha256}")
    elif not pin and cluster.authority.root_sha256 is None and _made_root(cluster, done):
        click.echo(f"Root CA SHA-256: {done.root_sha256}")
        click.echo("To have every command refuse another root, write it into cluster.yaml:")
        click.echo(f"  vaultpki apply{escaped(cluster.file_option)} --pin")


def _made_root(cluster: Cluster, done: Plan) -> bool:
    from vaultpki.certificates import ROOT

    return any(change.key == ("issuer", cluster.mount(ROOT)) for change in done.changes)


def _pin(cluster: Cluster, done: Plan) -> bool:
    """Write the pin, and return whether cluster.yaml changed."""
    from vaultpki.cli import pin
    from vaultpki.records.server_facts import UNKNOWN

    if done.root_sha256 in ("", UNKNOWN):
        raise VaultpkiError("there is no root CA yet whose SHA-256 could be written; run this again when it is there")
    return pin.write(cluster.file, done.root_sha256)


def _head(cluster: Cluster, vault: Vault) -> list[Line]:
    """Return the lines above a plan: which server is asked, and whose token it gets."""
    from vaultpki.identity import asked_server
    from vaultpki.show.plan import server_lines

    return server_lines(asked_server.read(cluster, vault), cluster.file)


def _print_json(plan: Plan, asked: AskedServer | None, vault: Vault) -> None:
    import json

    from vaultpki.identity import asked_server
    from vaultpki.provision.plan import to_json

    document = to_json(plan, reads=vault.sent.reads, writes=vault.sent.writes)
    if asked is not None:
        document["server"] = asked_server.to_json(asked)
    if plan.root_sha256:
        document["root_sha256"] = plan.root_sha256
    # Piece by piece: the whole text of a large cluster's first apply is 35 MB.
    json.dump(document, sys.stdout, indent=2)
    click.echo()


def _show(lines: Iterable[Line]) -> None:
    for line in lines:
        click.secho(line.text, fg=line.colour)


def _warn_of_templates(cluster: Cluster) -> None:
    """Warn on standard error of each template that looks like one of another program."""
    if cluster.templates:
        from vaultpki.config import templates

        for warning in templates.warnings(cluster):
            click.echo(f"vaultpki: warning: {warning}", err=True)
