"""`vaultpki adopt`: take over a cluster that kubeadm made with CAs of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vaultpki.cli import adopt_node, adopt_run, new_file
from vaultpki.cli.common import json_option, kubeconfig_option, path_option, print_json, screen

if TYPE_CHECKING:
    from vaultpki.adopt.draft import ClusterDraft


@click.group("adopt")
def adopt_command() -> None:
    """Take over a live kubeadm cluster, without an outage, and with a way back.

    \b
    Example:
      vaultpki adopt inventory --kubeconfig admin.conf -o cluster.yaml
      vaultpki adopt start --kubeconfig admin.conf
      vaultpki adopt status --kubeconfig admin.conf
      vaultpki adopt continue --kubeconfig admin.conf --wait
      vaultpki adopt node --dry-run
    """


@adopt_command.command("inventory", short_help="Show what a kubeadm cluster has, draft its cluster.yaml.")
@kubeconfig_option
@path_option(
    "-o",
    "--output",
    metavar="FILE",
    help="Write the drafted cluster.yaml here, if its check passes, and beside it today's CAs as old-*-ca.crt.",
)
@click.option("--force", is_flag=True, help="With -o: overwrite an existing file.")
@click.option("--cluster", "name", metavar="NAME", help="The cluster's name in the draft; default: kubeadm's name.")
@path_option(
    "--machine",
    "roots",
    multiple=True,
    metavar="ROOT",
    help="The root folder of a machine of the cluster, whose disk is read too. Can be repeated.  "
    "[default: / on a machine of the cluster]",
)
@adopt_run.without_wildcard_option
@json_option
def inventory_command(
    kubeconfig: Path,
    output: Path | None,
    force: bool,
    name: str | None,
    roots: tuple[Path, ...],
    given_up: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show what a running kubeadm cluster has, what is in the way of taking it over, and draft its cluster.yaml.

    It reads the API server, presents itself to listeners as far as they are reached from here, and reads the disk of
    the machine on which it runs. Nothing is changed anywhere, and only GET requests are sent. Run it as root on each
    control plane: the CA of etcd and the kubeconfigs are only on their disks.

    Exit 3 if something must be cured before a take-over can begin.

    \b
    Example:
      vaultpki adopt inventory --kubeconfig /etc/kubernetes/admin.conf
      vaultpki adopt inventory --kubeconfig admin.conf --cluster prod -o cluster.yaml
      vaultpki adopt inventory --kubeconfig admin.conf --machine /mnt/cp-1 --machine /mnt/cp-2 --json
    """
    from datetime import UTC, datetime

    from vaultpki.adopt import as_json as document_of
    from vaultpki.adopt import inventory, machine, obstacles, text
    from vaultpki.adopt.draft import draft, old_ca_file
    from vaultpki.errors import ArgumentError, Attention, SpecError
    from vaultpki.host.static_pod import MANIFEST_FOLDER
    from vaultpki.kube import kubeconfig as document
    from vaultpki.layout import OLD_CA_FILES
    from vaultpki.values import names

    if name is not None:
        try:
            names.cluster_name(name)
        except SpecError as error:
            raise ArgumentError(f"--cluster: {error.problem}") from None
    for each in (output, *(output.parent / old_ca_file(ca) for ca in OLD_CA_FILES)) if output is not None else ():
        new_file.refuse_existing(str(each), force=force)
    for root in roots:
        if not machine.there(str(root)):
            raise ArgumentError(
                f"--machine {root}: below it is neither {MANIFEST_FOLDER} nor {machine.KUBERNETES}/kubelet.conf; "
                "name the root folder of a machine of the cluster"
            )
    here = tuple(map(str, roots)) or (("/",) if machine.there() else ())
    found = inventory.take(document.read(kubeconfig), here, datetime.now(UTC))
    made = draft(found, output or Path("cluster.yaml"), name, given_up)
    every = obstacles.obstacles(found, made)
    written = str(output) if output is not None and made.cluster is not None else None
    if output is not None and written is not None:
        new_file.write_new(written, made.whole, force=force)
        for file, text_of in made.old_cas.items():
            new_file.write_new(str(output.parent / file), text_of, force=force)
    if as_json:
        print_json(document_of.document(found, made, every, written))
    else:
        for line in text.inventory_lines(found, made, every, screen().width):
            click.echo(line)
        click.echo(_next(written, made))
    if obstacles.attention(every):
        raise Attention("something must be cured before this cluster can be taken over; see above")


for _command in adopt_run.COMMANDS:
    adopt_command.add_command(_command)
adopt_command.add_command(adopt_node.node_command)


def _next(written: str | None, made: ClusterDraft) -> str:
    """Return what was written, or why nothing was."""
    if written is not None:
        beside = f", and today's CAs beside it: {', '.join(made.old_cas)}" if made.old_cas else ""
        return f"Wrote {written}{beside}. Compare it with what you know."
    if made.problem:
        return "The draft of cluster.yaml does not pass vaultpki's own check, so it is not written."
    return "The draft of cluster.yaml passes vaultpki's own check; -o cluster.yaml writes it."
