"""RequestMetadata and what it keeps."""

from __future__ import annotations

from collections.abc import Collection

from hypothesis import given
from hypothesis import strategies as st
from support.wire import FakeTime

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.reapi.invocations import Invocations
from armitage.reapi.request_metadata import HEADER, RequestMetadata, request_metadata
from armitage.transport.port import Call
from cas.digest import Digest, DigestFunction

ONE = DigestFunction.SHA256.digest(b"one")


class Holders:
    """A Retention that says who holds what."""

    def __init__(self) -> None:
        self.held: dict[str, set[Digest]] = {}

    def hold(self, holder: str, digests: Collection[Digest]) -> None:
        self.held.setdefault(holder, set()).update(digests)

    def release(self, holder: str) -> None:
        self.held.pop(holder, None)


def call(invocation: str) -> Call:
    metadata = reapi.RequestMetadata(tool_invocation_id=invocation)
    return Call("", {HEADER: metadata.SerializeToString()})


def test_all_fields_of_the_header_are_read() -> None:
    wire = reapi.RequestMetadata(
        tool_details=reapi.ToolDetails(tool_name="buck2", tool_version="0.1.0"),
        action_id="a",
        tool_invocation_id="i",
        correlated_invocations_id="c",
        action_mnemonic="m",
        target_id="t",
        configuration_id="f",
    )

    answer = request_metadata(Call("", {HEADER: wire.SerializeToString()}))

    assert answer == RequestMetadata("buck2", "0.1.0", "a", "i", "c", "m", "t", "f")


@given(st.binary() | st.text())
def test_a_malformed_header_is_as_none(header: str | bytes) -> None:
    assert isinstance(request_metadata(Call("", {HEADER: header})), RequestMetadata)


def test_a_call_without_an_invocation_holds_nothing() -> None:
    holders = Holders()

    Invocations(holders, FakeTime()).hold(Call(""), [ONE])

    assert holders.held == {}


def test_an_invocation_holds_until_it_falls_silent() -> None:
    holders, time = Holders(), FakeTime()
    invocations = Invocations(holders, time, idle_s=100)
    invocations.hold(call("a"), [ONE])

    time.now += 99
    invocations.hold(call("a"), [])
    time.now += 99
    invocations.expire()
    assert holders.held == {"invocation:a": {ONE}}

    time.now += 1
    invocations.expire()
    assert holders.held == {}
    assert len(invocations) == 0


def test_too_many_invocations_end_the_most_silent_one() -> None:
    holders = Holders()
    invocations = Invocations(holders, FakeTime(), max_invocations=2)
    for name in ("a", "b", "a", "c"):
        invocations.hold(call(name), [ONE])

    assert set(holders.held) == {"invocation:a", "invocation:c"}
