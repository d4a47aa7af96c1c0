import pytest

from armitage.attest.canonical import canonical, list_at, number_at, parse_canonical, text_at
from armitage.attest.errors import MalformedAttestation


@pytest.mark.parametrize("data", [b"[]", b'{"a": 1}', b'{"a":1.0}', b'{"a":"\xff"}'])
def test_only_the_one_form_is_read(data: bytes) -> None:
    with pytest.raises(MalformedAttestation):
        parse_canonical(data)


def test_what_has_no_canonical_form_is_refused() -> None:
    with pytest.raises(MalformedAttestation):
        canonical({"a": "\ud800"})


def test_what_is_of_another_type_is_refused() -> None:
    found = parse_canonical(b'{"a":{"b":"c","d":[{}],"e":-1}}')

    assert (text_at(found, "a", "b"), list_at(found, "a", "d")) == ("c", [{}])
    for take, path in ((text_at, "d"), (number_at, "e"), (list_at, "b"), (text_at, "f")):
        with pytest.raises(MalformedAttestation):
            take(found, "a", path)
