"""One client: its link, its core and its calls.

Theory of operation. What comes in goes to the core, whose events start, wake and end calls; calls
that can be answered at once are, without a task. Whatever anybody does may leave output in the
core: `flush` takes it from there to the link, at the end of each turn that brought something and
otherwise in a turn of its own (`flush_soon`), so that what several handlers answered leaves in one
send. One flush takes a bounded amount; the rest waits for the next turn, behind everybody else's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from typing import Any, ClassVar, Protocol

from armitage.transport.fast.calls import OpenCall
from armitage.transport.fast.link import Link
from armitage.transport.options import ClientIdle, GrpcOptions
from armitage.transport.port import Call, ImmediateHandler, Status
from armitage.transport.rpc.messages import Compressed
from armitage.transport.rpc.server import (
    Ended,
    Event,
    Opened,
    PingAcknowledged,
    Readable,
    Requested,
    RpcConnection,
    ServerCall,
)
from armitage.transport.tls import subject_of

_log = logging.getLogger(__name__)

_TURN_BYTES = (1 << 20) + (64 << 10)
"""Sent in one turn of the event loop: a chunk of a blob with its frames, so that no crumb of it is
left to a turn of its own.
"""
_CONGESTED_BYTES = 1 << 20
"""Output beyond this makes handlers wait before they produce more."""
_UNREAD_BYTES = 256 << 10
"""Answers that a client does not take; beyond this we do not listen to it either."""
_BULK_BYTES = 4 << 10
"""Where an event came of so many bytes, more may be read in one turn."""


class Host(Protocol):
    """What a connection needs of its server."""

    options: GrpcOptions
    immediate: dict[str, ImmediateHandler]
    """By path, for methods that may be answered at once, and only while they may be."""

    def is_exempt(self, path: str) -> bool:
        """Whether the method is served while draining."""

    def check_admission(self, call: OpenCall) -> None:
        """Raises Unavailable for a call that is not served any more."""

    def status_of(self, error: BaseException) -> Status:
        """What the client is told."""

    def opened(self, call: OpenCall) -> None:
        """Counts a call."""

    def closed(self, call: OpenCall) -> None:
        """Forgets a call."""

    def start_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Starts a task that the server waits for at its end."""

    def forget(self, connection: Connection) -> None:
        """Forgets a connection that is over."""


class Connection:
    """One client, as the owner of its link. For the thread of the event loop."""

    __deletable__: ClassVar = ["_link"]  # For mypyc.
    __slots__ = (
        "_call",
        "_calls",
        "_core",
        "_host",
        "_idle_since",
        "_immediate",
        "_is_draining",
        "_is_flushing",
        "_is_over",
        "_is_paused",
        "_link",
        "_opened_at",
        "_pinged_at",
        "_wanting_room",
        "heard_at",
        "identity",
        "loop",
        "options",
        "peer",
    )

    def __init__(
        self,
        host: Host,
        core: RpcConnection,
        loop: asyncio.AbstractEventLoop,
        peer: str,
    ) -> None:
        self._host = host
        self._core = core
        self.loop = loop
        self.peer = peer
        self.identity: str | None = None
        self.options = host.options
        self._immediate = host.immediate
        self._link: Link
        self._calls: set[OpenCall] = set()
        self._call = Call("")
        """The last one described: those that follow often differ in nothing."""
        self._wanting_room: list[OpenCall] = []
        self._is_flushing = False
        self._is_over = False
        self._is_draining = False
        self._is_paused = False
        self._opened_at = self._idle_since = self.heard_at = loop.time()
        self._pinged_at = 0.0

    def begin(self, link: Link) -> None:
        """Sends our settings over the link."""
        self._link = link
        self.flush()

    # As the owner of the link.

    def received(self, data: bytes) -> bool:
        """See Owner."""
        self.heard_at = now = self.loop.time()
        self._pinged_at = 0.0
        try:
            events = self._core.receive(data, now)
            if events:
                self._idle_since = now
            for event in events:
                if type(event) is Requested:
                    self._requested(event.call, event.message)
                else:
                    self._handle(event)
            self.flush()
        except Exception:  # noqa: BLE001 (it is logged)
            self.fault()
            return False
        if self._is_over:
            return False
        if self._core.output_bytes > _UNREAD_BYTES and self._link.is_busy:
            self._link.pause()
            self._is_paused = True
        return len(events) * _BULK_BYTES < len(data)

    def secured(self, certificate: Mapping[str, object]) -> None:
        """See TlsOwner."""
        self.identity = subject_of(certificate)

    def sendable(self) -> None:
        """See Owner."""
        self.flush()

    def lost(self) -> None:
        """See Owner."""
        if self._is_over:
            return
        self._is_over = True
        for event in self._core.lost():
            self._handle(event)
        for call in list(self._calls):
            call.leave()
        self._host.forget(self)
        del self._link  # Or only the garbage collector would free the two.

    def abort(self) -> None:
        """Ends the connection at once, and its calls."""
        if not self._is_over:
            self._link.abort()
            self.lost()

    def fault(self) -> None:
        """Ends the connection for an error of ours that is being handled, so that nothing of it
        stays half alive.
        """
        _log.exception("internal error, connection of %s closed", self.peer)
        self.abort()

    # Events of the core.

    def _requested(self, core: ServerCall, request: bytes | Compressed) -> None:
        if core.ended:  # Reset in the same turn.
            return
        owner: OpenCall | None = core.owner
        immediate = self._immediate.get(core.path)
        if immediate is None or not isinstance(request, bytes):
            response = None
        else:
            try:
                response = immediate(request, self.describe(core))
            except Exception as error:  # noqa: BLE001 (the gate makes a status of it)
                core.finish(self._host.status_of(error))
                if owner is not None:
                    owner.leave()
                return
        if response is None:
            (owner or self._open(core)).start(request)
            return
        core.respond(response)
        if owner is not None:
            owner.leave()

    def _handle(self, event: Event) -> None:
        match event:
            case Requested(core, request):
                self._requested(core, request)
            case Opened(core):
                call = self._open(core)
                if core.streams:
                    call.start()
            case Readable(core):
                if core.owner is not None:
                    core.owner.wake()
            case Ended(core):
                if core.owner is not None:
                    core.owner.leave()
            case PingAcknowledged():
                pass  # Whatever is heard counts.

    def _open(self, core: ServerCall) -> OpenCall:
        call = OpenCall(self, core, is_exempt=self._host.is_exempt(core.path))
        core.owner = call
        self._calls.add(call)
        self._host.opened(call)
        return call

    # For calls.

    def describe(self, core: ServerCall) -> Call:
        """What handlers may know of the call."""
        known = self._call
        if known.metadata is not core.metadata or known.path is not core.path:
            known = self._call = Call(core.path, core.metadata, self.peer, self.identity)
        return known

    def now(self) -> float:
        """Monotonic seconds."""
        return self.loop.time()

    def check_admission(self, call: OpenCall) -> None:
        """Raises Unavailable for a call that is not served any more."""
        self._host.check_admission(call)

    def status_of(self, error: BaseException) -> Status:
        """What the client is told of an error."""
        return self._host.status_of(error)

    def start_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Starts a task that the server waits for at its end."""
        return self._host.start_task(work)

    def closed(self, call: OpenCall) -> None:
        """Forgets a call whose handler ended."""
        if call in self._calls:
            self._calls.remove(call)
            self._host.closed(call)
            if not self._calls:
                self._idle_since = self.now()

    @property
    def is_congested(self) -> bool:
        """Whether more waits to be sent than the client takes now."""
        return not self._is_over and (
            self._link.is_busy or self._core.output_bytes > _CONGESTED_BYTES
        )

    def wait_for_room(self, call: OpenCall) -> None:
        """Wakes the call once the connection is not congested any more."""
        self._wanting_room.append(call)

    # Output.

    def flush_soon(self) -> None:
        """Flushes in a turn to come, together with whatever else there is until then."""
        if not self._is_flushing:
            self._is_flushing = True
            self.loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._is_flushing = False
        self.flush()

    def flush(self) -> None:
        """Hands output to the link, as much as one turn may take, and wakes who waited for that."""
        try:
            self._flush()
        except Exception:  # noqa: BLE001 (it is logged)
            self.fault()

    def _flush(self) -> None:
        if self._is_over or self._link.is_busy:
            return
        if self._is_paused:
            self._is_paused = False
            self._link.resume()
        core = self._core
        pieces = core.take_output(_TURN_BYTES)
        has_left = not pieces or self._link.send(pieces)
        for drained in core.take_drained():
            if drained.owner is not None:
                drained.owner.wake()
        if not has_left:
            return
        if core.has_output:
            self.flush_soon()
        elif core.closing:
            self._link.close()
        if self._wanting_room and not self.is_congested:
            waiting, self._wanting_room = self._wanting_room, []
            for call in waiting:
                call.wake()

    # Time and ends.

    def sweep(self, now: float) -> None:
        """Looks for what has taken too long. To be called every so often."""
        options = self.options
        if options.client_idle_s is not None and self._calls:
            before = now - options.client_idle_s
            for call in list(self._calls):
                if not call.is_exempt and call.waits_since() < before:
                    call.interrupt(ClientIdle(options.client_idle_s))
        if not self._core.greeted and now - self._opened_at > options.handshake_timeout_s:
            self.abort()
        elif options.keepalive_s is not None and now - self.heard_at > options.keepalive_s:
            self._ask_for_life(now)
        self._core.expire(now, options.discard_limit_s)
        self.flush()
        self._check_age(now)

    def _ask_for_life(self, now: float) -> None:
        if not self._pinged_at:
            self._pinged_at = now
            self._core.ping()
            self.flush()
        elif now - self._pinged_at > self.options.keepalive_timeout_s:
            self.abort()

    def _check_age(self, now: float) -> None:
        options = self.options
        age_s, idle_s = now - self._opened_at, now - self._idle_since
        is_old = options.connection_age_s is not None and age_s > options.connection_age_s
        is_unused = (
            options.connection_idle_s is not None
            and not self._calls
            and idle_s > options.connection_idle_s
        )
        if is_old or is_unused:
            self.announce_end()
        if is_old and options.connection_age_grace_s is not None:
            assert options.connection_age_s is not None
            if age_s > options.connection_age_s + options.connection_age_grace_s:
                self.close("too old")

    def announce_end(self) -> None:
        """Asks the client to make its next calls elsewhere; closes once those here have ended."""
        if not self._is_draining and not self._is_over:
            self._is_draining = True
            self._core.announce_drain()
            self.flush()

    def end(self) -> None:
        """Takes no new calls, and closes once those here have ended."""
        if not self._is_over:
            self._core.drain()
            self.flush()

    def close(self, reason: str) -> None:
        """Ends all calls and closes, with a farewell."""
        if not self._is_over:
            for event in self._core.close(reason):
                self._handle(event)
            self.flush()
