from pathlib import Path

import pytest
from support.attested import NOW_S, SEED, SIGNER

from armitage import settings
from armitage.attest import keyring
from armitage.attest.keyring import AttestOptions, open_own, read_ring, rotate
from armitage.attest.keys import SeedSigner, read_key, write_key
from armitage.errors import ConfigError

OPTIONS = AttestOptions()


def now() -> float:
    return NOW_S


def test_a_key_is_made_where_there_is_none_and_stays(tmp_path: Path) -> None:
    made = open_own(tmp_path, OPTIONS, now)

    assert (tmp_path / "attestation.key").stat().st_mode & 0o777 == 0o600
    assert made.keys == (keyring.OwnKey(made.signer.public, NOW_S),)
    assert open_own(tmp_path, OPTIONS, lambda: NOW_S + 9).keys == made.keys


def test_a_rotation_ends_one_key_and_begins_another(tmp_path: Path) -> None:
    before = open_own(tmp_path, OPTIONS, now)

    ring = rotate(tmp_path, NOW_S + 10, 3600)

    first, second = ring
    assert (first.public, first.not_after_s) == (before.signer.public, NOW_S + 10)
    assert (second.not_before_s, second.not_after_s) == (NOW_S + 10, NOW_S + 3610)
    after = open_own(tmp_path, OPTIONS, now)
    assert (after.signer.public, after.keys) == (second.public, ring)
    assert sorted(path.name for path in tmp_path.iterdir()) == [keyring.KEY, keyring.RING]


def test_an_expired_key_signs_nothing(tmp_path: Path) -> None:
    at = [NOW_S]
    open_own(tmp_path, OPTIONS, now)
    rotate(tmp_path, NOW_S, 60)
    signer = open_own(tmp_path, OPTIONS, lambda: at[0]).signer

    signer.sign(b"data")
    at[0] += 60

    with pytest.raises(ConfigError, match=r"expired at .*`armitage key rotate`"):
        signer.sign(b"data")


def test_a_rotation_that_was_cut_off_before_the_list_never_happened(tmp_path: Path) -> None:
    made = open_own(tmp_path, OPTIONS, now)
    write_key(tmp_path / keyring.NEXT, SEED)

    assert open_own(tmp_path, OPTIONS, now).signer.public == made.signer.public
    assert rotate(tmp_path, NOW_S, None)[-1].public != SIGNER.public


@pytest.mark.parametrize("again", [True, False], ids=["by rotating again", "by opening"])
def test_a_rotation_that_was_cut_off_after_the_list_is_finished(
    tmp_path: Path, again: bool
) -> None:
    before = read_bytes_of_a_new(tmp_path)
    ring = rotate(tmp_path, NOW_S, None)
    (tmp_path / keyring.KEY).rename(tmp_path / keyring.NEXT)
    (tmp_path / keyring.KEY).write_bytes(before)
    (tmp_path / keyring.KEY).chmod(0o600)

    if again:
        assert rotate(tmp_path, NOW_S + 1, None)[:1] == ring[:1]
    else:
        assert open_own(tmp_path, OPTIONS, now).signer.public == ring[-1].public
        assert read_key(tmp_path / keyring.KEY).public == ring[-1].public


def read_bytes_of_a_new(directory: Path) -> bytes:
    open_own(directory, OPTIONS, now)
    return (directory / keyring.KEY).read_bytes()


def test_another_key_in_its_place_is_refused(tmp_path: Path) -> None:
    open_own(tmp_path, OPTIONS, now)
    (tmp_path / keyring.KEY).unlink()
    write_key(tmp_path / keyring.KEY, SEED)

    with pytest.raises(ConfigError, match="is not the key that"):
        open_own(tmp_path, OPTIONS, now)


def test_a_key_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    open_own(tmp_path, OPTIONS, now)
    (tmp_path / keyring.KEY).unlink()

    with pytest.raises(ConfigError, match="cannot be read"):
        open_own(tmp_path, OPTIONS, now)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"keys":[{}],"v":1}', b'{"keys": [], "v": 1}'])
def test_a_spoilt_list_is_told_and_not_begun_anew(tmp_path: Path, content: bytes) -> None:
    open_own(tmp_path, OPTIONS, now)
    (tmp_path / keyring.RING).write_bytes(content)

    with pytest.raises(ConfigError, match="is not a list of keys"):
        open_own(tmp_path, OPTIONS, now)


def test_a_command_with_another_key_takes_over(tmp_path: Path) -> None:
    first = open_own(tmp_path, OPTIONS, now)
    options = AttestOptions(agent=("sign",), agent_public=str(SIGNER.public))

    taken = open_own(tmp_path, options, lambda: NOW_S + 5)

    assert [key.public for key in taken.keys] == [first.signer.public, SIGNER.public]
    assert [key.not_after_s for key in read_ring(tmp_path)] == [NOW_S + 5, None]


def test_no_key_comes_back(tmp_path: Path) -> None:
    options = AttestOptions(agent=("sign",), agent_public=str(SIGNER.public))
    other = AttestOptions(agent=("sign",), agent_public=str(SeedSigner(bytes(32)).public))
    open_own(tmp_path, options, now)
    open_own(tmp_path, other, now)

    with pytest.raises(ConfigError, match="was used before"):
        open_own(tmp_path, options, now)


@pytest.mark.parametrize(
    "table", [{"agent": ["x"]}, {"agent_public": str(SIGNER.public)}, {"agent_public": "x"}]
)
def test_an_agent_and_its_key_go_together(table: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        settings.build(AttestOptions, table, "attest")
