"""Binding addresses and taking clients in."""

from __future__ import annotations

import asyncio
import errno
import socket
from pathlib import Path

import pytest

from armitage.errors import ConfigError
from armitage.transport.fast.listener import Listener, bind, unbind


def test_port_0_is_answered_with_the_port() -> None:
    [listening], address = bind("127.0.0.1:0")
    with listening:
        assert address == f"127.0.0.1:{listening.getsockname()[1]}"
        assert address != "127.0.0.1:0"


def test_all_addresses_of_a_name_share_one_port() -> None:
    bound, address = bind("localhost:0")
    try:
        assert {each.getsockname()[1] for each in bound} == {int(address.rpartition(":")[2])}
    finally:
        for each in bound:
            each.close()


def test_unknown_host_is_one_clear_error() -> None:
    with pytest.raises(ConfigError, match=r"no-such-host\.invalid.*is not a known host"):
        bind("no-such-host.invalid:0")


def test_socket_that_a_dead_server_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    [listening], address = bind(f"unix:{path}")
    assert address == f"unix:{path}"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    unbind(listening)
    assert not path.exists()


def test_socket_of_a_living_server_is_left_alone(tmp_path: Path) -> None:
    [living], address = bind(f"unix:{tmp_path}/s")
    try:
        with pytest.raises(ConfigError, match="is already in use"):
            bind(address)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{tmp_path}/s")
    finally:
        unbind(living)


def test_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("data")

    with pytest.raises(ConfigError, match="is already in use"):
        bind(f"unix:{tmp_path}/precious")
    assert (tmp_path / "precious").read_text() == "data"


def test_abstract_socket_has_no_file() -> None:
    [listening], _ = bind(f"unix-abstract:armitage-test-{id(object())}")
    unbind(listening)


class Exhausted:
    """A listening socket that has no descriptor for a client, once."""

    def __init__(self, real: socket.socket) -> None:
        self._real = real
        self.refused = 0
        self.family = real.family

    def fileno(self) -> int:
        return self._real.fileno()

    def accept(self) -> tuple[socket.socket, object]:
        if not self.refused:
            self.refused += 1
            raise OSError(errno.EMFILE, "Too many open files")
        return self._real.accept()

    def getsockname(self) -> object:
        return self._real.getsockname()

    def close(self) -> None:
        self._real.close()


async def test_client_waits_while_there_is_no_descriptor_for_it(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("armitage.transport.fast.listener._RETRY_S", 0.01)
    [listening], address = bind("127.0.0.1:0")
    short = Exhausted(listening)
    welcomed: asyncio.Queue[socket.socket] = asyncio.Queue()
    listener = Listener(
        asyncio.get_running_loop(),
        short,  # type: ignore[arg-type]  # as far as it is used, it is one
        welcomed.put_nowait,
    )
    host, port = address.split(":")
    _, writer = await asyncio.open_connection(host, int(port))

    accepted = await asyncio.wait_for(welcomed.get(), 5)

    assert short.refused == 1
    assert "no more clients for now: Too many open files" in caplog.text
    accepted.close()
    writer.close()
    listener.close()
