"""`vaultpki nodes`: the state of every node of a cluster, as Vault knows it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vaultpki.cli.common import every_option, json_option, opened, screen, server_now, spec_option, watch_option

if TYPE_CHECKING:
    from vaultpki.findings.nodes import NodeRow
    from vaultpki.model import Cluster
    from vaultpki.pki.ca_life import Expiry
    from vaultpki.vault import Vault


@click.command("nodes")
@spec_option
@watch_option
@every_option
@json_option
def nodes_command(file: Path, allow_http: bool, watching: bool, every: str | None, as_json: bool) -> None:
    """Show the state of each node, listed and pooled, what needs attention first, and the CAs that expire soon.

    A state comes from the node's last report and from its live logins. Exit 3 if something needs attention; --watch
    exits with 0 when it is ended.

    \b
    Example:
      vaultpki nodes -f cluster.yaml
      vaultpki nodes -f cluster.yaml --watch --every 30s
      vaultpki nodes -f cluster.yaml --json
    """
    import json

    from vaultpki.cli.watch import interval, watch
    from vaultpki.errors import Attention
    from vaultpki.show import node_table

    seconds = interval(every, watching=watching, as_json=as_json)
    with opened(file, allow_http=allow_http) as (cluster, vault, _):

        def table() -> list[str]:
            _, rows, ends, now, problems = _look(cluster, vault)
            return [*node_table.node_lines(rows, now, screen()), *node_table.end_lines(ends), *problems]

        if watching:
            watch(table, seconds)
            return
        stored, rows, ends, now, problems = _look(cluster, vault)
    ok = not any(row.state.attention for row in rows) and not any(end.level.attention for end in ends) and not problems
    if as_json:
        click.echo(json.dumps(_to_json(stored, rows, ends, problems, ok=ok), indent=2))
    else:
        for line in (*node_table.node_lines(rows, now, screen()), *node_table.end_lines(ends), *problems):
            click.echo(line)
    if not ok:
        raise Attention("something here needs attention; see above")


def _look(
    cluster: Cluster, vault: Vault
) -> tuple[list[Mapping[str, Any]], list[NodeRow], tuple[Expiry, ...], datetime, tuple[str, ...]]:
    """Return the reports as they are stored and the rows of their nodes in order, the ends of the CAs, the server's
    time, and what is not known.
    """
    from vaultpki.certificates import rows
    from vaultpki.findings import nodes as node_rows
    from vaultpki.identity import nodes, revoked_list
    from vaultpki.provision import ca_ends, rotation_records

    found = nodes.read_nodes(cluster, vault)
    revoked = revoked_list.read(cluster, vault)
    now = server_now(vault)
    ttls = {row.name: row.ttl or cluster.ttl for row in rows(cluster)}
    revisions = rotation_records.read_revisions(cluster, vault)
    # Not by name: an identity that is no node's may have the name of one.
    pairs: list[tuple[NodeRow, Mapping[str, Any]]] = [
        (node_rows.of_member(each, ttls, now, revoked, revisions), each.stored) for each in found.members
    ]
    pairs += [(node_rows.of_unfit(each), {}) for each in found.unfit]
    pairs.sort(key=lambda pair: node_rows.order(pair[0]))
    # The ends of CAs by this machine's clock, as `plan` has them.
    ends = ca_ends.read(cluster, vault, datetime.now(UTC))
    return [stored for _, stored in pairs], [row for row, _ in pairs], ends, now, revoked.problems


def _to_json(
    stored: list[Mapping[str, Any]],
    rows: list[NodeRow],
    ends: tuple[Expiry, ...],
    problems: tuple[str, ...],
    *,
    ok: bool,
) -> dict[str, Any]:
    from vaultpki.findings.nodes import to_json
    from vaultpki.identity.nodes import bounded
    from vaultpki.pki import ca_life

    return {
        "nodes": [
            {**to_json(row), "report": bounded(report) or None} for row, report in zip(rows, stored, strict=True)
        ],
        "cas": [ca_life.to_json(end) for end in ends],
        **({"problems": list(problems)} if problems else {}),
        "ok": ok,
    }
