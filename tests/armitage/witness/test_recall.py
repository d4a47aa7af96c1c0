"""armitage.witness.recall: which logs of a record give what they have, and which do not."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from hashlib import sha256
from pathlib import Path

import pytest
from support.networks import HOST, Networks, networks
from support.witnessed import Origin, answering

from armitage.log.tiles import WIDTH
from armitage.witness.modes import MODE, PINS
from armitage.witness.rotation import Rotated, rotate_log


async def fetched(world: Networks, body: bytes) -> str:
    """Answers the URL that was fetched."""
    async with world.origin(Origin(answering(body))) as origin, world.session() as running:
        url = f"https://{HOST}:{origin.port}/{body.decode()}"
        assert await running.fetch(url) == (200, body)
    return url


async def found(world: Networks, url: str) -> bytes | None:
    async with world.session(offline=True) as running:
        status, body = await running.fetch(url)
    assert status in {200, 504}
    return body if status == 200 else None


async def rotated(directory: Path, name: str) -> Rotated:
    return await asyncio.to_thread(rotate_log, directory / "record", f"log.example/{name}")


@pytest.mark.parametrize("is_known", [False, True], ids=["anew", "known before"])
async def test_what_a_log_that_ended_has_is_found(tmp_path: Path, is_known: bool) -> None:
    urls = {}
    for body, following in ((b"one", "second"), (b"two", "third")):
        async with networks(tmp_path) as world:
            urls[body] = await fetched(world, body)
            if is_known:
                assert await found(world, urls[body]) == body
        await rotated(tmp_path, following)

    async with networks(tmp_path) as world:
        urls[b"three"] = await fetched(world, b"three")
        for body, url in urls.items():
            assert await found(world, url) == body
            moved = f"https://mirror.example/{body.decode()}"
            pins = [(MODE, "pinned"), (PINS, f"{moved} {sha256(body).hexdigest()}")]
            async with world.session(platform=pins) as running:
                assert await running.fetch(moved) == (200, body)
        assert await world.faults() == []


async def test_the_newest_answer_of_all_logs_is_found(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        async with networks(tmp_path) as world:
            origins, origin = world.origins, Origin(answering(b"old"))
            await stack.enter_async_context(origin.listening(origins.context(HOST)))
            url = f"https://{HOST}:{origin.port}/a"
            async with world.session() as running:
                await running.fetch(url)
        await rotated(tmp_path, "second")
        async with networks(tmp_path) as world:
            (tmp_path / "origins.pem").write_bytes(origins.certificate)
            assert await found(world, url) == b"old"
            origin.script = answering(b"new")
            async with world.session() as running:
                await running.fetch(url)

            assert await found(world, url) == b"new"


async def test_nothing_in_a_log_that_is_revoked_is_found(tmp_path: Path) -> None:
    urls, ended = {}, []
    for body, following in ((b"one", "second"), (b"two", "third")):
        async with networks(tmp_path) as world:
            urls[body] = await fetched(world, body)
            assert await found(world, urls[body]) == body
        ended.append(await rotated(tmp_path, following))
    async with networks(tmp_path) as world:
        urls[b"three"] = await fetched(world, b"three")
        current = ended[1].following

    logs = (ended[0].before, ended[1].before, current)
    for revoked, gone in zip(logs, (b"one", b"two", b"three"), strict=True):
        async with networks(tmp_path, revoked=[str(revoked)]) as world:
            for body, url in urls.items():
                assert await found(world, url) == (None if body == gone else body)
    async with networks(tmp_path) as world:
        assert await found(world, urls[b"one"]) == b"one"


FULL, LAST = "tile/entries/000", "partial/entries-1"


@pytest.mark.parametrize(
    ("name", "is_gone", "is_known"),
    [(FULL, False, False), (FULL, False, True), (FULL, True, False), (LAST, False, True)],
    ids=["an entry changed", "known before that", "entries gone", "a last entry changed"],
)
async def test_nothing_in_a_log_that_ended_and_is_damaged_is_found(
    tmp_path: Path, name: str, is_gone: bool, is_known: bool
) -> None:
    async with networks(tmp_path) as world:
        url = await fetched(world, b"one")
        await world.archive.log.append_all([b"another's"] * WIDTH)
        if is_known:
            assert await found(world, url) == b"one"
    done = await rotated(tmp_path, "second")
    path = done.past / "log" / name
    if is_gone:
        path.unlink()
    else:
        content = path.read_bytes().replace(b"another's", b"somebody.", 1)
        path.write_bytes(content.replace(b'"exchange"', b'"exchangf"'))

    async with networks(tmp_path) as world:
        late = await fetched(world, b"late")
        assert await found(world, url) is None
        assert await found(world, late) == b"late"
