"""A proxy that stands, for machines that build without Armitage: one identity for each user.

Each user has a session of its own, which begins with its first connection and ends once it has been
silent for a while; so what is on record is gapless for each, and says who fetched. Who does not
prove who it is gets nothing.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import h11

from armitage.clock import Clock
from armitage.errors import ConfigError, Unavailable
from armitage.private_file import is_for_others, read_with_mode
from armitage.witness.proxy import Proxy
from armitage.witness.stream import Stream
from armitage.witness.wire import OddHead, Side, plain_answer
from executor.errors import WorkerFailure

_log = logging.getLogger(__name__)

_MAX_BYTES = 1 << 20
_CHALLENGE = (b"Proxy-Authenticate", b'Basic realm="armitage witness"')

OpenProxy = Callable[[str], Awaitable[Proxy]]
"""Begins a session for a user. Raises WorkerFailure."""


class Users:
    """Who may use the proxy, and how they prove it."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._hashed = {name: sha256(secret.encode()).digest() for name, secret in secrets.items()}

    def __len__(self) -> int:
        return len(self._hashed)

    def name_of(self, request: h11.Request) -> str | None:
        """Who asks, if it is proven."""
        given = [value for name, value in request.headers if name == b"proxy-authorization"]
        if len(given) != 1:
            return None
        scheme, _, encoded = given[0].partition(b" ")
        try:
            told = base64.b64decode(encoded.strip(), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return None
        name, colon, secret = told.partition(":")
        known = self._hashed.get(name, b"")
        right = hmac.compare_digest(known, sha256(secret.encode()).digest())
        return name if scheme.lower() == b"basic" and colon and right else None


def read_users(path: Path) -> Users:
    """Reads lines of NAME:SECRET; # begins a comment. Raises ConfigError, which holds no secret."""
    content, mode = read_with_mode(path, _MAX_BYTES)
    if is_for_others(mode):
        raise ConfigError(
            f"{path}: others can read these secrets (mode {mode:04o}); chmod 600 it, and change"
            " the secrets if anybody may have read them"
        )
    secrets: dict[str, str] = {}
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, secret = line.strip().partition(":")
        if not colon or not name or not secret or not name.isprintable():
            raise ConfigError(f"{path}: line {number} is not NAME:SECRET")
        if name in secrets:
            raise ConfigError(f"{path}: line {number}: {name} is there twice; keep one")
        secrets[name] = secret
    if not secrets:
        raise ConfigError(f"{path}: holds no user; write lines of NAME:SECRET")
    return Users(secrets)


@dataclass(slots=True)
class _Open:
    proxy: Proxy
    began_s: float
    silent_since_s: float
    connections: int = 0


class StandingProxy:
    """Serves connections of all users. `tidy` is to be called now and then, `close` at the end."""

    def __init__(
        self,
        users: Users,
        open_proxy: OpenProxy,
        clock: Clock,
        *,
        idle_s: float = 300.0,
        session_s: float = 3600.0,
        client_s: float = 60.0,
    ) -> None:
        """A session ends once it was silent for `idle_s`; one that is older than `session_s` gets
        no new connections. `client_s` is how long a client may take to say what it wants.
        """
        self._users = users
        self._open_proxy = open_proxy
        self._clock = clock
        self._idle_s = idle_s
        self._session_s = session_s
        self._client_s = client_s
        self._current: dict[str, _Open] = {}
        self._retired: list[_Open] = []
        self._opening = asyncio.Lock()  # One user's first connections share a session.

    async def serve(self, made: socket.socket) -> None:
        """Serves one connection."""
        side = Side(h11.SERVER, Stream(made, self._client_s))
        admitted = await self._admit(side)
        if admitted is None:
            await side.close()
            return
        user, session, request = admitted
        try:
            await session.proxy.serve_from(
                side, request, lambda later: self._users.name_of(later) == user
            )
        finally:
            session.connections -= 1
            session.silent_since_s = self._clock.monotonic()

    async def _admit(self, side: Side) -> tuple[str, _Open, h11.Request] | None:
        """Finds out who asks, and counts the connection as its session's."""
        try:
            request = await side.receive()
            if not isinstance(request, h11.Request):
                return None
            user = self._users.name_of(request)
            if user is None:
                await _challenge(side)
                return None
            session = await self._session_of(user)
        except WorkerFailure as error:
            _log.error("witness: %s", error)
            return None
        except OddHead as odd:  # Such a head proves of nobody who it is.
            with suppress(OSError, TimeoutError):
                await side.answer(400, f"the request is odd: {odd}", "malformed")
            return None
        except (OSError, TimeoutError, h11.ProtocolError):
            return None
        session.connections += 1
        return user, session, request

    async def tidy(self) -> None:
        """Closes the sessions that are over."""
        now = self._clock.monotonic()
        for user, session in list(self._current.items()):
            if self._is_over(session, now) or now - session.began_s > self._session_s:
                self._retired.append(self._current.pop(user))
        for session in [one for one in self._retired if not one.connections]:
            self._retired.remove(session)
            await _close(session)

    async def close(self) -> None:
        """Cuts off what is under way, and closes all sessions."""
        sessions = [*self._current.values(), *self._retired]
        self._current, self._retired = {}, []
        for session in sessions:
            await _close(session)

    async def _session_of(self, user: str) -> _Open:
        async with self._opening:
            known = self._current.get(user)
            if known is None:
                proxy, now = await self._open_proxy(user), self._clock.monotonic()
                known = self._current[user] = _Open(proxy, now, now)
            return known

    def _is_over(self, session: _Open, now: float) -> bool:
        return not session.connections and now - session.silent_since_s > self._idle_s


async def _close(session: _Open) -> None:
    try:
        await session.proxy.close()
    except Unavailable as error:  # The gap in the record says the same.
        _log.error("witness: %s", error)


async def _challenge(side: Side) -> None:
    _log.warning("witness: somebody at %s did not prove who it is", side.stream.peer)
    text = "say who you are: http://NAME:SECRET@HOST:PORT as the proxy"
    response, *rest = plain_answer(407, text, "identity")
    assert isinstance(response, h11.Response)
    headers = [*response.headers.raw_items(), _CHALLENGE]
    await side.send(h11.Response(status_code=407, headers=headers, reason=response.reason), *rest)
