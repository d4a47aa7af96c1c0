"""A network namespace with nothing in it but loopback."""

from __future__ import annotations

import socket
import subprocess

import pytest

from executor.errors import SandboxUnavailable
from executor.netns import Inside, command, receive

pytestmark = pytest.mark.sandbox

ASK = "import socket; print(socket.create_connection(('127.0.0.1', 8981)).recv(9).decode())"


def test_command_reaches_the_sockets_that_are_handed_out_and_nothing_else() -> None:
    ours, theirs = socket.socketpair()
    program = ["/usr/bin/python3", "-c", f"{ASK}; print(open('/proc/net/dev').read().count(':'))"]
    with ours, theirs:
        words = [*command(theirs, Inside(ports=(8981,))), *program]
        started = subprocess.Popen(words, pass_fds=[theirs.fileno()], stdout=subprocess.PIPE)
        theirs.close()
        [listener] = receive(ours)
    with listener, listener.accept()[0] as connection:
        connection.sendall(b"answer")

    printed, _ = started.communicate(timeout=30)
    assert printed.split() == [b"answer", b"1"]


def test_process_that_dies_is_told_from_one_that_is_enclosed() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()

    with ours, pytest.raises(SandboxUnavailable, match="user namespaces must be allowed"):
        receive(ours)
