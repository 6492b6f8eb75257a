"""`vaultpki policy`."""

from __future__ import annotations

from pathlib import Path

import click

from vaultpki.cli.common import spec_option


@click.command("policy")
@click.argument("who", type=click.Choice(["applier", "enroller", "operator"]))
@spec_option
def policy_command(who: str, file: Path, allow_http: bool) -> None:
    """Print the Vault policy that an applier, an enroller or an operator of the cluster needs.

    \b
    Example:
      vaultpki policy -f cluster.yaml applier | bao policy write prod-applier -
    """
    import json

    from vaultpki.provision import identities
    from vaultpki.spec import load_cluster

    cluster = load_cluster(file, allow_http=allow_http)
    if who == "operator":
        rules = identities.operator_policy(cluster)
    elif who == "enroller":
        rules = identities.enroller_policy(cluster)
    else:
        rules = identities.policy("applier.json", {"prefix": cluster.prefix})
    click.echo(json.dumps({"path": rules}, indent=2))
