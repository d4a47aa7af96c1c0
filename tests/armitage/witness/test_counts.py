"""armitage.witness.counts."""

from __future__ import annotations

from pathlib import Path

from support.witnessed import Origin, answering, witness

from armitage.witness.counts import OPERATORS, REASONS
from armitage.witness.policy import Grant, Rule, Verdict

HOST = "h.example"
RULES = [
    Rule(Verdict.DENY, "no forks", paths=("/forks",)),
    Rule(Verdict.ALLOW, "loopback", networks=("127.0.0.0/8",)),
]


def asking(origin: Origin, path: str, host: str = HOST) -> bytes:
    where = f"{host}:{origin.port}"
    return f"GET http://{where}{path} HTTP/1.1\r\nHost: {where}\r\n\r\n".encode()


async def test_each_exchange_is_counted_once_by_what_came_of_it(tmp_path: Path) -> None:
    grants = [Grant(HOST), Grant("gone.example")]
    async with (
        witness(tmp_path, grants=grants, rules=RULES) as running,
        Origin(answering(b"abc")).listening() as origin,
    ):
        gone = Origin(answering(b""))
        async with gone.listening():
            pass
        for request in (
            asking(origin, "/a"),
            asking(origin, "/forks/a"),
            asking(origin, "/a", "other.example"),
            asking(gone, "/a", "gone.example"),
        ):
            await running.ask(request)
        origin.script = answering(b"abc", status="no HTTP")
        await running.ask(asking(origin, "/a"))
        stats = running.counts.read()

    assert (stats.sessions, stats.open_sessions) == (1, 1)
    assert running.counts.read().open_sessions == 0
    assert (stats.passed, stats.failed, stats.replayed) == (1, 1, 0)
    refused = {reason: count for reason, count in stats.refused_for.items() if count}
    assert refused == {OPERATORS: 1, "undeclared": 1, "origin": 1}
    assert (stats.received_bytes, stats.sent_bytes, stats.unkept) == (3, 0, 0)


async def test_every_credential_that_left_is_counted(tmp_path: Path) -> None:
    def inject(_: object) -> tuple[list[tuple[bytes, bytes]], list[str]]:
        return [(b"authorization", b"Bearer s3cr3t")], ["registry"]

    async with witness(tmp_path, inject=inject) as running:
        async with Origin(answering(b"abc")).listening() as origin:
            await running.ask(asking(origin, "/a"))
        await running.ask(asking(origin, "/a"))  # Nobody is there who could have it.

    assert running.counts.read().credentials == 1


async def test_a_record_that_cannot_be_kept_is_counted(tmp_path: Path) -> None:
    async with witness(tmp_path) as running:
        running.log.failure = OSError(28, "No space left on device")
        async with Origin(answering(b"abc")).listening() as origin:
            await running.ask(asking(origin, "/a"))
        running.log.failure = None
        stats = running.counts.read()

    assert (stats.unkept, stats.passed) == (1, 0)


def test_reasons_are_the_rules_that_the_witness_itself_names() -> None:
    source = Path(__file__).parents[3] / "armitage" / "witness"
    text = "".join(path.read_text() for path in source.glob("*.py") if path.name != "counts.py")

    for reason in REASONS:
        assert f'"{reason}"' in text, reason
