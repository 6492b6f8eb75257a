"""What `nodes` and `status` have in common: lines for people, a document for programs, and `--watch`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import click

from vaultpki.cli.common import print_json
from vaultpki.cli.watch import watch
from vaultpki.errors import Attention


@dataclass(frozen=True, slots=True)
class Shown:
    """What was found: whether nothing needs attention, the lines for people and the document for programs."""

    ok: bool
    lines: Callable[[], Iterable[str]]
    document: Callable[[], dict[str, Any]]


def show(look: Callable[[], Shown], seconds: int, *, watching: bool, as_json: bool) -> None:
    """Print what `look` finds, or with `watching` every so many seconds; raise Attention if something needs it."""
    if watching:
        watch(lambda: list(look().lines()), seconds)
        return
    found = look()
    if as_json:
        print_json(found.document())
    else:
        for line in found.lines():
            click.echo(line)
    if not found.ok:
        raise Attention("something here needs attention; see above")
