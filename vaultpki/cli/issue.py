"""`vaultpki issue`."""

from __future__ import annotations

from pathlib import Path

import click

from vaultpki.cli import offered
from vaultpki.cli.common import opened, path_option, spec_option
from vaultpki.redact import printable


@click.command("issue")
@click.argument("name", metavar="admin|super-admin", shell_complete=offered.operators)
@spec_option
@path_option("--dir", "directory", required=True, help="The operator's own folder.")
def issue_command(name: str, file: Path, allow_http: bool, directory: Path) -> None:
    """Issue an operator's certificate, with its kubeconfig and the cluster-wide manifests, into a folder.

    super-admin bypasses RBAC and expires after eight hours: use it to apply the manifests to a new cluster, and in an
    emergency.

    \b
    Example:
      vaultpki issue -f cluster.yaml admin --dir ~/prod
    """
    from datetime import UTC, datetime

    from vaultpki.identity import anchor
    from vaultpki.issue import operator

    with opened(file, allow_http=allow_http) as (cluster, vault, _):
        issued = operator.issue(cluster, vault, name, str(directory), datetime.now(UTC))
    if issued.drift:
        click.echo(anchor.drift_sentence(cluster, issued.drift), err=True)
    click.echo(f"{issued.facts.subject_text} until {issued.facts.not_after:%Y-%m-%dT%H:%M:%SZ}")
    if issued.kubeconfig:
        click.echo(f"kubeconfig: {issued.kubeconfig}")
    for path in issued.manifests:
        click.echo(f"manifest: {path}")
    for text in issued.untrusted:
        click.secho(f"! {printable(text)}; find out who put it there", fg="red", err=True)
