import json
from pathlib import Path

import pytest
from support.command_line import Cli
from support.daemon import daemon_process

from armitage.cli.banner import banner
from armitage.compiled import Compiled

FACTS = {
    "version": "1.2",
    "pid": 5,
    "grpc": ["127.0.0.1:8980", "unix:/run/a"],
    "http": ["127.0.0.1:8982"],
    "tls": False,
    "http_tls": False,
    "instances": [""],
    "storage": "disk",
    "data_dir": "/data",
    "exec_enabled": True,
    "sandboxed": True,
    "execution": "in a sandbox",
}


def test_the_banner_has_the_lines_to_paste() -> None:
    assert banner(FACTS) == (
        "Armitage 1.2 serves (pid 5)\n"
        "\n"
        "  gRPC       127.0.0.1:8980, unix:/run/a\n"
        "  HTTP       http://127.0.0.1:8982\n"
        "  data       /data\n"
        "  execution  in a sandbox\n"
        "\n"
        "Buck2, in .buckconfig:\n"
        "\n"
        "  [buck2_re_client]\n"
        "  engine_address = grpc://127.0.0.1:8980\n"
        "  action_cache_address = grpc://127.0.0.1:8980\n"
        "  cas_address = grpc://127.0.0.1:8980\n"
        "  tls = false\n"
        "\n"
        "Bazel:\n"
        "\n"
        "  bazel build --remote_executor=grpc://127.0.0.1:8980 //...\n"
        "  bazel build --remote_cache=grpc://127.0.0.1:8980 //...    (cache only)\n"
        "\n"
        "Any command:\n"
        "\n"
        "  armitage run --server grpc://127.0.0.1:8980 --input . --output hello"
        " -- cc -o hello hello.c"
    )


def test_the_lines_to_paste_name_tls_and_the_instance() -> None:
    text = banner({**FACTS, "tls": True, "instances": ["team/a"], "http": []})

    assert "  HTTP       off\n" in text
    assert "  tls = true\n  instance_name = team/a\n" in text
    assert "--remote_executor=grpcs://127.0.0.1:8980 --remote_instance_name=team/a //..." in text
    assert "armitage run --server grpcs://127.0.0.1:8980 --instance team/a --input ." in text


def test_an_http_port_with_tls_is_named_as_one() -> None:
    text = banner({**FACTS, "http_tls": True})

    assert "  HTTP       https://127.0.0.1:8982\n" in text


def test_a_unix_socket_is_offered_only_to_clients_that_dial_one() -> None:
    text = banner({**FACTS, "grpc": ["unix:/run/a"]})

    assert "engine_address" not in text
    assert "Buck2 does not dial a unix socket" in text
    assert "--remote_executor=unix:/run/a //..." in text


def test_what_is_only_in_memory_is_said_to_go() -> None:
    text = banner({**FACTS, "storage": "memory", "data_dir": None})

    assert "  data       memory (gone when it stops)\n" in text


def test_without_execution_the_remedy_is_shown_and_no_line_to_execute() -> None:
    text = banner({**FACTS, "exec_enabled": False, "execution": "off: install bubblewrap"})

    assert "  execution  off: install bubblewrap\n" in text
    assert "--remote_executor" not in text
    assert "armitage run" not in text


@pytest.mark.slow
def test_json_announces_the_same_facts_as_the_ready_file(tmp_path: Path) -> None:
    with daemon_process(tmp_path, "--json", "--storage", "memory") as daemon:
        first = daemon.log.read_text().splitlines()

    announced = [json.loads(line) for line in first if '"data_dir"' in line]
    assert announced == [daemon.facts]
    assert daemon.facts["pid"] == daemon.process.pid


def test_the_daemon_does_not_start_on_stale_modules(
    armitage: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("armitage.compiled.inspect", lambda: Compiled((), ("armitage/hot.py",)))

    done = armitage("serve", "--listen", "127.0.0.1:0")

    assert done.code == 3
    assert "compiled of other sources: armitage/hot.py; " in done.err
