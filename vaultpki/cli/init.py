"""`vaultpki init`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from vaultpki.cli import new_file
from vaultpki.cli.common import path_option, terminal
from vaultpki.places import file_option

if TYPE_CHECKING:
    from vaultpki.config.starter import NewNode, StarterAnswers

_T = TypeVar("_T")

_LAYOUTS: Final = ("kubeadm", "document")
_ROOTS: Final = ("vault", "external")
# What is asked at a terminal, and what Enter takes.
_NO_NODE: Final = "none"


@click.command("init")
@click.option("-o", "--output", default="cluster.yaml", show_default=True, help="The file to write; - prints it.")
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@click.option(
    "--layout",
    type=click.Choice(_LAYOUTS),
    help="Who sets nodes up: kubeadm, or you with manifests of your own (document).",
)
@click.option("--cluster", metavar="NAME", help="Name of the cluster.")
@click.option(
    "--node",
    "nodes",
    metavar="NAME=ADDRESS[:ROLES]",
    multiple=True,
    help="A node; repeat it. ROLES are control-plane, etcd and worker, with commas. Without any ROLES the first node "
    "is the control plane. A control plane is a worker too, and a member of etcd if no node is named as one.",
)
@click.option(
    "--api", metavar="HOST[:PORT]", help="Name or address of the API server: its load balancer or first control plane."
)
@click.option(
    "--root",
    type=click.Choice(_ROOTS),
    help="Where the key of the root CA is: in Vault, or elsewhere (external).",
)
@path_option("--root-file", metavar="FILE", help="With --root external: its certificate.  [default: corp-root.pem]")
def init_command(
    output: str,
    force: bool,
    layout: str | None,
    cluster: str | None,
    nodes: tuple[str, ...],
    api: str | None,
    root: str | None,
    root_file: Path | None,
) -> None:
    """Write a commented cluster.yaml for a new cluster.

    At a terminal it asks for what is not given. Elsewhere it takes the values of the example.

    \b
    Example:
      vaultpki init
      vaultpki init --layout kubeadm --cluster prod --node cp-1=10.0.0.11
    """
    from dataclasses import replace

    from vaultpki.config import starter
    from vaultpki.config.cluster import read_cluster
    from vaultpki.places import Layout
    from vaultpki.values import names

    if root_file is not None and root == "vault":
        raise click.UsageError("--root-file is for --root external")
    if output != "-":
        new_file.refuse_existing(output, force=force)
    answers = starter.StarterAnswers(
        cluster=names.cluster_name(cluster) if cluster is not None else None,
        layout=Layout(layout) if layout is not None else None,
        nodes=tuple(starter.node(each) for each in nodes),
        api=starter.api(api) if api is not None else None,
        root="external" if root == "external" or root_file is not None else "vault",
        root_file=names.file_path(str(root_file)) if root_file is not None else "corp-root.pem",
    )
    if output != "-" and terminal():
        answers = _asked(answers, root_is_known=root is not None or root_file is not None)
    text = starter.filled(answers)
    # The file of a root from outside need not be there yet.
    read_cluster(starter.filled(replace(answers, root="vault")), Path(output))
    if output == "-":
        click.echo(text, nl=False)
        return
    new_file.write_new(output, text, force=force)
    _say_what_is_next(Path(output), answers)


def _asked(known: StarterAnswers, *, root_is_known: bool) -> StarterAnswers:
    """Return the answers with what a person says at the terminal to those that are missing."""
    from dataclasses import replace

    from vaultpki.config import starter
    from vaultpki.places import Layout
    from vaultpki.values import names

    if known.layout is None:
        click.echo("kubeadm: nodes are set up by kubeadm. document: you write manifests or units of your own.")
        said = click.prompt("Layout", type=click.Choice(_LAYOUTS), default="document")
        known = replace(known, layout=Layout(said))
    if known.cluster is None:
        known = replace(known, cluster=_prompt("Name of the cluster", "prod", names.cluster_name))
    if not known.nodes:
        click.echo(f"Nodes, the first control plane first: {starter.SYNTAX}, as cp-1=10.0.0.11:control-plane,etcd")
        click.echo(
            "With no ROLES at all the first is the control plane. Once one has ROLES, those without are workers."
        )
        known = replace(known, nodes=_asked_nodes(starter.node))
    if known.api is None:
        at = starter.filled_endpoint(known)
        known = replace(known, api=_prompt("API server, HOST[:PORT]", at, starter.api))
    if not root_is_known:
        click.echo("vault: Vault makes the root CA and keeps its key. external: a root of your own signs.")
        if click.prompt("Root CA", type=click.Choice(_ROOTS), default="vault") == "external":
            known = replace(
                known, root="external", root_file=_prompt("File of its certificate", known.root_file, names.file_path)
            )
    return known


def _asked_nodes(read: Callable[[str], NewNode]) -> tuple[NewNode, ...]:
    found: list[NewNode] = []
    while True:
        enter = f"Enter: {'no more' if found else 'those of the example'}"
        said: Any = _prompt(f"Node ({enter})", _NO_NODE, lambda text: None if text == _NO_NODE else read(text), False)
        if said is None:
            return tuple(found)
        found.append(said)


def _prompt(question: str, default: str, read: Callable[[str], _T], shown: bool = True) -> _T:
    """Ask until the answer can be read, and return what was read."""
    from vaultpki.errors import SpecError

    def checked(text: str) -> _T:
        try:
            return read(text)
        except SpecError as error:
            raise click.BadParameter(str(error)) from None

    value: _T = click.prompt(question, default=default, show_default=shown, value_proc=checked)
    return value


def _say_what_is_next(path: Path, answers: StarterAnswers) -> None:
    click.echo(f"Wrote {path}. Keep it in version control; it holds no secret.")
    click.echo("What cannot be changed later:")
    click.echo("  layout: once a node has joined, every node would have to join again.")
    click.echo("  cluster, prefix, vault.namespace: names of CAs and paths in Vault have them; only a new cluster can.")
    click.echo("  ca.root: the root's key never leaves its place; another place needs another root, and its rotation.")
    if answers.root == "external" and not (path.parent / answers.root_file).exists():
        click.echo(f"Put the certificate of your root, and of all CAs between, into {answers.root_file} beside it.")
    click.echo("Look at the file, then run:")
    click.echo(f"  vaultpki plan{file_option(str(path))}")
