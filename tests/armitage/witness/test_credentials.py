"""armitage.witness.credentials."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

import pytest

from armitage.errors import ConfigError
from armitage.witness.credentials import CredentialForm, CredentialOptions, read_credentials
from armitage.witness.heads import Target

SECRET = "s3cr3t-value"
ENVIRONMENT = {"TOKEN": SECRET, "PATH": "/usr/bin:/bin"}
HOSTS = ("h.example", "*.cdn.example")


def target(host: str, scheme: str = "https") -> Target:
    return Target(scheme, host, 443, "/", "GET", "/")


def by_environment(**fields: object) -> CredentialOptions:
    return replace(CredentialOptions(HOSTS, environment="TOKEN"), **fields)  # type: ignore[arg-type]


def test_a_secret_goes_to_its_hosts_over_tls_alone_and_only_where_it_was_granted() -> None:
    known = read_credentials({"registry": by_environment()}, ENVIRONMENT)
    inject = known.inject(["registry"])

    assert inject(target("h.example")) == (
        [(b"authorization", f"Bearer {SECRET}".encode())],
        ["registry"],
    )
    assert inject(target("a.cdn.example"))[1] == ["registry"]
    for elsewhere in (target("other.example"), target("h.example", "http"), target("x.h.example")):
        assert inject(elsewhere) == ([], [])
    assert known.inject([])(target("h.example")) == ([], [])
    assert known.inject(["another"])(target("h.example")) == ([], [])


@pytest.mark.parametrize(
    ("options", "secret", "header"),
    [
        (
            by_environment(form=CredentialForm.BASIC),
            "user:pass",
            (b"authorization", b"Basic " + base64.b64encode(b"user:pass")),
        ),
        (
            by_environment(form=CredentialForm.HEADER, header="Private-Token"),
            SECRET,
            (b"private-token", SECRET.encode()),
        ),
    ],
)
def test_a_secret_takes_the_form_that_is_asked_for(
    options: CredentialOptions, secret: str, header: tuple[bytes, bytes]
) -> None:
    known = read_credentials({"a": options}, {"TOKEN": secret})

    assert known.inject(["a"])(target("h.example"))[0] == [header]
    assert secret in known.secrets
    assert header[1].decode().rpartition(" ")[2] in known.secrets


def test_a_secret_comes_from_a_file_or_a_command(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{SECRET}\n")
    file.chmod(0o600)
    options = {
        "file": CredentialOptions(HOSTS, file=file),
        "command": CredentialOptions(HOSTS, command=("cat", str(file))),
    }

    known = read_credentials(options, ENVIRONMENT)

    for name in options:
        headers, _ = known.inject([name])(target("h.example"))
        assert headers == [(b"authorization", f"Bearer {SECRET}".encode())]


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(SECRET)
    file.chmod(0o640)

    with pytest.raises(ConfigError, match=r"witness\.credentials\.a\.file: others can read") as it:
        read_credentials({"a": CredentialOptions(HOSTS, file=file)}, {})
    assert SECRET not in str(it.value)


@pytest.mark.parametrize(
    ("options", "environment", "complaint"),
    [
        (by_environment(), {}, "TOKEN is not set"),
        (by_environment(), {"TOKEN": " \n"}, "empty, or not one line"),
        (by_environment(), {"TOKEN": "a\r\nb: c"}, "empty, or not one line"),
        (by_environment(form=CredentialForm.BASIC), ENVIRONMENT, "USER:PASSWORD"),
        (CredentialOptions(HOSTS, command=("false",)), ENVIRONMENT, "false ended with 1"),
        (CredentialOptions(HOSTS, command=("nowhere",)), ENVIRONMENT, "nowhere: No such file"),
        (CredentialOptions(HOSTS, file=Path("/nowhere")), {}, "/nowhere cannot be read"),
    ],
)
def test_a_secret_that_is_not_there_is_explained(
    options: CredentialOptions, environment: dict[str, str], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        read_credentials({"a": options}, environment)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"hosts": ()}, "hosts is empty"),
        ({"hosts": ("a b",)}, "is no host name"),
        ({"environment": ""}, "exactly one of"),
        ({"command": ("a",)}, "exactly one of"),
        ({"header": "X-Token"}, "header goes with"),
        ({"form": CredentialForm.HEADER}, "header goes with"),
        ({"form": CredentialForm.HEADER, "header": "Host"}, "cannot hold a credential"),
        ({"form": CredentialForm.HEADER, "header": "a: b"}, "cannot hold a credential"),
    ],
)
def test_what_can_be_no_credential_is_refused(fields: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        by_environment(**fields)


def test_no_representation_shows_a_secret() -> None:
    known = read_credentials({"a": by_environment()}, ENVIRONMENT)

    assert SECRET not in repr(list(vars(known)["_known"].values()))
