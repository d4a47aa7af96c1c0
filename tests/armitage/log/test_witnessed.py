"""armitage.log.witnessed, with witnesses of our own and with some that misbehave."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from armitage.log import cosigning
from armitage.log.checkpoint import open_checkpoint
from armitage.log.cosigning import Cosigner
from armitage.log.errors import LogError, NotLogged
from armitage.log.note import KeyType, Signer
from armitage.log.store import NAMES, LogStore
from armitage.log.witnessed import Reply, Witnessed, WitnessOptions
from cas.volume import DiskVolume

LOG = Signer("log.example/a", KeyType.ED25519, bytes(32))
ONE = Signer("witness.example/1", KeyType.COSIGNATURE, bytes([1] * 32))
TWO = Signer("witness.example/2", KeyType.COSIGNATURE, bytes([2] * 32))


class World:
    """A log and two witnesses."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = LogStore(DiskVolume(directory / "log", NAMES), LOG)
        self.cosigners = {
            f"http://{n}/add-checkpoint": Cosigner(
                DiskVolume(directory / f"w{n}", cosigning.NAMES),
                signer,
                {LOG.public.name: LOG.public},
                lambda: 1_700_000_000.0,
            )
            for n, signer in enumerate((ONE, TWO), 1)
        }
        self.asked: list[str] = []
        self.replies: dict[str, Reply | OSError] = {}

    async def send(self, url: str, body: bytes) -> Reply:
        self.asked.append(url)
        reply = self.replies.get(url)
        if isinstance(reply, OSError):
            raise reply
        if reply is not None:
            return reply
        answer = self.cosigners[url].add_checkpoint(body)
        return Reply(answer.status, answer.body.encode())

    def witnessed(self, quorum: int = 0) -> Witnessed:
        options = [
            WitnessOptions(f"http://{n}/", str(signer.public)) for n, signer in ((1, ONE), (2, TWO))
        ]
        return Witnessed(self.store, options, quorum, self.directory / "cosigned", self.send)

    def names(self, witnessed: Witnessed) -> set[str]:
        signed = open_checkpoint(witnessed.checkpoint(), LOG.public, (ONE.public, TWO.public))
        return set(signed.cosigned)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.store.close()
    for each in made.cosigners.values():
        each.close()


async def test_the_newest_checkpoint_is_published_with_its_cosignatures(world: World) -> None:
    witnessed = world.witnessed()
    world.store.append([b"a", b"b"])
    assert world.names(witnessed) == set()

    await witnessed.ask()

    assert world.names(witnessed) == {ONE.public.name, TWO.public.name}
    assert [(each.size, each.problem) for each in witnessed.standing] == [(2, ""), (2, "")]
    world.store.append([b"c"])
    assert world.names(witnessed) == set()


async def test_nobody_is_asked_about_what_they_cosigned(world: World) -> None:
    witnessed = world.witnessed()
    await witnessed.ask()
    assert world.asked == []
    world.store.append([b"a"])
    await witnessed.ask()

    await witnessed.ask()

    assert len(world.asked) == 2


async def test_with_a_quorum_only_what_so_many_cosigned_is_published(world: World) -> None:
    witnessed = world.witnessed(quorum=2)
    world.store.append([b"a"])
    world.replies["http://2/add-checkpoint"] = OSError("nobody there")
    await witnessed.ask()
    with pytest.raises(NotLogged, match="cosigned by 2 witnesses yet"):
        witnessed.checkpoint()

    world.replies.clear()
    await witnessed.ask()  # The first is not asked again: what it signed is kept.

    assert len(world.names(witnessed)) == 2
    world.store.append([b"b"])
    assert b"\n1\n" in witnessed.checkpoint()


async def test_what_was_cosigned_outlives_a_restart(world: World) -> None:
    world.store.append([b"a"])
    await world.witnessed(quorum=1).ask()
    world.asked.clear()

    again = world.witnessed(quorum=1)

    assert len(world.names(again)) == 2
    world.store.append([b"b"])
    await again.ask()
    assert len(world.asked) == 2
    assert b"\n2\n" in again.checkpoint()


async def test_what_is_forgotten_here_is_learned_from_the_witness(world: World) -> None:
    world.store.append([b"a"])
    await world.witnessed().ask()
    (world.directory / "cosigned").unlink()
    world.store.append([b"b"])

    again = world.witnessed()
    await again.ask()

    assert [each.size for each in again.standing] == [2, 2]


async def test_a_witness_that_has_seen_more_says_that_the_log_was_set_back(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    witnessed = world.witnessed()
    world.store.append([b"a"])
    world.replies["http://1/add-checkpoint"] = Reply(409, b"7\n")

    await witnessed.ask()
    await witnessed.ask()

    one = witnessed.standing[0]
    assert one.has_seen_more
    assert "it has cosigned 7 entries of this log, which has 1" in one.problem
    assert "set back or forked" in caplog.text
    assert world.asked.count("http://1/add-checkpoint") == 1


async def test_a_log_that_was_set_back_is_not_opened(world: World) -> None:
    world.store.append([b"a", b"b"])
    await world.witnessed().ask()
    world.store.close()
    world.store = LogStore(DiskVolume(world.directory / "other", NAMES), LOG)

    with pytest.raises(LogError, match="witnesses cosigned 2 entries, and the log has 0"):
        world.witnessed()


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (Reply(403, b"bad\x1b signature\n"), "it refused with 403"),
        (Reply(409, b"many\n"), "it answered a conflict and no size"),
        (Reply(200, b"nonsense"), "a note is a text"),
        (Reply(200, f"{ONE.sign('other text', 5).line()}".encode()), "does not fit the text"),
        (Reply(200, b"\xe2\x80\x94 stranger AAAAAAAA\n"), "are needed"),
        (OSError("no route"), "no route"),
    ],
)
async def test_what_a_witness_gets_wrong_is_its_problem_alone(
    world: World, reply: Reply | OSError, problem: str
) -> None:
    witnessed = world.witnessed()
    world.store.append([b"a"])
    world.replies["http://1/add-checkpoint"] = reply

    await witnessed.ask()

    assert problem in witnessed.standing[0].problem
    assert world.names(witnessed) == {TWO.public.name}


@pytest.mark.parametrize(
    ("url", "key", "fault"),
    [
        ("ftp://x", str(ONE.public), "is not an https:// or http:// address"),
        ("https://x", str(LOG.public), "is a log's"),
        ("https://x", "x", "is not a public key"),
    ],
)
def test_settings_that_cannot_be_are_refused(url: str, key: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        WitnessOptions(url, key)
