"""armitage.witness.modes."""

from __future__ import annotations

import pytest

from armitage.witness.modes import MODE, PINS, NetworkMode, mode_of
from executor.errors import InvalidInput

HASH = "ab" * 32


def test_the_default_is_witnessed() -> None:
    assert mode_of([("OSFamily", "linux")]).mode is NetworkMode.WITNESSED


def test_pins_are_pairs_in_normal_form() -> None:
    text = f"HTTPS://H.example:443/a?b=c {HASH}\n  http://h.example  sha256:{HASH}"
    choice = mode_of([(MODE, "pinned"), (PINS, text)])

    assert choice.mode is NetworkMode.PINNED
    assert choice.pins == {"https://h.example/a?b=c": HASH, "http://h.example/": HASH}


@pytest.mark.parametrize(
    ("platform", "complaint"),
    [
        ([(MODE, "open")], "'open' is not one of witnessed, transparent, pinned"),
        ([(MODE, "pinned")], "need each other"),
        ([(PINS, f"https://h.example/ {HASH}")], "need each other"),
        ([(MODE, "pinned"), (MODE, "witnessed")], "2 times"),
        ([(MODE, "pinned"), (PINS, "https://h.example/")], "no partner"),
        ([(MODE, "pinned"), (PINS, "https://h.example/ 123")], "no SHA-256"),
        ([(MODE, "pinned"), (PINS, f"ftp://h.example/ {HASH}")], "no http or https URL"),
        ([(MODE, "pinned"), (PINS, f"https://u:p@h.example/ {HASH}")], "no http or https URL"),
        (
            [(MODE, "pinned"), (PINS, f"http://h.example/ {HASH} http://h.example {'cd' * 32}")],
            "pinned twice",
        ),
    ],
)
def test_what_is_wrong_is_named(platform: list[tuple[str, str]], complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        mode_of(platform)
