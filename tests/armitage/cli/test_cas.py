import hashlib
import json
import os
from pathlib import Path

import pytest
from support.command_line import Cli

HELLO = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03/6"
ABSENT = f"{hashlib.sha256(b'absent').hexdigest()}/6"


@pytest.fixture
def hello(tmp_path: Path) -> Path:
    path = tmp_path / "hello"
    path.write_text("hello\n")
    return path


def test_put_prints_digests_and_get_brings_the_bytes(online: Cli, hello: Path) -> None:
    put = online("cas", "put", "hello")
    got = online("cas", "get", HELLO)

    assert (put.code, put.out, put.err) == (0, f"{HELLO}  hello\n", "")
    assert (got.code, got.out, got.err) == (0, "hello\n", "")


def test_put_says_as_json_what_was_sent(online: Cli, tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(data := os.urandom(10))
    digest = f"{hashlib.sha256(data).hexdigest()}/10"

    first = json.loads(online("cas", "put", "--json", "new").out)
    again = json.loads(online("cas", "put", "--json", "new").out)

    blobs = [{"path": "new", "digest": digest}]
    assert first == {"blobs": blobs, "uploaded_blobs": 1, "uploaded_bytes": 10}
    assert again == {"blobs": blobs, "uploaded_blobs": 0, "uploaded_bytes": 0}


def test_get_writes_a_file_only_when_it_is_right(online: Cli, hello: Path, tmp_path: Path) -> None:
    online("cas", "put", "hello")

    got = online("cas", "get", HELLO, "--out", "copy")
    missed = online("cas", "get", ABSENT, "--out", "other")

    assert (got.code, got.out) == (0, "")
    assert (tmp_path / "copy").read_text() == "hello\n"
    assert (missed.code, missed.err) == (1, f"armitage: the server does not have blob {ABSENT}\n")
    assert sorted(os.listdir(tmp_path)) == ["copy", "hello"]


def test_stat_tells_which_blobs_are_there(online: Cli, hello: Path) -> None:
    online("cas", "put", "hello")

    both = online("cas", "stat", HELLO, ABSENT)
    one = online("cas", "stat", "--json", f"sha256:{HELLO}")

    assert both.code == 1
    there, absent = both.out.splitlines()
    assert there.startswith(f"present  {HELLO}  lease 12h ")
    assert absent == f"missing  {ABSENT}"
    assert one.code == 0
    [blob] = json.loads(one.out)["blobs"]
    assert (blob["digest"], blob["present"]) == (HELLO, True)


@pytest.mark.parametrize("text", ["abc", "abc/1", HELLO.partition("/")[0], f"md5:{HELLO}", "/6"])
def test_what_is_no_digest_is_refused(online: Cli, text: str) -> None:
    done = online("cas", "get", text)

    assert done.code == 2
    assert done.err == (
        f"armitage: {text!r} is not a digest; write HASH/SIZE or FUNCTION:HASH/SIZE\n"
    )


def test_a_tree_is_listed_and_brought_back(online: Cli, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "run").write_text("#!/bin/sh\n")
    (source / "sub" / "run").chmod(0o755)
    (source / "file").write_text("x" * 2000)
    (source / "link").symlink_to("file")
    root = online("cas", "put", "source").out.split()[0]

    listed = online("cas", "tree", root)
    brought = online("cas", "tree", root, "--out", "copy")

    assert listed.out == (
        "-    2.0 KiB  file\n"
        "l             link -> file\n"
        "d             sub/\n"
        "x       10 B  sub/run\n"
    )
    assert (brought.code, brought.out) == (0, "")
    assert online("cas", "put", "copy").out.split()[0] == root


def test_blake3_can_be_asked_for(online: Cli, hello: Path) -> None:
    put = online("cas", "put", "--digest-function", "blake3", "hello")
    digest = put.out.split()[0]

    assert digest != HELLO
    assert online("cas", "get", f"blake3:{digest}").out == "hello\n"
    assert online("cas", "get", "--digest-function", "blake3", digest).out == "hello\n"


def test_a_file_that_cannot_be_read_is_named(online: Cli) -> None:
    done = online("cas", "put", "nothing")

    assert (done.code, done.err) == (2, "armitage: nothing: No such file or directory\n")
