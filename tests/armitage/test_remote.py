from dataclasses import replace
from pathlib import Path

import pytest

from armitage.config import Config, StorageKind, check, load
from armitage.errors import ConfigError
from armitage.remote import standard_credentials
from cas.errors import StoreDenied
from cas.s3 import S3Options


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))


def with_s3(**options: str) -> Config:
    config = Config(data_dir=Path("/nonexistent"))
    s3 = S3Options(bucket="builds", **options)  # type: ignore[arg-type]
    return replace(config, remote=replace(config.remote, s3=s3))


@pytest.mark.parametrize(
    "options",
    [
        {"endpoint": "https://account.r2.cloudflarestorage.com"},
        {"region": "eu-central-1"},
        {"endpoint": "http://127.0.0.1:9000"},
        {"endpoint": "http://localhost"},
        {"endpoint": "http://[::1]:9000"},
    ],
)
def test_sensible_buckets_are_accepted(options: dict[str, str]) -> None:
    check(with_s3(**options))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({}, "AWS needs region"),
        ({"endpoint": "account.r2.cloudflarestorage.com"}, "not an http"),
        ({"endpoint": "s3://bucket"}, "not an http"),
        ({"endpoint": "https://"}, "not an http"),
        ({"endpoint": "http://storage.example"}, "in the clear"),
        ({"endpoint": "http://10.0.0.1:9000"}, "in the clear"),
    ],
)
def test_strange_buckets_are_refused(options: dict[str, str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        check(with_s3(**options))


def test_plain_http_is_a_risk_that_can_be_accepted() -> None:
    check(replace(with_s3(endpoint="http://10.0.0.1:9000"), accept_insecure_network=True))


def test_pending_copies_are_not_kept_in_memory() -> None:
    config = replace(with_s3(region="eu-central-1"), storage=StorageKind.MEMORY)

    with pytest.raises(ConfigError, match="write-back"):
        check(config)


@pytest.mark.parametrize("name", ["access_key_id", "secret_access_key", "session_token", "token"])
def test_credentials_cannot_be_configured(tmp_path: Path, name: str) -> None:
    path = tmp_path / "armitage.toml"
    path.write_text(f'[remote.s3]\n{name} = "x"\n')

    with pytest.raises(ConfigError, match=name):
        load(path)


async def test_credentials_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")

    found = await standard_credentials("")()

    assert found[:3] == ("key", "secret", "token")
    assert found.lasts_s == 300


async def test_rotated_credentials_are_found(tmp_path: Path) -> None:
    source = standard_credentials("builds")
    for key in ("one", "two"):
        text = f"[builds]\naws_access_key_id = {key}\naws_secret_access_key = secret\n"
        (tmp_path / "credentials").write_text(text)
        assert (await source()).access_key == key


@pytest.mark.parametrize("profile", ["", "unknown"])
async def test_credentials_that_are_nowhere_are_denied(profile: str) -> None:
    with pytest.raises(StoreDenied, match="credentials"):
        await standard_credentials(profile)()
