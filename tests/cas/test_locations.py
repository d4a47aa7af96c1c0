"""Where blobs are: a multimap that knows keys by a few bits of their hash."""

import random
from collections import Counter

from cas.locations import LOCATION_BITS, Locations


def test_locations_come_and_go_like_those_of_a_plain_dict() -> None:
    chance = random.Random(1)
    keys = [b"%d" % number for number in range(30_000)]
    locations = Locations()
    expected: dict[bytes, int] = {}

    for _ in range(100_000):
        key = chance.choice(keys)
        where = chance.randrange(1, 1 << LOCATION_BITS)
        match chance.random() < 0.3, key in expected:
            case True, True:
                locations.remove(key, expected.pop(key))
            case False, True:
                locations.replace(key, expected[key], where)
                expected[key] = where
            case _:
                locations.add(key, where)
                expected[key] = where

    assert len(locations) == len(expected)
    for key, where in expected.items():
        assert where in locations.find(key)
    strangers = sum(len(locations.find(key)) - (key in expected) for key in keys)
    assert strangers < len(keys) // 100


def test_key_has_as_many_locations_as_it_was_given() -> None:
    locations = Locations()
    for where in (5, 7, 5):
        locations.add(b"key", where)

    assert Counter(locations.find(b"key")) == {5: 2, 7: 1}
    locations.remove(b"key", 5)
    assert Counter(locations.find(b"key")) == {5: 1, 7: 1}


def test_search_passes_where_another_key_was_removed() -> None:
    locations = Locations()
    keys = [b"%d" % number for number in range(100_000)]
    for where, key in enumerate(keys, start=1):
        locations.add(key, where)
    for where, key in enumerate(keys, start=1):
        if where % 3:
            locations.remove(key, where)

    for where, key in enumerate(keys, start=1):
        assert (where in locations.find(key)) == (where % 3 == 0)


def test_many_are_entered_as_one_by_one() -> None:
    keys = [b"%d" % number for number in range(20_000)]
    one, many = Locations(), Locations()
    for number, key in enumerate(keys, start=1):
        one.add(key, number)

    many.add_many(keys[:7], range(1, 8))
    many.add_many(keys[7:], range(8, len(keys) + 1))

    assert len(many) == len(one) == len(keys)
    assert all(sorted(many.find(key)) == sorted(one.find(key)) for key in keys)
