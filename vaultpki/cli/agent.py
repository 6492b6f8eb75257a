"""`vaultpki agent`."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from vaultpki.cli.common import DEFAULT_AGENT, allow_http_option, config_option, path_option
from vaultpki.errors import VaultpkiError

if TYPE_CHECKING:
    from vaultpki.agent.context import Outcome
    from vaultpki.host.log import Event
    from vaultpki.join.checks import JoinPlan
    from vaultpki.join.enter import Joined
    from vaultpki.model import AgentConfig
    from vaultpki.places import Layout

# A resident agent's pass may be under way.
_LOCK_WAIT = 15.0


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
    """A join as the options ask for it: by which file, None for no join; where files go; and whether hooks are written.

    `static_pods` asks for the hooks that restart this node's static pods.
    """

    file: Path | None
    places: JoinFolders
    static_pods: bool = False


def _join_options(function: Callable[..., int]) -> Callable[..., int]:
    """Add the options that say how a node joins, and pass them on as one value, `joining`."""

    @path_option(
        "--join",
        "join_file",
        help="Take part in the cluster by this join file first; writes agent.yaml where -c points.",
    )
    @path_option("--dir", "directory", help="With --join: where the certificates go.  [default: /etc/kubernetes/pki]")
    @path_option(
        "--kubeconfig-dir",
        help="With --join and kubeadm: where kubeconfigs go.  [default: above --dir, /etc/kubernetes]",
    )
    @path_option(
        "--kubelet-dir",
        help="With --join and kubeadm: where the kubelet's certificates go.  [default: /var/lib/kubelet/pki]",
    )
    @click.option(
        "--hooks",
        type=click.Choice(["static-pods"]),
        help="With --join, for etcd and a control plane in static pods: write hooks into agent.yaml. They "
        "restart those of this node that read a CA only when they start. Hooks that are there stay.",
    )
    @functools.wraps(function)
    def with_joining(
        *,
        join_file: Path | None,
        directory: Path | None,
        kubeconfig_dir: Path | None,
        kubelet_dir: Path | None,
        hooks: Literal["static-pods"] | None,
        **options: Any,
    ) -> int:
        places = JoinFolders(directory, kubeconfig_dir, kubelet_dir)
        return function(joining=Joining(join_file, places, static_pods=hooks is not None), **options)

    return with_joining


@dataclass(frozen=True, slots=True)
class Once:
    """Whether `agent` makes one pass only (`given`), asks nothing if nothing is due, and removes surplus pairs."""

    given: bool
    if_due: bool = False
    prune: bool = False


def _once_options(function: Callable[..., int]) -> Callable[..., int]:
    """Add the options of a single pass, and pass them on as one value, `once`."""

    @click.option(
        "--once", is_flag=True, help="One pass, which asks Vault, then end; without it the agent stays and renews."
    )
    @click.option(
        "--if-due", is_flag=True, help="With --once, for timers: ask Vault nothing if nothing is due within `poll`."
    )
    @click.option(
        "--prune",
        is_flag=True,
        help="With --once: remove at once the pairs that this node's record does not name. Without it each stays until "
        "it expires.",
    )
    @functools.wraps(function)
    def with_once(*, once: bool, if_due: bool, prune: bool, **options: Any) -> int:
        return function(once=Once(once, if_due, prune), **options)

    return with_once


class _Telling(click.Command):
    """A command that tells an error that ends it in the form that `--log-format` asks for."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except VaultpkiError as error:
            if ctx.params["log_format"] == "text":
                raise
            from vaultpki.host.log import Event, writer

            writer("json", sys.stderr)(Event("failed", str(error), "error"))
            return error.exit_code


@click.command("agent", cls=_Telling)
@config_option
@_once_options
@_join_options
@click.option(
    "--install-unit", is_flag=True, help="Write the systemd units for this agent.yaml, say what to do next, and end."
)
@click.option(
    "--print-unit",
    metavar="NAME",
    help="Print a unit or recipe and end: vaultpki-agent.service, vaultpki-agent-once.service, Containerfile, "
    "daemonset.yaml, kustomization.yaml, static-pod.yaml, kube-rbac-proxy.yaml, podmonitor.yaml, prometheus-rule.yaml, "
    "vaultpki-metrics.service, vaultpki-metrics.timer, alerts.yaml, grafana-dashboard.json.",
)
@click.option(
    "--docs",
    metavar="URL",
    help="With --print-unit: the address of these pages, to which the alerts lead.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How events are written.",
)
@allow_http_option
def agent_command(
    file: Path,
    once: Once,
    joining: Joining,
    install_unit: bool,
    print_unit: str | None,
    docs: str | None,
    log_format: Literal["text", "json"],
    allow_http: bool,
) -> int:
    """Issue what is missing or due on this node, install it in one step, and renew it for as long as the node lives.

    SIGTERM ends it at once, whatever it does; SIGHUP makes it read agent.yaml again and
    ask Vault at once, as `vaultpki pull` does.

    \b
    Example:
      vaultpki agent --join join.json --once
      vaultpki agent --join join.json --hooks static-pods --once
      vaultpki agent --once --if-due
      vaultpki agent -c /etc/vaultpki/agent.yaml
      vaultpki agent --print-unit alerts.yaml --docs https://docs.example.com/vaultpki/
    """
    places = joining.places
    if once.if_due and not once.given:
        raise click.UsageError("--if-due is for --once; an agent that stays asks Vault at every `poll`")
    if once.prune and (not once.given or once.if_due):
        raise click.UsageError("--prune is for --once without --if-due: Vault is asked first what this node holds")
    if joining.static_pods and joining.file is None:
        raise click.UsageError("--hooks goes with --join; afterwards `hooks` in agent.yaml says what is run")
    from vaultpki.agent import run
    from vaultpki.config.agent import load_agent
    from vaultpki.procedures import ON_NODES

    if print_unit is not None:
        from vaultpki.host import systemd

        known = load_agent(file, allow_http=allow_http) if file.exists() else None
        click.echo(systemd.recipe(print_unit, known, docs=docs), nl=False)
        return 0
    if docs is not None:
        raise click.UsageError("--docs goes with --print-unit")

    if joining.file is not None:
        joined = _join(file, joining.file, joining, allow_http=allow_http)
        _tell_joined(joined, file, log_format)
        config = joined.config
    elif places.given:
        raise click.UsageError(
            f"{places.given} goes with --join; afterwards `directory` and `folders` in agent.yaml say where files go"
        )
    else:
        config = load_agent(file, allow_http=allow_http)
    if install_unit:
        from vaultpki.host import systemd

        for path in systemd.install_units(config, allow_http=allow_http):
            click.echo(f"wrote {path}")
        click.echo("next: systemctl daemon-reload && systemctl enable --now vaultpki-agent")
        click.echo("and, for a node that shall boot with fresh files: systemctl enable vaultpki-agent-once")
        return 0
    if once.given:
        # A person who runs this knows of something new.
        share = 1.0 if once.if_due else 0.0
        options = run.PassOptions(ON_NODES, allow_http=allow_http, wait=_LOCK_WAIT, share=share, prune=once.prune)
        return tell_outcome(run.run(config, options), log_format)
    from vaultpki.daemon import loop as daemon
    from vaultpki.host import log

    daemon.stay(
        config,
        ON_NODES,
        load=lambda: load_agent(file, allow_http=allow_http),
        log=log.writer(log_format, sys.stderr),
        allow_http=allow_http,
    )
    return 0


def _join(file: Path, join_file: Path, joining: Joining, *, allow_http: bool) -> Joined:
    from datetime import UTC, datetime

    from vaultpki.join import checks, enter

    plan = join_plan(file, join_file, joining.places, allow_http=allow_http, static_pods=joining.static_pods)
    # What can be refused is refused before the wrapping token is used up.
    checks.refuse(plan)
    return enter.join(plan, datetime.now(UTC), allow_http=allow_http)


def join_plan(
    file: Path, join_file: Path, places: JoinFolders, *, allow_http: bool, static_pods: bool = False
) -> JoinPlan:
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
    return JoinPlan(found, old, str(file), target, state, folders, static_pods=static_pods)


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


def tell_outcome(outcome: Outcome, log_format: Literal["text", "json"] = "text") -> int:
    """Says what one pass did: on standard output what was done, on standard error what failed or is still owed.

    Returns the command's exit code: 1 if something failed, else 3 if a hook is owed, else 0.
    """
    from vaultpki.host.log import writer

    done, failed = writer(log_format, sys.stdout), writer(log_format, sys.stderr)
    owed = outcome.state.owed
    for event in outcome.events:
        # A failed hook is owed, and reported with the others that are.
        if event.name != "hook-failed":
            (done if event.level == "info" else failed)(event)
    if outcome.failures or owed:
        _tell_failed(outcome, failed)
    elif not outcome.events and outcome.due is not None:
        _tell_idle(outcome.due.timestamp(), log_format)
    return 1 if outcome.failures else 3 if owed else 0


def _tell_failed(outcome: Outcome, tell: Callable[[Event], None]) -> None:
    from vaultpki.daemon import outcome_events

    for event in outcome_events.failure_events({name: str(error) for name, error in outcome.failures.items()}):
        tell(event)
    if paused := outcome_events.paused(outcome.failures):
        tell(paused)
    if outcome.failures and (deadline := outcome_events.deadline(outcome.first_expiry)):
        tell(deadline)
    waiting = {event.fields["hook"] for event in outcome.events if event.name == "turn"}
    owed = {key: each for key, each in outcome.state.owed.items() if key not in waiting}
    for event in outcome_events.owed_hook_events(owed):
        tell(event)


def _tell_idle(until: float, log_format: Literal["text", "json"]) -> None:
    import time

    from vaultpki.host.log import Event, writer

    due = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(until))
    writer(log_format, sys.stdout)(Event("nothing-to-do", f"nothing to do until {due}", fields={"renew_after": due}))
