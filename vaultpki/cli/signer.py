"""`vaultpki signer`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import click

from vaultpki.cli.common import TellingCommand, allow_http_option, log_format_option, path_option
from vaultpki.places import SIGNER_FILE, SIGNER_STATE

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultpki.host.log import Event
    from vaultpki.model import AgentConfig

DEFAULT_SIGNER: Final = Path(SIGNER_STATE, SIGNER_FILE)


@click.command("signer", cls=TellingCommand)
@path_option("-c", "--config", "file", default=DEFAULT_SIGNER, show_default=True, help="The signer.yaml of the signer.")
@click.option("--once", is_flag=True, help="Answer the approved requests that wait now, then end.")
@click.option("--dry-run", is_flag=True, help="Say what would come of each open request, then end; writes nothing.")
@log_format_option
@allow_http_option
def signer_command(file: Path, once: bool, dry_run: bool, log_format: Literal["text", "json"], allow_http: bool) -> int:
    """Have approved certificate requests of this cluster signed by Vault, for as long as this node lives.

    It answers kubelets that joined with a token, and people whom cluster.yaml names. Only what meets every rule is
    signed. Exit 3 if --once leaves a request that it could not answer.

    \b
    Example:
      vaultpki signer
      vaultpki signer --once
      vaultpki signer --dry-run
    """
    from vaultpki.config.agent import load_agent
    from vaultpki.host import log

    if once and dry_run:
        raise click.UsageError("--dry-run writes nothing, and --once does; pass one of the two")
    config = load_agent(file, allow_http=allow_http, signer=True)
    tell = log.writer(log_format, sys.stderr)
    if dry_run:
        return _show_verdicts(config, tell, allow_http=allow_http)
    return _sign(config, tell, once=once, allow_http=allow_http)


def _sign(config: AgentConfig, tell: Callable[[Event], None], *, once: bool, allow_http: bool) -> int:
    from vaultpki.signer.process import SignerProcess, answer_all

    if once:
        return 3 if answer_all(config, tell, allow_http=allow_http) else 0
    from vaultpki.daemon import signer_metrics

    process = SignerProcess(config, tell, allow_http=allow_http)
    signer_metrics.serve(config, process.view)
    process.stay()
    return 0


def _show_verdicts(config: AgentConfig, tell: Callable[[Event], None], *, allow_http: bool) -> int:
    from vaultpki.redact import printable
    from vaultpki.signer.process import verdicts

    for name, sentence in verdicts(config, tell, allow_http=allow_http):
        click.echo(printable(f"{name}: {sentence}"))
    return 0
