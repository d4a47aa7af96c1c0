import json
import tomllib
from pathlib import Path

import pytest
from support.command_line import Cli

from armitage import settings
from armitage.config import Config
from cas.pack_store import Durability


def test_a_good_file_is_fine(armitage: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('[disk]\nmax_bytes = "1GiB"\n')

    done = armitage("config", "check", "a.toml")

    assert (done.code, done.out, done.err) == (0, "a.toml: fine\n", "")


def test_a_wrong_file_is_one_line_and_exit_3(armitage: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[disk]\nmax_byts = 1\n")

    done = armitage("config", "check", "a.toml")
    as_json = armitage("config", "check", "--json", "a.toml")

    message = "disk.max_byts: unknown setting; did you mean max_bytes?"
    assert (done.code, done.out, done.err) == (3, "", f"armitage: {message}\n")
    assert (as_json.code, as_json.out) == (3, "")
    assert json.loads(as_json.err) == {"error": message, "exit_code": 3}


def test_what_is_shown_is_what_serve_would_use(armitage: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('[disk]\nmax_bytes = "1GiB"\ndurability = "none"\n')
    flags = ["--config", "a.toml", "--listen", "127.0.0.1:1", "--listen", "unix:/s"]
    flags += ["--http-listen", "127.0.0.1:2", "--instance", "x", "--accept-unsandboxed"]
    flags += ["--set", "disk.max_bytes=2GiB", "--set", "worker.slots=3", "--set", "log.level=debug"]

    shown = tomllib.loads(armitage("config", "show", *flags).out)

    config = settings.build(Config, shown)
    assert (
        json.loads(armitage("config", "show", "--json", *flags).out)["data_dir"] == "/xdg/armitage"
    )
    assert config.data_dir == Path("/xdg/armitage")
    assert config.disk.max_bytes == 2 << 30
    assert config.disk.durability is Durability.NONE
    assert config.grpc.addresses == ("127.0.0.1:1", "unix:/s")
    assert config.web.addresses == ("127.0.0.1:2",)
    assert [instance.name for instance in config.instances] == ["x"]
    assert config.worker.accept_unsandboxed is True
    assert config.worker.slots == 3
    assert config.log.level == "debug"


def test_memory_storage_needs_no_directory(armitage: Cli) -> None:
    shown = json.loads(armitage("config", "show", "--json", "--storage", "memory").out)

    assert (shown["storage"], shown["data_dir"]) == ("memory", None)


def test_a_data_directory_is_shown_whole(armitage: Cli, tmp_path: Path) -> None:
    shown = json.loads(armitage("config", "show", "--json", "--data-dir", "d").out)

    assert shown["data_dir"] == str(tmp_path / "d")


def test_tls_flags_open_the_network(armitage: Cli) -> None:
    beyond = ["config", "show", "--listen", "0.0.0.0:1"]

    refused = armitage(*beyond)
    mutual = armitage(
        *beyond, "--tls-cert", "/c", "--tls-key", "/k", "--tls-client-ca", "/a", "--json"
    )
    accepted = armitage(*beyond, "--accept-insecure-network", "--json")

    assert refused.code == 3
    assert refused.err.startswith("armitage: grpc.addresses: 0.0.0.0:1 reaches beyond this host ")
    assert json.loads(mutual.out)["grpc"]["tls"] == {
        "certificate": "/c",
        "key": "/k",
        "client_authority": "/a",
    }
    assert json.loads(accepted.out)["accept_insecure_network"] is True


@pytest.mark.parametrize(
    ("assignments", "code", "message"),
    [
        (["disk.max_byts=1"], 3, "armitage: disk.max_byts: unknown setting; did you mean max_byte"),
        (
            ["disk=5", "disk.threads=1"],
            3,
            "armitage: disk.threads: disk is set as a whole by ",
        ),
        (
            ["disk.threads"],
            2,
            "armitage config show: argument --set: 'disk.threads' is not KEY",
        ),
        (["log.level=1\nx=2"], 3, "armitage: log.level: '1\\nx=2' is not one of debug, info, "),
    ],
)
def test_a_wrong_assignment_is_explained(
    armitage: Cli, assignments: list[str], code: int, message: str
) -> None:
    flags = [word for assignment in assignments for word in ("--set", assignment)]

    done = armitage("config", "show", *flags)

    assert (done.code, done.out) == (code, "")
    assert done.err.startswith(message)
