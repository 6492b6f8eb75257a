"""`vaultpki issue`."""

from __future__ import annotations

from pathlib import Path

import click

from vaultpki.cli import offered
from vaultpki.cli.common import json_option, opened, path_option, print_json, spec_option
from vaultpki.redact import printable, stamp


@click.command("issue")
@click.argument("name", metavar="admin|super-admin", shell_complete=offered.operators)
@spec_option
@path_option("--dir", "directory", required=True, help="The folder of certificate files: the operator's own.")
@json_option
def issue_command(name: str, file: Path, allow_http: bool, directory: Path, as_json: bool) -> None:
    """Issue an operator's certificate, with its kubeconfig and the cluster-wide manifests, into a folder.

    super-admin bypasses RBAC and expires after eight hours: use it to apply the manifests to a new cluster, and in an
    emergency.

    \b
    Example:
      vaultpki issue admin --dir ~/prod
      vaultpki issue admin --dir ~/prod --json
    """
    from datetime import UTC, datetime

    from vaultpki.identity import anchor
    from vaultpki.issue import operator

    with opened(file, allow_http=allow_http) as (cluster, vault, _):
        issued = operator.issue(cluster, vault, name, str(directory), datetime.now(UTC))
    if issued.drift:
        click.echo(anchor.drift_sentence(cluster, issued.drift), err=True)
    facts = issued.facts
    if as_json:
        print_json(
            {
                "cluster": cluster.name,
                "name": name,
                "subject": facts.subject_text,
                "serial": f"{facts.serial:x}",
                "not_after": stamp(facts.not_after),
                "directory": str(directory.absolute()),
                "kubeconfig": issued.kubeconfig,
                "manifests": list(issued.manifests),
            }
        )
    else:
        click.echo(f"{facts.subject_text} until {stamp(facts.not_after)}")
        if issued.kubeconfig:
            click.echo(f"kubeconfig: {issued.kubeconfig}")
        for path in issued.manifests:
            click.echo(f"manifest: {path}")
    for text in issued.untrusted:
        click.secho(f"! {printable(text)}; find out who put it there", fg="red", err=True)
