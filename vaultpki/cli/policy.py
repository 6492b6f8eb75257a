"""`vaultpki policy`."""

from __future__ import annotations

from pathlib import Path

import click

from vaultpki.cli.common import json_option, load_spec, print_json, spec_option


@click.command("policy")
@click.argument(
    "who",
    type=click.Choice(["applier", "enroller", "operator", "viewer", "locker", "adopter", "importer", "mover"]),
)
@click.option("--imported", is_flag=True, help="For the adopter where old CAs were imported with their keys.")
@spec_option
@json_option
def policy_command(who: str, file: Path, allow_http: bool, imported: bool, as_json: bool) -> None:
    """Print the Vault policy that WHO needs for the cluster.

    \b
    applier   all commands; it is root of the cluster, and of its namespace, in all but name
    enroller  enroll, for nodes of pools
    operator  issue
    viewer    plan, nodes, ca status, show --serial, report and graph with --from-vault; it writes nothing
    locker    lock
    adopter   adopt start, status, continue and abort
    importer  ca import with --key or --remove; it cannot have the imported CA sign
    mover     move, at the new server; at the old one the applier's policy is enough

    A policy is JSON, too. With --json it is the text in a document, as Vault's API takes it.

    \b
    Example:
      vaultpki policy applier | bao policy write prod-applier -
    """
    import json

    from vaultpki.identity import access
    from vaultpki.model import at_new
    from vaultpki.records.adoption import OLD_CAS

    if imported and who != "adopter":
        raise click.UsageError("--imported is for the adopter")
    cluster = load_spec(file, allow_http=allow_http)
    if who == access.MOVER:
        cluster = at_new(cluster)
    policy = {"path": access.policy_of(cluster, who, OLD_CAS if imported else ())}
    print_json({"cluster": cluster.name, "who": who, "policy": json.dumps(policy)} if as_json else policy)
