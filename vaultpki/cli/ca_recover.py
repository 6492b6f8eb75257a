"""`vaultpki ca recover`: go on after the server was restored from a snapshot, or has lost the record of a rotation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from vaultpki.cli import offered
from vaultpki.cli.common import (
    json_option,
    opened,
    print_json,
    print_lines,
    server_now,
    spec_option,
    terminal,
    yes_option,
)
from vaultpki.errors import VaultpkiError
from vaultpki.redact import printable, stamped

if TYPE_CHECKING:
    from vaultpki.ca.recover import Claim, Proposal
    from vaultpki.records.rotation import RotationRecord

_MOST_LINES: Final = 200
"""How many nodes are shown; JSON has all of them."""


@click.command("recover", short_help="Go on after the server was restored from a snapshot.")
@click.argument("domain", shell_complete=offered.cas)
@spec_option
@click.option(
    "--without",
    multiple=True,
    metavar="NODE",
    shell_complete=offered.nodes,
    help="Do not believe this node: its report or its state is false. Can be repeated.",
)
@click.option(
    "--drop",
    multiple=True,
    metavar="SHA256",
    help="Take this CA out, which nodes trust and the server does not have; see `ca status`. Can be repeated.",
)
@yes_option()
@json_option
def recover_command(
    domain: str,
    file: Path,
    allow_http: bool,
    without: tuple[str, ...],
    drop: tuple[str, ...],
    yes: bool,
    as_json: bool,
) -> int:
    """Go on after the server was restored from a snapshot: show what each node has read of a CA, and write a newer
    record.

    It leads back only: to steady, or to re-trusting, where each node keeps its certificate until everybody trusts both
    CAs. DOMAIN is root, kubernetes, kubelet, etcd, front-proxy or service-account. Wait first until every agent has
    passed once since the restore.

    What nodes trust and the server does not have stays, since certificates of it may be in use. With --drop it leaves
    as the old CA of a rotation does from switched on: `ca continue` waits until every certificate is of the CA that
    signs, then until nobody trusts it.

    \b
    Example:
      vaultpki ca recover etcd
      vaultpki ca recover etcd --without cp-3 --yes
      vaultpki ca recover etcd --drop 9f3c0e1b...
    """
    from vaultpki.ca import recover
    from vaultpki.procedures import ca_text
    from vaultpki.records.rotation import EVERY_DOMAIN
    from vaultpki.values import names

    if domain not in EVERY_DOMAIN:
        raise click.UsageError(f"there is no CA {domain!r}; write one of {', '.join(EVERY_DOMAIN)}")
    if drop and without:
        raise click.UsageError("--without is for what nodes say of a record; leave it out with --drop")
    dropped = [names.sha256(each) for each in drop]
    with opened(file, allow_http=allow_http, applied=True) as (cluster, vault, _):
        now = server_now(vault)
        if dropped:
            found = recover.propose_drop(cluster, vault, domain, dropped, now)
        else:
            found = recover.propose(cluster, vault, domain, without, now)
        if not as_json:
            for line in lines(found):
                click.echo(line)
        if not found.why:
            if as_json:
                print_json(document(found, None))
            return 0
        if not yes:
            ask_name(domain, f"this writes a newer record of {domain}, and", as_json=as_json)
        record = recover.recover(found)
        if as_json:
            print_json(document(found, record))
        else:
            click.echo("")
            print_lines(ca_text.record_lines(record, None, now, cluster.file))
        return 0


def lines(found: Proposal) -> Iterator[str]:
    """Yield what a recovery rests on, and what it would do, for a person to decide."""
    from vaultpki.show import table

    titles = ("NODE", "READ", "HIGHEST", "REPORTED", "CERTIFICATES", "TRUSTS", "NOTE")
    if found.claims:
        yield from table.lines(tuple(map(table.Column, titles)), map(_row, found.claims[:_MOST_LINES]))
    if len(found.claims) > _MOST_LINES:
        yield f"and {len(found.claims) - _MOST_LINES} more; --json has all of them"
    yield ""
    if not found.why:
        has = f"revision {found.before.revision}" if found.before is not None else "none"
        yield f"Nothing is to be recovered: no node that counts has read a newer record of {found.domain} ({has})."
        return
    record = found.records[found.domain]
    yield printable(f"{found.why}.")
    yield f"It goes on as {record.state.value}, with revision {record.revision}: {_means(record)}."
    others = sorted(set(found.records) - {found.domain})
    if others:
        yield f"The same for what the root takes along: {', '.join(others)}."


def _means(record: RotationRecord) -> str:
    """Return what the recovered state is for nodes."""
    from vaultpki.procedures.ca_text import state_sentence

    return state_sentence(record)


def document(found: Proposal, record: RotationRecord | None) -> dict[str, Any]:
    """Return what `--json` prints."""
    from vaultpki.procedures.ca_text import record_json

    return {
        "domain": found.domain,
        "reason": printable(found.why) or None,
        "nodes": [
            {
                "node": claim.node,
                "revision": claim.revision,
                "highest": claim.highest,
                "reported": stamped(claim.reported),
                "certificates": [printable(each) for each in claim.leaves],
                "trusts": [printable(each) for each in claim.trusts],
                "counts": claim.counts,
                "note": claim.note or None,
            }
            for claim in found.claims
        ],
        "recovered": None if record is None else record_json(record, None) | {"revision": record.revision},
    }


def _row(claim: Claim) -> tuple[str, ...]:
    cas = sorted({each.partition(": ")[2] for each in claim.leaves})
    return (
        printable(claim.node),
        str(claim.revision),
        str(claim.highest),
        stamped(claim.reported) or "never",
        printable(", ".join(cas)) or "-",
        printable(", ".join(claim.trusts)) or "-",
        claim.note,
    )


def ask_name(domain: str, why: str, lines: Iterable[str] = (), *, as_json: bool) -> None:
    """Show what is at stake, and have a person confirm it by the CA's name; `why` says so where nobody can be asked."""
    if not terminal() or as_json:
        raise VaultpkiError(f"{why} there is no terminal to ask on; pass --yes")
    print_lines(lines)
    if click.prompt("Type the name of the CA to go on", default="", show_default=False) != domain:
        raise VaultpkiError(f"that is not the CA's name ({domain}); nothing was changed")
