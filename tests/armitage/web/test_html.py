"""armitage.web.html."""

from __future__ import annotations

import pytest

from armitage.web.html import link, tag, text


def test_text_never_becomes_markup() -> None:
    assert tag("p", "<b>", ['"', None, 7]) == "<p>&lt;b&gt;&quot;7</p>"
    assert tag("p", tag("b", "&")) == "<p><b>&amp;</b></p>"
    assert text("<", tag("br")) == "&lt;<br>"


def test_attributes_are_escaped_and_named() -> None:
    made = tag("a", class_='x"y', data_live="&", hidden=True, title=None, disabled=False)

    assert made == '<a class="x&quot;y" data-live="&amp;" hidden></a>'


@pytest.mark.parametrize("path", ["https://x", "javascript:1", "//x", "x", "\t/x"])
def test_links_lead_nowhere_else(path: str) -> None:
    with pytest.raises(AssertionError):
        link(path, "x")
