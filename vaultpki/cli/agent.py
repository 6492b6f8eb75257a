"""`vaultpki agent`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from vaultpki.cli.common import DEFAULT_AGENT
from vaultpki.errors import VaultpkiError

if TYPE_CHECKING:
    from vaultpki.model import AgentConfig
    from vaultpki.passing import Outcome

# A resident agent's pass may be under way.
_LOCK_WAIT = 15.0


class _Telling(click.Command):
    """A command that tells an error that ends it in the form that `--log-format` asks for."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except VaultpkiError as error:
            if ctx.params["log_format"] == "text":
                raise
            from vaultpki.log import Event, writer

            writer("json", sys.stderr)(Event("failed", str(error), "error"))
            return error.exit_code


@click.command("agent", cls=_Telling)
@click.option(
    "-c",
    "--config",
    "file",
    type=click.Path(path_type=Path),
    default=DEFAULT_AGENT,
    show_default=True,
    help="The node's agent.yaml.",
)
@click.option("--once", is_flag=True, help="One pass, then end; without it the agent stays and renews.")
@click.option(
    "--join",
    "join_file",
    type=click.Path(path_type=Path),
    help="Take part in the cluster by this join file first; writes agent.yaml where -c points.",
)
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path),
    help="With --join: where the certificates go.  [default: /etc/kubernetes/pki]",
)
@click.option(
    "--install-unit", is_flag=True, help="Write the systemd units for this agent.yaml, say what to do next, and end."
)
@click.option(
    "--print-unit",
    metavar="NAME",
    help="Print a unit or recipe and end: vaultpki-agent.service, vaultpki-agent-once.service, Containerfile, "
    "daemonset.yaml, static-pod.yaml, alerts.yaml.",
)
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How events are told."
)
@click.option("--allow-http", is_flag=True, help="Talk plain http to a Vault that is not on this machine.")
def agent_command(
    file: Path,
    once: bool,
    join_file: Path | None,
    directory: Path | None,
    install_unit: bool,
    print_unit: str | None,
    log_format: Literal["text", "json"],
    allow_http: bool,
) -> int:
    """Issue what is missing or due on this node, install it in one step, and renew it for as long as the node lives.

    SIGTERM ends it at once, whatever it does; SIGHUP makes it read agent.yaml again.

    \b
    Example:
      vaultpki agent --join join.json --once
      vaultpki agent -c /etc/vaultpki/agent.yaml
    """
    if once and not (join_file or directory or install_unit or print_unit):
        import time

        from vaultpki import quiet

        due = quiet.due(file, allow_http=allow_http, now=time.time())
        if due is not None:
            _tell_idle(due, log_format)
            return 0

    from vaultpki import agent
    from vaultpki.config import load_agent

    if print_unit is not None:
        from vaultpki import systemd

        known = load_agent(file, allow_http=allow_http) if file.exists() else None
        click.echo(systemd.recipe(print_unit, known), nl=False)
        return 0

    if join_file is not None:
        config = _join(file, join_file, directory, allow_http=allow_http)
        _tell_joined(config, file, log_format)
    elif directory is not None:
        raise click.UsageError("--dir goes with --join; afterwards `directory` in agent.yaml says where files go")
    else:
        config = load_agent(file, allow_http=allow_http)
    if install_unit:
        from vaultpki import systemd

        for path in systemd.install_units(file.absolute(), config, allow_http=allow_http):
            click.echo(f"wrote {path}")
        click.echo("next: systemctl daemon-reload && systemctl enable --now vaultpki-agent")
        click.echo("and, for a node that shall boot with fresh files: systemctl enable vaultpki-agent-once")
        return 0
    if once:
        return tell_outcome(agent.run(config, allow_http=allow_http, wait=_LOCK_WAIT), log_format)
    from vaultpki import log, resident

    resident.stay(
        config,
        load=lambda: load_agent(file, allow_http=allow_http),
        tell=log.writer(log_format, sys.stderr),
        allow_http=allow_http,
    )
    return 0


def _join(file: Path, join_file: Path, directory: Path | None, *, allow_http: bool) -> AgentConfig:
    from datetime import UTC, datetime

    from vaultpki import credential, files, join_checks
    from vaultpki.config import load_agent
    from vaultpki.join import load_join

    join = load_join(join_file)
    file = file.absolute()
    target = str(directory.absolute()) if directory is not None else "/etc/kubernetes/pki"
    # Beside agent.yaml where that lies elsewhere, so that a test or a second cluster needs no root.
    state = "/var/lib/vaultpki" if file == DEFAULT_AGENT else str(file.parent / "state")
    old = load_agent(file, allow_http=allow_http) if files.there(str(file)) else None
    if old is not None:
        target, state = (target if directory is not None else old.directory), old.state
    # What can be refused is refused before the wrapping token is used up.
    join_checks.refuse(join_checks.Plan(join, old, str(file), target, state))
    return credential.join(
        join, old, file=str(file), directory=target, state=state, now=datetime.now(UTC), allow_http=allow_http
    )


def _tell_joined(config: AgentConfig, file: Path, log_format: Literal["text", "json"]) -> None:
    from vaultpki.log import Event, writer

    text = f"{config.node} has joined {config.cluster}; its configuration is {file}"
    writer(log_format, sys.stdout)(Event("joined", text, fields={"node": config.node, "cluster": config.cluster}))


def tell_outcome(outcome: Outcome, log_format: Literal["text", "json"] = "text") -> int:
    """Says what one pass did: on standard output what was done, on standard error what failed or is still owed.

    Returns the command's exit code: 1 where something failed, else 3 where a hook is owed, else 0.
    """
    from vaultpki import agent
    from vaultpki.log import writer

    done, failed = writer(log_format, sys.stdout), writer(log_format, sys.stderr)
    owed = outcome.memory.owed
    for event in outcome.events:
        # A hook that fails is owed, and told with the others that are.
        if event.name != "hook-failed":
            (done if event.level == "info" else failed)(event)
    for event in agent.told({name: str(error) for name, error in outcome.failures.items()}):
        failed(event)
    if outcome.failures:
        if deadline := agent.deadline(outcome.dies):
            failed(deadline)
    elif not outcome.events and not owed and outcome.due is not None:
        _tell_idle(outcome.due.timestamp(), log_format)
    for event in agent.told_owed(owed):
        failed(event)
    return 1 if outcome.failures else 3 if owed else 0


def _tell_idle(until: float, log_format: Literal["text", "json"]) -> None:
    import time

    from vaultpki.log import Event, writer

    due = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(until))
    writer(log_format, sys.stdout)(Event("nothing-to-do", f"nothing to do until {due}", fields={"renew_after": due}))
