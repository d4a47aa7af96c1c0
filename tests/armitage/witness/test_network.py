"""armitage.witness.network: what actions may fetch in each mode, and what is said of it."""

from __future__ import annotations

import asyncio
import gzip
import sqlite3
import ssl
import struct
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import pytest
from support.networks import ANYWHERE, HOST, Networks, Running, ask_names, networks
from support.witnessed import Origin, Script, answering, saying

from armitage.witness.credentials import CredentialOptions
from armitage.witness.modes import MODE, PINS
from executor.coeffects import Coeffects, NetworkGrant
from executor.errors import InvalidInput, WorkerFailure
from executor.evidence import Reached
from executor.spec import Requester

SECRET = "s3cr3t-value"
REGISTRY = CredentialOptions(hosts=(HOST,), environment="TOKEN")
TRANSPARENT = [(MODE, "transparent")]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Networks]:
    made = networks(tmp_path, credentials={"registry": REGISTRY}, environment={"TOKEN": SECRET})
    async with made as world:
        yield world


def pinned(url: str, body: bytes) -> list[tuple[str, str]]:
    return [(MODE, "pinned"), (PINS, f"{url} {sha256(body).hexdigest()}")]


async def test_a_session_tells_whose_it_is_and_what_it_came_to(world: Networks) -> None:
    requester = Requester("main", "op-1", "build-1", "//a:b", "CN=builder")
    async with world.origin(Origin(answering(b"abc"))) as origin:
        url = f"https://{HOST}:{origin.port}/a"
        async with world.session(requester=requester) as running:
            assert await running.fetch(url) == (200, b"abc")
            assert (await running.fetch("https://h.example/a", "POST"))[0] == 403

    use = running.use
    assert use is not None
    assert (use.session, use.reached, use.dropped) == (
        running.session.id,
        (Reached(HOST, origin.port),),
        0,
    )
    [refused] = use.refused
    assert refused.startswith(f"POST https://{HOST}/a: POST sends data out")
    entry = world.archive.log.store.entry(0)
    assert running.session.id.encode() in entry
    assert await world.faults() == []


async def test_what_is_not_declared_cannot_be_opened(world: Networks) -> None:
    for coeffects, complaint in (
        (Coeffects(), "declares no network"),
        (Coeffects(network=(NetworkGrant(),), auth=("other",)), "auth:other is no credential here"),
    ):
        with pytest.raises(InvalidInput, match=complaint):
            async with world.session(coeffects):
                pass


async def test_without_a_record_there_is_no_session(
    world: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(world.archive.log, "append", fail)
    with pytest.raises(WorkerFailure, match="cannot be kept"):
        async with world.session():
            pass


async def test_variables_and_paths_are_the_same_for_every_session(world: Networks) -> None:
    async with world.session() as one, world.session() as other:
        assert one.session.environment == other.session.environment
        assert list(one.session.files) == list(other.session.files)
        assert one.session.files != other.session.files
        assert one.session.ports == (8981,)


async def test_a_credential_goes_to_its_hosts_and_never_to_the_action(world: Networks) -> None:
    declared = Coeffects(network=(NetworkGrant(),), auth=("registry",))
    async with (
        world.origin(Origin(answering(b"abc"))) as origin,
        world.origin(Origin(answering(b"abc")), "other.example") as other,
        world.session(declared) as running,
    ):
        headers = {"Authorization": "Bearer of-the-action"}
        await running.fetch(f"https://{HOST}:{origin.port}/a", headers=headers)
        await running.fetch(f"https://other.example:{other.port}/a")
        shown = repr((running.session.environment, running.session.files))

    assert f"authorization: Bearer {SECRET}".encode() in origin.heads[0]
    assert b"of-the-action" not in origin.heads[0]
    assert SECRET.encode() not in other.heads[0]
    assert SECRET not in shown
    assert running.use is not None
    assert running.use.credentials == ("registry",)


async def test_who_does_not_declare_a_credential_has_none(world: Networks) -> None:
    async with world.origin(Origin(answering(b""))) as origin, world.session() as running:
        await running.fetch(f"https://{HOST}:{origin.port}/a")

    assert SECRET.encode() not in origin.heads[0]
    assert running.use is not None
    assert running.use.credentials == ()


# Offline


async def test_offline_answers_what_is_on_record_and_names_the_rest(world: Networks) -> None:
    script = answering(b"abc", "Content-Type: text/x", 'ETag: "1"', "Set-Cookie: a=b")
    async with world.origin(Origin(script)) as origin, world.session() as running:
        url = f"https://{HOST}:{origin.port}/a?token=1"
        await running.fetch(url)

    async with world.session(offline=True) as running:
        assert await running.fetch(url) == (200, b"abc")
        assert await running.fetch(url, "HEAD") == (504, b"")
        status, text = await running.fetch(f"https://{HOST}:{origin.port}/a?token=2")

    assert status == 504
    assert b"is not on record; fetch it once with the network on" in text
    first, again, _, missing = await world.exchanges()
    assert again["replays"].startswith("sha256:")
    assert again["response"]["body"] == first["response"]["body"]
    assert again["peer"]["address"] == ""
    assert missing["decision"] == {"verdict": "deny", "rule": "offline"}
    assert running.use is not None
    assert running.use.reached == (Reached(HOST, origin.port),)
    assert len(running.use.refused) == 2
    assert await world.faults() == []


async def test_offline_still_refuses_what_is_not_declared(world: Networks) -> None:
    async with world.origin(Origin(answering(b"abc"))) as origin, world.session() as running:
        url = f"https://{HOST}:{origin.port}/a"
        await running.fetch(url)

    declared = Coeffects(network=(NetworkGrant("other.example"),))
    async with world.session(declared, offline=True) as running:
        status, text = await running.fetch(url)

    assert (status, b"does not declare" in text) == (403, True)


async def test_an_answer_is_for_requests_that_are_alike_where_the_origin_varies(
    world: Networks,
) -> None:
    async def by_language(head: bytes, _: object, writer: asyncio.StreamWriter) -> None:
        body = b"de" if b"de" in head.lower().partition(b"accept-language")[2][:6] else b"en"
        writer.write(
            b"HTTP/1.1 200 OK\r\nVary: Accept-Language\r\nContent-Length: 2\r\n\r\n" + body
        )

    async with world.origin(Origin(by_language)) as origin, world.session() as running:
        url = f"https://{HOST}:{origin.port}/a"
        for language in ("en", "de"):
            await running.fetch(url, headers={"Accept-Language": language})

    async with world.session(offline=True) as running:
        for language, status in (("de", 200), ("en", 200), ("fr", 504)):
            found = await running.fetch(url, headers={"Accept-Language": language})
            assert found[0] == status
            assert status == 504 or found[1] == language.encode()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"headers": {"Authorization": "Bearer one"}}, {"headers": {"Authorization": "Bearer 2"}}),
        ({"headers": {"Cookie": "a=b"}}, {}),
        ({"headers": {"Range": "bytes=0-1"}}, {}),
        ({}, {"headers": {"Range": "bytes=0-1"}}),
    ],
    ids=["another's token", "a cookie", "a part for the whole", "the whole for a part"],
)
async def test_an_answer_is_for_nobody_else(
    world: Networks, first: dict[str, dict[str, str]], second: dict[str, dict[str, str]]
) -> None:
    async with world.origin(Origin(answering(b"abc"))) as origin, world.session() as running:
        url = f"https://{HOST}:{origin.port}/a"
        await running.fetch(url, headers=first.get("headers"))

    async with world.session(offline=True) as running:
        assert (await running.fetch(url, headers=first.get("headers")))[0] == 200
        assert (await running.fetch(url, headers=second.get("headers")))[0] == 504


async def test_an_answer_to_a_credential_is_for_those_who_were_granted_it(world: Networks) -> None:
    declared = Coeffects(network=(NetworkGrant(),), auth=("registry",))
    async with world.origin(Origin(answering(b"abc"))) as origin, world.session(declared) as run:
        url = f"https://{HOST}:{origin.port}/a"
        await run.fetch(url)

    async with world.session(offline=True) as run:
        assert (await run.fetch(url))[0] == 504
    async with world.session(declared, offline=True) as run:
        assert (await run.fetch(url))[0] == 200


async def test_an_answer_is_for_its_instance(world: Networks) -> None:
    one, two = Requester("one"), Requester("two")
    async with world.origin(Origin(answering(b"abc"))) as origin:
        url = f"https://{HOST}:{origin.port}/a"
        async with world.session(requester=one) as running:
            await running.fetch(url)

    async with world.session(requester=two, offline=True) as running:
        assert (await running.fetch(url))[0] == 504
    async with world.session(requester=one, offline=True) as running:
        assert (await running.fetch(url))[0] == 200


async def test_a_redirect_with_a_secret_leads_on_offline_too(world: Networks) -> None:
    async def script(head: bytes, _: object, writer: asyncio.StreamWriter) -> None:
        if head.startswith(b"GET /a "):
            signed = f"https://{HOST}:{origin.port}/b?X-Amz-Signature=abcdef"
            writer.write(f"HTTP/1.1 302 Found\r\nLocation: {signed}\r\n".encode())
            writer.write(b"Content-Length: 0\r\n\r\n")
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")

    async with world.origin(Origin(script)) as origin, world.session() as running:
        url = f"https://{HOST}:{origin.port}"
        await running.fetch(f"{url}/a")
        await running.fetch(f"{url}/b?X-Amz-Signature=abcdef")

    [first, _] = await world.exchanges()
    location = dict(first["response"]["headers"])["location"]
    assert "abcdef" not in location
    async with world.session(offline=True) as running:
        assert (await running.fetch(f"{url}/a"))[0] == 302
        assert await running.fetch(location) == (200, b"abc")


async def test_a_failure_is_not_an_answer(world: Networks) -> None:
    broken = saying(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
    async with world.origin(Origin(broken)) as origin, world.session() as running:
        url = f"https://{HOST}:{origin.port}/a"
        with pytest.raises(Exception, match=r"(?i)disconnected|payload|closed"):
            await running.fetch(url)

    async with world.session(offline=True) as running:
        assert (await running.fetch(url))[0] == 504


async def test_the_index_is_made_again_when_it_is_lost(world: Networks) -> None:
    async with world.origin(Origin(answering(b"abc"))) as origin, world.session() as running:
        url = f"https://{HOST}:{origin.port}/a"
        await running.fetch(url)
    async with world.session(offline=True) as running:
        assert (await running.fetch(url))[0] == 200
    (world.archive.directory / "recall.sqlite").write_bytes(b"not SQLite at all" * 100)

    async with world.session(offline=True) as running:
        assert (await running.fetch(url))[0] == 200


async def test_an_index_that_fails_ends_the_fetch_and_is_on_record(
    world: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> sqlite3.Connection:
        raise sqlite3.OperationalError("disk I/O error")

    async with world.session(offline=True) as running:
        monkeypatch.setattr(sqlite3, "connect", fail)
        status, text = await running.fetch(f"https://{HOST}/a")

    assert (status, b"cannot be used: disk I/O error" in text) == (502, True)
    [record] = await world.exchanges()
    assert "disk I/O error" in record["error"]
    await world.network().catch_up()  # A chore only says so.


async def test_what_was_decoded_is_on_record_beside_what_came(world: Networks) -> None:
    packed = gzip.compress(b"abc" * 100)
    script = answering(packed, "Content-Encoding: gzip")
    async with world.origin(Origin(script)) as origin, world.session() as running:
        assert (await running.fetch(f"https://{HOST}:{origin.port}/a"))[1] == packed

    [record] = await world.exchanges()
    body = record["response"]["body"]
    assert body["sha256"] == f"sha256:{sha256(packed).hexdigest()}"
    assert body["decoded_sha256"] == f"sha256:{sha256(b'abc' * 100).hexdigest()}"


# Pinned


async def test_a_pinned_content_is_fetched_once_and_then_for_ever_on_record(
    world: Networks,
) -> None:
    body = b"x" * 3_000_000
    async with world.origin(Origin(answering(body))) as origin:
        url = f"https://{HOST}:{origin.port}/a"
        async with world.session(platform=pinned(url, body)) as running:
            assert await running.fetch(url, headers={"Range": "bytes=1-"}) == (200, body)
            assert await running.fetch(url) == (200, body)

    assert len(origin.heads) == 1
    assert b"range" not in origin.heads[0].lower()
    assert b"accept-encoding: identity" in origin.heads[0]
    first, again = await world.exchanges()
    assert again["replays"].startswith("sha256:")
    assert again["response"]["body"] == first["response"]["body"]
    async with world.session(platform=pinned(url, body)) as running:
        assert await running.fetch(url) == (200, body)
    assert await world.faults() == []


async def test_another_url_with_a_pinned_content_is_not_asked(world: Networks) -> None:
    async with world.origin(Origin(answering(b"abc"))) as origin, world.session() as running:
        await running.fetch(f"https://{HOST}:{origin.port}/a")

    moved = "https://mirror.example/moved"
    async with world.session(platform=pinned(moved, b"abc")) as running:
        assert await running.fetch(moved) == (200, b"abc")


@pytest.mark.parametrize("size", [3, 3_000_000])
async def test_what_is_not_as_pinned_never_reaches_the_action(world: Networks, size: int) -> None:
    async with world.origin(Origin(answering(b"y" * size))) as origin:
        url = f"https://{HOST}:{origin.port}/a"
        async with world.session(platform=pinned(url, b"x")) as running:
            status, text = await running.fetch(url)

    assert (status, b"is pinned" in text) == (502, True)
    [record] = await world.exchanges()
    assert record["decision"] == {"verdict": "deny", "rule": "pin"}


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_is_not_pinned_is_not_fetched(world: Networks, method: str) -> None:
    async with world.origin(Origin(answering(b"abc"))) as origin:
        url = f"https://{HOST}:{origin.port}"
        rules = pinned(f"{url}/a", b"abc")
        async with world.session(platform=rules) as running:
            status, _ = await running.fetch(f"{url}/{'b' if method == 'GET' else 'a'}", method)

    assert status == 403
    assert origin.heads == []


@pytest.mark.parametrize(
    ("script", "word"),
    [
        (answering(b"abc", status="404 Not Found"), b"answers 404"),
        (answering(b"abc", status="206 Partial"), b"answers 206"),
    ],
)
async def test_only_a_whole_content_is_what_was_pinned(
    world: Networks, script: Script, word: bytes
) -> None:
    async with world.origin(Origin(script)) as origin:
        url = f"https://{HOST}:{origin.port}/a"
        async with world.session(platform=pinned(url, b"abc")) as running:
            status, text = await running.fetch(url)

    assert (status, word in text) == (502, True)


async def test_a_redirect_hands_its_pin_on(world: Networks) -> None:
    async def script(head: bytes, _: object, writer: asyncio.StreamWriter) -> None:
        if head.startswith(b"GET /a "):
            writer.write(b"HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 4\r\n\r\nevil")
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")

    async with world.origin(Origin(script)) as origin:
        url = f"https://{HOST}:{origin.port}"
        async with world.session(platform=pinned(f"{url}/a", b"abc")) as running:
            assert (await running.fetch(f"{url}/a")) == (302, b"")
            assert (await running.fetch(f"{url}/b")) == (200, b"abc")
            assert (await running.fetch(f"{url}/c"))[0] == 403


# Transparent (with a real namespace: tests/e2e/test_witness.py)


def query(name: str) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + labels + struct.pack(">BHH", 0, 1, 1)


GRANTED = Coeffects(network=(NetworkGrant(HOST), NetworkGrant("other.example", 8443)))


async def test_names_that_are_granted_are_answered_and_others_are_on_record(
    world: Networks,
) -> None:
    async with world.session(GRANTED, TRANSPARENT) as running:
        datagrams, streams = running.sockets[-2:]
        assert (await ask_names(datagrams.getsockname(), query(HOST)))[-4:][:2] == b"\xc6\x12"
        refused = await ask_names(datagrams.getsockname(), query("evil.example"))
        reader, writer = await asyncio.open_connection(*streams.getsockname())
        asked = query("other.example")
        writer.write(len(asked).to_bytes(2) + asked)
        answered = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
        writer.close()
        assert running.session.ports == (8981, 80, 443, 8443)
        assert running.session.files["/etc/resolv.conf"].startswith(b"nameserver 127.0.0.1\n")

    assert refused[3] & 0xF == 3
    assert answered[-4:][:2] == b"\xc6\x12"
    [record] = await world.exchanges()
    assert (record["method"], record["url"]) == ("LOOKUP", "dns:evil.example")
    assert record["decision"]["verdict"] == "deny"


async def caught(running: Running, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*running.sockets[1].getsockname())
    writer.write(data)
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def test_a_client_that_knows_of_no_proxy_is_known_by_its_handshake(
    world: Networks,
) -> None:
    async with (
        world.origin(Origin(answering(b"abc"))) as origin,
        world.session(ANYWHERE, TRANSPARENT, caught=origin.port) as running,
    ):
        place = running.sockets[1].getsockname()
        reader, writer = await asyncio.open_connection(
            *place, ssl=running.trusted, server_hostname=HOST
        )
        request = f"GET /a HTTP/1.1\r\nHost: {HOST}:{place[1]}\r\nConnection: close\r\n\r\n"
        writer.write(request.encode())
        answer = await reader.read()
        writer.close()

    assert answer.endswith(b"\r\n\r\nabc")
    [record] = await world.exchanges()
    assert record["url"] == f"https://{HOST}:{origin.port}/a"
    assert (record["peer"]["host"], record["peer"]["sni"]) == (HOST, HOST)
    assert running.use is not None
    assert running.use.reached == (Reached(HOST, origin.port),)


async def test_a_client_that_asks_for_one_host_and_names_another_is_fronting(
    world: Networks,
) -> None:
    async with world.session(ANYWHERE, TRANSPARENT) as running:
        reader, writer = await asyncio.open_connection(
            *running.sockets[1].getsockname(), ssl=running.trusted, server_hostname=HOST
        )
        writer.write(b"GET /a HTTP/1.1\r\nHost: other.example\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()

    assert answer.startswith(b"HTTP/1.1 421")
    [record] = await world.exchanges()
    assert record["decision"]["rule"] == "fronting"


async def test_a_plain_request_is_known_by_its_host(world: Networks) -> None:
    async with world.session(GRANTED, TRANSPARENT) as running:
        port = running.sockets[1].getsockname()[1]
        head = f"GET /a HTTP/1.1\r\nHost: evil.example:{port}\r\n\r\n"
        answer = await caught(running, head.encode())

    assert b"does not declare evil.example" in answer


@pytest.mark.parametrize("data", [b"\xff\xfb\x01", b"SSH-2.0-x\r\n\r\n", b"quit\r\n\r\n"])
async def test_what_is_no_http_is_refused_and_on_record(world: Networks, data: bytes) -> None:
    async with world.session(ANYWHERE, TRANSPARENT) as running:
        await caught(running, data)

    [record] = await world.exchanges()
    assert record["decision"]["verdict"] == "deny"
    assert "no HTTP" in record["error"]
    assert await world.faults() == []


async def test_a_handshake_for_what_can_be_no_host_fails(world: Networks) -> None:
    async with world.session(ANYWHERE, TRANSPARENT) as running:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection(
                *running.sockets[1].getsockname(),
                ssl=ssl._create_unverified_context(),
                server_hostname="_._",
            )

    [record] = await world.exchanges()
    assert record["decision"] == {"verdict": "deny", "rule": "handshake"}
