"""The core against an HTTP/2 client that others wrote: h2, which checks everything that it is sent.

By hand, for longer: `pytest --hypothesis-profile=fuzz` on this file.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.peers import BIDI, DOWN, METHODS, UNARY, UP, message

from armitage.transport.http2.options import Http2Options
from armitage.transport.port import Code, Status
from armitage.transport.rpc.messages import Compressed, MessageReader
from armitage.transport.rpc.server import (
    Ended,
    Event,
    Opened,
    PingAcknowledged,
    Readable,
    Requested,
    RpcServer,
    ServerCall,
)

LIMIT = 1 << 20


@dataclass
class Exchange:
    """One call as the client sees it."""

    path: str
    requests: list[bytes]
    unsent: bytes = b""
    is_ended: bool = False
    was_reset: bool = False
    response: bytearray = field(default_factory=bytearray)
    status: str | None = None
    is_over: bool = False


@dataclass
class Served:
    """The same call as the server sees it. Streaming calls echo; others answer what came, often."""

    call: ServerCall
    received: list[bytes] = field(default_factory=list)
    unsent: list[bytes] = field(default_factory=list)
    blocked: bool = False
    finished: bool = False


class World:
    """A client, a core, and the bytes between them in pieces of any size."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        # Not the default: frames that are padded, windows that are often shut.
        self.client.local_settings = h2.settings.Settings(
            client=True,
            initial_values={
                h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: self.random.choice(
                    [0, 1, 100, 65_535, 1 << 20]
                ),
                h2.settings.SettingCodes.ENABLE_PUSH: 0,
            },
        )
        self.client.initiate_connection()
        server = RpcServer(
            METHODS,
            receive_limit_bytes=LIMIT,
            http2=Http2Options(max_streams=8, burst=100_000, stream_window=65_535),
        )
        self.core = server.connect()
        self.up, self.down = bytearray(), bytearray()
        self.exchanges: dict[int, Exchange] = {}
        self.served: dict[int, Served] = {}
        self.pings = 0
        self.settings_pending = 1
        self.now = 0.0

    # The client

    def open(self) -> None:
        if self.client.open_outbound_streams >= 8 or len(self.exchanges) >= 40:
            return
        draw = self.random
        path = draw.choice([UNARY, DOWN, UP, BIDI, "/none"])
        sizes = [draw.choice([0, 1, 10, 1000, 16_379, 70_000]) for _ in range(draw.randrange(4))]
        if path in (UNARY, DOWN):
            sizes = [draw.choice([0, 5, 20_000])]
        exchange = Exchange(path, [draw.randbytes(size) for size in sizes])
        exchange.unsent = b"".join(message(each) for each in exchange.requests)
        stream = self.client.get_next_available_stream_id()
        self.client.send_headers(
            stream,
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", path),
                (":authority", "localhost"),
                ("content-type", "application/grpc"),
                ("te", "trailers"),
                ("x-some", str(draw.randrange(5)) * draw.choice([1] * 40 + [30_000])),
            ],
        )
        self.exchanges[stream] = exchange

    def write(self) -> None:
        open_ones = [
            (stream, each)
            for stream, each in self.exchanges.items()
            if not each.is_ended and not each.is_over
        ]
        if not open_ones:
            return
        stream, exchange = self.random.choice(open_ones)
        if not exchange.unsent:
            self.client.end_stream(stream)
            exchange.is_ended = True
            return
        padding = self.random.choice([None, 0, 50])
        room = min(
            self.client.local_flow_control_window(stream), self.client.max_outbound_frame_size
        ) - ((padding or 0) + 1)
        size = min(room, self.random.choice([1, 5, 100, 20_000]))
        if size > 0:
            part, exchange.unsent = exchange.unsent[:size], exchange.unsent[size:]
            self.client.send_data(stream, part, pad_length=padding)

    def reset(self) -> None:
        alive = [stream for stream, each in self.exchanges.items() if not each.is_over]
        if alive and self.random.random() < 0.2:
            stream = self.random.choice(alive)
            self.client.reset_stream(stream, 8)
            self.exchanges[stream].is_over = self.exchanges[stream].was_reset = True

    def ping(self) -> None:
        self.client.ping(b"12345678")

    def widen(self) -> None:
        self.client.increment_flow_control_window(self.random.choice([1, 1000, 1 << 20]))
        alive = [stream for stream, each in self.exchanges.items() if not each.is_over]
        if alive:
            self.client.increment_flow_control_window(
                self.random.choice([1, 1000, 100_000]), self.random.choice(alive)
            )

    def narrow(self) -> None:
        if self.settings_pending:
            return  # h2 applies the newer settings when the older ones are acknowledged.
        self.settings_pending += 1
        self.client.update_settings(
            {
                h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: self.random.choice(
                    [0, 50, 65_535, 200_000]
                )
            }
        )

    def client_receives(self) -> None:
        size = self.random.choice([1, 9, 100, 100_000])
        part, self.down = bytes(self.down[:size]), self.down[size:]
        for event in self.client.receive_data(part):
            self._client_event(event)

    def _client_event(self, event: h2.events.Event) -> None:
        exchange = self.exchanges.get(getattr(event, "stream_id", None) or 0)
        match event:
            case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                assert exchange is not None
                assert event.headers is not None
                status = dict(event.headers).get(b"grpc-status")
                if status is not None:
                    exchange.status = bytes(status).decode()
            case h2.events.DataReceived():
                assert exchange is not None
                assert event.data is not None
                exchange.response += event.data
                self.client.acknowledge_received_data(
                    event.flow_controlled_length or 0, event.stream_id or 0
                )
            case h2.events.StreamEnded():
                assert exchange is not None
                exchange.is_over = True
                if not exchange.is_ended:
                    # As some clients do: say no more.
                    self.client.reset_stream(event.stream_id or 0, 0)
            case h2.events.StreamReset() | h2.events.ConnectionTerminated():
                raise AssertionError(f"the core gave up: {event}")
            case h2.events.SettingsAcknowledged():
                self.settings_pending -= 1
            case h2.events.PingAckReceived():
                self.pings += 1

    # The server

    def server_receives(self) -> None:
        self.up += self.client.data_to_send()
        size = self.random.choice([1, 9, 100, 100_000])
        part, self.up = bytes(self.up[:size]), self.up[size:]
        self.now += 0.001
        for event in self.core.receive(part, self.now):
            self._server_event(event)

    def _server_event(self, event: Event) -> None:
        match event:
            case Opened(call):
                self.served[call.id] = Served(call)
            case Requested(call, request):
                assert not isinstance(request, Compressed)
                served = self.served.setdefault(call.id, Served(call))
                served.received.append(request)
                if call.path == UNARY:
                    call.respond(request * 2)
                    served.finished = True
                else:
                    served.unsent = [request, b"", request * 3]
            case Ended(call):
                self.served[call.id].finished = True
            case Readable() | PingAcknowledged():
                pass

    def serve(self) -> None:
        """One step of one handler."""
        running = [each for each in self.served.values() if not each.finished]
        if not running:
            return
        served = self.random.choice(running)
        call = served.call
        if call.streams:
            self._read(served)
        if served.blocked:
            return
        if call.path != UP and served.unsent:
            response = served.unsent.pop(0)
            half = len(response) // 2
            pieces = (response[:half], memoryview(response)[half:])
            served.blocked = not call.send(pieces)
        elif (call.exhausted if call.streams else served.received) and not served.blocked:
            if call.path == UP:
                call.respond(b"".join(served.received))
            else:
                call.finish(Status(Code.ABORTED, "enough"))
            served.finished = True

    def _read(self, served: Served) -> None:
        request = served.call.read()
        if request is not None:
            assert isinstance(request, bytes)
            served.received.append(request)
            served.unsent.append(request)

    def server_sends(self) -> None:
        for piece in self.core.take_output(self.random.choice([1, 1000, 1 << 20])):
            self.down += piece
        for call in self.core.take_drained():
            if call.id in self.served:
                self.served[call.id].blocked = False

    # All of it

    def run(self, steps: int) -> None:
        moves = [
            (self.open, 2),
            (self.write, 8),
            (self.reset, 1),
            (self.ping, 1),
            (self.widen, 2),
            (self.narrow, 0.3),
            (self.client_receives, 6),
            (self.server_receives, 10),
            (self.serve, 8),
            (self.server_sends, 6),
        ]
        chosen = self.random.choices(
            [move for move, _ in moves], [weight for _, weight in moves], k=steps
        )
        for move in chosen:
            move()
        self.settle()

    def settle(self) -> None:
        """Lets everything come to its end."""
        for _ in range(200_000):
            before = self._state()
            for move in (self.write, self.server_receives, self.serve, self.server_sends):
                move()
            self.client_receives()
            is_quiet = before == self._state() and not self.up and not self.down
            if is_quiet and all(each.is_over for each in self.exchanges.values()):
                break
            if self.random.random() < 0.05:
                self.widen()
        assert not self.core.closing, self.core.close_reason

    def _state(self) -> tuple[object, ...]:
        self.up += self.client.data_to_send()
        return len(self.up), len(self.down), self.core.output_bytes, self.core.open_calls


def messages_in(body: bytes) -> list[bytes]:
    found = []
    for each in MessageReader(1 << 30, gzip=False).feed(body):
        assert isinstance(each, bytes)
        found.append(each)
    return found


def check(world: World) -> None:
    for stream, exchange in world.exchanges.items():
        served = world.served.get(stream)
        if exchange.was_reset:
            continue
        assert exchange.is_over, (stream, exchange.path)
        if exchange.path == "/none":
            assert served is None
            assert exchange.status == str(int(Code.UNIMPLEMENTED))
            continue
        assert served is not None
        assert served.received == exchange.requests
        whole = b"".join(exchange.requests)
        expected, status = {
            UNARY: ([whole * 2], Code.OK),
            UP: ([whole], Code.OK),
            DOWN: ([whole, b"", whole * 3], Code.ABORTED),
            BIDI: (exchange.requests, Code.ABORTED),
        }[exchange.path]
        assert messages_in(bytes(exchange.response)) == expected
        assert exchange.status == str(int(status))
    assert world.core.open_calls == 0
    assert world.core.unread == 0
    assert world.core._assembled_bytes == 0


@pytest.mark.slow
@given(st.integers(0, 2**32), st.integers(0, 400))
def test_any_schedule_of_calls_ends_well(seed: int, steps: int) -> None:
    world = World(seed)

    world.run(steps)

    check(world)
