"""The cases about chunks, judged on another server: one of either version, and careless ones."""

import hashlib

import pytest
from support.chunking import Chunker
from support.daemon import running_daemon
from support.lying import lying_server

from armitage.client.channel import Channel
from armitage.conformance import Outcome, Result, fastcdc, run

CASES = [54, 55, 56, 57]


async def judge(numbers: list[int], minor: int, *, careless: bool = False) -> list[Result]:
    async with running_daemon() as daemon, Channel(daemon.addresses.grpc[0]) as channel:
        chunker = Chunker(channel, minor, careless=careless)
        lies = {"GetCapabilities": chunker.advertise}
        async with lying_server(
            daemon.addresses.grpc[0], lies, instead=chunker.methods()
        ) as target:
            return await run(target, only=numbers, control=chunker)


@pytest.mark.slow
@pytest.mark.parametrize("minor", [12, 13])
async def test_a_server_that_chunks_well_passes_in_either_form(minor: int) -> None:
    results = await judge(CASES, minor)

    assert [result.outcome for result in results] == [Outcome.PASS] * 4, results


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "seen"), [(56, "wrong order: expected INVALID_ARGUMENT"), (57, "cannot be read")]
)
async def test_a_server_that_does_not_look_fails(number: int, seen: str) -> None:
    (result,) = await judge([number], 12, careless=True)

    assert result.outcome == Outcome.FAIL
    assert seen in result.seen


def hashes(count: int) -> bytes:
    return b"".join(hashlib.sha256(n.to_bytes(4, "big")).digest() for n in range(count))


@pytest.mark.parametrize(
    ("count", "average", "first", "fingerprint"),
    [
        (40000, 16384, [21855, 21458, 36387, 16982], "6dd60235e1647e01"),
        (4000, 1024, [1841, 1134, 1032, 1308], "ea47ef8d3260b128"),
        (9000, 10000, [10042, 11813, 10206, 2957], "27270dfa474558fd"),
        (1500, 65536, [48000], "570172ffa12bff1d"),
    ],
)
def test_cut_points_are_those_of_an_independent_implementation(
    count: int, average: int, first: list[int], fingerprint: str
) -> None:
    """The expected sizes were made with PyPI's pyfastcdc 0.3.1, a port of fastcdc-rs v2020."""
    sizes = fastcdc.chunk_sizes(hashes(count), average)

    assert sizes[:4] == first
    assert hashlib.sha256(repr(sizes).encode()).hexdigest()[:16] == fingerprint


def test_data_without_a_cut_point_is_cut_at_the_maximum() -> None:
    assert fastcdc.chunk_sizes(bytes(200_000), 16384) == [65536, 65536, 65536, 3392]
