"""`vaultpki kubeadm config`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vaultpki.cli import offered
from vaultpki.cli.common import load_spec, path_option, spec_option


def _version(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    from vaultpki.errors import ArgumentError
    from vaultpki.kubeadm.configuration import kubernetes_version

    try:
        return None if value is None else kubernetes_version(value)
    except ArgumentError as error:
        raise click.BadParameter(str(error), context, option) from None


@click.group("kubeadm")
def kubeadm_command() -> None:
    """Prepare nodes for kubeadm, with Vault as the CA.

    \b
    Example:
      vaultpki kubeadm config cp-1 --init -o cp-1
    """


@kubeadm_command.command("config", short_help="Write the configuration and patches for kubeadm.")
@click.argument("node", required=False, shell_complete=offered.nodes)
@spec_option
@click.option(
    "--pool",
    metavar="NAME",
    shell_complete=offered.pools,
    help="Instead of NODE: one configuration for every node of the pool.",
)
@click.option("--init", "mode", flag_value="init", help="For `kubeadm init` on the first control-plane node.")
@click.option("--join", "mode", flag_value="join", help="For `kubeadm join` on every other node.")
@click.option("--upgrade", "mode", flag_value="upgrade", help="For `kubeadm upgrade` on any node.")
@click.option(
    "--dir",
    "pki",
    default="/etc/kubernetes/pki",
    show_default=True,
    help="The folder of certificate files on the node, as in `join --dir`.",
)
@click.option(
    "--kubelet-dir",
    "kubelet",
    default="/var/lib/kubelet/pki",
    show_default=True,
    help="The node's folder for the kubelet's pairs.",
)
@click.option("--kubernetes-version", "version", callback=_version, help="Such as v1.37.2; without it kubeadm decides.")
@click.option(
    "--at",
    "folder",
    default="/etc/kubernetes/kubeadm",
    show_default=True,
    help="The path on the node to which the folder of -o will be copied.",
)
@path_option("-o", "--output", help="The folder to write to; without it, print.")
def config_command(
    node: str | None,
    file: Path,
    allow_http: bool,
    pool: str | None,
    mode: str | None,
    output: Path | None,
    **options: Any,
) -> None:
    """Write the configuration and the patches with which kubeadm uses the certificates of a node.

    NODE is a listed node, or any name that fits a pool. A control-plane node is either the first one (--init) or a
    further one (--join); a worker is always joined. Vault is not asked for anything.

    \b
    Example:
      vaultpki kubeadm config cp-1 --init -o cp-1
      vaultpki kubeadm config cp-2 --join -o cp-2
      vaultpki kubeadm config --pool autoscaled -o autoscaled
    """
    from vaultpki.kubeadm import files

    if (node is None) == (pool is None):
        raise click.UsageError("name either one node or --pool")
    cluster = load_spec(file, allow_http=allow_http)
    who = files.holder(cluster, node, pool)
    settings = files.ConfigOptions(**options)
    what = files.mode(cluster, who, mode)
    made = files.made(cluster, who, what, settings)
    if output is None:
        click.echo(files.as_text(made, settings.folder), nl=False)
        return
    for path in files.write(made, output):
        click.echo(f"wrote {path}")
    click.echo(files.next_step(who, what, output, settings.folder))
