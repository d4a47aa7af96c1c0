"""armitage.log.note and .checkpoint, against C2SP's vectors and what others refuse."""

from __future__ import annotations

import pytest

from armitage.log.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint
from armitage.log.errors import InvalidSignature, MalformedNote
from armitage.log.note import (
    KeyType,
    Signer,
    parse_note,
    parse_public_key,
    parse_signatures,
    sign_note,
)

LOG = Signer("log.example/armitage", KeyType.ED25519, bytes(range(32)))
WITNESS = Signer("witness.example/w1", KeyType.COSIGNATURE, bytes(range(32, 64)))
TIME = 1_700_000_000
ROOT = bytes.fromhex("36642e73c2540ab121e3a6bf9545b0a24982cd830eb13d3cd19de3ce6c021ec1")
TEXT = Checkpoint("log.example/armitage", 3, ROOT).text()
SIGNED = """log.example/armitage
3
NmQuc8JUCrEh46a/lUWwokmCzYMOsT080Z3jzmwCHsE=

— log.example/armitage 7BsrZ8Dou7/3k04tO9sUd5YKQ8Ue0CES8IQjSP4/vhfT88HMKyv7b6goTGGbA1zp9UeZ3AxoaED1ONsYQ5VNhLfmZwY=
""".encode()  # noqa: E501
COSIGNATURE = """— witness.example/w1 IDJKvgAAAABlU/EA+Wx+b8ytKv2EktHAxPm41wbz4R90hzPcjAr+wG9m/280Sbnj9Jqh5+DpuKfPs3QKtZawhxTplwWHHVrzSYTHAQ==
""".encode()  # noqa: E501


def test_keys_have_the_published_form() -> None:
    assert str(LOG.public) == (
        "log.example/armitage+ec1b2b67+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"
    )
    assert str(WITNESS.public) == (
        "witness.example/w1+20324abe+BCmsuuFBvMrwsi4alNNNC8c2HlJtC/4SyJeUvJMilm3X"
    )
    for key in (LOG.public, WITNESS.public):
        assert parse_public_key(str(key)) == key


def test_a_checkpoint_is_signed_as_others_sign_it() -> None:
    assert sign_note(TEXT, [LOG.sign(TEXT)]).encode() == SIGNED


def test_a_cosignature_is_made_as_others_make_it() -> None:
    assert WITNESS.sign(TEXT, TIME).line().encode() == COSIGNATURE
    assert parse_signatures(COSIGNATURE) == (WITNESS.sign(TEXT, TIME),)


def test_a_note_of_the_standard_is_verified() -> None:
    key = parse_public_key("example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k")
    signature = (
        "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Z"
        "tg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM="
    )
    text = "This is an example message.\n"
    note = parse_note(f"{text}\n— example.com/foo {signature}\n".encode())

    assert note.verified([key]) == {key: None}


def test_the_text_goes_to_the_last_empty_line() -> None:
    text = "one\n\ntwo\n"
    note = parse_note(sign_note(text, [LOG.sign(text)]).encode())

    assert note.text == text
    assert note.verified([LOG.public]) == {LOG.public: None}


def test_signatures_of_others_are_kept_and_ignored() -> None:
    stranger = Signer("stranger.example", KeyType.ED25519, bytes(32))
    note = parse_note(sign_note(TEXT, [stranger.sign(TEXT), LOG.sign(TEXT)]).encode())

    assert note.verified([LOG.public]) == {LOG.public: None}
    assert len(note.signatures) == 2


@pytest.mark.parametrize("changed", [b"\n4\n", b"log.example/other\n3\n"])
def test_a_changed_text_is_noticed(changed: bytes) -> None:
    note = parse_note(SIGNED.replace(b"log.example/armitage\n3\n", changed, 1))

    with pytest.raises(InvalidSignature, match="does not fit"):
        note.verified([LOG.public])


def test_one_false_signature_of_a_known_key_spoils_the_note() -> None:
    note = sign_note(TEXT, [LOG.sign(TEXT), WITNESS.sign("another text\n", TIME)])

    with pytest.raises(InvalidSignature, match=r"witness\.example"):
        note.verified([LOG.public, WITNESS.public])


def test_a_note_that_nobody_known_signed_is_refused() -> None:
    with pytest.raises(InvalidSignature, match=r"known: witness\.example"):
        parse_note(SIGNED).verified([WITNESS.public])
    with pytest.raises(InvalidSignature, match="known: nobody"):
        parse_note(SIGNED).verified([])


def test_a_cosignature_cannot_be_taken_for_a_logs_signature() -> None:
    as_log = Signer(WITNESS.public.name, KeyType.ED25519, bytes(range(32, 64)))
    note = parse_note(sign_note(TEXT, [WITNESS.sign(TEXT, TIME)]).encode())

    with pytest.raises(InvalidSignature):
        note.verified([as_log.public])


def test_only_cosignatures_state_a_time() -> None:
    with pytest.raises(ValueError, match="states a time"):
        LOG.sign(TEXT, TIME)
    with pytest.raises(ValueError, match="states a time"):
        WITNESS.sign(TEXT)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "empty line"),
        (b"text\n", "empty line"),
        (b"text\n\n", "empty line"),
        (SIGNED[:-1], "empty line"),
        (b"text\n\nno dash\n", "no dash"),
        ("text\n\n— name AAAA\n".encode(), "signature line"),
        ("text\n\n— na+me AAAAAAA=\n".encode(), "signature line"),
        ("text\n\n— name  AAAAAAA=\n".encode(), "signature line"),
        ("text\n\n— name !!!!\n".encode(), "signature line"),
        (b"te\x00xt" + SIGNED, "control"),
        (b"te\txt" + SIGNED, "control"),
        (b"\xff" + SIGNED, "UTF-8"),
        (b"x" * 1_000_001, "at most 1000000 bytes"),
        (SIGNED + COSIGNATURE * 100, "at most 100 signatures"),
    ],
)
def test_what_is_no_note_is_refused(data: bytes, complaint: str) -> None:
    with pytest.raises(MalformedNote, match=complaint):
        parse_note(data)


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "name",
        "name+ec1b2b67",
        "name+ec1b2b67+!",
        "na me+ec1b2b67+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4",
        "log.example/other+ec1b2b67+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4",
        "log.example/armitage+ec1b2b67+CQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4",
        "log.example/armitage+ec1b2b67+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVQ==",
    ],
)
def test_what_is_no_key_is_refused(vkey: str) -> None:
    with pytest.raises(MalformedNote):
        parse_public_key(vkey)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\u00a0b"])
def test_a_key_has_a_name_that_a_note_can_hold(name: str) -> None:
    with pytest.raises(MalformedNote, match="no key name"):
        Signer(name, KeyType.ED25519, bytes(32))


def test_a_seed_is_not_shown() -> None:
    assert bytes(range(32)).hex()[:16] not in repr(vars(LOG))


@pytest.mark.parametrize("text", ["no newline", "control\x1b\n"])
def test_a_text_that_no_note_can_hold_is_not_signed(text: str) -> None:
    with pytest.raises(MalformedNote):
        sign_note(text, [])


def test_a_checkpoint_is_opened_with_its_cosignatures() -> None:
    opened = open_checkpoint(SIGNED + COSIGNATURE, LOG.public, (WITNESS.public,), quorum=1)

    assert opened.checkpoint == Checkpoint("log.example/armitage", 3, ROOT)
    assert opened.cosigned == {"witness.example/w1": TIME}


def test_too_few_cosignatures_are_refused() -> None:
    with pytest.raises(InvalidSignature, match="0 of the known witnesses cosigned"):
        open_checkpoint(SIGNED, LOG.public, (WITNESS.public,), quorum=1)


def test_a_checkpoint_without_its_logs_signature_is_refused() -> None:
    note = sign_note(TEXT, [WITNESS.sign(TEXT, TIME)])

    with pytest.raises(InvalidSignature, match=r"not signed by log\.example"):
        open_checkpoint(note.encode(), LOG.public, (WITNESS.public,))


def test_a_checkpoint_of_another_log_is_refused() -> None:
    text = Checkpoint("log.example/other", 3, ROOT).text()
    note = sign_note(text, [LOG.sign(text)])

    with pytest.raises(InvalidSignature, match=r"of log\.example/other, not of"):
        open_checkpoint(note.encode(), LOG.public)


def test_extension_lines_are_read() -> None:
    parsed = parse_checkpoint(TEXT + "more\n")

    assert parsed.extensions == ("more",)
    assert parsed.text() == TEXT + "more\n"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "o\n3\n",
        "o\n03\nNmQuc8JUCrEh46a/lUWwokmCzYMOsT080Z3jzmwCHsE=\n",
        "o\n-1\nNmQuc8JUCrEh46a/lUWwokmCzYMOsT080Z3jzmwCHsE=\n",
        "o\n3\nNmQ=\n",
        "o\n3\n!\n",
        "\n3\nNmQuc8JUCrEh46a/lUWwokmCzYMOsT080Z3jzmwCHsE=\n",
        TEXT + "\nx\n",
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(MalformedNote):
        parse_checkpoint(text)
