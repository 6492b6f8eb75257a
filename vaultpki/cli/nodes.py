"""`vaultpki nodes`: the state of every node of a cluster, as Vault knows it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vaultpki.cli.common import json_option, opened, path_option, screen, server_now, spec_option, watch_options
from vaultpki.cli.progress import reading
from vaultpki.cli.running_cluster import OWN_CLUSTER, RunningCluster

if TYPE_CHECKING:
    from datetime import datetime

    from vaultpki.cli.shown import Shown
    from vaultpki.findings.cluster import Judgement
    from vaultpki.model import Cluster
    from vaultpki.provision.cluster_facts import ClusterFacts
    from vaultpki.vault import Vault


@click.command("nodes")
@spec_option
@watch_options
@json_option
@path_option(
    "--kubeconfig",
    help="Also show the signer of this cluster, and the nodes that joined with a token. Without a signer nothing is "
    f"asked. {OWN_CLUSTER}",
)
@path_option(
    "--metrics",
    metavar="FILE",
    help="Write the table as metrics into a file for node_exporter's textfile collector, with the time, and print "
    "nothing; - prints them.",
)
def nodes_command(
    file: Path,
    allow_http: bool,
    watching: bool,
    every: str | None,
    as_json: bool,
    kubeconfig: Path | None,
    metrics: Path | None,
) -> None:
    """Show the state of each node, listed and pooled, what needs attention first, and the CAs that expire soon.

    A state comes from the node's last report and from its live logins. Exit 3 if something needs attention; --watch
    exits with 0 when it is ended. --metrics exits with 0 when the file is written: what needs attention is in it. A
    file that cannot be written anew stays as it was.

    \b
    Example:
      vaultpki nodes
      vaultpki nodes --watch --every 30s
      vaultpki nodes --json
      vaultpki nodes --kubeconfig admin.conf
      vaultpki nodes --metrics /var/lib/prometheus/node-exporter/vaultpki-prod.prom
    """
    from vaultpki.cli.shown import show
    from vaultpki.cli.watch import interval

    seconds = interval(every, watching=watching, as_json=as_json)
    if metrics is not None and (watching or as_json):
        raise click.UsageError("--metrics writes the table once, as metrics; leave out --watch and --json")
    running = RunningCluster(kubeconfig)
    with opened(file, allow_http=allow_http, applied=True) as (cluster, vault, _):
        if metrics is not None:
            _write_metrics(cluster, vault, running, metrics)
            return
        show(
            lambda: _read_nodes(cluster, vault, running, bar=not watching), seconds, watching=watching, as_json=as_json
        )


def _write_metrics(cluster: Cluster, vault: Vault, running: RunningCluster, path: Path) -> None:
    from datetime import UTC, datetime

    from vaultpki.cli import own_file
    from vaultpki.show import fleet_metrics

    today = datetime.now(UTC)
    with reading(vault) as counted:
        read, judged = _judged(cluster, counted, running, today)
    text = fleet_metrics.text(read, judged, today)
    if str(path) == "-":
        click.echo(text, nl=False)
        return
    # The collector runs as another user, and cron may have any umask.
    marks = {fleet_metrics.METRICS_MARK}
    own_file.replace_own(path, text, marks=marks, what="file of metrics", option="--metrics", for_all=True)


def _judged(cluster: Cluster, vault: Vault, running: RunningCluster, today: datetime) -> tuple[ClusterFacts, Judgement]:
    from vaultpki.findings import cluster as whole
    from vaultpki.findings import signer
    from vaultpki.key_rotation import fleet
    from vaultpki.procedures.in_cluster import IN_CLUSTER

    read = fleet.read(cluster, vault, server_now(vault), today)
    judged = whole.judge(read, IN_CLUSTER)
    seen = running.look_at_signer(cluster, vault, read.now)
    return read, signer.with_signer(judged, seen, cluster.file)


def _read_nodes(cluster: Cluster, vault: Vault, running: RunningCluster, *, bar: bool) -> Shown:
    from datetime import UTC, datetime

    from vaultpki.cli.shown import Shown
    from vaultpki.findings import cluster as whole
    from vaultpki.findings import nodes as node_rows
    from vaultpki.identity import nodes
    from vaultpki.pki import ca_life
    from vaultpki.show import node_table, record_writers
    from vaultpki.show.table import fitted

    with reading(vault, bar=bar) as counted:
        read, judged = _judged(cluster, counted, running, datetime.now(UTC))
    stored = zip(judged.nodes, judged.stored, strict=True)
    return Shown(
        judged.ok,
        lambda: [
            *node_table.node_lines(judged.nodes, judged.now, screen()),
            *node_table.finding_lines(judged.about_cluster),
            *fitted(record_writers.writer_lines(cluster, read.written), screen().width),
        ],
        lambda: {
            "nodes": [{**node_rows.to_json(row), "report": nodes.shown_report(one)} for row, one in stored],
            "cas": [ca_life.to_json(end) for end in read.ends],
            "written": record_writers.writers_json(read.written),
            **({"problems": list(read.problems)} if read.problems else {}),
            **whole.document(judged),
        },
    )
