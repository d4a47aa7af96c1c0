"""The overview: what happened lately, in figures, charts and as it comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from armitage.audit.auditor import Overview
from armitage.audit.index import Hour
from armitage.audit.rows import Row
from armitage.web.audit import charts
from armitage.web.audit.charts import Buckets, Series
from armitage.web.audit.layout import entries_table, section
from armitage.web.html import Html, link, tag, text
from armitage.web.page import size_text

PERIODS = {"day": 24, "week": 24 * 7, "month": 24 * 30, "year": 24 * 365}
_SHOWN_HOSTS = 6


def content(overview: Overview, latest: Sequence[Row], period: str) -> Html:
    """All below the title."""
    buckets = charts.buckets_for(overview.first_hour, overview.end_hour)
    by_host = _by_host(overview, buckets)
    outcomes = [
        _sum(overview.hours, buckets, name, name, value)
        for name, value in (("refused", _refused), ("failed", _failed))
    ]
    return text(
        _figures(overview),
        _periods(period),
        tag(
            "div",
            section(
                "Fetches by host",
                charts.bars("Fetches by host over time", buckets, by_host(_fetches), _whole),
            ),
            section(
                "Bytes by host",
                charts.bars("Bytes by host over time", buckets, by_host(_bytes), size_text),
            ),
            section(
                "Refused and failed attempts",
                charts.bars("Attempts that came to nothing over time", buckets, outcomes, _whole),
            ),
            section("Action cache hit rate", _cache(overview, buckets)),
            class_="columns",
        ),
        section("Hosts", _hosts(overview)),
        section(
            "Latest",
            live_bar("/api/audit/events", pressed=True),
            entries_table(latest, id_="entries"),
        ),
    )


def live_bar(path: str, *, pressed: bool) -> Html:
    """The switch of a live tail; only scripts show it."""
    name = "Stop following" if pressed else "Follow"
    switch = tag(
        "button",
        name,
        type="button",
        data_live=path,
        aria_pressed=str(pressed).lower(),
        hidden=True,
    )
    return tag(
        "p", switch, tag("span", id="live-state", class_="soft", role="status"), class_="row"
    )


def _figures(overview: Overview) -> Html:
    kinds, hosts = overview.kinds, overview.hosts
    hits, misses = (sum(each[at] for each in overview.cache) for at in (1, 2))
    lately = overview.hours
    pairs = [
        ("Log entries", f"{sum(kinds.values()):,}"),
        ("Fetches on record", f"{kinds.get('exchange', 0):,}"),
        ("Attestations", f"{kinds.get('attestation', 0):,}"),
        ("Denied results", f"{kinds.get('denied', 0):,}"),
        ("Refused in this period", f"{sum(each.refused for each in lately):,}"),
        ("Bytes in this period", size_text(sum(each.size_bytes for each in lately))),
        ("Cache hit rate", f"{100 * hits / (hits + misses):.0f} %" if hits + misses else "none"),
        ("Hosts", f"{len(hosts)}" if len(hosts) < 12 else "12 and more"),
    ]
    return tag(
        "dl",
        *(tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs),
        class_="figures",
    )


def _periods(period: str) -> Html:
    links = [
        tag(
            "li",
            link(
                f"/audit?period={name}",
                f"Last {name}",
                aria_current="true" if name == period else None,
            ),
        )
        for name in PERIODS
    ]
    return tag("nav", tag("ul", *links), aria_label="Period")


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _refused(hour: Hour) -> float:
    return hour.refused


def _failed(hour: Hour) -> float:
    return hour.failed


def _fetches(hour: Hour) -> float:
    return hour.fetched


def _bytes(hour: Hour) -> float:
    return hour.size_bytes


def _by_host(
    overview: Overview, buckets: Buckets
) -> Callable[[Callable[[Hour], float]], list[Series]]:
    totals: dict[str, int] = {}
    for hour in overview.hours:
        totals[hour.host] = totals.get(hour.host, 0) + hour.fetched
    names = sorted(totals, key=lambda name: (-totals[name], name))[:_SHOWN_HOSTS]

    def series(value: Callable[[Hour], float]) -> list[Series]:
        found = [
            _sum([h for h in overview.hours if h.host == name], buckets, name, f"c{at}", value)
            for at, name in enumerate(names)
        ]
        others = [hour for hour in overview.hours if hour.host not in names]
        return [*found, *([_sum(others, buckets, "others", "c6", value)] if others else [])]

    return series


def _sum(
    hours: Sequence[Hour], buckets: Buckets, name: str, kind: str, value: Callable[[Hour], float]
) -> Series:
    values = [0.0] * buckets.count
    for hour in hours:
        values[buckets.of(hour.hour)] += value(hour)
    return Series(name, kind, values)


def _cache(overview: Overview, buckets: Buckets) -> Html:
    hits, misses = [0] * buckets.count, [0] * buckets.count
    for hour, hit, miss in overview.cache:
        hits[buckets.of(hour)] += hit
        misses[buckets.of(hour)] += miss
    if not any(hits) and not any(misses):
        return tag("p", "Nobody asked the action cache in this period.", class_="soft")
    shares = [
        hit / (hit + miss) if hit + miss else None for hit, miss in zip(hits, misses, strict=True)
    ]
    return charts.line("Share of action cache look-ups with an answer", buckets, shares)


def _hosts(overview: Overview) -> Html:
    if not overview.hosts:
        return tag("p", "Nothing was fetched yet.", class_="soft")
    names = ("Host", "Fetched", "Refused", "Failed", "Bytes")
    head = tag(
        "tr",
        *(
            tag("th", name, scope="col", class_="number" if at else None)
            for at, name in enumerate(names)
        ),
    )
    rows = [
        tag(
            "tr",
            tag("th", link(f"/audit/log?{_host(each.host)}", each.host), scope="row"),
            *(
                tag("td", f"{value:,}", class_="number")
                for value in (each.fetched, each.refused, each.failed)
            ),
            tag("td", size_text(each.size_bytes), class_="number"),
        )
        for each in overview.hosts
    ]
    return tag("div", tag("table", tag("thead", head), tag("tbody", *rows)), class_="scroll")


def _host(host: str) -> str:
    from urllib.parse import urlencode

    return urlencode({"host": host})
