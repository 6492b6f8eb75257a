"""`vaultpki init` and `vaultpki schema`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from vaultpki.cli.common import print_json


@click.command("init")
@click.option("-o", "--output", default="cluster.yaml", show_default=True, help="The file to write; - prints it.")
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
def init_command(output: str, force: bool) -> None:
    """Write a commented starter cluster.yaml.

    \b
    Example:
      vaultpki init -o cluster.yaml
    """
    from vaultpki.assets import starter
    from vaultpki.errors import StoreError

    if output == "-":
        click.echo(starter(), nl=False)
        return
    try:
        # A link here could lead to any file that this user may write.
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | (os.O_TRUNC if force else os.O_EXCL)
        with os.fdopen(os.open(output, flags, 0o644), "w", encoding="utf-8") as stream:
            stream.write(starter())
    except FileExistsError:
        raise StoreError(f"{output!r} exists already: choose another name with -o, or pass --force") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a usable path"
        raise StoreError(f"{output!r} cannot be written ({reason}): choose another path with -o") from None
    click.echo(f"Wrote {Path(output)}: edit it for your cluster, then run `vaultpki plan -f {Path(output)}`.")


@click.command("schema")
def schema_command() -> None:
    """Print the JSON Schema of cluster.yaml, for editors.

    \b
    Example:
      vaultpki schema > cluster.schema.json
    """
    from vaultpki.config.cluster_schema import schema

    print_json(schema())
