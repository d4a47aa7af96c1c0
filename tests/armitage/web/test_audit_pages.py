"""armitage.web.audit: the pages as HTML, with the worst that can be on record."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support.audited import Served, serving
from support.records import Fetch, hash_of, record

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
ACTION = "ab" * 32
PATHS = (
    *("", "?period=year", "/log", "/log?text=evil", "/log?since=soon", "/checkpoint"),
    *("/entry/0", "/entry/1", "/entry/2", "/entry/3", f"/action/{ACTION}"),
    *(f"/artefact/{hash_of(b'body')}", "/session/session-0-0"),
)


class Outline(HTMLParser):
    """Tags and attributes of a page; fails on what does not nest."""

    VOID = frozenset({"meta", "link", "input", "br", "hr"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with record(tmp_path) as kept, serving(kept) as made:
        await kept.session(
            Fetch(f"https://a.example/{EVIL}", b"body", headers=[("x-evil", EVIL)]),
            Fetch(f"https://evil.example/{EVIL}", None, None, allowed=False, rule=EVIL),
            action=ACTION,
            identity=EVIL,
            target=EVIL,
            invocation=EVIL,
            declared=EVIL,
        )
        yield made


async def page_of(served: Served, path: str, status: int = 200) -> Outline:
    return Outline((await served.read(f"/audit{path}", status)).decode())


async def test_whatever_is_on_record_is_text(served: Served) -> None:
    for path in PATHS:
        found = await page_of(served, path)
        assert "img" not in dict(found.tags), path
        [script] = found.all("script")
        assert str(script["src"]).startswith("/assets/audit-"), path
        for _, attributes in found.tags:
            assert not [name for name in attributes if name.startswith("on") or name == "style"]
            target = attributes.get("href") or attributes.get("src") or attributes.get("action")
            assert target is None or re.match(r"[/#?](?!/)", target), (path, target)
    assert EVIL in "".join((await page_of(served, "/entry/1")).words)


async def test_pages_need_nothing_from_elsewhere_and_allow_nothing_else(served: Served) -> None:
    answer = await served.http.get(f"{served.url}/audit")
    policy = answer.headers["Content-Security-Policy"]

    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    found = Outline(await answer.text())
    for path in (found.all("link")[0]["href"], found.all("script")[0]["src"]):
        asset = await served.http.get(f"{served.url}{path}")
        assert asset.status == 200
        assert asset.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert not re.search(rb"https?://|@import|url\(|eval|innerHTML", await asset.read())


async def test_pages_can_be_used_without_seeing_them(served: Served) -> None:
    for path in PATHS:
        found = await page_of(served, path)
        assert found.all("html")[0]["lang"] == "en"
        for landmark in ("header", "nav", "main", "footer", "h1"):
            assert found.all(landmark), (path, landmark)
        for image in (svg for svg in found.all("svg") if svg.get("aria-hidden") != "true"):
            assert image["role"] in {"img", "group"}
        unnamed = [
            attributes
            for tag, attributes in found.tags
            if tag == "input"
            and not attributes.get("aria-label")
            and not _in_label(found, attributes)
        ]
        assert unnamed == [], path


def _in_label(found: Outline, attributes: dict[str, str | None]) -> bool:
    """A label comes right before what it names."""
    at = next(n for n, (_, each) in enumerate(found.tags) if each is attributes)
    return found.tags[at - 1][0] == "label"


async def test_a_graph_leads_from_an_artefact_to_its_fetch(served: Served) -> None:
    found = await page_of(served, f"/artefact/{hash_of(b'body')}")
    targets = [attributes.get("href") for attributes in found.all("a")]

    assert "/audit/entry/1" in targets
    assert f"/audit/action/{ACTION}" in targets


async def test_a_search_is_kept_in_its_form_and_paged(served: Served) -> None:
    found = await page_of(served, "/log?kind=exchange&limit=1&host=*.example")

    assert {"name": "host", "value": "*.example"}.items() <= {
        **next(each for each in found.all("input") if each.get("name") == "host")
    }.items()
    [older] = [a["href"] for a in found.all("a") if "before=2" in str(a["href"])]
    assert "host=%2A.example" in str(older)
    assert "2 entries match" in "".join(found.words)


async def test_what_cannot_be_is_said_on_the_page(served: Served) -> None:
    wrong = await page_of(served, "/log?since=soon")
    missing = await page_of(served, "/entry/99", 404)

    assert "since: 'soon' is no time" in "".join(wrong.words)
    assert "the record has 4 entries, none at 99" in "".join(missing.words)


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        ("1", "/audit/entry/1"),
        (ACTION, f"/audit/action/{ACTION}"),
        (hash_of(b"body")[:9], f"/audit/artefact/{hash_of(b'body')}"),
        ("ffff0000", "/audit/log?digest=ffff0000"),
        ("evil.example", "/audit/log?text=evil.example"),
        ("//evil.example", "/audit/log?text=//evil.example"),
    ],
)
async def test_find_leads_to_what_a_word_names(served: Served, asked: str, path: str) -> None:
    answer = await served.http.get(
        f"{served.url}/audit/find", params={"q": asked}, allow_redirects=False
    )

    assert (answer.status, answer.headers["Location"]) == (303, path)


async def test_strangers_see_no_page(tmp_path: Path) -> None:
    async with record(tmp_path) as kept, serving(kept, ["CN=auditor"]) as served:
        for path in ("", "/log", "/checkpoint", "/entry/0", "/find?q=1"):
            text = await served.read(f"/audit{path}", 403)
            assert text == b"'127.0.0.1' is not among the server's `auditors`\n"


async def test_the_servers_page_leads_to_the_record(served: Served) -> None:
    assert b'href="/audit"' in await served.read("/")


STYLE = (Path(__file__).parents[3] / "armitage/web/assets/audit.css").read_text()
READ_ON = (
    *(("ink", "card"), ("ink", "back"), ("soft", "card"), ("soft", "back"), ("soft", "mark")),
    *(("accent", "card"), ("accent", "mark"), ("good", "good-back"), ("bad", "bad-back")),
    *(("warn", "warn-back"), ("ink", "mark"), ("ink", "good-back"), ("soft", "good-back")),
    *(("ink", "bad-back"), ("soft", "bad-back"), ("card", "accent")),
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(scheme: str) -> None:
    """WCAG 2 level AA."""
    colours = _colours(scheme)

    low = {pair: _contrast(colours[pair[0]], colours[pair[1]]) for pair in READ_ON}

    assert {pair: ratio for pair, ratio in low.items() if ratio < 4.5} == {}


def _colours(scheme: str) -> dict[str, str]:
    first, second = re.findall(r":root \{([^}]*)\}", STYLE)
    return dict(
        re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6});", first if scheme == "light" else second)
    )


def _contrast(one: str, other: str) -> float:
    low, high = sorted(map(_luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [
        each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
