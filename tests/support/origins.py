"""A site with TLS, in a thread: files of a directory, and git repositories by smart HTTP."""

from __future__ import annotations

import asyncio
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
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
    host: str
    port: int = 0
    heads: list[bytes] = field(default_factory=list)
    """What it was asked."""
    stall: threading.Event = field(default_factory=threading.Event)
    """Set when somebody asks for /stall, which is never answered."""

    @property
    def url(self) -> str:
        return f"https://{self.host}:{self.port}"

    async def serve(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answers one request."""
        target = head.split()[1].decode().partition("?")[0]
        if target == "/stall":
            self.stall.set()
            await reader.read()
        repository = self.files / target.split("/")[1]
        # One that `git update-server-info` prepared for it is served as mere files.
        if repository.suffix == ".git" and not (repository / "info" / "refs").exists():
            await smart_http(repository)(head, reader, writer)
            return
        path = self.files / target.lstrip("/")
        path = path / "index.html" if path.is_dir() else path
        found = path.is_file()
        body = path.read_bytes() if found else b"not found\n"
        status = "200 OK" if found else "404 Not Found"
        kind = "text/html" if path.suffix == ".html" else "application/octet-stream"
        answer = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(answer.encode() + (b"" if head.startswith(b"HEAD ") else body))


@contextmanager
def serving(directory: Path, host: str = HOST) -> Iterator[Site]:
    """Serves `directory/files` until the context ends."""
    site = Site(directory / "files", directory / "origins.pem", host)
    site.files.mkdir(parents=True)
    authority = SessionAuthority("origins", SystemClock().wall())
    site.authorities.write_bytes(authority.certificate)
    origin = Origin(site.serve)
    ready, loops, ended = threading.Event(), list[asyncio.AbstractEventLoop](), asyncio.Event()

    async def listen() -> None:
        loops.append(asyncio.get_running_loop())
        tls = authority.caught_context(lambda name: name or host)
        async with origin.listening(tls):
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=asyncio.run, args=[listen()])
    thread.start()
    ready.wait()
    site.port, site.heads = origin.port, origin.heads
    try:
        yield site
    finally:
        loops[0].call_soon_threadsafe(ended.set)
        thread.join()


def put_wheel(files: Path) -> str:
    """Makes an index at /simple/ with the smallest wheel there is; answers its path below files."""
    folder = files / "simple" / "demo"
    folder.mkdir(parents=True)
    name, info = "demo-1.0-py3-none-any.whl", "demo-1.0.dist-info"
    contents = {
        "demo.py": "",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    contents[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*contents, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / name, "w") as made:
        for path, data in contents.items():
            made.writestr(path, data)
    (folder / "index.html").write_text(f'<!DOCTYPE html><a href="{name}">{name}</a>')
    return f"simple/demo/{name}"
