"""`vaultpki enroll`, `vaultpki lock`, `vaultpki unenroll` and `vaultpki nodes`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import click

from vaultpki.cli.common import json_option, open_vault, spec_option
from vaultpki.errors import Attention, SpecError, VaultpkiError

if TYPE_CHECKING:
    from vaultpki.anchor import Place
    from vaultpki.enrolment import Seen
    from vaultpki.model import Cluster, Node, Pool
    from vaultpki.vault import Vault

_LONGEST_WRAP = 86400


@click.command("enroll")
@click.argument("node", required=False)
@spec_option
@click.option("--pool", metavar="NAME", help="The pool that a new node belongs to.")
@click.option("--wrap-ttl", default="30m", show_default=True, help="For how long the join file is worth anything.")
@click.option("--all", "everyone", is_flag=True, help="All listed nodes; -o names a folder then.")
@click.option(
    "--replace", is_flag=True, help="End every credential that the node has first: of its agent, join files, clones."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The file to write; with several nodes the folder for NODE.json.  [default: join.json]",
)
def enroll_command(
    node: str | None,
    file: Path,
    allow_http: bool,
    pool: str | None,
    wrap_ttl: str,
    everyone: bool,
    replace: bool,
    output: Path | None,
) -> None:
    """Give a node its identity: a single-use join file that `vaultpki agent --join` takes on the node.

    NODE is a listed node, or with --pool a new one whose name fits the pool. `-` reads many names, one a line.
    A node that has a live credential is enrolled with --replace only. Exit 3 where such nodes among many were left
    alone.

    \b
    Example:
      vaultpki enroll -f cluster.yaml cp-1 -o join.json
      vaultpki enroll -f cluster.yaml w-17 --pool autoscaled -o join.json
      vaultpki enroll -f cluster.yaml cp-1 --replace -o join.json
      vaultpki enroll -f cluster.yaml --all -o joins/
    """
    from vaultpki import enrolment, join_files
    from vaultpki.config import load_cluster, parse_duration
    from vaultpki.files import told
    from vaultpki.vault import explained

    if (node is None) == (not everyone):
        raise click.UsageError("name one node, or -, or pass --all")
    seconds = parse_duration(wrap_ttl)
    if seconds > _LONGEST_WRAP:
        raise click.UsageError("--wrap-ttl is at most 24h: a join file is a secret as long as it lives")
    cluster = load_cluster(file, allow_http=allow_http)
    vault, _ = open_vault(cluster, allow_http=allow_http)
    with explained(vault):
        if node is not None and node != "-":
            who = enrolment.holder(cluster, node, pool)
            target = output or Path("join.json")
            with join_files.reserved(cluster, target, node) as put:
                place = _told_place(cluster, vault)
                _tell_drift(cluster, vault, [(node, who)])
                put(enrolment.enroll(cluster, vault, node, who, place, wrap_ttl=seconds, replace=replace))
            there = f"run `vaultpki agent --join {target.name}` there"
            click.echo(f"wrote {target}: take it to {node} within {wrap_ttl} and {there}")
            return
        if output is None:
            raise click.UsageError("several nodes need -o FOLDER")
        wanted = _wanted(cluster, pool, everyone=everyone)
        place = _told_place(cluster, vault)
        _tell_drift(cluster, vault, wanted)
        with told(str(output)):
            if not output.exists():
                output.mkdir(parents=True)
                output.chmod(0o700)
        with _counted(len(wanted)) as done:
            made = enrolment.enroll_many(
                cluster, vault, wanted, output, place, wrap_ttl=seconds, done=done, replace=replace
            )
    more = f", {made.kept} from an earlier run are still good" if made.kept else ""
    click.echo(f"wrote {made.written} join files to {output}{more}")
    if made.left:
        raise Attention(
            f"{_some(made.left)} may have a live credential and no join file here that can be kept, and got none; pass "
            "--replace to end what they have and to enrol them anew, and use no join file of theirs that lies there"
        )


@click.command("lock")
@click.argument("node")
@spec_option
def lock_command(node: str, file: Path, allow_http: bool) -> None:
    """End every credential of a node at once: its secret ids, its tokens, open join files, and all that was stolen.

    The node itself stays, listed or pooled. A new join file (`vaultpki enroll`) heals its agent, which waits for one.

    \b
    Example:
      vaultpki lock -f cluster.yaml cp-1
    """
    from vaultpki import enrolment
    from vaultpki.config import load_cluster
    from vaultpki.vault import explained

    cluster = load_cluster(file, allow_http=allow_http)
    vault, _ = open_vault(cluster, allow_http=allow_http)
    with explained(vault):
        enrolment.lock(cluster, vault, node)
    click.echo(
        f"{node} is locked: all its credentials have ended; `vaultpki enroll` gives it a new one. Its certificates end "
        "by themselves, at their not_after"
    )


@click.command("unenroll")
@click.argument("node")
@spec_option
def unenroll_command(node: str, file: Path, allow_http: bool) -> None:
    """Take a pooled node's identity away: its AppRole goes, and its tokens end at once.

    A listed node is taken off `nodes` in cluster.yaml instead, and `vaultpki apply` ends it the same way.

    \b
    Example:
      vaultpki unenroll -f cluster.yaml w-17
    """
    from vaultpki import enrolment
    from vaultpki.config import load_cluster
    from vaultpki.vault import explained

    cluster = load_cluster(file, allow_http=allow_http)
    vault, _ = open_vault(cluster, allow_http=allow_http)
    with explained(vault):
        ended = enrolment.unenroll(cluster, vault, node)
    if not ended:
        raise VaultpkiError(
            f"{node} has no identity in this Vault, so there is nothing to end; `vaultpki nodes -f {file}` lists the "
            "names that do"
        )
    click.echo(f"{node} has no identity any more; its certificates end by themselves, at their not_after")


@click.command("nodes")
@spec_option
@json_option
def nodes_command(file: Path, allow_http: bool, as_json: bool) -> None:
    """List the nodes, listed and pooled, with what each last reported of itself.

    \b
    Example:
      vaultpki nodes -f cluster.yaml
    """
    import json

    from vaultpki import enrolment
    from vaultpki.config import load_cluster
    from vaultpki.vault import explained

    cluster = load_cluster(file, allow_http=allow_http)
    vault, _ = open_vault(cluster, allow_http=allow_http)
    with explained(vault):
        seen = enrolment.nodes(cluster, vault)
    if as_json:
        nodes = [
            {
                "node": s.node,
                "pool": s.pool,
                "roles": list(s.roles),
                "credentials": s.credentials,
                "report": s.report or None,
            }
            for s in seen
        ]
        click.echo(json.dumps({"nodes": nodes}, indent=2))
        return
    rows = [("NODE", "POOL", "ROLES", "CREDENTIALS", "LAST REPORT", "CERTIFICATES"), *map(_row, seen)]
    widths = [min(max(len(row[column]) for row in rows), most) for column, most in enumerate((30, 16, 24, 13, 22))]
    for row in rows:
        click.echo("  ".join((*map(str.ljust, row, widths), row[5])).rstrip())


def _row(seen: Seen) -> tuple[str, ...]:
    # A node writes its own report, so nothing of it reaches the terminal unlooked at.
    report = seen.report
    said = str(report.get("time") or "never reported")[:40]
    certificates = report.get("certificates")
    known = certificates.values() if isinstance(certificates, dict) else ()
    states = [str(c.get("state")) for c in known if isinstance(c, dict)]
    bad = sum(state != "ok" for state in states)
    detail = f"{len(states)} certificates, {bad} not ok" if states else ""
    live = "-" if seen.credentials is None else str(seen.credentials)
    # One, and for five minutes the one before it.
    live += " (a clone?)" if (seen.credentials or 0) > 2 else ""
    row = (seen.node, seen.pool or "listed", "+".join(seen.roles), live, said, detail)
    return tuple("".join(c if c.isprintable() else "?" for c in text) for text in row)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _told_place(cluster: Cluster, vault: Vault) -> Place:
    """What join files say, and a warning where Vault's record of it is another."""
    from vaultpki import anchor, enrolment

    place = enrolment.place(cluster, vault)
    if place.drift:
        click.echo(anchor.told_drift(cluster, place.drift), err=True)
    return place


def _tell_drift(cluster: Cluster, vault: Vault, wanted: list[tuple[str, Node | Pool]]) -> None:
    from vaultpki import enrolment

    drifts = vault.map(lambda entry: enrolment.drift(cluster, vault, entry[1]), wanted)
    names = [name for (name, _), drifted in zip(wanted, drifts, strict=True) if drifted]
    if names:
        click.echo(
            f"{cluster.file} says otherwise of {_some(names)} than Vault; run `vaultpki apply -f {cluster.file}` to "
            "bring it there",
            err=True,
        )


@contextmanager
def _counted(length: int) -> Iterator[Callable[[], None]]:
    """A progress bar, on a terminal only; gives what counts one more, from any thread."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    lock = Lock()
    with click.progressbar(length=length, label="Enrolling", file=sys.stderr) as bar:

        def one_more() -> None:
            with lock:
                bar.update(1)

        yield one_more


def _wanted(cluster: Cluster, pool: str | None, *, everyone: bool) -> list[tuple[str, Node | Pool]]:
    from vaultpki import enrolment

    if everyone:
        if pool is not None:
            raise click.UsageError("--all is for listed nodes; give a pool's names on standard input with -")
        return [(node.name, node) for node in cluster.nodes]
    names = list(dict.fromkeys(line.strip() for line in sys.stdin if line.strip()))
    if not names:
        raise SpecError("no names came on standard input; give one a line")
    return [(name, enrolment.holder(cluster, name, pool)) for name in names]
