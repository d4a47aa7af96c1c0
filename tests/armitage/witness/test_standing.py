"""armitage.witness.standing: one identity, and one gapless session, for each user."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from support.clock import FakeClock
from support.networks import HOST, Networks, networks
from support.witnessed import Origin, answering, on_loopback

from armitage.clock import SystemClock
from armitage.errors import ConfigError
from armitage.witness.audit import logged
from armitage.witness.authority import SessionAuthority
from armitage.witness.evidence import Subject
from armitage.witness.policy import Grant
from armitage.witness.proxy import Proxy
from armitage.witness.standing import StandingProxy, Users, read_users
from armitage.witness.terms import Terms

USERS = Users({"ann": "s3cr3t-of-ann", "ben": "s3cr3t-of-ben"})


def basic(user: str, secret: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{secret}'.encode()).decode()}"


@dataclass
class Standing:
    networks: Networks
    proxy: StandingProxy
    port: int
    clock: FakeClock

    async def fetch(self, url: str, *, user: str = "ann", secret: str = "s3cr3t-of-ann") -> int:
        proxy = f"http://127.0.0.1:{self.port}"
        headers = {"Proxy-Authorization": basic(user, secret)} if user else {}
        async with (
            aiohttp.ClientSession() as client,
            client.get(url, proxy=proxy, headers=headers, proxy_headers=headers) as response,
        ):
            await response.read()
            return response.status

    async def kept(self) -> list[tuple[str, str]]:
        """Kind and whose of each record."""
        whose: dict[str, str] = {}
        found = []
        async for item in logged(self.networks.archive):
            if item.record["kind"] == "open":
                whose[item.entry.session] = item.record["subject"]["identity"]
            found.append((item.record["kind"], whose[item.entry.session]))
        return found


@asynccontextmanager
async def standing(directory: Path) -> AsyncIterator[Standing]:
    async with networks(directory) as made:
        network = made.network()
        authority = SessionAuthority("proxy", SystemClock().wall())

        async def open_proxy(user: str) -> Proxy:
            return await network.proxy(
                Terms(grants=[Grant()]), Subject(identity=user), "network", authority
            )

        clock = FakeClock()
        proxy = StandingProxy(USERS, open_proxy, clock)
        try:
            async with on_loopback(proxy.serve) as port:
                yield Standing(made, proxy, port, clock)
        finally:
            await proxy.close()
            await network.close()


def holding(directory: Path, data: bytes) -> list[Path]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return [path for path in files if data in path.read_bytes()]


async def test_each_user_has_a_session_of_their_own(tmp_path: Path) -> None:
    async with standing(tmp_path) as running, Origin(answering(b"abc")).listening() as origin:
        url = f"http://{HOST}:{origin.port}/a"
        for user in ("ann", "ben", "ann"):
            assert await running.fetch(url, user=user, secret=f"s3cr3t-of-{user}") == 200
        await running.proxy.close()
        assert await running.kept() == [
            *(("open", "ann"), ("exchange", "ann"), ("open", "ben"), ("exchange", "ben")),
            *(("exchange", "ann"), ("close", "ann"), ("close", "ben")),
        ]
        assert await running.networks.faults() == []

    assert b"proxy-authorization" not in origin.heads[0].lower()
    assert await asyncio.to_thread(holding, tmp_path, b"s3cr3t") == []


@pytest.mark.parametrize(("user", "secret"), [("", ""), ("ann", "wrong"), ("eve", "s3cr3t-of-ann")])
async def test_who_does_not_prove_who_it_is_gets_nothing(
    tmp_path: Path, user: str, secret: str
) -> None:
    async with standing(tmp_path) as running, Origin(answering(b"abc")).listening() as origin:
        url = f"http://{HOST}:{origin.port}/a"
        assert await running.fetch(url, user=user, secret=secret) == 407
        assert await running.kept() == []
    assert origin.heads == []


async def test_a_head_that_can_be_read_in_two_ways_proves_nothing(tmp_path: Path) -> None:
    async with standing(tmp_path) as running, Origin(answering(b"abc")).listening() as origin:
        host, auth = f"{HOST}:{origin.port}", basic("ann", "s3cr3t-of-ann")
        head = f"GET http://{host}/ HTTP/1.1\r\nHost: {host}\nProxy-Authorization: {auth}\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(head.encode())
        answered = await reader.read()
        writer.close()
        assert await running.kept() == []

    assert answered.startswith(b"HTTP/1.1 400")
    assert b"LF without CR" in answered
    assert origin.heads == []


async def test_a_connection_is_its_users_alone(tmp_path: Path) -> None:
    def request(port: int, auth: str) -> bytes:
        host = f"{HOST}:{port}"
        head = f"GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: {auth}\r\n\r\n"
        return head.encode()

    ann, ben = (basic(user, f"s3cr3t-of-{user}") for user in ("ann", "ben"))
    async with standing(tmp_path) as running, Origin(answering(b"abc")).listening() as origin:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(request(origin.port, ann) + request(origin.port, ben))
        answered = await reader.read()
        writer.close()

    assert answered.count(b"HTTP/1.1 200") == 1


async def test_a_session_ends_when_it_is_silent_and_begins_again(tmp_path: Path) -> None:
    async with standing(tmp_path) as running, Origin(answering(b"abc")).listening() as origin:
        url = f"http://{HOST}:{origin.port}/a"
        await running.fetch(url)
        await running.proxy.tidy()
        running.clock.advance(301)
        await running.proxy.tidy()
        await running.fetch(url)
        kinds = [kind for kind, _ in await running.kept()]

    assert kinds == ["open", "exchange", "close", "open", "exchange"]


@pytest.mark.parametrize(
    ("text", "mode", "complaint"),
    [
        ("ann:secret\n", 0o640, "others can read these secrets"),
        ("ann\n", 0o600, "line 1 is not NAME:SECRET"),
        ("# nobody\n\n", 0o600, "holds no user"),
        ("ann:a\nann:b\n", 0o600, "line 2: ann is there twice"),
    ],
)
def test_a_wrong_file_of_users_is_explained(
    tmp_path: Path, text: str, mode: int, complaint: str
) -> None:
    file = tmp_path / "users"
    file.write_text(text)
    file.chmod(mode)

    with pytest.raises(ConfigError, match=complaint) as caught:
        read_users(file)
    assert "secret\n" not in str(caught.value)


def test_a_file_of_users_is_read(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text("# who may\nann:a:b\n")
    file.chmod(0o600)

    assert len(read_users(file)) == 1


def test_no_users_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_users(tmp_path / "none")
