"""HTML and SVG out of values, in which text can never become markup.

`tag` escapes every child that is not itself made by `tag`, and every attribute. Addresses that a
page leads to are ours alone: `link` takes paths of this server, so that what others chose, such as
the URL of a fetch, is shown and never followed.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

_VOID = frozenset({"meta", "link", "input", "br", "hr"})


class Html(str):
    """Markup that is safe to put into a page."""

    __slots__ = ()


Child = str | int | float | None | Iterable["Child"]


def tag(name: str, /, *children: Child, **attributes: str | float | bool | None) -> Html:
    """An element. Of an attribute's name, a last `_` is left out and others become `-`; None and
    False leave the attribute out, True makes it bare.
    """
    opening = f"<{name}{''.join(map(_attribute, attributes.items()))}>"
    if name in _VOID:
        assert not children
        return Html(opening)
    return Html(f"{opening}{text(*children)}</{name}>")


def text(*children: Child) -> Html:
    """Children one after the other."""
    return Html("".join(map(_child, children)))


def link(path: str, *children: Child, **attributes: str | float | bool | None) -> Html:
    """An anchor to a path of this server."""
    assert path.startswith(("/", "#", "?"))
    assert not path.startswith("//")
    return tag("a", *children, href=path, **attributes)


def _child(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return child
    if isinstance(child, str | int | float):
        return escape(str(child), quote=True)
    return "".join(map(_child, child))


def _attribute(pair: tuple[str, str | float | bool | None]) -> str:
    name, value = pair[0].removesuffix("_").replace("_", "-"), pair[1]
    if value is None or value is False:
        return ""
    return f" {name}" if value is True else f' {name}="{escape(str(value), quote=True)}"'
