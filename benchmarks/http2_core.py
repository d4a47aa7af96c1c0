"""What the HTTP/2 and gRPC core costs by itself, without sockets, tasks or handlers.

    .venv/bin/python benchmarks/http2_core.py [--rounds 15]

Small calls (a request of 76 bytes, a response of 238, eight calls to a receive) are compared with
the same done by PyPI's h2. Uploads are compared with the least that must be done with what was
received, slicing the frames out of it and joining them; downloads with the same frames' heads and
slices put into a list. Rounds take turns; the least time of each counts.
"""

from __future__ import annotations

import argparse
import base64
import random
import time
from collections.abc import Callable, Sequence

import h2.config
import h2.connection
import h2.events
from common import print_table
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from support import peers
from support.peers import DOWN, HEADERS, HELLO, UNARY, UP, block, data, frame, message

from armitage.transport.http2 import frames
from armitage.transport.rpc.server import Opened, Requested

CALLS = 800
BATCH = 8
REQUEST, RESPONSE = b"x" * 76, b"y" * 238
MIB = 1 << 20
CHUNK = 256 << 10
METADATA = b"build.bazel.remote.execution.v2.requestmetadata-bin"
OPEN = frames.window_update(0, 1 << 30) + frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 30})

_huffman = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode


def plain(_: random.Random) -> bytes:
    """The same headers each time."""
    return block({**HEADERS, b"user-agent": b"benchmark/1.0 (linux)", METADATA: b"QUJD"})


def novel(source: random.Random) -> bytes:
    """Metadata that is new each time."""
    return block({**HEADERS, METADATA: base64.b64encode(source.randbytes(90))})


def novel_huffman(source: random.Random) -> bytes:
    """The same, with the Huffman code that some clients always use."""
    value = _huffman(base64.b64encode(source.randbytes(90)))
    length = bytes([len(value) | 0x80])
    assert len(value) < 0x7F
    return block(HEADERS) + b"\x00" + bytes([len(METADATA)]) + METADATA + length + value


def batches(make: Callable[[random.Random], bytes]) -> list[bytes]:
    """Requests, as they are received."""
    source = random.Random(1)
    wires = []
    for stream in range(1, 2 * CALLS, 2):
        head = frame(frames.HEADERS, frames.END_HEADERS, stream, make(source))
        wires.append(head + data(stream, message(REQUEST), ends=True))
    return [b"".join(wires[at : at + BATCH]) for at in range(0, CALLS, BATCH)]


def core_calls(wires: Sequence[bytes]) -> float:
    """Seconds a call."""
    peer = peers.Peer()
    peer.ask(OPEN)
    began = time.perf_counter()
    for wire in wires:
        for event in peer.core.receive(wire, 0.0):
            assert type(event) is Requested
            event.call.respond(RESPONSE)
        b"".join(peer.core.take_output())
    took = time.perf_counter() - began
    assert peer.core.open_calls == 0
    return took / CALLS


def h2_calls(wires: Sequence[bytes]) -> float:
    """The same with h2."""
    config = h2.config.H2Configuration(client_side=False, header_encoding=None)
    server = h2.connection.H2Connection(config)
    server.initiate_connection()
    server.receive_data(HELLO + OPEN)
    server.data_to_send()
    begin = [(b":status", b"200"), (b"content-type", b"application/grpc")]
    body = message(RESPONSE)
    began = time.perf_counter()
    answered = 0
    for wire in wires:
        for event in server.receive_data(wire):
            if isinstance(event, h2.events.DataReceived):
                server.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                server.send_headers(event.stream_id, begin)
                server.send_data(event.stream_id, body)
                server.send_headers(event.stream_id, [(b"grpc-status", b"0")], end_stream=True)
                answered += 1
        server.data_to_send()
    assert answered == CALLS
    return (time.perf_counter() - began) / CALLS


def upload_chunks() -> list[bytes]:
    """One message of a MiB in frames, as it is received."""
    wire = data(1, message(bytes(MIB - 5)))
    return [wire[at : at + CHUNK] for at in range(0, len(wire), CHUNK)]


def core_upload(chunks: Sequence[bytes], repeat: int) -> float:
    """Seconds a MiB."""
    peer = peers.Peer()
    (event,) = peer.send(peers.headers(1, UP))
    assert isinstance(event, Opened)
    began = time.perf_counter()
    for _ in range(repeat):
        for chunk in chunks:
            peer.core.receive(chunk, 0.0)
            event.call.read()
            peer.core.take_output()
    assert not peer.core.closing
    return (time.perf_counter() - began) / repeat


def least_upload(chunks: Sequence[bytes], repeat: int) -> float:
    """Slices and a join."""
    step = frames.HEAD_BYTES + frames.FRAME_LIMIT
    began = time.perf_counter()
    for _ in range(repeat):
        pieces = []
        for chunk in chunks:
            view = memoryview(chunk)
            pieces += [view[at + 9 : at + step] for at in range(0, len(chunk), step)]
        b"".join(pieces)
    return (time.perf_counter() - began) / repeat


def core_download(repeat: int) -> float:
    """Seconds a MiB."""
    peer = peers.Peer()
    peer.ask(OPEN)
    (event,) = peer.send(peers.unary(1, path=DOWN))
    assert isinstance(event, Requested)
    blob = memoryview(bytes(MIB))
    began = time.perf_counter()
    for _ in range(repeat):
        event.call.send((b"prefix", blob))
        while peer.core.take_output():
            pass
        peer.core.take_drained()
    return (time.perf_counter() - began) / repeat


def least_download(repeat: int) -> float:
    """Heads and slices."""
    blob = memoryview(bytes(MIB))
    began = time.perf_counter()
    for _ in range(repeat):
        output: list[bytes | memoryview] = []
        for at in range(0, MIB, frames.FRAME_LIMIT):
            output.append(frames.frame_head(frames.FRAME_LIMIT, frames.DATA, 0, 1))
            output.append(blob[at : at + frames.FRAME_LIMIT])
    return (time.perf_counter() - began) / repeat


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    wires = {make.__doc__ or "": batches(make) for make in (plain, novel, novel_huffman)}
    chunks = upload_chunks()
    assert UNARY.encode() in HEADERS.values()

    rows: dict[str, tuple[Callable[[], float], Callable[[], float]]] = {
        f"small call. {name}": (
            lambda batch=batch: core_calls(batch),  # type: ignore[misc]
            lambda batch=batch: h2_calls(batch),  # type: ignore[misc]
        )
        for name, batch in wires.items()
    }
    rows["upload, a MiB"] = (lambda: core_upload(chunks, 32), lambda: least_upload(chunks, 32))
    rows["download, a MiB"] = (lambda: core_download(32), lambda: least_download(32))
    best = {name: [float("inf"), float("inf")] for name in rows}
    for _ in range(rounds):
        for name, subjects in rows.items():
            best[name] = [min(was, run()) for was, run in zip(best[name], subjects, strict=True)]
    print_table(
        "The core by itself",
        ["", "core", "h2, or the least", "ratio"],
        [
            [name, f"{ours * 1e6:.1f} us", f"{other * 1e6:.1f} us", f"{ours / other:.2f}x"]
            for name, (ours, other) in best.items()
        ],
    )


if __name__ == "__main__":
    main()
