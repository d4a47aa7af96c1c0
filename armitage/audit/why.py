"""Where something comes from: the graph from an artefact, a fetch or an action back to every fetch
and action behind it, as far as the record tells.

    artefact  was fetched by  fetch        was made by  action
    action    fetched         fetch        was made from  artefact (a file of its input tree)
    fetch     was made in     session      asked for by  a client

An edge points from what is there to what it comes from. Nothing is guessed: what is not on record
is shown as not on record. The search is breadth first, and ends at a limit of nodes, which it says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from armitage.audit.auditor import Auditor
from armitage.audit.query import Query
from armitage.audit.rows import Named, Row, dependencies_in, statements_in
from armitage.errors import ArmitageError, NotFound
from cas.errors import BlobNotFound, CasError
from executor.errors import ExecutorError

MOST_NODES = 300
MOST_FILES = 20_000
_MOST_OF_A_KIND = 40
_FETCHED = ("body", "decoded")
_MADE = ("output",)


class InputFile(NamedTuple):
    """A file of an input tree."""

    path: str
    hash: str


Inputs = Callable[[Named], AsyncIterator[InputFile]]
"""Answers the files below an input root. Raises BlobNotFound where a directory is gone."""


@dataclass(frozen=True, slots=True)
class Node:
    """One thing. `id` is `artefact:HASH`, `action:HASH`, `fetch:INDEX` and the like."""

    id: str
    kind: str
    title: str
    detail: str = ""
    index: int | None = None
    """The log entry that says so."""


class Edge(NamedTuple):
    """That `start` comes from `end`."""

    start: str
    end: str
    label: str


@dataclass(slots=True)
class Graph:
    """What was found, the thing asked for first."""

    nodes: list[Node] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    is_whole: bool = True
    """False: there is more than the limit of nodes."""


async def why(
    auditor: Auditor, asked: str, inputs: Inputs | None = None, most: int = MOST_NODES
) -> Graph:
    """Raises NotFound when nothing on record names this hash or the beginning of one."""
    walk = _Walk(auditor, inputs, most)
    hashes = await auditor.hashes(asked, 2)
    if not hashes:
        raise NotFound(f"nothing on record names {asked}")
    if len(hashes) > 1 and asked not in hashes:
        raise NotFound(f"{asked} is the beginning of more than one hash; give more digits")
    hashed = asked if asked in hashes else hashes[0]
    is_action = bool(await auditor.naming(hashed, ["action"], 1))
    await walk.run(("action" if is_action else "artefact", hashed))
    return walk.graph


async def why_fetch(auditor: Auditor, index: int) -> Graph:
    """The way back from one entry of the log. Raises NotFound."""
    row = await auditor.links_of(index)
    if row is None:
        raise NotFound(f"there is no entry {index}")
    walk = _Walk(auditor, None, MOST_NODES)
    if row.body and row.outcome == "fetched":
        walk.artefact(row.body)
    walk.fetch(row, f"artefact:{row.body}" if row.body and row.outcome == "fetched" else None)
    return walk.graph


class _Walk:
    def __init__(self, auditor: Auditor, inputs: Inputs | None, most: int) -> None:
        self.graph = Graph()
        self._auditor = auditor
        self._inputs = inputs
        self._most = most
        self._ids: set[str] = set()
        self._edges: set[Edge] = set()
        self._pending: deque[tuple[str, str]] = deque()

    async def run(self, start: tuple[str, str]) -> None:
        kind, hashed = start
        (self.artefact if kind == "artefact" else self._action)(hashed)
        self._pending.append(start)
        done = set()
        while self._pending:
            kind, hashed = step = self._pending.popleft()
            if step in done:
                continue
            done.add(step)
            await (self._behind_artefact if kind == "artefact" else self._behind_action)(hashed)

    # Nodes

    def _add(self, node: Node) -> bool:
        """Whether the node is in the graph now."""
        if node.id in self._ids:
            return True
        if len(self.graph.nodes) >= self._most:
            self.graph.is_whole = False
            return False
        self._ids.add(node.id)
        self.graph.nodes.append(node)
        return True

    def _join(self, start: str, node: Node, label: str) -> bool:
        if start not in self._ids or not self._add(node):
            return False
        edge = Edge(start, node.id, label)
        if edge not in self._edges:
            self._edges.add(edge)
            self.graph.edges.append(edge)
        return True

    def artefact(self, hashed: str, detail: str = "") -> None:
        self._add(_artefact(hashed, detail))

    def _action(self, hashed: str) -> None:
        self._add(_action(hashed))

    def fetch(self, row: Row, start: str | None) -> None:
        node = _fetch(row)
        if not (self._add(node) if start is None else self._join(start, node, "fetched by")):
            return
        if row.action:
            self._join(node.id, _action(row.action, row), "asked for by")
        else:
            who = row.identity or "nobody named"
            session = Node(f"session:{row.session}", "session", f"session {row.session}", who)
            self._join(node.id, session, "made in")

    # Steps

    async def _behind_artefact(self, hashed: str) -> None:
        start = f"artefact:{hashed}"
        fetched = await self._auditor.naming(hashed, _FETCHED, _MOST_OF_A_KIND)
        made = await self._auditor.naming(hashed, _MADE, _MOST_OF_A_KIND)
        for row in fetched:  # It comes from its origin, and not from what fetched it.
            self.fetch(row, start)
        for row in made:
            if self._join(start, _action(row.action, row), "made by"):
                self._pending.append(("action", row.action))
        if not fetched and not made:
            note = Node(f"{start}#uploaded", "note", "uploaded by a client", "no fetch on record")
            self._join(start, note, "was")

    async def _behind_action(self, hashed: str) -> None:
        start = f"action:{hashed}"
        query = Query(action=hashed, kind="exchange", after=-1, limit=_MOST_OF_A_KIND)
        for row in await self._auditor.rows(query):
            self._join(start, _fetch(row), "fetched")
        attested = [
            row
            for row in await self._auditor.naming(hashed, ["action"], _MOST_OF_A_KIND)
            if row.kind in {"attestation", "denied"}
        ]
        for row in attested:
            self._join(start, _decision(row), "was judged in")
        roots = {await self._input_root(row) for row in attested if row.kind == "attestation"}
        for root in roots - {None}:
            assert root is not None
            await self._behind_inputs(start, root)
        if not attested:
            note = Node(f"{start}#inputs", "note", "inputs not on record", "it is not attested")
            self._join(start, note, "made from")

    async def _input_root(self, row: Row) -> Named | None:
        view = await self._auditor.record_of(row.index)
        for statement in [] if view is None else statements_in(view):
            for name, named in dependencies_in(statement):
                if name == "inputRoot":
                    return named
        return None

    async def _behind_inputs(self, start: str, root: Named) -> None:
        files, problem = await self._files_of(root)
        paths = {file.hash: file.path for file in reversed(files)}
        known = await self._auditor.known(list(paths), [*_FETCHED, *_MADE])
        for hashed in sorted(known, key=paths.__getitem__):
            if self._join(start, _artefact(hashed, paths[hashed]), "made from"):
                self._pending.append(("artefact", hashed))
        others = len(paths) - len(known)
        if others or problem:
            title = f"{others} other input files" if others else "input tree"
            detail = problem or "uploaded by a client; no fetch or action on record"
            self._join(start, Node(f"{start}#inputs", "note", title, detail), "made from")

    async def _files_of(self, root: Named) -> tuple[list[InputFile], str]:
        if self._inputs is None:
            return [], "the input tree is not at hand here; ask the daemon (--server)"
        files: list[InputFile] = []
        try:
            async for file in self._inputs(root):
                files.append(file)
                if len(files) >= MOST_FILES:
                    return files, f"only the first {MOST_FILES} files were looked at"
        except BlobNotFound:
            return files, "the input tree is not in the store any more"
        except (CasError, ArmitageError, ExecutorError) as error:
            return files, f"the input tree cannot be read: {error}"
        return files, ""


def _artefact(hashed: str, detail: str = "") -> Node:
    return Node(f"artefact:{hashed}", "artefact", hashed, detail)


def _action(hashed: str, row: Row | None = None) -> Node:
    detail = "" if row is None else row.target or row.identity
    return Node(f"action:{hashed}", "action", hashed, detail)


def _fetch(row: Row) -> Node:
    status = row.note if row.outcome == "refused" else str(row.status or row.note)
    return Node(
        f"fetch:{row.index}",
        "fetch",
        f"{row.method} {row.url}",
        f"{row.outcome} ({status})",
        row.index,
    )


def _decision(row: Row) -> Node:
    return Node(f"{row.kind}:{row.index}", row.kind, f"{row.kind} {row.index}", row.note, row.index)
