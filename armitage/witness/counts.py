"""What the witness did since the start, as numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from armitage.witness.evidence import Exchange

OPERATORS = "rule"
"""Stands for the names of the operator's rules, which are no labels of a metric."""
REASONS = frozenset(
    {
        *("undeclared", "reading only", "malformed", "fronting", "upgrade", "size", "handshake"),
        *("address", "tls", "origin", "malformed answer"),
        *("unpinned", "pin", "offline", "port", "protocol"),
    }
)
"""Why the witness itself refuses: the rules that records name."""


@dataclass(frozen=True, slots=True)
class WitnessStats:
    """All sessions of one daemon, taken together."""

    open_sessions: int
    sessions: int
    passed: int
    replayed: int
    failed: int
    refused_for: Mapping[str, int]
    """By reason: one of REASONS, or OPERATORS."""
    received_bytes: int
    sent_bytes: int
    credentials: int
    unkept: int


class WitnessCounts:
    """Counts what happens, for whoever reads it now and then."""

    def __init__(self) -> None:
        self._opened = 0
        self._closed = 0
        self._passed = 0
        self._replayed = 0
        self._failed = 0
        self._refused = Counter(dict.fromkeys((*sorted(REASONS), OPERATORS), 0))
        self._received_bytes = 0
        self._sent_bytes = 0
        self._credentials = 0
        self._unkept = 0

    def opened(self) -> None:
        """A session has begun."""
        self._opened += 1

    def closed(self) -> None:
        """A session is over, whether or not that could be kept."""
        self._closed += 1

    def lost(self) -> None:
        """A record could not be kept."""
        self._unkept += 1

    def took(self, exchange: Exchange, *, asked: bool) -> None:
        """An exchange is on record; `asked`: its origin was."""
        if not exchange.allowed:
            self._refused[exchange.rule if exchange.rule in REASONS else OPERATORS] += 1
        elif exchange.error:
            self._failed += 1
        elif exchange.replays:
            self._replayed += 1
        else:
            self._passed += 1
        if asked:
            self._received_bytes += (
                exchange.response_body.size_bytes if exchange.response_body else 0
            )
            self._sent_bytes += exchange.request_body.size_bytes if exchange.request_body else 0
            self._credentials += bool(exchange.credentials)

    def read(self) -> WitnessStats:
        """Answers the numbers of this moment."""
        return WitnessStats(
            open_sessions=self._opened - self._closed,
            sessions=self._opened,
            passed=self._passed,
            replayed=self._replayed,
            failed=self._failed,
            refused_for=dict(self._refused),
            received_bytes=self._received_bytes,
            sent_bytes=self._sent_bytes,
            credentials=self._credentials,
            unkept=self._unkept,
        )
