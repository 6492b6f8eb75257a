"""`vaultpki plan`, `vaultpki apply` and `vaultpki destroy`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vaultpki.cli.common import (
    json_option,
    open_vault,
    show_attention,
    show_change,
    show_plan,
    spec_option,
    terminal,
    warn_of_templates,
)
from vaultpki.errors import VaultpkiError

if TYPE_CHECKING:
    from vaultpki.plan import Plan


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
    """Show what apply would change in Vault, and what that means for the nodes; writes nothing.

    \b
    Example:
      vaultpki plan -f cluster.yaml --detailed-exitcode
    """
    from vaultpki.config import load_cluster

    cluster = load_cluster(file, allow_http=allow_http)
    warn_of_templates(cluster)
    vault, where = open_vault(cluster, allow_http=allow_http)

    from vaultpki import bootstrap
    from vaultpki.vault import explained

    with explained(vault):
        sight, plan = bootstrap.look(cluster, vault, where)
        plan = bootstrap.impact(cluster, vault, sight, plan)
    if as_json:
        _tell(plan, vault.reads, vault.writes)
    else:
        show_plan(cluster, plan, verbose=verbose)
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
    from vaultpki.config import load_cluster

    cluster = load_cluster(file, allow_http=allow_http)
    warn_of_templates(cluster)
    vault, where = open_vault(cluster, allow_http=allow_http)

    from vaultpki import bootstrap
    from vaultpki.vault import explained

    first = None
    with explained(vault):
        if not yes:
            if not terminal() or as_json:
                raise VaultpkiError("apply changes Vault and there is no terminal to ask on; pass --yes")
            sight, first = bootstrap.look(cluster, vault, where)
            show_plan(cluster, bootstrap.impact(cluster, vault, sight, first))
            if first.changes and not click.confirm(f"Apply these {len(first.changes)} changes to {vault.address}?"):
                raise VaultpkiError("nothing was changed")
        quiet = as_json or not yes
        done = bootstrap.apply(
            cluster,
            vault,
            where,
            first=first,
            progress=lambda change: None if quiet else show_change(change),
        )
    if as_json:
        _tell(done, vault.reads, vault.writes)
    else:
        if any(pool.jwt for pool in cluster.pools):
            # No join file brings it to these nodes.
            within = f", vault.namespace: {vault.namespace}" if where.namespace else ""
            click.echo(f"For agent.yaml of nodes that join by a token: root_sha256: {done.root_sha256}{within}")
        if cluster.authority.root_sha256 is None:
            click.echo(f"Root CA SHA-256: {done.root_sha256}; write it into {cluster.file} as ca.root_sha256")
        if yes:
            # Nobody was shown the plan.
            show_attention(cluster, done)
        click.echo(f"Done: {len(done.changes)} changes, {vault.writes} writes to {vault.address}.")


@click.command("destroy")
@spec_option
@click.option("--confirm", metavar="NAME", help="The cluster's name; asked for where it is not given.")
def destroy_command(file: Path, allow_http: bool, confirm: str | None) -> None:
    """Remove from Vault what apply made, CAs and all. Certificates that were issued stay valid until they end.

    \b
    Example:
      vaultpki destroy -f cluster.yaml --confirm prod
    """
    from vaultpki import bootstrap
    from vaultpki.config import load_cluster
    from vaultpki.vault import explained

    cluster = load_cluster(file, allow_http=allow_http)
    vault, where = open_vault(cluster, allow_http=allow_http)
    if confirm is None:
        if not terminal():
            raise VaultpkiError(f"destroy removes the CAs of {cluster.name} for good; pass --confirm {cluster.name}")
        click.echo(f"This removes the root CA, the issuing CAs and all else below {cluster.prefix} at {vault.address}.")
        confirm = click.prompt("Type the cluster's name to go on", default="", show_default=False)
    if confirm != cluster.name:
        raise VaultpkiError(f"that is not the cluster's name ({cluster.name}); nothing was removed")
    with explained(vault):
        kept = bootstrap.destroy(cluster, vault, where, progress=_removed)
    for name in kept:
        click.echo(f"The policy {name} stays: nothing tells that vaultpki made it. Delete it if nobody holds it.")
    click.echo(f"Done: nothing of {cluster.name} is left at {vault.address}.")


def _removed(path: str) -> None:
    from vaultpki.plain import escaped

    click.secho(f"- {escaped(path)}", fg="red")


def _tell(plan: Plan, reads: int, writes: int) -> None:
    import json

    from vaultpki.plan import to_json

    told = to_json(plan, reads=reads, writes=writes)
    if plan.root_sha256:
        told["root_sha256"] = plan.root_sha256
    click.echo(json.dumps(told, indent=2))
