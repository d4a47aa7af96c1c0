from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from armitage.web.page import (
    CONTENT_SECURITY_POLICY,
    duration_text,
    label,
    render_page,
    size_text,
    value_text,
)

EVIL = "<script>alert('x')</script>\" onload=\"x"


class Outline(HTMLParser):
    """Tags and attributes of a page; fails on what does not nest."""

    VOID = frozenset({"meta"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


def test_page_shows_each_value_in_words() -> None:
    page = render_page(
        {
            "version": "1.2.3",
            "uptime_s": 3700,
            "addresses": ["grpc://127.0.0.1:8980"],
            "store": {"blobs": 12345, "bytes": 2**30, "max_bytes": 2**32},
            "scheduler": {"oldest_queued_s": 0.25, "is_draining": False},
            "workers": [{"name": "one", "slots": 2}, {"name": "two", "slots": 3}],
        },
        [],
    )

    Outline(page)
    for text in ("1.2.3", "1 h 1 min", "grpc://127.0.0.1:8980", "12,345", "1.0 GiB", "0.25 s"):
        assert text in page
    assert ">ready<" in page
    assert 'rect width="25.00%"' in page


def test_page_says_why_it_is_not_ready() -> None:
    page = render_page({"version": "1"}, ["draining"])

    assert ">not ready<" in page
    assert "<li>draining</li>" in page


def test_nothing_shown_can_become_markup() -> None:
    page = render_page(
        {
            "version": EVIL,
            EVIL: EVIL,
            "store": {EVIL: EVIL, "nested": {EVIL: [EVIL]}},
            "workers": [{EVIL: EVIL}],
        },
        [EVIL],
    )

    outline = Outline(page)
    assert "script" not in outline.tags
    assert not {name for name in outline.attributes if name.startswith("on")}


def test_policy_allows_the_pages_own_style_and_nothing_else() -> None:
    page = render_page({"store": {"bytes": 1, "max_bytes": 2}}, [])
    [style] = re.findall(r"<style>(.*)</style>", page, re.DOTALL)

    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}';" in CONTENT_SECURITY_POLICY
    assert "style" not in Outline(page).attributes
    assert "http" not in page


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("evicted_bytes", "Evicted size"),
        ("bytes", "Size"),
        ("oldest_queued_s", "Oldest queued"),
        ("cas", "CAS"),
        ("grpc", "gRPC"),
        ("action_cache", "Action cache"),
    ],
)
def test_names_become_words(name: str, words: str) -> None:
    assert label(name) == words


def test_values_carry_their_unit() -> None:
    assert size_text(0) == "0 B"
    assert size_text(1536) == "1.5 KiB"
    assert size_text(3 * 2**40) == "3.0 TiB"
    assert duration_text(0.0321) == "0.0321 s"
    assert duration_text(61) == "1 min 1 s"
    assert duration_text(90_000) == "1 d 1 h"
    assert value_text("blobs", 1234567) == "1,234,567"
    assert value_text("is_draining", value=True) == "yes"
    assert value_text("load", 0.5) == "0.50"
    assert value_text("name", "") == "(empty)"
