"""`vaultpki nodes`: the state of every node of a cluster, as Vault knows it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vaultpki.cli.common import json_option, opened, screen, server_now, spec_option, watch_options

if TYPE_CHECKING:
    from vaultpki.cli.shown import Shown
    from vaultpki.findings.nodes import NodeRow
    from vaultpki.model import Cluster
    from vaultpki.vault import Vault


@click.command("nodes")
@spec_option
@watch_options
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
    from vaultpki.cli.shown import show
    from vaultpki.cli.watch import interval

    seconds = interval(every, watching=watching, as_json=as_json)
    with opened(file, allow_http=allow_http, applied=True) as (cluster, vault, _):
        show(lambda: _read_nodes(cluster, vault), seconds, watching=watching, as_json=as_json)


def _read_nodes(cluster: Cluster, vault: Vault) -> Shown:
    from vaultpki.certificates import rows
    from vaultpki.cli.shown import Shown
    from vaultpki.findings import nodes as node_rows
    from vaultpki.identity import nodes, revoked_list
    from vaultpki.pki import ca_life
    from vaultpki.provision import ca_ends, rotation_records
    from vaultpki.show import node_table

    found = nodes.read_nodes(cluster, vault)
    revoked = revoked_list.read(cluster, vault)
    now = server_now(vault)
    ttls = {row.name: row.ttl or cluster.ttl for row in rows(cluster)}
    revisions = rotation_records.read_revisions(cluster, vault)
    # Not by name: an identity that does not belong to a node may have the name of one.
    pairs: list[tuple[NodeRow, Mapping[str, Any]]] = [
        (node_rows.of_member(each, ttls, now, revoked, revisions), each.stored) for each in found.members
    ]
    pairs += [(node_rows.of_unfit(each), {}) for each in found.unfit]
    pairs.sort(key=lambda pair: node_rows.order(pair[0]))
    # The ends of CAs by this machine's clock, as `plan` has them.
    ends, problems = ca_ends.read(cluster, vault, datetime.now(UTC)), revoked.problems
    shown = [row for row, _ in pairs]
    attention = any(row.state.attention for row in shown) or any(end.level.attention for end in ends)
    ok = not attention and not problems
    return Shown(
        ok,
        lambda: [*node_table.node_lines(shown, now, screen()), *node_table.end_lines(ends), *problems],
        lambda: {
            "nodes": [{**node_rows.to_json(row), "report": nodes.bounded(stored) or None} for row, stored in pairs],
            "cas": [ca_life.to_json(end) for end in ends],
            **({"problems": list(problems)} if problems else {}),
            "ok": ok,
        },
    )
