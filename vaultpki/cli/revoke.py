"""`vaultpki revoke`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from vaultpki.cli import offered
from vaultpki.cli.common import json_option, opened, path_option, print_json, screen, spec_option, terminal, yes_option
from vaultpki.cli.progress import reading, say
from vaultpki.errors import Attention, VaultpkiError
from vaultpki.redact import printable

if TYPE_CHECKING:
    from vaultpki.identity.by_serial import ServerCertificate
    from vaultpki.identity.revocation import Chosen
    from vaultpki.model import Cluster
    from vaultpki.vault import Vault

_NO_TERMINAL: Final = "revoke cannot be undone and there is no terminal to ask on; pass --yes"


@click.command("revoke")
@click.argument("node", required=False, shell_complete=offered.nodes)
@spec_option
@json_option
@click.option("--serial", metavar="HEX", help="Revoke one certificate only: that with this serial number.")
@path_option("--certificate", help="Revoke one certificate only: the first one in this file.")
@yes_option()
def revoke_command(
    node: str | None,
    file: Path,
    allow_http: bool,
    as_json: bool,
    serial: str | None,
    certificate: Path | None,
    yes: bool,
) -> None:
    """Revoke the certificates of a node, or one certificate: they are put on the CRLs of their CAs at once.

    Kubernetes reads no CRL, and etcd only if it is told to: the command says what that means. To keep the node from
    getting new certificates, run `vaultpki lock` first. Exit 3 if certificates of a name that nodes share were left
    alone, if another node reports a revoked one too, or if Vault keeps no copy of a certificate (no_store in
    cluster.yaml): all are named. Such a one is revoked by its file.

    \b
    Example:
      vaultpki revoke cp-1
      vaultpki revoke --serial 5f:3a:91:02
      vaultpki revoke --certificate w-17/kubelet.crt
    """
    if [node, serial, certificate].count(None) != 2:
        raise click.UsageError("name what to revoke: a NODE, or one certificate by --serial HEX or --certificate FILE")
    from datetime import UTC, datetime

    from vaultpki.identity import by_serial
    from vaultpki.show import certificate_files

    facts = certificate_files.of_file(certificate, datetime.now(UTC)).facts if certificate is not None else None
    with opened(file, allow_http=allow_http, applied=True) as (cluster, vault, _):
        if facts is not None:
            _revoke_one(cluster, vault, by_serial.of_file(cluster, vault, facts), as_json=as_json, yes=yes)
        elif serial is not None:
            found = by_serial.find_certificate(cluster, vault, by_serial.serial_number(serial))
            _revoke_one(cluster, vault, found, as_json=as_json, yes=yes)
        else:
            _revoke_of_node(cluster, vault, str(node), as_json=as_json, yes=yes)


def _revoke_one(cluster: Cluster, vault: Vault, one: ServerCertificate, *, as_json: bool, yes: bool) -> None:
    from datetime import UTC, datetime

    from vaultpki.identity import by_serial, revocation, revoke
    from vaultpki.show import certificate

    now = datetime.now(UTC)
    found = by_serial.with_holder(cluster, vault, one)
    chosen = by_serial.to_revoke(cluster, found, now)
    if not yes and (as_json or not terminal()):
        raise VaultpkiError(_NO_TERMINAL)
    if not as_json:
        for line in certificate.certificate_lines(certificate.of_server(found), now, screen()):
            click.echo(line)
    if not yes and not click.confirm("Revoke this certificate?"):
        raise VaultpkiError("nothing was revoked")
    done = revoke.revoke(cluster, vault, chosen, say)
    notes = by_serial.revocation_limits(found, done)
    if as_json:
        print_json({**revocation.to_json(found.owner, done), "node": found.owner or None, "notes": notes})
    else:
        click.echo(printable(f"{found.name} is on the CRL of {found.ca}"))
        for line in notes:
            click.echo(printable(line))
    decide(done)


def _revoke_of_node(cluster: Cluster, vault: Vault, node: str, *, as_json: bool, yes: bool) -> None:
    from datetime import UTC, datetime

    from vaultpki.identity import revocation, revoke

    with reading(vault) as counted:
        found = revoke.certificates_of(cluster, counted, node, datetime.now(UTC))
    if not found.targets:
        for line in revocation.sentences(node, found, ended=True):
            click.echo(printable(line), err=True)
        if found.unattributed:
            raise Attention(f"nothing was revoked: there is no certificate that is known to be {node}'s; see above")
        if found.out_of_reach:
            raise Attention(f"nothing was revoked: Vault keeps no copy of {node}'s certificates; see above")
        raise VaultpkiError(
            f"there is no certificate to revoke that is known to be {node}'s; `vaultpki nodes{cluster.file_option}` "
            "lists the nodes"
        )
    if not yes:
        if not terminal() or as_json:
            raise VaultpkiError(_NO_TERMINAL)
        show(found)
        if not click.confirm(f"Revoke these {len(found.targets)} certificates of {node}?"):
            raise VaultpkiError("nothing was revoked")
    done = revoke.revoke(cluster, vault, found, say)
    if as_json:
        print_json(revocation.to_json(node, done))
    else:
        if yes:
            show(done)
        tell(node, done)
    decide(done)


def decide(done: Chosen) -> None:
    """Raise Attention if a person has to decide what becomes of certificates."""
    if done.in_doubt:
        raise Attention("certificates of shared names are in doubt; see above")
    if done.out_of_reach:
        raise Attention("certificates are not revoked, because Vault keeps no copy of them; see above")


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
