"""`vaultpki pull`, the former name of `agent --once` where an agent stays."""

from __future__ import annotations

from pathlib import Path

import click

from vaultpki.cli.common import allow_http_option, config_option, json_option, print_json


@click.command("pull", hidden=True)
@config_option
@allow_http_option
@json_option
def pull_command(file: Path, allow_http: bool, as_json: bool) -> int:
    """Make the agent that stays on this node read agent.yaml again and ask Vault now; wait, and tell what it did.

    It is an old spelling of `vaultpki agent --once`.
    """
    from vaultpki.cli.old_spellings import tell_new
    from vaultpki.cli.one_pass import tell_pull
    from vaultpki.config.agent import load_agent
    from vaultpki.daemon import resident

    tell_new("pull", "vaultpki agent --once", "text")
    done = resident.pull(load_agent(file, allow_http=allow_http))
    told, failures = done.pulled.told, done.pulled.failures
    if as_json:
        events = [{"event": each.name, "level": each.level, "message": each.text} for each in (*told, *done.owed)]
        ok = not failures and not done.owed
        print_json({"pid": done.pid, "events": events, "failures": dict(failures), "ok": ok})
    else:
        tell_pull(done)
    return 1 if failures else 3 if done.owed else 0
