"""`vaultpki schema`."""

from __future__ import annotations

import click

from vaultpki.cli.common import print_json


@click.command("schema")
def schema_command() -> None:
    """Print the JSON Schema of cluster.yaml, for editors.

    \b
    Example:
      vaultpki schema > cluster.schema.json
    """
    from vaultpki.config.cluster_schema import schema

    print_json(schema())
