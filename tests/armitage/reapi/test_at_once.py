"""What is answered at once is what the handlers answer (support.wire asks both in every test of the
services); here: that it is, and when it is not.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.wire import FakeTime

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.reapi.at_once import AtOnce
from armitage.reapi.completeness import Completeness
from armitage.reapi.digests import WIRE_FUNCTIONS, DigestPolicy, Unmarked64, wire_digest
from armitage.reapi.instances import Instance, Instances
from armitage.reapi.invocations import Invocations
from armitage.reapi.request_metadata import HEADER
from armitage.reapi.trusting import TrustGate
from armitage.transport.port import Call
from armitage.trust.opening import open_trust
from armitage.trust.options import TrustOptions
from cas.digest import Digest, DigestFunction
from cas.keys import key_of
from cas.memory import MemoryStore

SHA256, BLAKE3, SHA1 = DigestFunction.SHA256, DigestFunction.BLAKE3, DigestFunction.SHA1
CALL = Call("/x/Y")
BLOBS = [bytes([number]) * size for number, size in enumerate((1, 2, 127, 128, 300, 20_000))]


class Fresh:
    """Knows keys and results."""

    def __init__(self) -> None:
        self.keys: set[bytes] = set()
        self.held: dict[str, set[bytes]] = {}
        self.results: dict[tuple[str, bytes], bytes] = {}
        self.under_way: set[object] = set()

    def all_fresh(self, keys: Collection[bytes]) -> bool:
        return self.keys.issuperset(keys)

    def hold_keys(self, holder: str, keys: Collection[bytes]) -> None:
        self.held.setdefault(holder, set()).update(keys)

    def recall(self, instance: str, key: bytes) -> bytes | None:
        return self.results.get((instance, key))


class World:
    def __init__(self, *instances: Instance, policy: str = "any") -> None:
        self.store = MemoryStore()
        self.fresh = Fresh()
        self.invocations = Invocations(self.store, FakeTime())
        self.completeness = Completeness(self.store)
        named = Instances(instances or (Instance(),))
        trust = open_trust(TrustOptions(policy=policy), (), None, {}, "").trust
        self.at_once = AtOnce(
            self.fresh,
            self.fresh,
            named,
            self.invocations,
            self.completeness,
            gate=TrustGate(trust, [], self.store, FakeTime()),
            is_under_way=self.fresh.under_way.__contains__,
        )

    async def put(self, data: bytes, function: DigestFunction = SHA256) -> Digest:
        digest = await self.store.put([function.digest(data)], data)
        self.fresh.keys.add(key_of(digest))
        return digest

    def find(self, *digests: Digest, call: Call = CALL, **fields: Any) -> bytes | None:
        wires = [wire_digest(digest) for digest in digests]
        request = reapi.FindMissingBlobsRequest(blob_digests=wires, **fields)
        return self.at_once.find_missing_blobs(request.SerializeToString(), call)

    def get(self, action: Digest, call: Call = CALL, **fields: Any) -> bytes | None:
        request = reapi.GetActionResultRequest(action_digest=wire_digest(action), **fields)
        return self.at_once.get_action_result(request.SerializeToString(), call)


@pytest.mark.parametrize("instance", ["", "a", "a/b"])
@pytest.mark.parametrize("function", [0, WIRE_FUNCTIONS[SHA256]])
async def test_nothing_is_missing_of_what_is_fresh(instance: str, function: Any) -> None:
    world = World(Instance(instance))
    digests = [await world.put(blob) for blob in BLOBS]

    assert world.find(*digests, instance_name=instance, digest_function=function) == b""


async def test_blobs_of_another_function_are_their_own() -> None:
    world = World()
    digest = await world.put(b"blob", BLAKE3)
    function = WIRE_FUNCTIONS[BLAKE3]

    assert world.find(digest, digest_function=function) == b""
    assert world.find(SHA256.digest(b"blob"), digest_function=function) is None
    assert world.find(digest) is None
    assert world.find(Digest(SHA256, digest.hash, digest.size_bytes)) is None


async def test_unmarked_digests_are_read_as_the_instance_says() -> None:
    world = World(Instance(digests=DigestPolicy(unmarked_64=Unmarked64.BLAKE3)))
    digest = await world.put(b"blob", BLAKE3)
    await world.put(b"blob", SHA256)

    assert world.find(digest) == b""
    assert world.find(SHA256.digest(b"blob")) is None


@pytest.mark.parametrize("start", [0, 1])
async def test_a_stored_key_elsewhere_in_a_message_is_no_digest(start: int) -> None:
    """The store's key of a BLAKE3 blob begins with a byte that is not on the wire."""
    world = World()
    key = key_of(await world.put(b"blob", BLAKE3))[start:]
    request = b"\x12%c\x0a\x40%b" % (len(key) + 2, key)

    assert world.at_once.find_missing_blobs(request, CALL) is None


async def test_one_blob_that_is_not_fresh_leaves_all_to_the_handler() -> None:
    world = World()
    digests = [await world.put(blob) for blob in BLOBS]

    assert world.find(*digests, SHA256.digest(b"absent")) is None


async def test_same_hash_with_another_size_is_another_blob() -> None:
    world = World()
    digest = await world.put(b"blob")

    assert world.find(Digest(SHA256, digest.hash, 5)) is None


async def test_empty_blob_need_not_be_stored() -> None:
    world = World()
    digest = await world.put(b"blob")

    assert world.find(SHA256.empty, digest) in (b"", None)
    empty = reapi.Digest(hash=SHA256.empty.hash)
    request = b"\x12\x44\x0a\x40" + empty.hash.encode() + b"\x10\x00"
    assert world.at_once.find_missing_blobs(request, CALL) == b""


@pytest.mark.parametrize(
    "fields", [{"instance_name": "other"}, {"digest_function": 99}, {"instance_name": "\u00e9"}]
)
async def test_what_handlers_refuse_is_left_to_them(fields: dict[str, Any]) -> None:
    world = World()
    digest = await world.put(b"blob")

    assert world.find(digest, **fields) is None
    assert world.get(digest, **fields) is None


async def test_other_lengths_of_hashes_are_left_to_the_handler() -> None:
    world = World()
    assert world.find(await world.put(b"blob", SHA1)) is None


async def test_long_requests_are_left_to_the_handler() -> None:
    world = World()
    digest = await world.put(b"blob")

    assert world.find(*[digest] * 400) == b""
    assert world.find(*[digest] * 600) is None


@given(st.data())
def test_mutated_requests_are_never_mistaken(data: st.DataObject) -> None:
    """Whatever is answered at once, protobuf reads as a request for blobs that are there."""
    world = World(Instance(""), Instance("a"))
    digests = [SHA256.digest(blob) for blob in BLOBS[:3]]
    world.fresh.keys.update(map(key_of, digests))
    request = bytearray(
        reapi.FindMissingBlobsRequest(
            instance_name=data.draw(st.sampled_from(["", "a"])),
            blob_digests=[wire_digest(digest) for digest in digests],
            digest_function=data.draw(st.sampled_from(["UNKNOWN", "SHA256"])),
        ).SerializeToString()
    )
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(request)))
        with_bytes = data.draw(
            st.one_of(
                st.binary(max_size=3),
                st.sampled_from([b"\x12\x44\x0a\x40", b"\x18\x01", b"\x0a\x01a", b"\x12\x00"]),
            )
        )
        request[at : at + data.draw(st.integers(0, 3))] = with_bytes

    if world.at_once.find_missing_blobs(bytes(request), CALL) is None:
        return
    message = reapi.FindMissingBlobsRequest.FromString(bytes(request))
    assert message.instance_name in ("", "a")
    assert message.digest_function in (0, 1)
    for wire in message.blob_digests:
        assert Digest(SHA256, wire.hash, wire.size_bytes) in digests


def result_of(*outputs: Digest) -> bytes:
    files = [
        reapi.OutputFile(path=str(number), digest=wire_digest(digest))
        for number, digest in enumerate(outputs)
    ]
    return reapi.ActionResult(output_files=files).SerializeToString()


async def remembered(world: World, action: Digest, result: bytes, instance: str = "") -> None:
    """As after a first call that the handler answered."""
    world.fresh.results[instance, key_of(action)] = result
    verdict = await world.completeness.check(result, action.function)
    assert verdict.is_complete


@pytest.mark.parametrize("instance", ["", "a/b"])
@pytest.mark.parametrize("function", [SHA256, BLAKE3])
async def test_known_result_is_answered_as_it_is_stored(
    instance: str, function: DigestFunction
) -> None:
    world = World(Instance(instance))
    action = function.digest(b"action")
    result = result_of(*[await world.put(blob, function) for blob in BLOBS])
    await remembered(world, action, result, instance)

    fields: dict[str, Any] = {
        "instance_name": instance,
        "digest_function": WIRE_FUNCTIONS[function],
    }
    assert world.get(action, **fields) is result
    if function is SHA256:
        assert world.get(action, instance_name=instance) is result


async def test_result_that_nobody_read_before_is_left_to_the_handler() -> None:
    world = World()
    action = SHA256.digest(b"action")
    world.fresh.results["", key_of(action)] = result_of(await world.put(b"output"))

    assert world.get(action) is None


async def test_result_is_not_answered_once_an_output_is_gone() -> None:
    world = World()
    action = SHA256.digest(b"action")
    output = await world.put(b"output")
    await remembered(world, action, result_of(await world.put(b"other"), output))
    assert world.get(action) is not None

    world.fresh.keys.remove(key_of(output))
    assert world.get(action) is None


async def test_result_is_not_answered_while_a_newer_one_is_attested() -> None:
    world = World()
    action = SHA256.digest(b"action")
    await remembered(world, action, result_of(await world.put(b"output")))

    world.fresh.under_way.add(("", key_of(action)))
    assert world.get(action) is None
    world.fresh.under_way.clear()
    assert world.get(action) is not None


async def test_result_that_a_policy_must_let_through_is_left_to_the_handler() -> None:
    world = World(policy="self")
    action = SHA256.digest(b"action")
    output = await world.put(b"output")
    await remembered(world, action, result_of(output))

    assert world.get(action) is None
    assert world.find(output) == b""  # A policy is about results, not about blobs.


async def test_instances_share_no_results() -> None:
    world = World(Instance("a"), Instance("b"))
    action = SHA256.digest(b"action")
    await remembered(world, action, result_of(), "a")

    assert world.get(action, instance_name="a") is not None
    assert world.get(action, instance_name="b") is None


@pytest.mark.parametrize(
    "fields",
    [{"inline_stdout": True}, {"inline_stderr": True}, {"inline_output_files": ["0"]}],
)
async def test_inlining_is_left_to_the_handler(fields: dict[str, Any]) -> None:
    world = World()
    action = SHA256.digest(b"action")
    await remembered(world, action, result_of(await world.put(b"output")))

    assert world.get(action, **fields) is None


@pytest.mark.parametrize("request_", [b"", b"\x12", b"\x0a\x00", b"\x0a\x05a", b"\x12\x44\x0a\x40"])
def test_short_requests_are_left_to_the_handler(request_: bytes) -> None:
    world = World()
    assert world.at_once.get_action_result(request_, CALL) is None
    if request_ != b"\x0a\x00":
        assert world.at_once.find_missing_blobs(request_, CALL) is None


async def test_what_is_answered_is_held_for_the_invocation() -> None:
    world = World()
    action = SHA256.digest(b"action")
    output = await world.put(b"output")
    await remembered(world, action, result_of(output))
    header = reapi.RequestMetadata(tool_invocation_id="build").SerializeToString()
    call = Call("/x/Y", {HEADER: header})

    assert world.get(action, call) is not None
    assert world.fresh.held == {"invocation:build": {key_of(output)}}
    asked = await world.put(b"asked")
    assert world.find(asked, call=call) == b""
    assert world.fresh.held == {"invocation:build": {key_of(output), key_of(asked)}}
    assert len(world.invocations) == 1
