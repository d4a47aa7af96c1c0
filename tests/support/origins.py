"""A site with TLS, in a thread: files of a directory, and git repositories by smart HTTP."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.witnessed import Origin, smart_http

from armitage.clock import SystemClock
from armitage.witness.authority import SessionAuthority

HOST = "registry.example"
"""Go and others never take a proxy for what is on loopback by its name."""


@dataclass
class Site:
    """Where it is, what it serves, and what clients are to trust."""

    files: Path
    authorities: Path
    port: int

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.port}"


@contextmanager
def serving(directory: Path) -> Iterator[Site]:
    """Serves `directory/files` until the context ends."""
    files, authorities = directory / "files", directory / "origins.pem"
    files.mkdir(parents=True)
    authority = SessionAuthority("origins", SystemClock().wall())
    authorities.write_bytes(authority.certificate)
    origin = Origin(lambda *asked: _serve(files, *asked))
    ready, loops, ended = threading.Event(), list[asyncio.AbstractEventLoop](), asyncio.Event()

    async def listen() -> None:
        loops.append(asyncio.get_running_loop())
        tls = authority.caught_context(lambda name: name or HOST)
        async with origin.listening(tls):
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=asyncio.run, args=[listen()])
    thread.start()
    ready.wait()
    try:
        yield Site(files, authorities, origin.port)
    finally:
        loops[0].call_soon_threadsafe(ended.set)
        thread.join()


async def _serve(
    files: Path, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    target = head.split()[1].decode().partition("?")[0]
    if ".git/" in target:
        await smart_http(files / target.split("/")[1])(head, reader, writer)
        return
    path = files / target.lstrip("/")
    path = path / "index.html" if path.is_dir() else path
    found = path.is_file()
    body = path.read_bytes() if found else b"not found\n"
    status = "200 OK" if found else "404 Not Found"
    kind = "text/html" if path.suffix == ".html" else "application/octet-stream"
    answer = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(answer.encode() + (b"" if head.startswith(b"HEAD ") else body))
