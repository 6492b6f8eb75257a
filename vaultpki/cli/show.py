"""`vaultpki show`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from vaultpki.cli.common import (
    allow_http_option,
    config_option,
    json_option,
    opened,
    path_option,
    print_json,
    screen,
    spec_file_option,
)

if TYPE_CHECKING:
    from datetime import datetime

    from vaultpki.show.certificate import ShownCertificate


def _complete(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Complete the name of a certificate of the table, else the path of a file."""
    from vaultpki.certificates import TABLE

    named = [CompletionItem(row.name, help=row.purpose) for row in TABLE if row.name.startswith(begun)]
    return named or [CompletionItem(begun, type="file")]


@click.command("show")
@click.argument("name", required=False, metavar="[NAME|FILE]", shell_complete=_complete)
@config_option
@path_option(
    "--dir", "directory", help="The folder of certificate files to look in: a node's, a node's folder, or one of nodes."
)
@click.option("--serial", metavar="HEX", help="Ask Vault for the certificate with this serial number.")
@spec_file_option("With --serial: the spec.", "spec")
@allow_http_option
@json_option
def show_command(
    name: str | None,
    file: Path,
    directory: Path | None,
    serial: str | None,
    spec: Path,
    allow_http: bool,
    as_json: bool,
) -> None:
    """Show one certificate: names, issuer, dates, key, chain, and where it is used. Never shows a key.

    NAME is the name of a certificate in the table, such as kube-apiserver, on this node or in the folder --dir. FILE is
    the path of a certificate or a bundle. With --serial the mounts of the cluster's CAs are asked; the viewer's policy
    is enough. Exit 3 if a certificate on disk needs attention, as `vaultpki status` does.

    \b
    Example:
      vaultpki show kube-apiserver
      vaultpki show kubelet --dir vaultpki-demo/nodes/worker-1
      vaultpki show /etc/kubernetes/pki/etcd-ca.crt
      vaultpki show --serial 5f:3a:91:02
    """
    from datetime import UTC, datetime

    from vaultpki.errors import Attention
    from vaultpki.show import certificate

    if (name is None) == (serial is None):
        raise click.UsageError(
            "name one certificate: `vaultpki show kube-apiserver` on a node, `vaultpki show FILE`, or "
            "`vaultpki show --serial HEX`"
        )
    if serial is not None and directory is not None:
        raise click.UsageError("--serial asks Vault and --dir reads a folder: choose one of them")
    now = datetime.now(UTC)
    if serial is not None:
        found = _on_server(spec, serial, allow_http=allow_http)
    else:
        found = _on_disk(str(name), file, directory, now, allow_http=allow_http)
    if as_json:
        print_json(certificate.to_json(found, now))
    else:
        for line in certificate.certificate_lines(found, now, screen()):
            click.echo(line)
    if found.wrong:
        raise Attention("this certificate needs attention; see above")


def _on_server(spec: Path, serial: str, *, allow_http: bool) -> ShownCertificate:
    from vaultpki.identity import by_serial
    from vaultpki.show import certificate

    number = by_serial.serial_number(serial)
    with opened(spec, allow_http=allow_http) as (cluster, vault, _):
        return certificate.of_server(
            by_serial.with_holder(cluster, vault, by_serial.find_certificate(cluster, vault, number))
        )


def _on_disk(name: str, file: Path, directory: Path | None, now: datetime, *, allow_http: bool) -> ShownCertificate:
    from vaultpki.config.agent import load_agent
    from vaultpki.errors import VaultpkiError
    from vaultpki.procedures import ON_NODES
    from vaultpki.show import certificate_files

    if certificate_files.is_path(name) and (directory is None or "/" in name):
        config = None
        with contextlib.suppress(VaultpkiError):
            config = load_agent(file, allow_http=allow_http)
        return certificate_files.of_path(Path(name) if directory is None else directory / name, config, now, ON_NODES)
    if directory is not None:
        return certificate_files.of_folder(directory.absolute(), name, now, ON_NODES)
    return certificate_files.of_node(load_agent(file, allow_http=allow_http), name, now, ON_NODES)
