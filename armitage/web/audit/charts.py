"""Charts as SVG, drawn on the server, each with a title for those who cannot see it and the figures
as a table below it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from armitage.web.html import Child, Html, tag
from armitage.web.page import size_text

_WIDTH, _HEIGHT = 560, 190
_LEFT, _BOTTOM, _TOP, _RIGHT = 56, 22, 10, 8
_GRID_LINES = 4


@dataclass(frozen=True, slots=True)
class Series:
    """One colour of a chart: a value for each bucket."""

    name: str
    kind: str
    """Its class in the style sheet."""
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class Buckets:
    """The time axis: so many buckets of so many hours from an hour on (hours since 1970)."""

    first_hour: int
    hours_each: int
    count: int

    def of(self, hour: int) -> int:
        """Which bucket an hour is in."""
        return (hour - self.first_hour) // self.hours_each

    def label(self, at: int) -> str:
        """When a bucket begins."""
        began = datetime.fromtimestamp((self.first_hour + at * self.hours_each) * 3600, UTC)
        return f"{began:%H:%M}" if self.hours_each * self.count <= 48 else f"{began:%d %b}"

    def name(self, at: int) -> str:
        """The same in full."""
        began = datetime.fromtimestamp((self.first_hour + at * self.hours_each) * 3600, UTC)
        return f"{began:%Y-%m-%d %H:%M}"


def buckets_for(first_hour: int, end_hour: int, most: int = 48) -> Buckets:
    """At most so many buckets that end with the last hour."""
    hours = max(1, end_hour - first_hour)
    each = -(-hours // most)
    count = -(-hours // each)
    return Buckets(end_hour - count * each, each, count)


def bars(
    title: str, buckets: Buckets, series: Sequence[Series], say: Callable[[float], str]
) -> Html:
    """Stacked bars."""
    totals = [sum(each.values[at] for each in series) for at in range(buckets.count)]
    top = _round_up(max(totals, default=0), 1024 if say is size_text else 10)
    shapes: list[Child] = []
    step = (_WIDTH - _LEFT - _RIGHT) / buckets.count
    for at in range(buckets.count):
        below = 0.0
        for each in series:
            value = each.values[at]
            if not value:
                continue
            height = _tall(value, top)
            y = _y(below, top) - height
            hint = tag("title", f"{buckets.name(at)} · {each.name}: {say(value)}")
            box = {"x": _LEFT + at * step + step * 0.1, "y": y}
            size = {"width": max(1.0, step * 0.8), "height": max(1.0, height)}
            shapes.append(tag("rect", hint, class_=each.kind, **_rounded(box | size)))
            below += value
    return _chart(title, buckets, series, _Scale(top, say), shapes)


def line(title: str, buckets: Buckets, values: Sequence[float | None]) -> Html:
    """Shares from 0 to 1 over time, with gaps where there is none."""
    step = (_WIDTH - _LEFT - _RIGHT) / buckets.count
    points: list[list[tuple[float, float]]] = [[]]
    shapes: list[Child] = []
    for at, value in enumerate(values):
        if value is None:
            points.append([])
            continue
        x, y = round(_LEFT + (at + 0.5) * step, 1), round(_y(value, 1), 1)
        points[-1].append((x, y))
        hint = tag("title", f"{buckets.name(at)}: {_percent(value)}")
        shapes.append(tag("circle", hint, cx=x, cy=y, r=2.5, class_="dot"))
    paths = [
        tag("polyline", points=" ".join(f"{x},{y}" for x, y in run), class_="line")
        for run in points
        if len(run) > 1
    ]
    shown = Series("hit rate", "c1", [0 if value is None else value for value in values])
    return _chart(title, buckets, [shown], _Scale(1.0, _percent), [*paths, *shapes])


@dataclass(frozen=True, slots=True)
class _Scale:
    top: float
    say: Callable[[float], str]


def _chart(
    title: str,
    buckets: Buckets,
    series: Sequence[Series],
    scale: _Scale,
    shapes: Sequence[Child],
) -> Html:
    drawn = tag(
        "svg",
        tag("title", title),
        *_grid(scale.top, scale.say),
        *_axis(buckets),
        *shapes,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        class_="chart",
    )
    return tag(
        "div",
        drawn,
        _legend(series) if len(series) > 1 else None,
        _table(buckets, series, scale.say),
    )


def _grid(top: float, say: Callable[[float], str]) -> list[Html]:
    lines = []
    for at in range(_GRID_LINES + 1):
        value = top * at / _GRID_LINES
        y = round(_y(value, top), 1)
        lines.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        lines.append(tag("text", say(value), x=_LEFT - 6, y=y + 4, text_anchor="end"))
    return lines


def _axis(buckets: Buckets) -> list[Html]:
    step = (_WIDTH - _LEFT - _RIGHT) / buckets.count
    every = max(1, -(-buckets.count // 8))
    return [
        tag("text", buckets.label(at), x=round(_LEFT + at * step, 1), y=_HEIGHT - 6)
        for at in range(0, buckets.count, every)
    ]


def _legend(series: Sequence[Series]) -> Html:
    marks = [
        tag(
            "li",
            tag("svg", tag("rect", width=10, height=10, class_=each.kind), aria_hidden="true"),
            each.name,
        )
        for each in series
    ]
    return tag("ul", *marks, class_="legend")


def _table(buckets: Buckets, series: Sequence[Series], say: Callable[[float], str]) -> Html:
    shown = [at for at in range(buckets.count) if any(each.values[at] for each in series)]
    head = tag(
        "tr",
        tag("th", "From", scope="col"),
        *(tag("th", each.name, scope="col", class_="number") for each in series),
    )
    rows = [
        tag(
            "tr",
            tag("td", buckets.name(at)),
            *(tag("td", say(each.values[at]), class_="number") for each in series),
        )
        for at in shown
    ]
    inner = tag("table", tag("thead", head), tag("tbody", *rows))
    return tag("details", tag("summary", "Figures"), tag("div", inner, class_="scroll"))


def _y(value: float, top: float) -> float:
    return _HEIGHT - _BOTTOM - _tall(value, top)


def _tall(value: float, top: float) -> float:
    return (_HEIGHT - _BOTTOM - _TOP) * value / top


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 1) for name, value in values.items()}


def _round_up(value: float, base: int) -> float:
    """The next of 4, 8, 20, 40, 80, 200 and so on, or of 4, 8 and all powers of two for a base of
    1024, so that quarters are short to write.
    """
    steps = (4.0, 8.0, 20.0) if base == 10 else (4.0, *(2.0**n for n in range(3, 12)))
    scale = 1.0
    while True:
        for step in steps:
            if scale * step >= value:
                return scale * step
        scale *= base


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %"
