"""Lanes: work on one stream of pieces, one after another, in the threads of a shared pool.

A lane has a thread only while it has pieces, and gives it back after a few, so that a few fast
streams do not keep others from the pool.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for_threads
from typing import Generic, TypeVar

T = TypeVar("T")

_PIECES_AT_ONCE = 4


class Lane(Generic[T]):
    """Calls `work` with each piece, in their order. What work raises ends the lane: the piece's
    future and all later ones raise it too.
    """

    def __init__(
        self, submit: Callable[[Callable[[], None]], object], work: Callable[[T], None]
    ) -> None:
        """`submit` has a function called by a thread of the pool."""
        self._submit = submit
        self._work = work
        self._lock = threading.Lock()
        # Guarded by the lock:
        self._pieces: deque[tuple[T, Future[None]]] = deque()
        self._is_running = False
        self._current: Future[None] | None = None
        self._error: BaseException | None = None

    def put(self, piece: T) -> Future[None]:
        """Hands a piece over; the future ends when it has been worked on."""
        done: Future[None] = Future()
        with self._lock:
            if not self._is_running:
                self._submit(self._run)
                self._is_running = True
            self._pieces.append((piece, done))
        return done

    def _run(self) -> None:
        for _ in range(_PIECES_AT_ONCE):
            with self._lock:
                if not self._pieces:
                    self._is_running = False
                    return
                piece, done = self._pieces.popleft()
                self._current = done
            self._work_on(piece, done)
        with self._lock:
            self._current = None
            self._is_running = bool(self._pieces)
            if self._is_running:
                self._go_on()

    def _go_on(self) -> None:
        try:
            self._submit(self._run)
        except BaseException as error:  # noqa: BLE001 (the futures tell it)
            self._is_running = False
            while self._pieces:
                self._pieces.popleft()[1].set_exception(error)

    def _work_on(self, piece: T, done: Future[None]) -> None:
        if not done.set_running_or_notify_cancel():
            return
        try:
            if self._error is not None:
                raise self._error
            self._work(piece)
        except BaseException as error:  # noqa: BLE001 (the future tells it)
            self._error = error
            done.set_exception(error)
        else:
            done.set_result(None)

    def stop(self) -> None:
        """Takes the pieces back that nobody works on yet, and waits for the one that somebody does.
        Blocks.
        """
        with self._lock:
            for _, done in self._pieces:
                done.cancel()
            self._pieces.clear()
            current = self._current
        if current is not None:
            wait_for_threads([current])
