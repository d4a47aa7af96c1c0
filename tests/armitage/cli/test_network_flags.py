"""armitage.cli.network_flags: what a file and flags come to."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from support.attested import LOG

from armitage.cli.network_flags import (
    add_network_flags,
    declaration,
    granted_credentials,
    open_environment,
    revoked_logs,
    witness_options,
)
from armitage.client.errors import UsageError
from armitage.errors import ConfigError
from armitage.witness.policy import Grant

FILE = """
[witness]
offline = true
authorities = "/etc/ours.pem"

[[witness.rules]]
verdict = "deny"
name = "no forks"
paths = ["/forks"]

[witness.credentials.registry]
hosts = ["registry.example"]
environment = "REGISTRY_TOKEN"

[witness.credentials.other]
hosts = ["other.example"]
environment = "NOT_SET_ANYWHERE"
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "armitage.toml"
    path.write_text(FILE)
    return str(path)


def parsed(*flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_network_flags(parser)
    return parser.parse_args(flags)


def test_logs_that_the_file_revokes_give_nothing_here_either(tmp_path: Path) -> None:
    path = tmp_path / "armitage.toml"
    path.write_text(f'[trust]\nrevoked_logs = ["{LOG.public}"]\n')

    assert revoked_logs(parsed("--config", str(path))) == (str(LOG.public),)
    assert revoked_logs(parsed()) == ()


def test_rules_of_the_file_come_before_those_of_flags(file: str) -> None:
    told = witness_options(parsed("--config", file, "--allow-network", "10.0.0.0/8"))

    assert [rule.name for rule in told.rules][:2] == ["no forks", "allow-network"]
    assert (told.offline, told.authorities) == (True, Path("/etc/ours.pem"))


def test_flags_win_over_the_file(file: str) -> None:
    told = witness_options(parsed("--config", file, "--authorities", "/etc/mine.pem"))

    assert told.authorities == Path("/etc/mine.pem")


def test_without_a_file_there_are_only_flags() -> None:
    told = witness_options(parsed("--offline"))

    assert (told.offline, told.rules, dict(told.credentials)) == (True, (), {})


def test_only_credentials_that_are_granted_are_read(
    file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_TOKEN", "s3cr3t")
    args = parsed("--config", file, "--auth", "registry")
    told = witness_options(args)

    credentials = granted_credentials(args, told)

    assert "registry" in credentials
    assert "other" not in credentials
    assert "REGISTRY_TOKEN" not in open_environment(told)
    assert "PATH" in open_environment(told)
    assert (
        declaration([Grant("a.example", 443)], args.auth) == "network:a.example:443+auth:registry"
    )


def test_a_credential_that_is_not_there_is_told(file: str) -> None:
    args = parsed("--config", file, "--auth", "nobody")
    with pytest.raises(UsageError, match=r"witness\.credentials\.nobody"):
        granted_credentials(args, witness_options(args))

    args = parsed("--config", file, "--auth", "other")
    with pytest.raises(ConfigError, match="NOT_SET_ANYWHERE is not set"):
        granted_credentials(args, witness_options(args))
