"""`vaultpki graph`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from vaultpki.cli.common import opened, path_option, spec_option
from vaultpki.redact import printable

if TYPE_CHECKING:
    from datetime import datetime

    from vaultpki.graph.content import Graph

_FORMATS: Final = ("svg", "mermaid", "dot")
_ENDINGS: Final = {".svg": "svg", ".mmd": "mermaid", ".mermaid": "mermaid", ".dot": "dot", ".gv": "dot"}


@click.command("graph")
@spec_option
@path_option(
    "--dir",
    "directory",
    help="Colour the picture by the expiry of the files here: a folder as for `vaultpki verify --dir`.",
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
def graph_command(
    file: Path,
    allow_http: bool,
    directory: Path | None,
    from_vault: bool,
    form: str | None,
    output: Path | None,
) -> None:
    """Draw the cluster: who logs in to whom with which pair, and which CA signed it.

    Mermaid and DOT are text that other programs draw. A file that is not a picture of vaultpki is not replaced. Exit 3
    if something could not be read. Without --from-vault no server is asked.

    \b
    Example:
      vaultpki graph -f cluster.yaml -o cluster.svg
      vaultpki graph -f cluster.yaml --dir nodes -o cluster.svg
      vaultpki graph -f cluster.yaml --from-vault -o cluster.svg
      vaultpki graph -f cluster.yaml --format mermaid
    """
    from datetime import UTC, datetime

    from vaultpki.cli import own_file
    from vaultpki.errors import Attention
    from vaultpki.graph import svg
    from vaultpki.graph import text as graph_text

    if directory is not None and from_vault:
        raise click.UsageError("choose one of --dir and --from-vault")
    form = form or _form_of(output)
    graph, problems = _read(file, directory, datetime.now(UTC), from_vault=from_vault, allow_http=allow_http)
    text = {"svg": svg.svg, "mermaid": graph_text.mermaid, "dot": graph_text.dot}[form](graph)
    if output is None:
        click.echo(text, nl=False)
    else:
        own_file.write(output, text, marks=_marks(), what="picture")
        click.echo(f"wrote {output}")
    for problem in problems:
        click.echo(printable(problem), err=True)
    if problems:
        raise Attention("not everything could be read, so the picture does not show all; see above")


def _read(
    file: Path, directory: Path | None, now: datetime, *, from_vault: bool, allow_http: bool
) -> tuple[Graph, tuple[str, ...]]:
    """Return the picture, and what could not be read."""
    from vaultpki.config.cluster import load_cluster
    from vaultpki.graph import content

    if from_vault:
        from vaultpki.show import expiries

        with opened(file, allow_http=allow_http, applied=True) as (cluster, vault, _):
            found = expiries.of_fleet(cluster, vault, now)
    else:
        # No server is asked, so none is refused.
        cluster = load_cluster(file, allow_http=True)
        if directory is None:
            return content.graph(cluster, now), ()
        from vaultpki.show import expiries

        found = expiries.of_folder(cluster, directory, now)
    graph = content.graph(
        cluster, now, expiries=found.rows, cas=found.ends, rotations=found.rotations, source=found.source
    )
    return graph, found.problems


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
