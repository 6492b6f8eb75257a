"""`vaultpki agent`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from vaultpki.agent import Outcome


@click.command("agent")
@click.option(
    "-c",
    "--config",
    "file",
    type=click.Path(path_type=Path),
    default="/etc/vaultpki/agent.yaml",
    show_default=True,
    help="The node's agent.yaml.",
)
@click.option("--once", is_flag=True, help="One pass, then end; without it the agent stays and renews.")
@click.option("--allow-http", is_flag=True, help="Talk plain http to a Vault that is not on this machine.")
def agent_command(file: Path, once: bool, allow_http: bool) -> int:
    """Issue what is missing or due on this node, install it in one step, and renew it for as long as the node lives.

    \b
    Example:
      vaultpki agent -c /etc/vaultpki/agent.yaml --once
    """
    from vaultpki import agent
    from vaultpki.config import load_agent

    config = load_agent(file, allow_http=allow_http)
    if once:
        outcome = agent.run(config, allow_http=allow_http)
        _tell(outcome)
        return 1 if outcome.failures else 0
    agent.stay(
        config, tell=_tell, complain=lambda error: click.echo(f"vaultpki: {error}", err=True), allow_http=allow_http
    )
    return 0


def _tell(outcome: Outcome) -> None:
    for name in outcome.renewed:
        granted = outcome.short.get(name)
        note = f" (Vault granted only {granted} s; the next renewal follows that)" if granted is not None else ""
        click.echo(f"issued {name}{note}")
    if outcome.companions:
        click.echo("wrote bundles and kubeconfigs")
    for name, error in outcome.failures.items():
        click.echo(f"vaultpki: {name}: {error}", err=True)
    if outcome.failures and outcome.dies is not None:
        click.echo(f"vaultpki: the first certificate here ends at {outcome.dies:%Y-%m-%dT%H:%M:%SZ}", err=True)
    elif not outcome.renewed and not outcome.companions and outcome.due is not None:
        click.echo(f"nothing to do until {outcome.due:%Y-%m-%dT%H:%M:%SZ}")
