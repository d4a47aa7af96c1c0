"""armitage.audit.why: from an artefact back to everything behind it."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.records import Fetch, Record, hash_of, record

from armitage.audit.rows import Named
from armitage.audit.why import Graph, InputFile, Inputs, why
from armitage.errors import NotFound
from cas.digest import Digest, DigestFunction
from cas.errors import BlobNotFound

COMPILE, LINK = "aa" * 32, "bb" * 32
ROOT = "cc" * 32
WHEEL, OBJECT, PROGRAM = hash_of(b"wheel"), hash_of(b"object"), hash_of(b"program")


async def attest(kept: Record, action: str, output: str, root: str) -> None:
    """An attestation as armitage.attest writes it, as far as the way back needs it."""
    statement = {
        "subject": [{"name": "out", "digest": {"sha256": output}}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "resolvedDependencies": [
                    {
                        "name": "inputRoot",
                        "digest": {"sha256": root},
                        "annotations": {"sizeBytes": 80},
                    }
                ]
            },
            "runDetails": {"metadata": {"finishedOn": "2026-09-21T15:06:40.000Z"}},
        },
    }
    payload = base64.b64encode(json.dumps(statement).encode()).decode()
    data = json.dumps({"payload": payload, "signatures": []}).encode() + b"\n"
    digest = Digest(DigestFunction.SHA256, hash_of(data), len(data))
    await kept.archive.store.put([digest], data)
    entry = {
        "kind": "attestation",
        "action": f"sha256:{action}/144",
        "record": f"sha256:{digest.hash}",
        "size_bytes": digest.size_bytes,
        "v": 1,
    }
    await kept.archive.log.append(json.dumps(entry).encode())
    await kept.auditor.catch_up()


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[Record]:
    """A wheel is fetched by a compilation, whose object is linked into a program."""
    async with record(tmp_path) as made:
        await made.session(Fetch("https://a.example/w", b"wheel"), action=COMPILE, identity="CN=ci")
        await attest(made, COMPILE, OBJECT, "dd" * 32)
        await attest(made, LINK, PROGRAM, ROOT)
        await made.session(Fetch("https://b.example/by-hand", b"by hand"), identity="CN=dev")
        yield made


def inputs(**trees: list[InputFile]) -> Inputs:
    async def files(root: Named) -> AsyncIterator[InputFile]:
        for file in trees.get(root.hash[:2], []):
            yield file

    return files


def edges(graph: Graph) -> set[tuple[str, str, str]]:
    return {(edge.start[:12], edge.label, edge.end[:12]) for edge in graph.edges}


async def test_a_program_leads_back_to_the_fetch_behind_it(kept: Record) -> None:
    tree = {"cc": [InputFile("lib/o.o", OBJECT), InputFile("main.c", hash_of(b"main"))]}

    graph = await why(kept.auditor, PROGRAM, inputs(**tree))

    assert graph.nodes[0].id == f"artefact:{PROGRAM}"
    assert graph.is_whole
    found = {(edge.start, edge.label, edge.end) for edge in graph.edges}
    assert {
        (f"artefact:{PROGRAM}", "made by", f"action:{LINK}"),
        (f"action:{LINK}", "made from", f"artefact:{OBJECT}"),
        (f"action:{LINK}", "made from", f"action:{LINK}#inputs"),
        (f"artefact:{OBJECT}", "made by", f"action:{COMPILE}"),
        (f"action:{COMPILE}", "fetched", "fetch:1"),
        (f"action:{COMPILE}", "was judged in", "attestation:3"),
    } <= found
    titles = {node.id: (node.title, node.detail) for node in graph.nodes}
    assert titles[f"action:{LINK}#inputs"][0] == "1 other input files"
    assert titles[f"artefact:{OBJECT}"] == (OBJECT, "lib/o.o")
    assert titles["fetch:1"] == ("GET https://a.example/w", "fetched (200)")


async def test_a_body_leads_to_its_fetch_and_who_asked(kept: Record) -> None:
    graph = await why(kept.auditor, hash_of(b"by hand")[:10])

    assert edges(graph) == {
        (f"artefact:{hash_of(b'by hand')}"[:12], "fetched by", "fetch:6"),
        ("fetch:6", "made in", "session:sess"),
    }
    assert graph.nodes[-1].detail == "CN=dev"


async def test_what_the_record_does_not_tell_is_said(kept: Record) -> None:
    graph = await why(kept.auditor, LINK)

    assert ("input tree", "the input tree is not at hand here; ask the daemon (--server)") in {
        (node.title, node.detail) for node in graph.nodes
    }


async def test_a_tree_that_is_gone_is_said(kept: Record) -> None:
    async def gone(root: Named) -> AsyncIterator[InputFile]:
        if root.hash:
            raise BlobNotFound(Digest(DigestFunction.SHA256, root.hash, root.size_bytes))
        yield InputFile("", "")

    graph = await why(kept.auditor, LINK, gone)

    assert "the input tree is not in the store any more" in {node.detail for node in graph.nodes}


async def test_an_action_that_made_its_own_input_ends(kept: Record) -> None:
    """Actions can be made to look so: the same bytes may come and go."""
    await attest(kept, LINK, OBJECT, ROOT)

    graph = await why(kept.auditor, PROGRAM, inputs(cc=[InputFile("o", OBJECT)]))

    assert graph.is_whole


async def test_a_limit_of_nodes_is_said(kept: Record) -> None:
    graph = await why(kept.auditor, PROGRAM, inputs(cc=[InputFile("o", OBJECT)]), most=3)

    assert len(graph.nodes) == 3
    assert not graph.is_whole


async def test_what_nothing_names_is_not_found(kept: Record) -> None:
    with pytest.raises(NotFound, match="nothing on record names 1234"):
        await why(kept.auditor, "1234")
