"""Draws the year of a fleet for the page "How large": the most renewals in any 1 % of the window, over time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from helpers.node.fleet_year import BEGIN, OUTAGE, ROTATIONS, STOP, TTL, WINDOW, YEAR
from vaultpki.graph.svg import COLOURS

SPAN: Final = TTL.total_seconds() * WINDOW / 100
"""Seconds of 1 % of the window."""

_DAY: Final = 86400.0
_MOST: Final = 6.0
_WIDTH, _HIGH = 960, 572
_LEFT, _RIGHT, _PLOT = 56, 940, 150
_ZOOM = 12
_TITLE = "Renewals of 100,000 agents over a year"
_DESCRIPTION = (
    "Four charts of the share of the agents that renew within 1 % of the window. It stays near 1 % after the start, "
    "below 4 % after an outage of a day and after a stop of two days, and near 0.3 % once the agents are spread. The "
    "line at 5 % is never reached."
)


def picture(times: Sequence[float], agents: int) -> str:
    """Return the picture as SVG, in light and dark; `times` are the renewals in seconds since the beginning."""
    bins = Counter(int(time // SPAN) for time in times)
    shares = {number: 100 * count / agents for number, count in bins.items()}
    return "\n".join([*_head(), *_charts(shares), "</svg>", ""])


def _head() -> Iterator[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HIGH}" role="img" aria-labelledby="t d" '
        'font-family="system-ui, \'DejaVu Sans\', sans-serif" font-size="14">'
    )
    yield f'<title id="t">{_TITLE}</title>'
    yield f'<desc id="d">{_DESCRIPTION}</desc>'
    yield f"<style>\n{_colours(0)}"
    yield ".head { font-weight: 600 } .note { font-size: 12px } .mid { text-anchor: middle } .end { text-anchor: end }"
    yield f"@media screen and (prefers-color-scheme: dark) {{\n{_colours(1)}\n}}\n</style>"
    yield f'<rect class="page" width="{_WIDTH}" height="{_HIGH}" rx="12"/>'


def _colours(mode: int) -> str:
    colour = {name: shades[mode] for name, shades in COLOURS.items()}
    rules = {
        ".page": f"fill: {colour['page']}",
        ".plot": f"fill: {colour['card']}; stroke: {colour['edge']}",
        "text": f"fill: {colour['text']}",
        ".note": f"fill: {colour['quiet']}",
        ".bars": f"fill: {colour['kubernetes']}",
        ".away": f"fill: {colour['due-bar']}; fill-opacity: 0.35",
        ".rotation": f"stroke: {colour['etcd']}; stroke-width: 2; stroke-dasharray: 2 3",
        ".limit": f"stroke: {colour['expired-text']}; stroke-width: 1.5; stroke-dasharray: 6 4",
        ".limit-text": f"fill: {colour['expired-text']}",
    }
    return "\n".join(f"{selector} {{ {rule} }}" for selector, rule in rules.items())


def _charts(shares: dict[int, float]) -> Iterator[str]:
    days = YEAR / timedelta(days=1)
    yield f'<text class="head" x="{_LEFT}" y="34">{_TITLE}, 30-day certificates</text>'
    yield (
        f'<text class="note" x="{_LEFT}" y="54">The share of them that renews in 1 % (72 minutes) of the window in '
        "which a certificate becomes due (50 to 67 % of its life)</text>"
    )
    yield from _chart(shares, (_LEFT, 70, _RIGHT - _LEFT), 0, days, 30)
    yield f'<text class="note mid" x="{(_LEFT + _RIGHT) / 2}" y="258">days</text>'
    gap, width = 44, (_RIGHT - _LEFT - 2 * 44) / 3
    for number, (title, first) in enumerate(
        (
            ("after the start", 12.0),
            ("Vault away for a day", _days(OUTAGE.begin) - 4),
            ("machines off for two days", _days(STOP.begin) - 4),
        )
    ):
        x = _LEFT + number * (width + gap)
        yield f'<text class="head" x="{x:.1f}" y="300">{title}</text>'
        yield from _chart(shares, (x, 314, width), first, first + _ZOOM, 2)
    keys = (
        ("bars", "renewals"),
        ("away", "no agent can renew"),
        ("rotation", "a rotation, whose own signatures are not counted"),
    )
    x = _LEFT
    for kind, text in keys:
        mark = f'<rect class="{kind}" x="{x}" y="524" width="14" height="12"/>'
        if kind == "rotation":
            mark = f'<path class="{kind}" d="M{x + 7} 522 V538"/>'
        yield f'{mark}<text class="note" x="{x + 20}" y="535">{text}</text>'
        x += 40 + 7 * len(text)


def _days(moment: datetime) -> float:
    return (moment - BEGIN) / timedelta(days=1)


def _chart(
    shares: dict[int, float], place: tuple[float, float, float], first: float, last: float, step: int
) -> Iterator[str]:
    """Yield one chart of the days from `first` to `last`; `place` is its left, its top and its width."""
    left, top, width = place
    bottom = top + _PLOT

    def across(day: float) -> float:
        return left + (day - first) / (last - first) * width

    def up(share: float) -> float:
        return bottom - min(share, _MOST) / _MOST * _PLOT

    yield f'<rect class="plot" x="{left:.1f}" y="{top}" width="{width:.1f}" height="{_PLOT}"/>'
    for away in (OUTAGE, STOP):
        begin, end = _days(away.begin), _days(away.end)
        if first <= begin and end <= last:
            span = across(end) - across(begin)
            yield f'<rect class="away" x="{across(begin):.1f}" y="{top}" width="{span:.1f}" height="{_PLOT}"/>'
    for rotation in ROTATIONS:
        if first <= _days(rotation.since) <= last:
            yield f'<path class="rotation" d="M{across(_days(rotation.since)):.1f} {top} V{bottom}"/>'
    # Where a bar would be narrower than a pixel, the highest one of each pixel is drawn.
    thin = SPAN / _DAY / (last - first) * width
    columns = dict[float, float]()
    for number, share in shares.items():
        day = number * SPAN / _DAY
        if first <= day < last:
            x = across(day) if thin >= 1 else left + (across(day) - left) // 1
            columns[x] = max(columns.get(x, 0.0), share)
    drawn = "".join(f"M{x:.1f} {bottom}V{up(columns[x]):.1f}h{max(thin, 1):.2f}V{bottom}z" for x in sorted(columns))
    yield f'<path class="bars" d="{drawn}"/>'
    yield f'<path class="limit" d="M{left:.1f} {up(5):.1f} h{width:.1f}"/>'
    yield f'<text class="note limit-text end" x="{left - 6:.1f}" y="{up(5) + 4:.1f}">5 %</text>'
    yield f'<text class="note end" x="{left - 6:.1f}" y="{up(1) + 4:.1f}">1 %</text>'
    day = first + (-first) % step
    while day <= last:
        yield f'<text class="note mid" x="{across(day):.1f}" y="{bottom + 18}">{day:.0f}</text>'
        day += step
