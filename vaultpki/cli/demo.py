"""`vaultpki demo`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from vaultpki.cli.common import path_option
from vaultpki.cli.progress import progress
from vaultpki.show import table
from vaultpki.show.table import Column

if TYPE_CHECKING:
    from vaultpki.demo.run import DemoResult

_WIDTH: Final = 100

_Entry = tuple[tuple[str, ...], tuple[str, ...]]


@click.command("demo")
@path_option(
    "--dir",
    "directory",
    default="vaultpki-demo",
    show_default=True,
    help="The folder for everything: empty, or an earlier demo's.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="The server's port; a free one by default.")
@click.option("--serve", is_flag=True, help="Keep the server until Ctrl-C, and print how to reach it.")
def demo_command(directory: Path, port: int, serve: bool) -> int:
    """Start an embedded OpenBao, apply an example cluster, and issue and verify every certificate of the table.

    \b
    Example:
      vaultpki demo --dir /tmp/demo --serve
    """
    import signal
    import time

    from vaultpki.demo import run

    def leave(*_: object) -> None:
        raise KeyboardInterrupt

    # SIGTERM is handled as Ctrl-C, so that the server's folder is removed too.
    signal.signal(signal.SIGTERM, leave)
    began = time.monotonic()
    with ExitStack() as stack:
        with progress("Making the demo") as counter:
            # The server and what apply does take half of the time.
            counter.begin()
            shown = stack.enter_context(run.demo(directory.absolute(), port=port, step=counter.step))
        bad = _show(shown, time.monotonic() - began)
        if serve:
            server = shown.server
            click.echo(f"\nOpenBao runs at {server.address} until Ctrl-C. In another terminal:")
            click.echo(f"  export VAULT_ADDR={server.address}")
            click.echo(f"  export VAULT_CACERT={shown.directory}/vault-ca.crt")
            click.echo(f"  export VAULT_TOKEN=$(cat {shown.token_file})")
            click.echo(f"  vaultpki plan -f {shown.directory}/cluster.yaml")
            try:
                server.process.wait()
            except KeyboardInterrupt:
                click.echo("\nThe server is stopped.")
                return 3 if bad else 0
            click.echo("vaultpki: the server stopped unexpectedly", err=True)
            return 1
    return 3 if bad else 0


def _show(shown: DemoResult, seconds: float) -> int:
    from vaultpki.certificates import pair_files, rows
    from vaultpki.pki.x509 import read_certificates
    from vaultpki.verify.folders import find

    every = rows(shown.cluster)
    clients, servers = [], []
    for holder in find(shown.cluster, shown.directory):
        for certificate in holder.certificates:
            row = next(row for row in every if row.name == certificate.name)
            crt = holder.at(certificate.folder) / pair_files(certificate.stem)[0]
            leaf = read_certificates(crt.read_bytes())[0]
            ends = f"{leaf.not_after:%Y-%m-%d %H:%M}"
            where = str(crt.relative_to(shown.directory))
            if row.target == "-":
                servers.append(((row.source, leaf.subject_text), (ends, where)))
            else:
                clients.append(((row.source, row.target, leaf.subject_text), ("", ends, where)))
    click.secho("Client certificates for clients", bold=True)
    _table((("From", "To", "Subject"), ("", "Until (UTC)", "Certificate")), clients)
    click.secho("\nServer certificates for servers", bold=True)
    _table((("Server", "Subject"), ("Until (UTC)", "Certificate")), servers)
    bad = [check for check in shown.checks if not check.ok]
    for check in bad:
        click.secho(f"wrong: {check.kind} {check.name}: {check.detail}", fg="red")
    accepted = sum(check.got == check.expect == "accept" for check in shown.checks)
    refused = sum(check.got == check.expect == "refuse" for check in shown.checks)
    click.echo(
        f"\n{shown.changes} objects made in OpenBao, {shown.renewed} certificates issued.\n"
        f"{len(shown.checks)} checks: {accepted} let in and {refused} kept out as they should be, {len(bad)} wrong "
        f"({seconds:.1f} s)."
    )
    click.echo(f"Everything is in {shown.directory}:\ncluster.yaml, nodes/NODE/pki, operator/admin.conf.")
    return len(bad)


def _table(head: _Entry, entries: Sequence[_Entry]) -> None:
    for number, line in enumerate(table_lines([head, *entries])):
        click.secho(line, dim=number < len(head))


def table_lines(entries: Sequence[_Entry]) -> list[str]:
    """Return entries of two lines each in common columns; text that is too long loses its middle."""
    rows = [line for entry in entries for line in entry]
    before = len(rows[0]) - 1
    # The columns before the last one, which has names of nodes, leave it at least half of the width.
    most = _WIDTH // (2 * max(before, 1)) - 2
    columns = [Column("", most)] * before + [Column("", _WIDTH, least=1)]
    return list(table.lines(columns, rows, width=_WIDTH))[1:]
