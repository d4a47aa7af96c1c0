import stat
import sys
from pathlib import Path

import pytest
from support.attested import SEED, SIGNER

from armitage.attest.errors import BadSignature
from armitage.attest.keys import AgentSigner, SeedSigner, parse_public_key, read_key, write_key
from armitage.errors import ConfigError

AGENT = """
import sys
from armitage.attest.keys import SeedSigner
sys.stdout.buffer.write(SeedSigner(bytes(range(32))).sign(sys.stdin.buffer.read()))
"""


def agent(code: str) -> AgentSigner:
    return AgentSigner([sys.executable, "-c", code], SIGNER.public)


def test_a_key_file_is_its_owners_alone_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "k"

    write_key(path, SEED)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_key(path).public == SIGNER.public


def test_a_key_file_is_never_written_over(tmp_path: Path) -> None:
    write_key(tmp_path / "k", SEED)

    with pytest.raises(FileExistsError):
        write_key(tmp_path / "k", bytes(32))


def test_a_key_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    write_key(tmp_path / "k", SEED)
    (tmp_path / "k").chmod(0o604)

    with pytest.raises(ConfigError, match="chmod 600"):
        read_key(tmp_path / "k")


@pytest.mark.parametrize("content", ["", "x", "-----BEGIN PRIVATE KEY-----", "a\nMC4C\nb"])
def test_what_holds_no_key_is_told_without_its_content(tmp_path: Path, content: str) -> None:
    path = tmp_path / "k"
    path.write_text(content)
    path.chmod(0o600)

    with pytest.raises(ConfigError, match=r"k: holds no private key for attestations; armitage"):
        read_key(path)


def test_a_key_shows_in_no_repr() -> None:
    assert SEED.hex() not in repr(SeedSigner(SEED)) + repr(vars(SeedSigner(SEED)))


@pytest.mark.parametrize("text", ["", "AAAA", "nonsense!", str(SIGNER.public)[:-4]])
def test_what_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no ed25519 public key"):
        parse_public_key(text)


@pytest.mark.slow
def test_a_command_may_hold_the_key() -> None:
    signed = agent(AGENT).sign(b"data")

    assert signed == SIGNER.sign(b"data")


def test_what_a_command_answers_is_verified() -> None:
    with pytest.raises(BadSignature):
        agent("print('x' * 63)").sign(b"data")


def test_a_command_that_fails_is_told_with_its_words() -> None:
    with pytest.raises(ConfigError, match=r"left with 1: no token"):
        agent("import sys; sys.exit('no token')").sign(b"data")


def test_a_command_that_is_not_there_is_told() -> None:
    with pytest.raises(ConfigError, match=r"attest\.agent: /nowhere"):
        AgentSigner(["/nowhere"], SIGNER.public).sign(b"data")
