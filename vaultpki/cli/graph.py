"""`vaultpki graph`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from vaultpki.cli.common import json_option, load_spec, opened, path_option, print_json, server_now, spec_option
from vaultpki.cli.progress import reading

if TYPE_CHECKING:
    from datetime import datetime

    from vaultpki.model import Cluster
    from vaultpki.show.inventory import Inventory

_FORMATS: Final = ("svg", "mermaid", "dot")
_ENDINGS: Final = {".svg": "svg", ".mmd": "mermaid", ".mermaid": "mermaid", ".dot": "dot", ".gv": "dot"}


@click.command("graph")
@spec_option
@path_option(
    "--dir",
    "directory",
    help="The folder of certificate files whose state colours the picture, as for `vaultpki verify --dir`.",
)
@click.option(
    "--from-vault",
    is_flag=True,
    help="Colour it by the last reports of all nodes, and show the state of rotations; asks Vault.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(_FORMATS),
    help="The format; without it the ending of -o decides: .svg, .mmd, .mermaid, .dot or .gv.",
)
@path_option("-o", "--output", help="The file to write; without it, print.")
@json_option
def graph_command(
    file: Path,
    allow_http: bool,
    directory: Path | None,
    from_vault: bool,
    form: str | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Draw the cluster: who logs in to whom with which pair, and which CA signed it.

    Mermaid and DOT are text that other programs draw. A file that is not a picture of vaultpki is not replaced. With
    --dir or --from-vault, exit 3 if anything needs attention. Without --from-vault no server is asked.

    \b
    Example:
      vaultpki graph -o cluster.svg
      vaultpki graph --dir nodes -o cluster.svg
      vaultpki graph --from-vault -o cluster.svg
      vaultpki graph --format mermaid
    """
    from datetime import UTC, datetime

    from vaultpki.cli import notices, own_file
    from vaultpki.graph import content, svg
    from vaultpki.graph import text as graph_text

    if directory is not None and from_vault:
        raise click.UsageError("choose one of --dir and --from-vault")
    if as_json and output is None:
        raise click.UsageError("--json says what was written; name the picture with -o FILE")
    form = form or _form_of(output)
    now = datetime.now(UTC)
    if directory is None and not from_vault:
        found = None
        # No server is asked, so none is refused.
        graph = content.graph(load_spec(file, allow_http=True), now)
    else:
        cluster, found, now = _read(file, directory, now, allow_http=allow_http)
        graph = content.graph(
            cluster,
            now,
            expiries=found.rows,
            cas=found.ends,
            rotations=found.rotations,
            source=found.source,
            notices=[line for notice in found.notices if notice.attention for line in notice.lines],
        )
    text = {"svg": svg.svg, "mermaid": graph_text.mermaid, "dot": graph_text.dot}[form](graph)
    told = tuple(found.notices) if found is not None else ()
    if output is None:
        click.echo(text, nl=False)
    else:
        own_file.replace_own(output, text, marks=_marks(), what="picture")
        if as_json:
            print_json({"output": str(output), "format": form, **notices.to_json(told)})
        else:
            click.echo(f"wrote {output}")
    notices.tell(told, f", and {output}" if output else "")


def _read(
    file: Path, directory: Path | None, today: datetime, *, allow_http: bool
) -> tuple[Cluster, Inventory, datetime]:
    """Return the cluster and what was found of it, in a folder or in Vault, and at what time."""

    if directory is not None:
        from vaultpki.procedures import ON_NODES
        from vaultpki.show import expiries

        cluster = load_spec(file, allow_http=True)
        return cluster, expiries.of_folder(cluster, directory, today, ON_NODES), today
    from vaultpki.cli.running_cluster import joined_by_mounts
    from vaultpki.findings.cluster import judge
    from vaultpki.findings.signer import joined_rows, with_signer
    from vaultpki.key_rotation import fleet
    from vaultpki.procedures.in_cluster import IN_CLUSTER
    from vaultpki.show import fleet as fleet_text

    with opened(file, allow_http=allow_http, applied=True) as (cluster, vault, _), reading(vault) as counted:
        read = fleet.read(cluster, counted, server_now(vault), today)
        seen = joined_by_mounts(cluster, counted, read.now)
    judged = with_signer(judge(read, IN_CLUSTER), seen, cluster.file)
    return cluster, fleet_text.inventory(read, judged, [*joined_rows(seen, read.now)]), read.now


def _form_of(output: Path | None) -> str:
    """Return the format that the ending of the file names; svg without a file or an ending."""
    if output is None or not output.suffix:
        return "svg"
    if output.suffix not in _ENDINGS:
        # Who opens it would get text in place of the picture that the name promises.
        raise click.UsageError(
            f"-o {output}: vaultpki draws no {output.suffix!a}; end the name in {', '.join(_ENDINGS)}, or name the "
            f"format with --format {'|'.join(_FORMATS)}"
        )
    return _ENDINGS[output.suffix]


def _marks() -> set[str]:
    from vaultpki.graph import svg
    from vaultpki.graph import text as graph_text

    return {svg.GRAPH_MARK, graph_text.MERMAID_MARK, graph_text.DOT_MARK}
