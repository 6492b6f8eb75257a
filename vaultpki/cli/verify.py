"""`vaultpki verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from vaultpki.checks import Check


@click.command("verify")
@click.option(
    "-f", "--file", default="cluster.yaml", show_default=True, type=click.Path(path_type=Path), help="The spec."
)
@click.option(
    "--dir",
    "directory",
    required=True,
    type=click.Path(path_type=Path),
    help="A node's or an operator's folder of files, or a folder of nodes.",
)
@click.option("--json", "as_json", is_flag=True, help="Print every check as JSON.")
def verify_command(file: Path, directory: Path, as_json: bool) -> None:
    """Check every file and make the live handshakes, allowed and forbidden. Exit 3 where anything is wrong.

    \b
    Example:
      vaultpki verify -f cluster.yaml --dir /etc/kubernetes/pki
    """
    import json
    from datetime import UTC, datetime

    from vaultpki import certificates, holders, verify
    from vaultpki.config import load_cluster
    from vaultpki.errors import Attention

    cluster = load_cluster(file, allow_http=True)
    found = holders.find(cluster, directory)
    checks = verify.verify(found, now=datetime.now(UTC), rows=certificates.rows(cluster))
    if as_json:
        click.echo(json.dumps(verify.to_json(checks), indent=2))
    else:
        click.echo(_told(checks, len(found)))
    if wrong := sum(not check.ok for check in checks):
        raise Attention(f"{wrong} of {len(checks)} checks failed; mend what they name and run again")


def _told(checks: tuple[Check, ...], holders: int) -> str:
    """The failures as a table, and one line of counts."""
    failed = [check for check in checks if not check.ok]
    cells = [("FROM", "TO", "SHOULD", "WHY")]
    for check in failed:
        why = check.detail if check.got == "refuse" else f"was accepted {check.detail}".rstrip()
        source = check.source if check.kind != "file" else f"{check.source}/{check.name}"
        cells.append((source, check.target, check.expect, why))
    widths = [max(len(row[column]) for row in cells) for column in range(3)]
    lines = ["  ".join((*map(str.ljust, row, widths), row[3])) for row in cells] if failed else []
    handshakes = [check for check in checks if check.kind == "handshake"]
    let_in = sum(check.got == "accept" for check in checks)
    lines.append(
        f"{len(checks)} checks of {holders} {'holder' if holders == 1 else 'holders'}: {let_in} accepted and "
        f"{len(checks) - let_in} refused, {len(handshakes)} of them live handshakes; "
        + (f"{len(failed)} not as they should be." if failed else "all as they should be.")
    )
    return "\n".join(lines)
