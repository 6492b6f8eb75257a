"""`vaultpki revoke`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vaultpki.cli.common import json_option, opened, print_json, spec_option, terminal
from vaultpki.errors import Attention, VaultpkiError
from vaultpki.redact import printable

if TYPE_CHECKING:
    from vaultpki.identity.revocation import Chosen


@click.command("revoke")
@click.argument("node")
@spec_option
@json_option
@click.option("--yes", is_flag=True, help="Do not ask; needed where there is no terminal.")
def revoke_command(node: str, file: Path, allow_http: bool, as_json: bool, yes: bool) -> None:
    """Revoke the certificates of a node: they are put on the CRLs of their CAs at once.

    Kubernetes reads no CRL, and etcd only if it is told to: the command says what that means. To keep the node from
    getting new certificates, run `vaultpki lock` first. Exit 3 if certificates of a name that nodes share were left
    alone, or if another node reports a revoked one too: both are named.

    \b
    Example:
      vaultpki revoke -f cluster.yaml cp-1
    """
    from datetime import UTC, datetime

    from vaultpki.identity import revocation, revoke

    with opened(file, allow_http=allow_http) as (cluster, vault, _):
        found = revoke.find(cluster, vault, node, datetime.now(UTC))
        if not found.targets:
            for line in revocation.sentences(node, found, ended=True):
                click.echo(printable(line), err=True)
            if found.unattributed:
                raise Attention(f"nothing was revoked: there is no certificate that is known to be {node}'s; see above")
            raise VaultpkiError(
                f"there is no certificate to revoke that is known to be {node}'s; `vaultpki nodes -f {file}` lists the "
                "nodes"
            )
        if not yes:
            if not terminal() or as_json:
                raise VaultpkiError("revoke cannot be undone and there is no terminal to ask on; pass --yes")
            show(found)
            if not click.confirm(f"Revoke these {len(found.targets)} certificates of {node}?"):
                raise VaultpkiError("nothing was revoked")
        done = revoke.revoke(cluster, vault, found)
    if as_json:
        print_json(revocation.to_json(node, done))
    else:
        if yes:
            show(done)
        tell(node, done)
    decide(done)


def decide(done: Chosen) -> None:
    """Raise Attention if a person has to decide what becomes of certificates."""
    if done.doubtful:
        raise Attention("certificates of shared names are in doubt; see above")


def show(chosen: Chosen) -> None:
    """Print the certificates, one a line."""
    for target in chosen.targets:
        one = target.certificate
        ends = f"{one.facts.not_after:%Y-%m-%d %H:%M}Z"
        too = f", reported by {', '.join(target.claimants[:3])} too" if target.claimants else ""
        click.echo(printable(f"- {one.ca}: {target.name}, serial {one.serial}, expires {ends}{too}"))


def tell(node: str, done: Chosen, *, ended: bool = False) -> None:
    """Print what was done, and what it does not do; `ended` if the node can get no new certificates."""
    from vaultpki.identity import revocation

    some = "1 certificate is" if len(done.targets) == 1 else f"{len(done.targets)} certificates are"
    click.echo(f"{node}: {some} on the CRLs of their CAs")
    for line in revocation.sentences(node, done, ended=ended):
        click.echo(printable(line))
