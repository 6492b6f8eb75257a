"""How `report` and `graph` say what needs attention beside what they write."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import click

from vaultpki.errors import Attention
from vaultpki.redact import printable
from vaultpki.show.attention import Notice


def to_json(notices: Sequence[Notice], more: int = 0) -> dict[str, Any]:
    """Return the notices as programs read them; `more` as for `tell`."""
    shown = [
        {"who": each.who or None, "severity": each.severity.value, "message": printable(sentence)}
        for each in notices
        for sentence in each.sentences
    ]
    return {"ok": not more and not any(each.attention for each in notices), "notices": shown}


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
