"""The pages in a real browser: nothing is refused by the policy, and the script does its part."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.audited import serving
from support.browser import browser, chromium
from support.records import Fetch, hash_of, record

from armitage.chores import Meanwhile

EVIL = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="needs chromium (apt-get install chromium)"),
]


async def test_the_pages_in_a_browser(tmp_path: Path) -> None:
    """One browser for all, since it takes seconds to start."""
    async with (
        record(tmp_path / "record") as kept,
        Meanwhile(kept.auditor.follow),
        serving(kept) as served,
        browser(tmp_path) as tab,
    ):
        await kept.session(Fetch(f"https://a.example/{EVIL}", b"body"), action="ab" * 32)
        for width, dark in ((1280, False), (390, True)):
            await tab.look(width=width, dark=dark)
            for path in ("", "/log", "/entry/1", f"/artefact/{hash_of(b'body')}", "/checkpoint"):
                await tab.go(f"{served.url}/audit{path}")
                assert await tab.evaluate("document.documentElement.scrollWidth") <= width, path
                assert "owned" not in await tab.evaluate("document.title")
        back = await tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert back == "rgb(17, 22, 29)"

        await tab.go(f"{served.url}/audit")
        await tab.until("document.querySelector('#live-state').textContent.startsWith('live')")
        await kept.session(Fetch(f"https://b.example/{EVIL}", b"live"))
        await tab.until("document.querySelectorAll('#entries tr.fresh').length === 3")
        shown = await tab.evaluate(
            "document.querySelectorAll('#entries tr.fresh td')[10].innerText"
        )
        assert shown == f"GET https://b.example/{EVIL}"

        await tab.go(f"{served.url}/audit/checkpoint")
        await tab.evaluate("document.querySelector('[data-verify]').click()")
        await tab.until("document.body?.innerText.includes('all as it was signed')")

        await tab.go(f"{served.url}/audit")
        await tab.until("document.querySelector('.skip') !== null")
        await tab.evaluate("document.querySelector('.skip').focus()")
        assert await tab.evaluate("document.activeElement.getBoundingClientRect().left") == 16

        assert tab.problems == []
        assert {url.split("/")[2] for url in tab.requested if url.startswith("http")} == {
            served.url.removeprefix("http://")
        }
