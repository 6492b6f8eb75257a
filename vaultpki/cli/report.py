"""`vaultpki report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vaultpki.cli.common import json_option, load_spec, opened, path_option, print_json, server_now, spec_option
from vaultpki.cli.progress import reading
from vaultpki.cli.running_cluster import OWN_CLUSTER, RunningCluster, joined_by_mounts
from vaultpki.places import file_option

if TYPE_CHECKING:
    from vaultpki.kube.kubeconfig import KubeAccess
    from vaultpki.show.check_summary import CheckSummary
    from vaultpki.show.report_model import Report


@click.command("report")
@spec_option
@path_option(
    "--dir", "directory", help="The folder of certificate files to read and verify, as for `vaultpki verify --dir`."
)
@click.option(
    "--from-vault",
    is_flag=True,
    help="Read the last reports of all nodes, the CAs, and where rotations stand; asks Vault.",
)
@path_option(
    "--kubeconfig",
    metavar="FILE",
    help=f"Also check the copies of CAs in the running cluster; only reads.  With --from-vault: {OWN_CLUSTER}",
)
@path_option("-o", "--output", required=True, help="The page to write.")
@json_option
def report_command(
    file: Path,
    allow_http: bool,
    directory: Path | None,
    from_vault: bool,
    kubeconfig: Path | None,
    output: Path,
    as_json: bool,
) -> None:
    """Write one page about all certificates: what needs attention, the picture, the CAs, expiries, checks, rotations.

    The page loads nothing from a network, and works without scripts. With --dir it shows what `vaultpki verify` finds;
    no server is asked. With --kubeconfig the cluster's API server is asked too, for its copies of CAs. A file that is
    not a report of vaultpki is not replaced. Exit 3 if anything needs attention.

    \b
    Example:
      vaultpki report --dir nodes -o report.html
      vaultpki report --from-vault -o report.html
      vaultpki report --from-vault --kubeconfig admin.conf -o report.html
    """
    from vaultpki.cli import notices, own_file
    from vaultpki.show import report_page

    if (directory is not None) == from_vault:
        raise click.UsageError("choose one of --dir DIR, for files, and --from-vault, for the reports of all nodes")
    if directory is not None:
        found = _of_folder(file, directory, kubeconfig)
    else:
        found = _of_fleet(file, kubeconfig, allow_http=allow_http)
    own_file.replace_own(output, report_page.html(found), marks={report_page.REPORT_MARK}, what="report")
    told = (*found.notices, *found.known)
    if as_json:
        print_json({"output": str(output), **notices.to_json(told, found.more)})
    else:
        click.echo(f"wrote {output}")
    notices.tell(told, f", and {output}", more=found.more)


def _of_folder(file: Path, directory: Path, kubeconfig: Path | None) -> Report:
    from datetime import UTC, datetime

    from vaultpki import certificates
    from vaultpki.kube import kubeconfig as document
    from vaultpki.live import cluster as live
    from vaultpki.procedures import ON_NODES
    from vaultpki.show import check_summary, expiries, report_model
    from vaultpki.verify import folders, matrix

    now = datetime.now(UTC)
    # No server is asked, so none is refused.
    cluster = load_spec(file, allow_http=True)
    held = folders.find_holders(cluster, directory)
    table = certificates.rows(cluster)
    checks = matrix.verify(held, now=now, rows=table)
    again = f"vaultpki verify{file_option(str(file))} --dir {directory}"
    if kubeconfig is not None:
        access = document.read(kubeconfig)
        checks += live.verify_copies(cluster, access, held, None, now)
        again += f" --live --kubeconfig {kubeconfig}"
    summary = check_summary.check_summary(checks, [row.name for row in table], again)
    found = expiries.of_folders(cluster, held, directory, now, ON_NODES)
    return report_model.report(cluster, found, now, checks=summary)


def _of_fleet(file: Path, kubeconfig: Path | None, *, allow_http: bool) -> Report:
    from datetime import UTC, datetime

    from vaultpki.findings.cluster import judge
    from vaultpki.findings.signer import joined_rows, with_signer
    from vaultpki.key_rotation import fleet
    from vaultpki.kube import api as kube_api
    from vaultpki.live import cluster as live
    from vaultpki.procedures.in_cluster import IN_CLUSTER
    from vaultpki.show import check_summary, record_writers, report_model
    from vaultpki.show import fleet as fleet_text

    with opened(file, allow_http=allow_http, applied=True) as (cluster, vault, _), reading(vault) as counted:
        running = RunningCluster(kubeconfig)
        pods = running.look(cluster, counted, kube_api.read_trust)
        read = fleet.read(cluster, counted, server_now(vault), datetime.now(UTC), pods)

        def check(access: KubeAccess) -> CheckSummary:
            made = live.verify_copies(cluster, access, (), counted, read.now)
            again = f"vaultpki verify{file_option(str(file))} --live --kubeconfig {access.file}"
            return check_summary.check_summary(made, (), again)

        checks = running.look(cluster, counted, check)
        seen = running.look_at_signer(cluster, counted, read.now) or joined_by_mounts(cluster, counted, read.now)
    judged = with_signer(judge(read, IN_CLUSTER), seen, cluster.file)
    found = fleet_text.inventory(read, judged, [*joined_rows(seen, read.now)])
    # What nodes hold is worth a page also where no CA can be read.
    lines = [line for each in judged.views for line in each.lines] if read.cas else read.problems
    banner = next((each.banner for each in judged.views if each.banner is not None), None) if read.cas else None
    written = record_writers.writer_lines(cluster, read.written)
    return report_model.report(
        cluster, found, read.now, checks=checks, rotation=lines, banner=banner, written=tuple(written)
    )
