"""`vaultpki agent`."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click

from vaultpki.cli.common import TellingCommand, allow_http_option, config_option, log_format_option
from vaultpki.cli.old_spellings import OldSpellings, obey, old_options
from vaultpki.cli.one_pass import Once, ask_or_make_pass


def _once_options(function: Callable[..., int]) -> Callable[..., int]:
    """Add the options of a single pass, and pass them on as one value, `once`."""

    @click.option(
        "--once",
        is_flag=True,
        help="One pass, which asks Vault, then end. If an agent stays here, it makes the pass. Without --once "
        "this agent stays and renews.",
    )
    @click.option(
        "--if-due",
        is_flag=True,
        help="With --once, for timers: ask Vault nothing if nothing is due within `poll`. This process makes the pass.",
    )
    @click.option(
        "--prune",
        is_flag=True,
        help="With --once: remove at once the pairs that this node's record does not name. Without it each stays until "
        "it expires. This process makes the pass.",
    )
    @functools.wraps(function)
    def with_once(*, once: bool, if_due: bool, prune: bool, **options: Any) -> int:
        return function(once=Once(once, if_due, prune), **options)

    return with_once


@click.command("agent", cls=TellingCommand)
@config_option
@_once_options
@log_format_option
@allow_http_option
@old_options
def agent_command(
    file: Path, once: Once, log_format: Literal["text", "json"], allow_http: bool, old: OldSpellings | None
) -> int:
    """Issue what is missing or due on this node, install it in one step, and renew it for as long as the node lives.

    Where an agent stays, --once makes it read agent.yaml again and ask Vault now. It waits, and
    tells what that agent and its hooks did. Exit 3 while a hook is owed.

    SIGTERM ends the agent at once, whatever it does; SIGHUP makes it read agent.yaml again and ask
    Vault at once, and nobody waits.

    \b
    Example:
      vaultpki agent --once
      vaultpki agent --once --if-due
      vaultpki agent -c /etc/vaultpki/agent.yaml
    """
    if once.if_due and not once.given:
        raise click.UsageError("--if-due is for --once; an agent that stays asks Vault at every `poll`")
    if once.prune and (not once.given or once.if_due):
        raise click.UsageError("--prune is for --once without --if-due: Vault is asked first what this node holds")
    from vaultpki.config.agent import load_agent
    from vaultpki.procedures import ON_NODES

    if old is not None and obey(old, file, log_format, allow_http=allow_http):
        return 0
    config = load_agent(file, allow_http=allow_http)
    if once.given:
        return ask_or_make_pass(config, once, log_format, allow_http=allow_http)
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
