"""`vaultpki pull`, for a person on the node."""

from __future__ import annotations

from pathlib import Path

import click

from vaultpki.cli.common import allow_http_option, config_option, json_option, print_json


@click.command("pull")
@config_option
@allow_http_option
@json_option
def pull_command(file: Path, allow_http: bool, as_json: bool) -> int:
    """Make the agent that stays on this node read agent.yaml again and ask Vault now; wait, and tell what it did.

    Exit 3 if a hook has not succeeded. Without such an agent, `vaultpki agent --once` does the same.

    \b
    Example:
      vaultpki pull
      vaultpki pull -c /etc/vaultpki/agent.yaml --json
    """
    import sys

    from vaultpki.config.agent import load_agent
    from vaultpki.daemon import resident
    from vaultpki.host.log import writer

    config = load_agent(file, allow_http=allow_http)
    done = resident.pull(config)
    told, failures = done.pulled.told, done.pulled.failures
    if as_json:
        events = [{"event": each.name, "level": each.level, "message": each.text} for each in (*told, *done.owed)]
        ok = not failures and not done.owed
        print_json({"pid": done.pid, "events": events, "failures": dict(failures), "ok": ok})
    else:
        well, wrong = writer("text", sys.stdout), writer("text", sys.stderr)
        for event in (*told, *done.owed):
            (well if event.level == "info" else wrong)(event)
        if not told and not done.owed:
            click.echo("the agent asked Vault; nothing was to be done")
    return 1 if failures else 3 if done.owed else 0
