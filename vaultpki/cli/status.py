"""`vaultpki status` and `vaultpki renew`: a node's own person looks, and renews by hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vaultpki.cli.common import DEFAULT_AGENT, json_option
from vaultpki.plain import printable

if TYPE_CHECKING:
    from vaultpki.status import Status

_CONFIG = click.option(
    "-c",
    "--config",
    "file",
    type=click.Path(path_type=Path),
    default=DEFAULT_AGENT,
    show_default=True,
    help="The node's agent.yaml.",
)
# As long as a pass of a resident agent may take with every request answered.
_LOCK_WAIT = 30.0


@click.command("status")
@_CONFIG
@click.option(
    "--dir", "directory", type=click.Path(path_type=Path), help="Look at a folder of files alone, without agent.yaml."
)
@click.option("--offline", is_flag=True, help="Do not ask Vault whether it is there.")
@click.option("--allow-http", is_flag=True, help="Talk plain http to a Vault that is not on this machine.")
@json_option
def status_command(file: Path, directory: Path | None, offline: bool, allow_http: bool, as_json: bool) -> None:
    """Show what is on this node, until when, and what is wrong. Exit 3 where something needs attention.

    \b
    Example:
      vaultpki status
      vaultpki status --dir /etc/kubernetes/pki --json
    """
    import json
    from datetime import UTC, datetime

    from vaultpki import status
    from vaultpki.config import load_agent
    from vaultpki.errors import Attention

    now = datetime.now(UTC)
    if directory is not None:
        seen = status.of_folder(str(directory.absolute()), now)
    else:
        config = load_agent(file, allow_http=allow_http)
        seen = status.of_node(config, now, ask=not offline, allow_http=allow_http)
    click.echo(json.dumps(status.to_json(seen), indent=2) if as_json else _told(seen))
    if not seen.ok:
        raise Attention("something here needs attention; see above")


@click.command("renew")
@_CONFIG
@click.option("--force", is_flag=True, help="Renew every certificate, where none is named.")
@click.option("--allow-http", is_flag=True, help="Talk plain http to a Vault that is not on this machine.")
@click.argument("names", nargs=-1, metavar="[NAME]...")
def renew_command(file: Path, force: bool, allow_http: bool, names: tuple[str, ...]) -> int:
    """Renew the certificates named now, though they are not due; with --force and no name all of this node.

    Exit 3 where a hook is owed afterwards.

    \b
    Example:
      vaultpki renew kubelet kubelet-client
      vaultpki renew --force
    """
    from vaultpki import agent, holding, pairs
    from vaultpki.cli.agent import tell_outcome
    from vaultpki.config import load_agent
    from vaultpki.errors import SpecError

    if not names and not force:
        raise click.UsageError("name the certificates to renew, or pass --force to renew all of this node")
    config = load_agent(file, allow_http=allow_http)
    spec = holding.copy(config)
    held = [] if spec is None else [want.name for want in spec.certificates]
    for name in names:
        if spec is not None and name not in held:
            raise SpecError(f"{config.node} holds no certificate {name}; it holds {', '.join(held)}")
    outcome = agent.run(config, allow_http=allow_http, force=names or (pairs.EVERY,), wait=_LOCK_WAIT)
    return tell_outcome(outcome)


def _told(status: Status) -> str:
    rows = [("CERTIFICATE", "STATE", "ENDS", "RENEWED AFTER", "WHY")]
    for one in status.seen:
        ends = f"{one.leaf.not_after:%Y-%m-%d %H:%M:%S}Z" if one.leaf else "-"
        after = f"{one.renew_after:%Y-%m-%d %H:%M:%S}Z" if one.renew_after else "-"
        rows.append((one.name, one.state.value, ends, after, ", ".join(one.reasons)))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join((*map(str.ljust, row, widths), row[4])).rstrip() for row in rows]
    if status.agent is not None:
        lines.append(f"agent: {status.agent}")
    lines += [f"{what}: {text}" if not text.startswith(f"{what}: ") else text for what, text in status.faults.items()]
    for key, owed in status.owed.items():
        why = f": {owed.error}" if owed.error else ""
        times = "1 attempt" if owed.attempts == 1 else f"{owed.attempts} attempts"
        lines.append(f"hook of {key} still owed after {times}{why}")
    if status.reachable is not None:
        lines.append("vault: reachable" if status.reachable else f"vault: {status.error}")
    if not status.seen and not status.faults:
        lines.append("there is no certificate here")
    return "\n".join(map(printable, lines))
