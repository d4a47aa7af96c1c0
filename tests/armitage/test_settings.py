import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from armitage.errors import ConfigError, InvalidRequest
from armitage.settings import (
    REDACTED,
    Setting,
    build,
    merge,
    parse_duration,
    parse_size,
    plain,
    settings_of,
    to_toml,
    toml_value,
)


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Inner:
    path: Path
    count: int = 3

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError("count must be at least 1")


@dataclass(frozen=True)
class Named:
    name: str = "a"

    def __post_init__(self) -> None:
        if "/" in self.name:
            raise InvalidRequest("name must not hold a slash")


@dataclass(frozen=True)
class Outer:
    size_bytes: int = 1024
    time_s: float = 1.5
    limit_s: float | None = None
    ratio: float = 0.5
    on: bool = True
    word: str = "w"
    colour: Colour = Colour.RED
    file: Path | None = None
    words: tuple[str, ...] = ()
    names: frozenset[str] = frozenset()
    pairs: tuple[tuple[str, str], ...] = (("a", "b"),)
    offers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    inner: Inner | None = None
    list: tuple[Named, ...] = (Named(),)
    api_token: str = ""
    hidden: int = field(default=1, metadata={"setting": False})


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0B", 0),
        ("1kB", 1000),
        ("1KiB", 1024),
        ("1.5MiB", 1_572_864),
        ("10 GiB", 10 << 30),
        ("2TB", 2 * 10**12),
    ],
)
def test_sizes_have_decimal_and_binary_units(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "10", "GiB", "10gib", "10 GiBs", "-1GiB", "1e3B", "1,5MiB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("12h", 43200), ("1h30m", 5400), ("2min", 120), ("1d", 86400), ("250ms", 0.25)],
)
def test_durations_have_units_and_parts(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", " ", "5", "h", "5x", "1h-3m", "-5s", "5s5"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


def test_every_kind_of_setting_is_read() -> None:
    table = tomllib.loads("""
        size_bytes = "2KiB"
        time_s = "1m"
        limit_s = 5
        ratio = 1
        on = false
        word = "x"
        colour = "blue"
        file = "/f"
        words = ["a", "b"]
        names = ["n"]
        pairs = [["k", "v"]]
        offers = { ISA = ["x86-64"] }
        inner = { path = "/p", count = 1 }
        list = [{ name = "b" }, {}]
    """)

    assert build(Outer, table) == Outer(
        size_bytes=2048,
        time_s=60.0,
        limit_s=5.0,
        ratio=1.0,
        on=False,
        word="x",
        colour=Colour.BLUE,
        file=Path("/f"),
        words=("a", "b"),
        names=frozenset({"n"}),
        pairs=(("k", "v"),),
        offers={"ISA": ("x86-64",)},
        inner=Inner(Path("/p"), 1),
        list=(Named("b"), Named()),
    )


@pytest.mark.parametrize(
    ("toml", "complaint"),
    [
        ("sise_bytes = 1", "sise_bytes: unknown setting; did you mean size_bytes?"),
        ("hidden = 2", "hidden: unknown setting; known here: "),
        ("inner = { path = '/p', cuont = 1 }", "inner.cuont: unknown setting; did you mean count?"),
        ("inner = { count = 1 }", "inner.path: required setting is missing; add it"),
        ("inner = { path = '/p', count = 0 }", "inner: count must be at least 1"),
        ("inner = 5", "inner: expected a table, got the number 5"),
        ("list = [{}, { name = 'a/b' }]", "list[1]: name must not hold a slash"),
        ("list = {}", "list: expected a list, got a table"),
        ("words = 'a'", "words: expected a list, got the text 'a'"),
        ("words = ['a', 1]", "words[1]: expected text, got the number 1"),
        ("pairs = [['k']]", "pairs[0]: expected 2 values, got 1"),
        ("offers = { ISA = 'x' }", "offers.ISA: expected a list, got the text 'x'"),
        ("on = 1", "on: expected true or false, got the number 1"),
        ("word = true", "word: expected text, got true"),
        ("colour = 'green'", "colour: 'green' is not one of red, blue"),
        ("size_bytes = 1.5", "size_bytes: expected a whole number, got 1.5"),
        ("size_bytes = true", "size_bytes: expected a number, got true"),
        ("size_bytes = -1", "size_bytes: -1 is negative; write zero or more"),
        ("size_bytes = '5 apples'", "size_bytes: '5 apples' is not a size;"),
        ("time_s = '5 apples'", "time_s: '5 apples' is not a duration;"),
        ("time_s = inf", "time_s: inf is not a finite number"),
        ("time_s = 'off'", "time_s: 'off' is not a duration;"),
        (
            "limit_s = 'never'",
            'limit_s: \'never\' is not a duration; write seconds or e.g. "90s", "12h", or "off"',
        ),
        ("ratio = '1s'", "ratio: expected a number, got the text '1s'"),
        ("file = 1", "file: expected a file name, got the number 1"),
    ],
)
def test_wrong_settings_are_named_by_path_with_a_remedy(toml: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Outer, tomllib.loads(toml))

    assert str(caught.value).startswith(complaint)


def test_off_lifts_an_optional_limit() -> None:
    assert build(Outer, {"limit_s": "off"}).limit_s is None


def test_shown_settings_are_read_back_as_they_were() -> None:
    config = Outer(
        limit_s=2.25,
        words=('a "quoted"\n\t\x00é',),
        offers={"a b": ("c",)},
        inner=Inner(Path("/p")),
    )

    assert build(Outer, tomllib.loads(to_toml(plain(config, redact=False)))) == config


@given(st.text())
def test_any_text_is_written_as_toml(text: str) -> None:
    assert tomllib.loads(f"k = {toml_value(text)}") == {"k": text}


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.booleans())
def test_any_number_is_written_as_toml(value: float) -> None:
    assert tomllib.loads(f"k = {toml_value(value)}") == {"k": value}


def test_secrets_are_not_shown() -> None:
    shown = plain(Outer(api_token="hunter2", word="http://me:hunter2@host/path"))

    assert shown["api_token"] == REDACTED
    assert shown["word"] == f"http://{REDACTED}@host/path"


def test_every_leaf_is_listed_with_its_default() -> None:
    found = {setting.path: setting for setting in settings_of(Outer)}

    assert found["inner.path"] == Setting("inner.path", None, required=True)
    assert found["list[].name"] == Setting("list[].name", "a", required=False)
    assert found["limit_s"] == Setting("limit_s", "off", required=False)
    assert found["file"] == Setting("file", None, required=False)
    assert "hidden" not in found


def test_merging_goes_table_by_table_and_replaces_lists() -> None:
    below = {"a": {"x": 1, "y": [1, 2]}, "b": 1}
    above = {"a": {"y": [3]}, "b": {"z": 1}}

    assert merge(below, above) == {"a": {"x": 1, "y": [3]}, "b": {"z": 1}}
