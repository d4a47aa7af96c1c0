"""One call and the task that serves it.

Theory of operation. A call is known here from its headers on, unless its request came in the same
turn and was answered at once. Its handler runs in a task of its own; a request that came later and
is answered at once ends the call without one. The call ends once, in one of these ways: the handler
returned or raised, and the client is told; the server gave up on it (`interrupt`), which tells the
client at once and cancels the handler; the client left, or the connection answered (`leave`), which
only cancels. What a handler does after that reaches nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING

from armitage import errors
from armitage.transport.options import DeadlinePassed
from armitage.transport.port import (
    Bidi,
    ClientStream,
    Code,
    Response,
    ServerStream,
    Status,
    Unary,
    close_stream,
)
from armitage.transport.rpc.messages import Compressed
from armitage.transport.rpc.server import ServerCall
from armitage.transport.trailers import ok_status

if TYPE_CHECKING:
    from armitage.transport.fast.connection import Connection

_FOREVER = float("inf")
_OK = Status(Code.OK)


class OpenCall:
    """One call, from its headers to the end of its handler."""

    __slots__ = (
        "_connection",
        "_core",
        "_deadline",
        "_has_ended",
        "_method",
        "_reading_since",
        "_request",
        "_task",
        "_waiting",
        "_writing_since",
        "is_exempt",
    )

    def __init__(self, connection: Connection, core: ServerCall, *, is_exempt: bool) -> None:
        self.is_exempt = is_exempt
        """Whether it is served while draining and does not hold it up."""
        self._connection = connection
        self._core = core
        self._method = core.method
        self._has_ended = False
        """Whether the client has its answer, or left."""
        self._task: asyncio.Task[None] | None = None
        self._request: bytes | Compressed | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._reading_since = connection.now()
        self._writing_since = 0.0
        self._deadline: asyncio.TimerHandle | None = None
        if core.timeout_s is not None:
            self._deadline = connection.loop.call_later(
                core.timeout_s, self.interrupt, DeadlinePassed()
            )

    def start(self, request: bytes | Compressed | None = None) -> None:
        """Starts the handler; with the request, where the call has just one."""
        self._reading_since = 0.0
        if self._core.timeout_s == 0:
            self.interrupt(DeadlinePassed())
            return
        self._request = request
        self._task = self._connection.start_task(self._run())
        # Not a `finally` in the coroutine, whose body never begins if it is cancelled before.
        self._task.add_done_callback(self._close)

    def waits_since(self) -> float:
        """When the call began to wait for its client; infinity while it does not wait."""
        return min(self._reading_since or _FOREVER, self._writing_since or _FOREVER)

    def wake(self) -> None:
        """What the handler waits for has come: messages, or room for more."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def interrupt(self, error: Exception, *, for_good: bool = False) -> None:
        """Answers the client with the error's status and cancels the handler. `for_good` does not
        wait for the end of what the client still sends.
        """
        if self._has_ended:
            return
        is_stalled = bool(self._writing_since)
        self._finish(self._connection.status_of(error))
        # A status would wait behind what a stalled client does not take.
        if is_stalled or (for_good and not self._core.half_closed):
            self._core.abandon()
        self._cancel()

    def leave(self) -> None:
        """The client is gone, or was answered by others: cancels the handler, if there is one."""
        self._has_ended = True
        self._cancel()

    def _cancel(self) -> None:
        if self._task is None:
            self._close()
        else:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            self._connection.check_admission(self)
            await self._serve()
        except asyncio.CancelledError:
            if not self._has_ended:  # Nobody cancelled the task, so the handler did of itself.
                self._fail(errors.Cancelled("the server cancelled the call"))
        except Exception as error:  # noqa: BLE001 (whatever it is, the gate makes a status of it)
            self._fail(error)

    async def _serve(self) -> None:
        call = self._connection.describe(self._core)
        match self._method:
            case Unary(_, unary):
                response = await unary(await self._single_request(), call)
                self._respond(response)
            case ServerStream(_, server_stream):
                await self._send_all(server_stream(await self._single_request(), call))
            case ClientStream(_, client_stream):
                requests = Requests(self)
                try:
                    response = await client_stream(requests, call)
                except Exception:
                    await self._discard(requests)
                    raise
                await self._discard(requests)
                self._respond(response)
            case Bidi(_, bidi):
                await self._send_all(bidi(Requests(self), call))

    async def _single_request(self) -> bytes:
        request, self._request = self._request, None
        assert request is not None
        return await _expanded(request)

    def _respond(self, response: bytes) -> None:
        if not self._has_ended:
            status = ok_status()
            if status is None:
                self._core.respond(response)
            else:
                self._core.send(response)
                self._core.finish(status)
            self._has_ended = True
            self._connection.flush_soon()

    def _fail(self, error: Exception) -> None:
        """Answers with the error's status. Never raises: that would end the server."""
        if not self._has_ended:
            try:
                self._finish(self._connection.status_of(error))
            except Exception:  # noqa: BLE001 (see above; it is logged)
                self._connection.fault()

    def _finish(self, status: Status) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._core.finish(status)
            self._connection.flush_soon()

    def _close(self, _: object = None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._connection.closed(self)
        self._core.owner = None  # Or only the garbage collector would free the two.

    async def _send_all(self, responses: AsyncIterator[Response]) -> None:
        connection, core = self._connection, self._core
        try:
            async for response in responses:
                is_large = not core.send(response)
                if is_large:
                    connection.flush()  # Worth a send of its own, and so of one turn, not of two.
                else:
                    connection.flush_soon()
                if core.queued_bytes or connection.is_congested:
                    await self._wait_to_write(has_drained=not core.queued_bytes)
                elif is_large:
                    await asyncio.sleep(0)
        finally:
            await close_stream(responses)
        self._finish(ok_status() or _OK)

    async def _wait_to_write(self, *, has_drained: bool) -> None:
        self._writing_since = self._connection.now()
        if has_drained:
            self._connection.wait_for_room(self)
        await self._wait()
        self._writing_since = 0.0

    async def _wait(self) -> None:
        self._waiting = self._connection.loop.create_future()
        try:
            await self._waiting
        finally:
            self._waiting = None

    async def read(self) -> bytes | None:
        """The next request message of a stream; None at its end."""
        message = self._core.read()
        while message is None:
            if self._core.exhausted:
                return None
            self._reading_since = self._connection.now()
            await self._wait()
            self._reading_since = 0.0
            message = self._core.read()
        self._connection.flush_soon()
        return await _expanded(message)

    async def _discard(self, requests: Requests) -> None:
        """Reads what the client still sends, since some clients lose sight of an answer that comes
        before they are done.
        """
        if requests.has_ended or self._has_ended:
            return
        options = self._connection.options
        left = options.discard_limit_bytes
        with suppress(TimeoutError):
            async with (
                asyncio.timeout(options.discard_limit_s),
                asyncio.timeout(options.discard_idle_s) as idle,
            ):
                async for message in requests:
                    idle.reschedule(self._connection.now() + options.discard_idle_s)
                    left -= len(message)
                    if left < 0:
                        return


class Requests:
    """The request messages of a call, for one reader."""

    __slots__ = ("_call", "has_ended")

    def __init__(self, call: OpenCall) -> None:
        self._call = call
        self.has_ended = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self.has_ended:
            message = await self._call.read()
            if message is not None:
                return message
            self.has_ended = True
        raise StopAsyncIteration


async def _expanded(message: bytes | Compressed) -> bytes:
    if isinstance(message, bytes):
        return message
    return await asyncio.to_thread(message.expand)
