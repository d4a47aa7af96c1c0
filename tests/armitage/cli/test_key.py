import json
import stat
from pathlib import Path

import pytest
from support.command_line import Cli

from armitage.attest.keys import parse_public_key as parse_attestation_key
from armitage.attest.keys import read_key as read_attestation_key
from armitage.attest.sshsig import open_ssh_key
from armitage.log.keys import read_key
from armitage.log.note import KeyType, parse_public_key


def test_a_new_key_is_its_owners_alone_and_the_public_one_is_printed(
    armitage: Cli, tmp_path: Path
) -> None:
    made = armitage("key", "new", "log.example/builds", "log.key")

    path = tmp_path / "log.key"
    public = parse_public_key(made.out)
    assert (made.code, made.err) == (0, "")
    assert (public.name, public.type) == ("log.example/builds", KeyType.ED25519)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_key(path).public == public
    assert armitage("key", "show", "log.key").out == made.out


def test_two_keys_are_never_the_same(armitage: Cli) -> None:
    first, second = (armitage("key", "new", "n", file).out for file in ("a", "b"))

    assert first != second


def test_a_witness_gets_a_key_of_another_type(armitage: Cli) -> None:
    made = armitage("key", "new", "--json", "--witness", "w.example/w", "w.key")

    told = json.loads(made.out)
    assert parse_public_key(told["key"]).type is KeyType.COSIGNATURE
    assert (told["name"], told["type"], told["file"]) == ("w.example/w", "cosignature", "w.key")


def test_a_key_is_never_written_over(armitage: Cli, tmp_path: Path) -> None:
    armitage("key", "new", "n", "k")
    before = (tmp_path / "k").read_text()

    done = armitage("key", "new", "n", "k")

    assert (done.code, done.err) == (2, "armitage: k: exists; a key is never written over\n")
    assert (tmp_path / "k").read_text() == before


def test_a_name_that_no_key_can_have_is_refused(armitage: Cli, tmp_path: Path) -> None:
    done = armitage("key", "new", "a b", "k")

    assert done.code == 2
    assert "is no key name" in done.err
    assert not (tmp_path / "k").exists()


def test_a_key_that_others_can_read_is_not_used(armitage: Cli, tmp_path: Path) -> None:
    armitage("key", "new", "n", "k")
    (tmp_path / "k").chmod(0o640)

    done = armitage("key", "show", "k")

    assert done.code == 3
    assert done.err == (
        "armitage: k: others can read this private key (mode 0640); chmod 600 k, and make a new"
        " key if anybody may have read it\n"
    )


@pytest.mark.parametrize(
    "content",
    [
        "",
        "secret",
        "PRIVATE+KEY+n",
        "PRIVATE+KEY+n+00000000+AQ==",
        "PRIVATE+KEY+n+00000000+AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "PRIVATE+KEY+n+00000000+CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    ],
)
def test_what_holds_no_key_is_told_without_its_content(
    armitage: Cli, tmp_path: Path, content: str
) -> None:
    path = tmp_path / "k"
    path.write_text(content)
    path.chmod(0o600)

    done = armitage("key", "show", "k")

    assert (done.code, done.err) == (
        3,
        "armitage: k: holds no private key; armitage key new makes one\n",
    )


def test_a_missing_file_is_named(armitage: Cli) -> None:
    done = armitage("key", "show", "nowhere")

    assert done.err == "armitage: nowhere: cannot be read: No such file or directory\n"


def test_a_key_for_attestations_has_a_form_of_its_own(armitage: Cli, tmp_path: Path) -> None:
    made = armitage("key", "new", "--attestation", "n", "k")

    assert made.out == armitage("key", "show", "k").out
    assert parse_attestation_key(made.out) == read_attestation_key(tmp_path / "k").public
    assert armitage("key", "show", "--pem", "k").out == parse_attestation_key(made.out).pem()


def test_one_key_is_not_of_two_kinds(armitage: Cli) -> None:
    assert armitage("key", "new", "--attestation", "--witness", "n", "k").code == 2


def test_a_key_for_commits_is_shown_as_signers_are_listed(armitage: Cli, tmp_path: Path) -> None:
    public = open_ssh_key(tmp_path / "k").public

    assert armitage("key", "show", "k").out == f"{public}\n"
