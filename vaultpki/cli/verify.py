"""`vaultpki verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from vaultpki.cli.common import json_option, open_vault, spec_option
from vaultpki.cli.progress import progress
from vaultpki.redact import printable
from vaultpki.show import table
from vaultpki.show.table import Column

if TYPE_CHECKING:
    from datetime import datetime

    from vaultpki.model import Cluster
    from vaultpki.verify.on_disk import Check

# Paths are never cut.
_COLUMNS: Final = tuple(Column(title, most=4096) for title in ("FROM", "TO", "SHOULD", "WHY"))
# Failures of one group that are shown; the rest is counted.
_SHOWN = 3


@click.command("verify")
@spec_option
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path),
    help="A node's or an operator's folder of files, or a folder of nodes.",
)
@click.option(
    "--vault", "ask_vault", is_flag=True, help="Ask Vault, as a temporary node, for all that nodes must not have."
)
@json_option
def verify_command(file: Path, directory: Path | None, ask_vault: bool, allow_http: bool, as_json: bool) -> None:
    """Check every file and make live handshakes, allowed and forbidden. Exit 3 if anything is wrong.

    With --vault your token (the applier's) makes a temporary node in the cluster's first pool. The node asks Vault for
    everything that no node may have, and is removed. No request would change anything if it were allowed.

    \b
    Example:
      vaultpki verify -f cluster.yaml --dir /etc/kubernetes/pki
      vaultpki verify -f cluster.yaml --vault
    """
    import json
    from datetime import UTC, datetime

    from vaultpki import certificates
    from vaultpki.errors import Attention
    from vaultpki.spec import load_cluster
    from vaultpki.verify import folders, matrix

    if directory is None and not ask_vault:
        raise click.UsageError("choose what to verify: --dir DIR for files, --vault for the server, or both")
    cluster = load_cluster(file, allow_http=allow_http or not ask_vault)
    now = datetime.now(UTC)
    checks: tuple[Check, ...] = ()
    report: list[str] = []
    if directory is not None:
        found = folders.find(cluster, directory)
        with progress("Checking files") as counter:
            checks = matrix.verify(found, now=now, rows=certificates.rows(cluster), step=counter.step)
        report.append(_of_files(checks, len(found)))
    if ask_vault:
        asked = _asked(cluster, now, allow_http=allow_http)
        checks += asked
        report.append(_of_vault(asked))
    click.echo(json.dumps(matrix.to_json(checks), indent=2) if as_json else "\n".join(report))
    unmade = sum(check.got == "unchecked" for check in checks)
    wrong = sum(not check.ok for check in checks) - unmade
    also = f", and {unmade} could not be made as this user" if unmade else ""
    if wrong:
        raise Attention(f"{wrong} of {len(checks)} checks failed{also}; correct what they name and run again")
    if unmade:
        raise Attention(f"{unmade} of {len(checks)} checks could not be made as this user; run as root")


def _asked(cluster: Cluster, now: datetime, *, allow_http: bool) -> tuple[Check, ...]:
    from vaultpki.vault import explained
    from vaultpki.verify import vault_trial

    vault, _ = open_vault(cluster, allow_http=allow_http)
    with explained(vault), progress("Asking Vault") as counter:
        return vault_trial.verify_vault(cluster, vault, now=now, step=counter.step)


def _of_vault(checks: tuple[Check, ...]) -> str:
    """Return what Vault allowed, the first few of each group, and one line of counts."""
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
        f"{len(checks) - own} forbidden requests of the temporary node {checks[0].source}, and {own} of its own: "
        + (f"{len(failed)} failed." if failed else "all as they should be.")
    )
    return "\n".join(lines)


def _of_files(checks: tuple[Check, ...], holders: int) -> str:
    """Return the failures as a table, what could not be checked, and one line of counts."""
    failed = [check for check in checks if not check.ok and check.got != "unchecked"]
    rows = []
    for check in failed:
        why = check.detail if check.got == "refuse" else f"was accepted {check.detail}".rstrip()
        source = check.source if check.kind != "file" else f"{check.source}/{check.name}"
        rows.append((source, check.target, check.expect, why))
    lines = list(table.lines(_COLUMNS, rows)) if failed else []
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
