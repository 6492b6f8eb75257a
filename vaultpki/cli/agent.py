"""`vaultpki agent`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from vaultpki.agent import Outcome
    from vaultpki.model import AgentConfig

DEFAULT = Path("/etc/vaultpki/agent.yaml")


@click.command("agent")
@click.option(
    "-c",
    "--config",
    "file",
    type=click.Path(path_type=Path),
    default=DEFAULT,
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
@click.option("--allow-http", is_flag=True, help="Talk plain http to a Vault that is not on this machine.")
def agent_command(file: Path, once: bool, join_file: Path | None, directory: Path | None, allow_http: bool) -> int:
    """Issue what is missing or due on this node, install it in one step, and renew it for as long as the node lives.

    \b
    Example:
      vaultpki agent --join join.json --once
      vaultpki agent -c /etc/vaultpki/agent.yaml
    """
    from vaultpki import agent
    from vaultpki.config import load_agent

    if join_file is not None:
        config = _join(file, join_file, directory, allow_http=allow_http)
        click.echo(f"{config.node} has joined {config.cluster}; its configuration is {file}")
    elif directory is not None:
        raise click.UsageError("--dir goes with --join; afterwards `directory` in agent.yaml says where files go")
    else:
        config = load_agent(file, allow_http=allow_http)
    if once:
        outcome = agent.run(config, allow_http=allow_http)
        _tell(outcome)
        return 1 if outcome.failures else 0
    agent.stay(
        config, tell=_tell, complain=lambda error: click.echo(f"vaultpki: {error}", err=True), allow_http=allow_http
    )
    return 0


def _join(file: Path, join_file: Path, directory: Path | None, *, allow_http: bool) -> AgentConfig:
    from datetime import UTC, datetime

    from vaultpki import credential
    from vaultpki.config import load_agent
    from vaultpki.errors import SpecError
    from vaultpki.join import load_join

    join = load_join(join_file)
    file = file.absolute()
    target = str(directory.absolute()) if directory is not None else "/etc/kubernetes/pki"
    # Beside agent.yaml where that lies elsewhere, so that a test or a second cluster needs no root.
    state = "/var/lib/vaultpki" if file == DEFAULT else str(file.parent / "state")
    old = load_agent(file, allow_http=allow_http) if file.exists() else None
    if old is not None:
        if (old.cluster, old.prefix, old.node) != (join.cluster, join.prefix, join.node):
            raise SpecError(
                f"the join file is for node {join.node} of {join.cluster}, and {file} is of node {old.node} of "
                f"{old.cluster}; name another agent.yaml with -c"
            )
        target, state = (str(directory.absolute()) if directory is not None else old.directory), old.state
    if f"{state}/".startswith(f"{target}/"):
        raise SpecError(
            f"the agent's own folder {state} would lie in {target}, which static pods mount; "
            "name another place for agent.yaml with -c, or another --dir"
        )
    return credential.join(
        join, old, file=str(file), directory=target, state=state, now=datetime.now(UTC), allow_http=allow_http
    )


def _tell(outcome: Outcome) -> None:
    for name in outcome.renewed:
        granted = outcome.short.get(name)
        note = f" (Vault granted only {granted} s; the next renewal follows that)" if granted is not None else ""
        click.echo(f"issued {name}{note}")
    if outcome.companions:
        click.echo("wrote bundles and kubeconfigs")
    for name, error in outcome.failures.items():
        said = str(error)
        click.echo(f"vaultpki: {said if said.startswith(f'{name}: ') else f'{name}: {said}'}", err=True)
    if outcome.failures and outcome.dies is not None:
        click.echo(f"vaultpki: the first certificate here ends at {outcome.dies:%Y-%m-%dT%H:%M:%SZ}", err=True)
    elif not outcome.renewed and not outcome.companions and outcome.due is not None:
        click.echo(f"nothing to do until {outcome.due:%Y-%m-%dT%H:%M:%SZ}")
