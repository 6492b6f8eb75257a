"""Writes the report of a cluster as one HTML page that loads nothing, works without scripts, and runs no other one."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

from vaultpki import assets
from vaultpki.certificates import ISSUING_CAS, SERVICE_ACCOUNT
from vaultpki.graph.content import STATES
from vaultpki.graph.svg import COLOURS, DASHES, svg
from vaultpki.graph.svg import GRAPH_MARK as PICTURE_MARK
from vaultpki.redact import printable
from vaultpki.show.calendar import SHADES
from vaultpki.show.report_model import BAD, Report

REPORT_MARK: Final = "<!-- vaultpki report -->"
"""The first line of every report; HTML allows a comment before the doctype."""

_BAR: Final = 56

# Of the picture's colours, by their names there; in light, in dark.
_OF_PICTURE: Final = ("text", "quiet", "edge", *ISSUING_CAS, SERVICE_ACCOUNT, "root")
_PAGE: Final[Mapping[str, tuple[str, str]]] = {
    "back": ("#f4f6fa", "#0c1018"),
    "paper": ("#ffffff", "#12161f"),
    "line": ("#d9dfe9", "#2a3345"),
    "link": ("#1f56b3", "#8ab4ff"),
    **{state: COLOURS[f"{state}-text"] for state in ("revoked", "expired", "missing", "broken", "due")},
    "unknown": COLOURS["quiet"],
    "valid": COLOURS["valid-text"],
    **dict.fromkeys(("revoked-back", "expired-back", "missing-back", "broken-back"), ("#fde9e7", "#3a1719")),
    "due-back": ("#fdf3d9", "#33290f"),
    "unknown-back": ("#eceff5", "#1d2433"),
    "valid-back": ("#e6f5e9", "#13291a"),
    "shade-1": ("#e3edfb", "#16263f"),
    "shade-2": ("#c3d9f7", "#1d3a64"),
    "shade-3": ("#8db6ee", "#2b5797"),
    "shade-4": ("#2860c5", "#7aa7ff"),
    "shade-text": ("#ffffff", "#0c1018"),
}


def colours() -> dict[str, tuple[str, str]]:
    """Return the colours of the page by name: in light, in dark."""
    return {name: COLOURS[name] for name in _OF_PICTURE} | dict(_PAGE)


def html(found: Report) -> str:
    """Return the report as a page."""
    from markupsafe import Markup

    from vaultpki import __version__

    picture = svg(found.graph).removeprefix(f"{PICTURE_MARK}\n").rstrip("\n")
    style = f"\n{_variables()}\n{assets.text('templates', 'report.css')}"
    script = f"\n{assets.text('templates', 'report.js')}"
    # All three are our own text; names in the picture are escaped by it.
    safe = {"style": Markup(style), "script": Markup(script), "picture": Markup(picture)}  # noqa: S704
    page = _template().render(
        report=found,
        policy=_policy((style, *re.findall(r"<style>(.*?)</style>", picture, re.DOTALL)), script),
        states=STATES,
        bad=BAD,
        bar=_BAR,
        shades=range(1, SHADES + 1),
        version=__version__,
        **safe,
    )
    return f"{REPORT_MARK}\n{page}\n"


def _template() -> Any:
    from jinja2 import DictLoader, Environment, StrictUndefined

    environment = Environment(
        loader=DictLoader({"report.html": assets.text("templates", "report.html")}),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = lambda number: f"{number:,}"
    environment.filters["commands"] = _commands
    return environment.get_template("report.html")


def _shown(value: object) -> object:
    """Return a value for the page without control and direction characters; what is HTML already stays as it is."""
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _commands(text: str) -> Any:
    """Return a sentence for the page in which what stands between backticks is a command."""
    from markupsafe import Markup

    parts = printable(text).split("`")
    if len(parts) % 2 == 0:
        # One of them is part of a name.
        return text
    return Markup("").join(
        part if at % 2 == 0 else Markup("<code>{}</code>").format(part) for at, part in enumerate(parts)
    )


def _policy(styles: tuple[str, ...], script: str) -> str:
    """Return the policy of the page: nothing is loaded, and only these texts are run (W3C CSP 3, hash-source)."""
    allowed = " ".join(dict.fromkeys(map(_hash, styles)))
    return f"default-src 'none'; style-src {allowed}; script-src {_hash(script)}; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode('ascii')}'"


def _variables() -> str:
    modes = ["".join(f" --{name}: {shades[mode]};" for name, shades in colours().items()) for mode in (0, 1)]
    # Paper is white whatever the screen is.
    roots = f":root {{{modes[0]} }}\n@media screen and (prefers-color-scheme: dark) {{ :root {{{modes[1]} }} }}"
    # The border of a CA is drawn as in the picture.
    return "\n".join((roots, *(f".of-{ca} > .around {{ stroke-dasharray: {dash} }}" for ca, dash in DASHES.items())))
