"""How `report` and `graph` say what needs attention beside what they write."""

from __future__ import annotations

from collections.abc import Iterable

import click

from vaultpki.errors import Attention
from vaultpki.redact import printable
from vaultpki.show.attention import Notice


def tell(notices: Iterable[Notice], where: str = "", *, more: int = 0) -> None:
    """Print each notice to standard error; raise Attention if one of them needs a person, or if there are `more`.

    `where` says where they are shown too.
    """
    pressing = more
    for notice in notices:
        pressing += notice.attention
        for line in notice.lines:
            click.echo(printable(line), err=True)
    if pressing:
        raise Attention(f"{pressing} {'thing needs' if pressing == 1 else 'things need'} attention; see above{where}")
