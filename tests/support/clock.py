"""Time that a test owns."""


class FakeClock:
    """An armitage.clock.Clock of two times that only move when told; `monotonic` is also what the
    stores take as their clock.
    """

    def __init__(self, wall: float = 1_700_000_000.0) -> None:
        self._wall = wall
        self._monotonic = 1000.0

    def wall(self) -> float:
        return self._wall

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        self._wall += seconds
        self._monotonic += seconds

    def step_wall(self, seconds: float) -> None:
        """The system time is set, which moves nothing else."""
        self._wall += seconds
