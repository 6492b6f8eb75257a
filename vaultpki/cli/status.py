"""`vaultpki status` and `vaultpki renew`, for a person on the node."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vaultpki.cli.common import allow_http_option, config_option, json_option
from vaultpki.redact import printable

if TYPE_CHECKING:
    from vaultpki.agent.status import Status

# Seconds: the longest pass of a resident agent if Vault answers every request.
_LOCK_WAIT = 30.0


@click.command("status")
@config_option
@click.option(
    "--dir", "directory", type=click.Path(path_type=Path), help="Check a folder of files only, without agent.yaml."
)
@click.option("--offline", is_flag=True, help="Do not check whether Vault is reachable.")
@allow_http_option
@json_option
def status_command(file: Path, directory: Path | None, offline: bool, allow_http: bool, as_json: bool) -> None:
    """Show the certificates on this node, when they expire and what is wrong. Exit 3 if something needs attention.

    \b
    Example:
      vaultpki status
      vaultpki status --dir /etc/kubernetes/pki --json
    """
    import json
    from datetime import UTC, datetime

    from vaultpki.agent import status
    from vaultpki.errors import Attention
    from vaultpki.spec import load_agent

    now = datetime.now(UTC)
    if directory is not None:
        seen = status.of_folder(str(directory.absolute()), now)
    else:
        config = load_agent(file, allow_http=allow_http)
        seen = status.of_node(config, now, ask=not offline, allow_http=allow_http)
    click.echo(json.dumps(status.to_json(seen), indent=2) if as_json else _text(seen))
    if not seen.ok:
        raise Attention("something here needs attention; see above")


@click.command("renew")
@config_option
@click.option("--force", is_flag=True, help="Without a name: renew every certificate.")
@allow_http_option
@click.argument("names", nargs=-1, metavar="[NAME]...")
def renew_command(file: Path, force: bool, allow_http: bool, names: tuple[str, ...]) -> int:
    """Renew the named certificates now, even if they are not due; with --force and no name, all of this node.

    Exit 3 if a hook has not succeeded.

    \b
    Example:
      vaultpki renew kubelet kubelet-client
      vaultpki renew --force
    """
    from vaultpki.agent import assignment, pairs, run
    from vaultpki.cli.agent import tell_outcome
    from vaultpki.errors import SpecError
    from vaultpki.spec import load_agent

    if not names and not force:
        raise click.UsageError("name the certificates to renew, or pass --force to renew all of this node")
    config = load_agent(file, allow_http=allow_http)
    spec = assignment.copy(config)
    held = [] if spec is None else [want.name for want in spec.certificates]
    for name in names:
        if spec is not None and name not in held:
            raise SpecError(f"{config.node} holds no certificate {name}; it holds {', '.join(held)}")
    options = run.Options(allow_http=allow_http, force=frozenset(names or (pairs.EVERY,)), wait=_LOCK_WAIT)
    return tell_outcome(run.run(config, options))


def _text(status: Status) -> str:
    from vaultpki.pki.ca_life import Level

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
    lines += [
        f"{'!' if end.level.attention else '?'} {end.sentence}" for end in status.ends if end.level is not Level.NONE
    ]
    for key, owed in status.owed.items():
        why = f": {owed.error}" if owed.error else ""
        times = "1 attempt" if owed.attempts == 1 else f"{owed.attempts} attempts"
        lines.append(f"hook of {key} still owed after {times}{why}")
    if status.reachable is not None:
        lines.append("vault: reachable" if status.reachable else f"vault: {status.error}")
    if not status.seen and not status.faults:
        lines.append("there is no certificate here")
    return "\n".join(map(printable, lines))
