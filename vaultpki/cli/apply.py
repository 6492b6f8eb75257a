"""`vaultpki plan`, `vaultpki apply` and `vaultpki destroy`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vaultpki.cli.common import json_option, opened, spec_option, terminal
from vaultpki.cli.progress import progress
from vaultpki.errors import VaultpkiError
from vaultpki.redact import escaped

if TYPE_CHECKING:
    from vaultpki.model import Cluster
    from vaultpki.provision.plan import Change, Plan
    from vaultpki.show.plan import Line


@click.command("plan")
@spec_option
@json_option
@click.option(
    "--detailed-exitcode",
    is_flag=True,
    help="Exit 4 where there are changes, else 3 where something needs a person.",
)
@click.option("--verbose", is_flag=True, help="Every object and every field, uncut.")
def plan_command(file: Path, allow_http: bool, as_json: bool, detailed_exitcode: bool, verbose: bool) -> int:
    """Show what apply would change in Vault, and what that means for the nodes. Writes nothing.

    \b
    Example:
      vaultpki plan -f cluster.yaml --detailed-exitcode
    """
    from vaultpki.provision import apply
    from vaultpki.show import plan as plan_text

    with opened(file, allow_http=allow_http) as (cluster, vault, where):
        _warn_of_templates(cluster)
        seen, plan = apply.observe_and_plan(cluster, vault, where)
        plan = apply.with_impact(cluster, vault, seen, plan)
    if as_json:
        _print_json(plan, vault.sent.reads, vault.sent.writes)
    else:
        _show(plan_text.lines(cluster, plan, verbose=verbose))
    if not detailed_exitcode:
        return 0
    return 4 if plan.changes else 3 if plan.attention else 0


@click.command("apply")
@spec_option
@json_option
@click.option("--yes", is_flag=True, help="Do not ask; needed where there is no terminal.")
def apply_command(file: Path, allow_http: bool, as_json: bool, yes: bool) -> None:
    """Make Vault the certificate authority of the cluster. Run twice, the second changes nothing.

    \b
    Example:
      vaultpki apply -f cluster.yaml --yes
    """
    from vaultpki.provision import apply
    from vaultpki.show import plan as plan_text

    first = None
    with opened(file, allow_http=allow_http) as (cluster, vault, where):
        _warn_of_templates(cluster)
        if not yes:
            if not terminal() or as_json:
                raise VaultpkiError("apply changes Vault and there is no terminal to ask on; pass --yes")
            seen, first = apply.observe_and_plan(cluster, vault, where)
            _show(plan_text.lines(cluster, apply.with_impact(cluster, vault, seen, first)))
            # It takes much memory in a large cluster, and apply observes again.
            del seen
            if first.changes and not click.confirm(f"Apply these {len(first.changes)} changes to {vault.address}?"):
                raise VaultpkiError("nothing was changed")
        with progress("Applying") as counter:

            def show(change: Change) -> None:
                # The plan that was shown has all changes but those that no plan can show.
                said = not as_json and (yes or not plan_text.planned(change))
                for line in plan_text.change_lines(change) if said else ():
                    counter.say(line.text, line.colour)

            done = apply.apply(cluster, vault, where, first=first, progress=show, step=counter.step)
    if as_json:
        _print_json(done, vault.sent.reads, vault.sent.writes)
    else:
        if any(pool.jwt for pool in cluster.pools):
            # These nodes get no join file.
            within = f", vault.namespace: {vault.settings.namespace}" if where.namespace else ""
            laid_out = "" if cluster.layout.value == "document" else f", layout: {cluster.layout.value}"
            click.echo(
                f"For agent.yaml of nodes that join by a token: root_sha256: {done.root_sha256}{within}{laid_out}"
            )
        if cluster.authority.root_sha256 is None:
            click.echo(f"Root CA SHA-256: {done.root_sha256}; write it into {cluster.file} as ca.root_sha256")
        if yes:
            # With --yes the plan was not shown.
            _show(plan_text.attention_lines(cluster, done))
        click.echo(f"Done: {len(done.changes)} changes, {vault.sent.writes} writes to {vault.address}.")


@click.command("destroy")
@spec_option
@click.option("--confirm", metavar="NAME", help="The cluster's name; asked for where it is not given.")
def destroy_command(file: Path, allow_http: bool, confirm: str | None) -> None:
    """Remove from Vault what apply made, also the CAs. Certificates that were issued stay valid until they expire.

    \b
    Example:
      vaultpki destroy -f cluster.yaml --confirm prod
    """
    from vaultpki.provision.destroy import destroy

    with opened(file, allow_http=allow_http) as (cluster, vault, where):
        if confirm is None:
            if not terminal():
                raise VaultpkiError(
                    f"destroy removes the CAs of {cluster.name} for good; pass --confirm {cluster.name}"
                )
            what = f"the root CA, the issuing CAs and all else below {cluster.prefix} at {vault.address}"
            click.echo(f"This removes {what}.")
            confirm = click.prompt("Type the cluster's name to go on", default="", show_default=False)
        if confirm != cluster.name:
            raise VaultpkiError(f"that is not the cluster's name ({cluster.name}); nothing was removed")
        with progress("Removing") as counter:
            kept = destroy(
                cluster,
                vault,
                where,
                progress=lambda path: counter.say(f"- {escaped(path)}", "red"),
                step=counter.step,
            )
    for name in kept:
        click.echo(f"The policy {name} stays: nothing shows that vaultpki made it. Delete it if nobody uses it.")
    click.echo(f"Done: nothing of {cluster.name} is left at {vault.address}.")


def _print_json(plan: Plan, reads: int, writes: int) -> None:
    import json

    from vaultpki.provision.plan import to_json

    document = to_json(plan, reads=reads, writes=writes)
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
