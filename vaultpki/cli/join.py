"""`vaultpki join`."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from vaultpki.cli.common import (
    DEFAULT_AGENT,
    TellingCommand,
    allow_http_option,
    config_option,
    log_format_option,
    path_option,
)
from vaultpki.cli.progress import tell_waits
from vaultpki.places import SIGNER_STATE

if TYPE_CHECKING:
    from vaultpki.join.checks import JoinPlan
    from vaultpki.join.enter import Joined
    from vaultpki.model import AgentConfig
    from vaultpki.places import Layout


@dataclass(frozen=True, slots=True)
class JoinFolders:
    """Where a join puts files, as the options say; None is the default."""

    directory: Path | None
    kubeconfigs: Path | None
    kubelet: Path | None

    @property
    def given(self) -> str:
        """The first option that was given; empty without any."""
        named = (("--dir", self.directory), ("--kubeconfig-dir", self.kubeconfigs), ("--kubelet-dir", self.kubelet))
        return next((name for name, path in named if path is not None), "")

    def folders(self, layout: Layout, directory: str, old: AgentConfig | None) -> dict[str, str]:
        """Return the further folders of the layout; those of an earlier join stay if no option says otherwise."""
        from vaultpki.config.taken_over import final
        from vaultpki.layout import node_folders
        from vaultpki.places import KUBECONFIGS, KUBELET, Layout

        kubeconfigs, kubelet = (path and str(path.absolute()) for path in (self.kubeconfigs, self.kubelet))
        if layout is Layout.DOCUMENT:
            if kubeconfigs or kubelet:
                raise click.UsageError("--kubeconfig-dir and --kubelet-dir are for the layout kubeadm; leave them out")
            return {}
        before = final(old).folders if old is not None and self.directory is None else {}
        return node_folders(directory, kubeconfigs or before.get(KUBECONFIGS), kubelet or before.get(KUBELET))


@dataclass(frozen=True, slots=True)
class Joining:
    """How a node joins, as the options ask for it: where files go, and whether hooks are written.

    `static_pods` asks for the hooks that restart this node's static pods, and `adopt` has its agent take over a machine
    of kubeadm's.
    """

    places: JoinFolders
    static_pods: bool = False
    adopt: bool = False

    @property
    def given(self) -> str:
        """The first option that was given; empty without any."""
        hooks = "--hooks" if self.static_pods else ""
        return self.places.given or ("--adopt" if self.adopt else hooks)


def _join_options(function: Callable[..., int]) -> Callable[..., int]:
    """Add the options that say how a node joins, and pass them on as one value, `joining`."""

    @path_option(
        "--dir", "directory", help="The folder of certificate files on this node.  [default: /etc/kubernetes/pki]"
    )
    @path_option(
        "--kubeconfig-dir",
        help="With kubeadm: where kubeconfigs go.  [default: above --dir, /etc/kubernetes]",
    )
    @path_option(
        "--kubelet-dir",
        help="With kubeadm: where the kubelet's certificates go.  [default: /var/lib/kubelet/pki]",
    )
    @click.option(
        "--hooks",
        type=click.Choice(["static-pods"]),
        help="For etcd and a control plane in static pods: write hooks into agent.yaml. They "
        "restart those of this node that read a CA only when they start. Hooks that are there stay.",
    )
    @click.option(
        "--adopt",
        is_flag=True,
        help="On a machine of kubeadm's that is taken over: its agent does each step of the adoption. "
        "Its agent.yaml gets the hooks that its static pods need afterwards.",
    )
    @functools.wraps(function)
    def with_joining(
        *,
        directory: Path | None,
        kubeconfig_dir: Path | None,
        kubelet_dir: Path | None,
        hooks: Literal["static-pods"] | None,
        adopt: bool,
        **options: Any,
    ) -> int:
        places = JoinFolders(directory, kubeconfig_dir, kubelet_dir)
        return function(joining=Joining(places, hooks is not None or adopt, adopt), **options)

    return with_joining


@click.command("join", cls=TellingCommand)
@config_option
@click.argument("join_file", metavar="[FILE]", required=False, type=click.Path(path_type=Path, readable=False))
@_join_options
@click.option(
    "--unit", is_flag=True, help="Write the systemd units for this agent.yaml too, and start the agent that stays."
)
@click.option(
    "--user",
    default="vaultpki-signer",
    show_default=True,
    metavar="NAME",
    help="With the join file of a signer: as whom it runs.",
)
@log_format_option
@allow_http_option
def join_command(
    file: Path,
    join_file: Path | None,
    joining: Joining,
    unit: bool,
    user: str,
    log_format: Literal["text", "json"],
    allow_http: bool,
) -> int:
    """Take part in the cluster by a join file, and issue the certificates of this node.

    It writes agent.yaml where -c points. Without FILE, --unit is for a node that has joined already.

    The join file of a signer sets up a signer on a control plane that has joined before.

    \b
    Example:
      vaultpki join join.json
      vaultpki join join.json --unit
      vaultpki join join.json --hooks static-pods
      vaultpki join join.json --adopt --unit
      vaultpki join --unit
    """
    from vaultpki.cli.one_pass import Once, make_pass
    from vaultpki.config.agent import load_agent
    from vaultpki.records.join_file import load_join

    if join_file is not None and load_join(join_file).signer:
        if option := joining.given:
            raise click.UsageError(f"{option} is for the join file of a node, and this one is of a signer")
        return _set_up_signer(file, join_file, user, log_format, unit=unit, allow_http=allow_http)
    code = 0
    if join_file is not None:
        config = enter_cluster(file, join_file, joining, log_format, allow_http=allow_http)
        code = make_pass(config, Once(given=True), log_format, allow_http=allow_http)
    elif not unit:
        raise click.UsageError("name the join file that `vaultpki enroll` wrote for this node")
    elif option := joining.given:
        raise click.UsageError(f"{option} goes with a join file; afterwards agent.yaml says it")
    else:
        config = load_agent(file, allow_http=allow_http)
    if unit:
        write_units(config, allow_http=allow_http)
        _start_unit()
    return code


def _set_up_signer(
    file: Path, join_file: Path, user: str, log_format: Literal["text", "json"], *, unit: bool, allow_http: bool
) -> int:
    """Join as the signer of the node of agent.yaml, `file`, whose agent then issues the signer's pair."""
    from datetime import UTC, datetime

    from vaultpki.cli.one_pass import Once, ask_or_make_pass
    from vaultpki.config.agent import load_agent
    from vaultpki.host.log import Event, writer
    from vaultpki.join import signer
    from vaultpki.records.join_file import load_join

    tell_waits()
    state = SIGNER_STATE if file.absolute() == DEFAULT_AGENT else str(file.absolute().parent / "signer")
    agent, found = load_agent(file, allow_http=allow_http), load_join(join_file)
    config = signer.join_signer(agent, found, state, user, datetime.now(UTC), allow_http=allow_http)
    text = f"the signer on {config.node} has joined {config.cluster}; its configuration is {config.file}"
    fields = {"node": config.node, "cluster": config.cluster}
    writer(log_format, sys.stdout)(Event("joined", text, fields=fields))
    code = ask_or_make_pass(
        load_agent(file, allow_http=allow_http), Once(given=True), log_format, allow_http=allow_http
    )
    if unit:
        write_units(config, allow_http=allow_http)
        _start_unit("vaultpki-signer")
    return code


def write_units(config: AgentConfig, *, allow_http: bool) -> None:
    """Write the systemd units for this agent.yaml where they are missing or different, and say which."""
    from vaultpki.host import systemd

    for path in systemd.install_units(config, allow_http=allow_http):
        click.echo(f"wrote {path}")


def say_unit_commands(unit: str = "vaultpki-agent") -> None:
    """Say with which commands a person starts the units."""
    click.echo(f"next: systemctl daemon-reload && systemctl enable --now {unit}")
    if unit == "vaultpki-agent":
        click.echo("and, for a node that shall boot with fresh files: systemctl enable vaultpki-agent-once")


def _start_unit(unit: str = "vaultpki-agent") -> None:
    from vaultpki.host import systemd

    if systemd.start_unit(unit):
        click.echo(f"{unit}.service is enabled and runs")
    else:
        say_unit_commands(unit)


def enter_cluster(
    file: Path, join_file: Path, joining: Joining, log_format: Literal["text", "json"], *, allow_http: bool
) -> AgentConfig:
    """Join by the file that is asked for, tell it, and return the node's configuration; agent.yaml is `file`."""
    from datetime import UTC, datetime

    from vaultpki.join import checks, enter

    tell_waits()
    asked = join_plan(file, join_file, joining.places, allow_http=allow_http)
    plan = replace(asked, static_pods=joining.static_pods, adopt=joining.adopt)
    # What can be refused is refused before the wrapping token is used up.
    _refuse_unfit(plan)
    checks.refuse(plan)
    joined = enter.join(plan, datetime.now(UTC), allow_http=allow_http)
    _tell_joined(joined, file, log_format)
    return joined.config


def _refuse_unfit(plan: JoinPlan) -> None:
    """Refuse a machine of kubeadm's that is to be taken over, and that no step of an adoption could change."""
    from vaultpki.node import foreign_kubeadm_files
    from vaultpki.places import Layout
    from vaultpki.takeover import unfit

    old = plan.join.also_trust
    if plan.join.layout is not Layout.KUBEADM or not old or (plan.old is not None and plan.old.taken_over is not None):
        return
    # Files behind a link are read by nobody else.
    if unfit.has_links(plan.machine, old) or foreign_kubeadm_files.to_take_over(plan.join, plan.paths):
        unfit.refuse_joining(plan.machine, old)


def join_plan(file: Path, join_file: Path, places: JoinFolders, *, allow_http: bool) -> JoinPlan:
    """Return the join that these files and folders ask for; nothing is checked but the files themselves."""
    from vaultpki.config.agent import load_agent
    from vaultpki.disk import files
    from vaultpki.join.checks import JoinPlan
    from vaultpki.layout import DIRECTORY
    from vaultpki.records.join_file import load_join

    found = load_join(join_file)
    file = file.absolute()
    target = str(places.directory.absolute()) if places.directory is not None else DIRECTORY
    # Beside agent.yaml where that lies elsewhere, so that a test or a second cluster needs no root.
    state = "/var/lib/vaultpki" if file == DEFAULT_AGENT else str(file.parent / "state")
    old = load_agent(file, allow_http=allow_http) if files.exists(str(file)) else None
    if old is not None:
        before = old.taken_over.directory if old.taken_over is not None else old.directory
        target, state = (target if places.directory is not None else before), old.state
    folders = places.folders(found.layout, target, old)
    return JoinPlan(found, old, str(file), target, state, folders)


def _tell_joined(joined: Joined, file: Path, log_format: Literal["text", "json"]) -> None:
    from vaultpki.host.log import Event, writer
    from vaultpki.join import hooks

    config, tell = joined.config, writer(log_format, sys.stdout)
    text = f"{config.node} has joined {config.cluster}; its configuration is {file}"
    text += f"; {joined.note}" if joined.note else ""
    tell(Event("joined", text, fields={"node": config.node, "cluster": config.cluster}))
    if joined.hooks is not None:
        for event in hooks.events(joined.hooks):
            tell(event)
