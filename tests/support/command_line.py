"""Types of the fixtures that run command lines (tests/armitage/cli/conftest.py)."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Done:
    """What a command line came to."""

    code: int
    out: str
    err: str


Cli = Callable[..., Done]
