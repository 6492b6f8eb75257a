"""`vaultpki demo`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from vaultpki.cli.common import painted, path_option
from vaultpki.cli.progress import progress
from vaultpki.show import table
from vaultpki.show.table import Column

if TYPE_CHECKING:
    from datetime import datetime

    from vaultpki.demo.outside import OutsideDemo
    from vaultpki.demo.rotation import Attempt, CaRotation
    from vaultpki.demo.run import AppliedExample, DemoResult

_WIDTH: Final = 100

_Entry = tuple[tuple[str, ...], tuple[str, ...]]


@click.command("demo")
@path_option(
    "--dir",
    "directory",
    default="vaultpki-demo",
    show_default=True,
    help="The folder of certificate files, and of all else: empty, or an earlier demo's.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="The server's port; a free one by default.")
@click.option("--serve", is_flag=True, help="Keep the server until Ctrl-C, and print how to reach it.")
@click.option("--rotate", is_flag=True, help="Rotate the CA of etcd, and show at each state who is let in.")
@click.option("--outside", is_flag=True, help="Have a corporate root sign the CAs: by OpenSSL, in a folder of its own.")
def demo_command(directory: Path, port: int, serve: bool, rotate: bool, outside: bool) -> int:
    """Start an embedded OpenBao, apply an example cluster, and issue and verify every certificate of the table.

    With --rotate three nodes replace the CA of etcd instead: after each step TLS handshakes with the files that their
    agents installed show who is let in and who is not. Exit 3 if anything is not as it should be.

    With --outside the root is not made in OpenBao: the folder DIR/offline has a root and an intermediate CA of OpenSSL,
    and the requests of the issuing CAs are carried there and back.

    \b
    Example:
      vaultpki demo --dir /tmp/demo --serve
      vaultpki demo --rotate
      vaultpki demo --outside
    """
    import signal
    import time

    if rotate and outside:
        raise click.UsageError("--rotate and --outside are two demos; choose one")

    from vaultpki.demo import run

    def leave(*_: object) -> None:
        raise KeyboardInterrupt

    # SIGTERM is handled as Ctrl-C, so that the server's folder is removed too.
    signal.signal(signal.SIGTERM, leave)
    began = time.monotonic()
    with ExitStack() as stack:
        if rotate:
            from vaultpki.demo.rotation import rotation

            course = stack.enter_context(rotation(directory.absolute(), port=port))
            example, bad = course.example, _show_rotation(course, began)
        elif outside:
            from vaultpki.demo import outside as demo_outside

            with progress("Making the demo") as counter:
                counter.begin()
                made = stack.enter_context(demo_outside.demo(directory.absolute(), port=port, step=counter.step))
            _show_outside(made)
            example, bad = made.result.example, _show(made.result, time.monotonic() - began)
        else:
            with progress("Making the demo") as counter:
                # The server and what apply does take half of the time.
                counter.begin()
                shown = stack.enter_context(run.demo(directory.absolute(), port=port, step=counter.step))
            example, bad = shown.example, _show(shown, time.monotonic() - began)
        if serve:
            return _serve(example) or (3 if bad else 0)
    return 3 if bad else 0


def _serve(example: AppliedExample) -> int:
    """Keep the server until Ctrl-C; return 1 if it stops by itself."""
    server = example.server
    click.echo(f"\nOpenBao runs at {server.address} until Ctrl-C. In another terminal:")
    click.echo(f"  export VAULT_ADDR={server.address}")
    click.echo(f"  export VAULT_CACERT={example.directory}/vault-ca.crt")
    click.echo(f"  export VAULT_TOKEN=$(cat {example.token_file})")
    click.echo(f"  vaultpki plan -f {example.directory}/cluster.yaml")
    try:
        server.process.wait()
    except KeyboardInterrupt:
        click.echo("\nThe server is stopped.")
        return 0
    click.echo("vaultpki: the server stopped unexpectedly", err=True)
    return 1


def _show_rotation(course: CaRotation, began: float) -> int:
    """Print each state when it is reached; return how many handshakes ended otherwise than they should."""
    import time

    click.echo(
        "Three nodes run etcd and kube-apiserver. Server, steps, agents, files and handshakes are real. Only\n"
        "the components are played: as etcd, each reads the CAs when it starts, and its pair at a handshake."
    )
    columns = [Column("  client"), *(Column(f"etcd of {name}") for name in course.nodes)]
    attempts: list[Attempt] = []
    for state in course.states():
        after = f"  (`vaultpki {state.command}`)" if state.command else ""
        click.secho(f"\n{state.state}{after}", bold=True)
        click.echo(f"  {state.sentence}")
        rows = [[table.Cell(f"  {row.client}"), *map(_verdict, row.attempts)] for row in state.clients]
        head, *lines = table.lines(columns, rows, width=_WIDTH, paint=painted)
        click.secho(head, dim=True)
        click.echo("\n".join(lines))
        if state.waits:
            click.echo(f"  The next step waits {state.waits} s more. The demo does not: it moves the clock forward.")
        attempts += [each for row in state.clients for each in row.attempts]
    let_in, wrong = sum(each.let_in for each in attempts), sum(not each.ok for each in attempts)
    click.echo(
        f"\n{len(attempts)} handshakes: {let_in} let in and {len(attempts) - let_in} refused, {wrong} wrong "
        f"({time.monotonic() - began:.1f} s, and {course.skipped:.0f} s not waited).\n"
        f"Everything is in {course.example.directory}:\ncluster.yaml, nodes/NODE/pki."
    )
    return wrong


def _verdict(attempt: Attempt) -> table.Cell:
    text = "let in" if attempt.let_in else "refused"
    return table.Cell(text if attempt.ok else f"{text}: WRONG", "green" if attempt.ok else "red")


def _show_outside(made: OutsideDemo) -> None:
    """Print how the requests went to the signer and came back, as the commands that a person would run."""
    root, signer = (facts.subject_text for facts in made.above)
    click.secho("The machine without network is the folder offline, with two CAs of OpenSSL", bold=True)
    click.echo(f"  {root}\n  {signer}, which signs")
    click.secho("vaultpki apply", bold=True)
    click.echo("  makes the keys of the issuing CAs in OpenBao, and all that needs no CA; exit code 3")
    click.secho("vaultpki ca csr -o requests", bold=True)
    for request in made.requests:
        click.echo(f"  requests/{request.csr}, and what the signer must grant")
    click.secho("openssl ca, in the folder offline", bold=True)
    for facts in made.signed:
        click.echo(f"  {facts.subject_text}, until {facts.not_after:%Y-%m-%d}")
    click.secho("vaultpki ca import requests/*.crt", bold=True)
    click.echo("  every certificate was checked before the first was installed; apply has gone on\n")


def _show_needs(shown: DemoResult) -> None:
    from vaultpki.show.verify import of_libraries
    from vaultpki.verify.client_libraries import needs

    if found := needs(shown.checks):
        click.echo("\n" + "\n".join(of_libraries(found)))


def _show(shown: DemoResult, seconds: float) -> int:
    from vaultpki.certificates import SERVICE_ACCOUNT, pair_files, rows
    from vaultpki.pki.x509 import read_certificates
    from vaultpki.verify.folders import find_holders

    every = rows(shown.example.cluster)
    found: list[tuple[tuple[str, ...], datetime, Path]] = []
    for holder in find_holders(shown.example.cluster, shown.example.directory):
        for certificate in holder.certificates:
            row = next(row for row in every if row.name == certificate.name)
            crt = holder.at(certificate.folder) / pair_files(certificate.stem)[0]
            leaf = read_certificates(crt.read_bytes())[0]
            alike = (row.name, row.source, row.target, leaf.subject_text)
            found.append((alike, leaf.not_after, crt.relative_to(shown.example.directory)))
    clients, servers = [], []
    for (_, source, target, subject), first_end, path in one_line_each(found):
        ends = f"{first_end:%Y-%m-%d %H:%M}"
        if target == "-":
            servers.append(((source, subject), (ends, path)))
        else:
            clients.append(((source, target, subject), ("", ends, path)))
    click.secho("Client certificates for clients", bold=True)
    _table((("From", "To", "Subject"), ("", "Until (UTC)", "Certificate")), clients)
    click.secho("\nServer certificates for servers", bold=True)
    _table((("Server", "Subject"), ("Until (UTC)", "Certificate")), servers)
    _show_needs(shown)
    bad = [check for check in shown.checks if not check.ok]
    for check in bad:
        click.secho(f"wrong: {check.kind} {check.name}: {check.detail}", fg="red")
    keys = ""
    if all(check.ok for check in shown.checks if check.name == SERVICE_ACCOUNT):
        names = ", ".join(shown.admitted)
        all_accept = " Each accepts the tokens of all." if shown.admitted[1:] else ""
        keys = f"Control planes with their own service-account key: {names}.{all_accept}\n"
    accepted = sum(check.got == check.expect == "accept" for check in shown.checks)
    refused = sum(check.got == check.expect == "refuse" for check in shown.checks)
    click.echo(
        f"\n{shown.example.changes} objects made in OpenBao, {shown.renewed} certificates issued.\n"
        f"{keys}"
        f"{len(shown.checks)} checks: {accepted} let in and {refused} kept out as they should be, {len(bad)} wrong "
        f"({seconds:.1f} s)."
    )
    click.echo(f"Everything is in {shown.example.directory}:\ncluster.yaml, nodes/NODE/pki, operator/admin.conf.")
    return len(bad)


def one_line_each(
    found: Sequence[tuple[tuple[str, ...], datetime, Path]],
) -> list[tuple[tuple[str, ...], datetime, str]]:
    """Return certificates that differ only in node and end once: with the first end, and one path for all nodes."""
    alike: dict[tuple[str, ...], list[tuple[datetime, Path]]] = {}
    for key, end, file in found:
        alike.setdefault(key, []).append((end, file))
    return [(key, min(end for end, _ in each), _at_nodes([file for _, file in each])) for key, each in alike.items()]


def _at_nodes(files: Sequence[Path]) -> str:
    """Return the paths of one file at each of its nodes, in one word as a shell reads it."""
    folder, node, *rest = files[0].parts
    if files[1:]:
        node = f"{{{','.join(each.parts[1] for each in files)}}}"
    return "/".join((folder, node, *rest))


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
