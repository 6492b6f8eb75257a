"""`vaultpki nodes`: the state of every node of a cluster, as Vault knows it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vaultpki.cli.common import json_option, opened, screen, server_now, spec_option, watch_options

if TYPE_CHECKING:
    from vaultpki.cli.shown import Shown
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
    from datetime import UTC, datetime

    from vaultpki.ca import fleet
    from vaultpki.cli.shown import Shown
    from vaultpki.findings import cluster as whole
    from vaultpki.findings import nodes as node_rows
    from vaultpki.identity import nodes
    from vaultpki.pki import ca_life
    from vaultpki.show import node_table

    read = fleet.read(cluster, vault, server_now(vault), datetime.now(UTC))
    judged = whole.judge(read)
    stored = zip(judged.nodes, judged.stored, strict=True)
    return Shown(
        judged.ok,
        lambda: [
            *node_table.node_lines(judged.nodes, judged.now, screen()),
            *node_table.finding_lines(judged.about_cluster),
        ],
        lambda: {
            "nodes": [{**node_rows.to_json(row), "report": nodes.bounded(one) or None} for row, one in stored],
            "cas": [ca_life.to_json(end) for end in read.ends],
            **({"problems": list(read.problems)} if read.problems else {}),
            **whole.document(judged),
        },
    )
