"""`vaultpki verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vaultpki.plain import printable

if TYPE_CHECKING:
    from datetime import datetime

    from vaultpki.checks import Check
    from vaultpki.model import Cluster

# Of a thousand failures for one reason, the first few say it.
_SHOWN = 3


@click.command("verify")
@click.option(
    "-f", "--file", default="cluster.yaml", show_default=True, type=click.Path(path_type=Path), help="The spec."
)
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path),
    help="A node's or an operator's folder of files, or a folder of nodes.",
)
@click.option(
    "--vault", "ask_vault", is_flag=True, help="Ask Vault, as a throwaway node, for all that nodes must not have."
)
@click.option("--allow-http", is_flag=True, help="Talk plain http to a Vault that is not on this machine.")
@click.option("--json", "as_json", is_flag=True, help="Print every check as JSON.")
def verify_command(file: Path, directory: Path | None, ask_vault: bool, allow_http: bool, as_json: bool) -> None:
    """Check every file and make the live handshakes, allowed and forbidden. Exit 3 where anything is wrong.

    With --vault a throwaway node of the cluster's first pool is made with your token (the applier's), asks Vault for
    everything that no node may have, and is removed. Nothing is asked that could change anything if it were allowed.

    \b
    Example:
      vaultpki verify -f cluster.yaml --dir /etc/kubernetes/pki
      vaultpki verify -f cluster.yaml --vault
    """
    import json
    from datetime import UTC, datetime

    from vaultpki import certificates, holders, verify
    from vaultpki.config import load_cluster
    from vaultpki.errors import Attention

    if directory is None and not ask_vault:
        raise click.UsageError("say what to verify: --dir DIR for files, --vault for the server, or both")
    cluster = load_cluster(file, allow_http=allow_http or not ask_vault)
    now = datetime.now(UTC)
    checks: tuple[Check, ...] = ()
    told: list[str] = []
    if directory is not None:
        found = holders.find(cluster, directory)
        checks = verify.verify(found, now=now, rows=certificates.rows(cluster))
        told.append(_told(checks, len(found)))
    if ask_vault:
        asked = _asked(cluster, now, allow_http=allow_http)
        checks += asked
        told.append(_told_of_vault(asked))
    click.echo(json.dumps(verify.to_json(checks), indent=2) if as_json else "\n".join(told))
    unmade = sum(check.got == "unchecked" for check in checks)
    wrong = sum(not check.ok for check in checks) - unmade
    also = f", and {unmade} could not be made as this user" if unmade else ""
    if wrong:
        raise Attention(f"{wrong} of {len(checks)} checks failed{also}; mend what they name and run again")
    if unmade:
        raise Attention(f"{unmade} of {len(checks)} checks could not be made as this user; run as root")


def _asked(cluster: Cluster, now: datetime, *, allow_http: bool) -> tuple[Check, ...]:
    from vaultpki import trespass
    from vaultpki.cli.common import open_vault
    from vaultpki.vault import explained

    vault, _ = open_vault(cluster, allow_http=allow_http)
    with explained(vault):
        return trespass.verify_vault(cluster, vault, now=now)


def _told_of_vault(checks: tuple[Check, ...]) -> str:
    """What went through, the first of each group, and one line of counts."""
    failed = [check for check in checks if not check.ok]
    shown: dict[str, list[Check]] = {}
    for check in failed:
        shown.setdefault(check.name, []).append(check)
    lines = []
    for name, some in shown.items():
        lines += [printable(f"{name}: {check.target} {check.detail}") for check in some[:_SHOWN]]
        if len(some) > _SHOWN:
            lines.append(f"{name}: and {len(some) - _SHOWN} more")
    own = sum(check.expect == "accept" for check in checks)
    lines.append(
        f"{len(checks) - own} forbidden requests of the throwaway node {checks[0].source}, and {own} of its own: "
        + (f"{len(failed)} not as they should be." if failed else "all as they should be.")
    )
    return "\n".join(lines)


def _told(checks: tuple[Check, ...], holders: int) -> str:
    """The failures as a table, what could not be tried, and one line of counts."""
    failed = [check for check in checks if not check.ok and check.got != "unchecked"]
    cells = [("FROM", "TO", "SHOULD", "WHY")]
    for check in failed:
        why = check.detail if check.got == "refuse" else f"was accepted {check.detail}".rstrip()
        source = check.source if check.kind != "file" else f"{check.source}/{check.name}"
        cells.append((source, check.target, check.expect, why))
    widths = [max(len(row[column]) for row in cells) for column in range(3)]
    lines = [printable("  ".join((*map(str.ljust, row, widths), row[3]))) for row in cells] if failed else []
    unmade = [check for check in checks if check.got == "unchecked"]
    unread: dict[tuple[str, str], list[str]] = {}
    for check in unmade:
        if check.kind == "file":
            unread.setdefault((check.source, check.detail), []).append(check.target)
    lines += [printable(f"not checked: {', '.join(names)} of {who} {why}") for (who, why), names in unread.items()]
    handshakes = [check for check in checks if check.kind == "handshake"]
    let_in, kept_out = (sum(check.got == got for check in checks) for got in ("accept", "refuse"))
    well = "all else as it should be." if unmade else "all as they should be."
    not_made = f", {len(unmade)} not made" if unmade else ""
    lines.append(
        f"{len(checks)} checks of {holders} {'holder' if holders == 1 else 'holders'}: {let_in} accepted and "
        f"{kept_out} refused{not_made}, {len(handshakes)} of them live handshakes; "
        + (f"{len(failed)} not as they should be." if failed else well)
    )
    return "\n".join(lines)
