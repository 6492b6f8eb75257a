"""`vaultpki plan`, `vaultpki apply` and `vaultpki destroy`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vaultpki.cli.common import json_option, open_vault, show_change, show_plan, spec_option, terminal
from vaultpki.errors import VaultpkiError

if TYPE_CHECKING:
    from vaultpki.plan import Plan


@click.command("plan")
@spec_option
@json_option
@click.option("--detailed-exitcode", is_flag=True, help="Exit 4 where there are changes.")
def plan_command(file: Path, allow_http: bool, as_json: bool, detailed_exitcode: bool) -> int:
    """Show what apply would change in Vault, field by field; writes nothing.

    \b
    Example:
      vaultpki plan -f cluster.yaml --detailed-exitcode
    """
    from vaultpki.config import load_cluster

    cluster = load_cluster(file, allow_http=allow_http)
    vault, where = open_vault(cluster, allow_http=allow_http)

    from vaultpki import bootstrap
    from vaultpki.vault import explained

    with explained(vault):
        _, plan = bootstrap.look(cluster, vault, where)
    _tell(plan, vault.reads, vault.writes, as_json=as_json)
    return 4 if detailed_exitcode and plan.changes else 0


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
    vault, where = open_vault(cluster, allow_http=allow_http)

    from vaultpki import bootstrap
    from vaultpki.vault import explained

    first = None
    with explained(vault):
        if not yes:
            if not terminal() or as_json:
                raise VaultpkiError("apply changes Vault and there is no terminal to ask on; pass --yes")
            _, first = bootstrap.look(cluster, vault, where)
            show_plan(first)
            if first.changes and not click.confirm(f"Apply these {len(first.changes)} changes to {vault.address}?"):
                raise VaultpkiError("nothing was changed")
        quiet = as_json or not yes
        done = bootstrap.apply(
            cluster,
            vault,
            where,
            first=first,
            progress=lambda change: None if quiet else show_change(change, fields=True),
        )
    if as_json:
        _tell(done, vault.reads, vault.writes, as_json=True)
    else:
        if any(pool.jwt for pool in cluster.pools):
            from vaultpki import enrolment

            # No join file brings it to these nodes.
            pin = enrolment.place(cluster, vault).root_sha256
            click.echo(f"For agent.yaml of nodes that join by a token: root_sha256: {pin}")
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
        kept = bootstrap.destroy(cluster, vault, where, progress=lambda path: click.secho(f"- {path}", fg="red"))
    for name in kept:
        click.echo(f"The policy {name} stays: nothing tells that vaultpki made it. Delete it if nobody holds it.")
    click.echo(f"Done: nothing of {cluster.name} is left at {vault.address}.")


def _tell(plan: Plan, reads: int, writes: int, *, as_json: bool) -> None:
    if not as_json:
        show_plan(plan)
        return
    import json

    from vaultpki.plan import to_json

    click.echo(json.dumps(to_json(plan, reads=reads, writes=writes), indent=2))
