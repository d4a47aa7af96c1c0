"""Where something comes from, drawn from left to right: what is there, and what it comes from."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from armitage.audit.why import Edge, Graph, Node
from armitage.web.html import Html, link, tag, text

_MOST_DRAWN = 60
_NODE_WIDTH, _NODE_HEIGHT = 232, 48
_COLUMN, _ROW = 330, 64
_MARGIN = 12
_CHARACTERS = 31


@dataclass(frozen=True, slots=True)
class _Place:
    x: int
    y: int


def draw(graph: Graph) -> Html:
    """The graph as SVG, and as a list for those who cannot see it."""
    nodes = graph.nodes[:_MOST_DRAWN]
    places = _arrange(nodes, graph.edges)
    width = max(place.x for place in places.values()) + _NODE_WIDTH + _MARGIN
    height = max(place.y for place in places.values()) + _NODE_HEIGHT + _MARGIN
    drawn = tag(
        "svg",
        tag("title", f"Where {nodes[0].kind} {nodes[0].title} comes from"),
        _arrow_head(),
        *(_edge(each, places) for each in graph.edges if {each.start, each.end} <= places.keys()),
        *(_node(each, places[each.id], is_start=each is nodes[0]) for each in nodes),
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        class_="graph",
        role="group",
    )
    missing = len(graph.nodes) - len(nodes)
    said = [f"{missing} more are not drawn, and listed below."] if missing else []
    if not graph.is_whole:
        said.append("There is more behind it than is shown; follow what is listed last.")
    return text(
        tag(
            "div", drawn, class_="scroll", tabindex=0, role="region", aria_label="Provenance graph"
        ),
        tag("p", " ".join(said), class_="note") if said else None,
        _list(graph),
    )


def path_of(node: Node) -> str | None:
    """The page of a node."""
    kind, _, name = node.id.partition(":")
    match kind:
        case "artefact" | "action" if "#" not in name:
            return f"/audit/{kind}/{name}"
        case "fetch" | "attestation" | "denied":
            return f"/audit/entry/{name}"
        case "session":
            return f"/audit/session/{name}"
    return None


def _arrange(nodes: list[Node], edges: list[Edge]) -> dict[str, _Place]:
    """A column for each step away from the start, in the order found."""
    below: dict[str, list[str]] = {}
    for edge in edges:
        below.setdefault(edge.start, []).append(edge.end)
    depths = {nodes[0].id: 0}
    pending = deque([nodes[0].id])
    while pending:
        name = pending.popleft()
        for end in below.get(name, []):
            if end not in depths:
                depths[end] = depths[name] + 1
                pending.append(end)
    rows: dict[int, int] = {}
    places = {}
    for node in nodes:
        column = depths.get(node.id, 0)
        row = rows.get(column, 0)
        rows[column] = row + 1
        places[node.id] = _Place(_MARGIN + column * _COLUMN, _MARGIN + row * _ROW)
    return places


def _edge(edge: Edge, places: dict[str, _Place]) -> Html:
    start, end = places[edge.start], places[edge.end]
    x1, y1 = start.x + _NODE_WIDTH, start.y + _NODE_HEIGHT // 2
    x2, y2 = end.x - 7, end.y + _NODE_HEIGHT // 2
    if end.x <= start.x:  # Back to what was there before.
        x1, x2, y2 = start.x + _NODE_WIDTH // 2, end.x + _NODE_WIDTH // 2, end.y + _NODE_HEIGHT + 7
        y1 = start.y + _NODE_HEIGHT
        curve = f"M{x1},{y1} C{x1},{y1 + 40} {x2},{y2 + 40} {x2},{y2}"
    else:
        middle = (x1 + x2) // 2
        curve = f"M{x1},{y1} C{middle},{y1} {middle},{y2} {x2},{y2}"
    return text(
        tag("path", d=curve, class_="edge", marker_end="url(#arrow)"),
        tag("text", edge.label, x=x2 - 6, y=y2 - 5, text_anchor="end", class_="label"),
    )


def _arrow_head() -> Html:
    shape = tag("path", d="M0,0 L8,4 L0,8 z", class_="arrow")
    marker = tag(
        "marker",
        shape,
        id="arrow",
        markerWidth=8,
        markerHeight=8,
        refX=1,
        refY=4,
        orient="auto",
        markerUnits="userSpaceOnUse",
    )
    return tag("defs", marker)


def _node(node: Node, place: _Place, *, is_start: bool) -> Html:
    x, y = place.x, place.y
    second = f"{node.kind} · {node.detail}" if node.detail else node.kind
    inner = text(
        tag("title", f"{node.kind}: {node.title} {node.detail}"),
        tag("rect", x=x, y=y, width=_NODE_WIDTH, height=_NODE_HEIGHT, rx=8),
        tag("text", _short(node.title, node.kind), x=x + 12, y=y + 20, class_="title"),
        tag("text", _cut(second, 36), x=x + 12, y=y + 37, class_="kind"),
    )
    kind = f"{node.kind} start" if is_start else node.kind
    path = path_of(node)
    return tag("g", inner if path is None else link(path, inner), class_=kind)


def _short(title: str, kind: str) -> str:
    if kind in {"artefact", "action"}:
        return f"{title[:22]}…"
    if kind == "fetch":
        title = title.replace("https://", "").replace("http://", "")
    return _cut(title, _CHARACTERS)


def _cut(shown: str, most: int) -> str:
    """The beginning and the end, which tells more of a path than its middle."""
    if len(shown) <= most:
        return shown
    ending = most * 2 // 3
    return f"{shown[: most - ending - 1]}…{shown[-ending:]}"


def _list(graph: Graph) -> Html:
    nodes = {node.id: node for node in graph.nodes}
    rows = [
        tag(
            "tr",
            tag("td", _named(nodes[edge.start])),
            tag("td", edge.label, class_="soft"),
            tag("td", _named(nodes[edge.end]), class_="request"),
        )
        for edge in graph.edges
    ]
    head = tag("tr", *(tag("th", name, scope="col") for name in ("What", "How", "From")))
    inner = tag("table", tag("thead", head), tag("tbody", *rows))
    summary = tag("summary", f"As a list ({len(graph.nodes)} things)")
    return tag("details", summary, tag("div", inner, class_="scroll"))


def _named(node: Node) -> Html:
    shown = f"{node.kind} {node.title[:16]}" if node.kind in {"artefact", "action"} else node.title
    path = path_of(node)
    return text(
        shown if path is None else link(path, shown), f" {node.detail}" if node.detail else ""
    )
