import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from armitage import settings
from armitage.config import Config, StorageKind, check, kept_from_actions, load
from armitage.errors import ConfigError
from armitage.reapi.instances import Instance
from armitage.transport.tls import TlsFiles
from cas.pack_store import Durability

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLE = DOCS / "armitage.example.toml"
TLS = TlsFiles(Path("/c"), Path("/k"), Path("/ca"))


def leaves(table: dict[str, Any], known: set[str], path: str = "") -> list[str]:
    found = []
    for key, value in table.items():
        here = f"{path}.{key}" if path else key
        if here in known or here.startswith(("worker.properties.", "scheduler.client_weights.")):
            found.append(here)
        elif isinstance(value, dict):
            found += leaves(value, known, here)
        elif isinstance(value, list):
            found += [leaf for inner in value for leaf in leaves(inner, known, f"{here}[]")]
        else:
            found.append(here)
    return found


def test_the_example_file_has_the_true_defaults() -> None:
    assert settings.plain(load(EXAMPLE)) == settings.plain(Config())


def test_the_example_file_lists_exactly_all_settings() -> None:
    known = [setting.path for setting in settings.settings_of(Config)]
    uncommented = re.sub(r"(?m)^#(?=[\[a-z])", "", EXAMPLE.read_text())

    listed = leaves(tomllib.loads(uncommented), set(known))

    assert sorted(listed) == sorted(known)


def test_the_example_file_explains_each_setting_or_its_neighbour() -> None:
    lines = EXAMPLE.read_text().splitlines()
    sections = [index for index, line in enumerate(lines) if line.startswith("[")]

    for start in sections:
        end = next((i for i in range(start + 1, len(lines)) if not lines[i].strip()), len(lines))
        comments = [line for line in lines[max(0, start - 3) : end] if line.startswith("# ")]
        assert comments, lines[start]


@pytest.mark.parametrize("document", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_configuration_in_the_documents_is_valid(document: Path) -> None:
    for block in re.findall(r"(?ms)^```toml\n(.*?)^```", document.read_text()):
        check(settings.build(Config, tomllib.loads(block)))


def test_a_file_is_read_and_flags_lie_over_it(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('storage = "memory"\n[disk]\nmax_bytes = "1GiB"\ndurability = "none"\n')

    config = load(file, {"disk": {"max_bytes": 5}})

    assert config.storage is StorageKind.MEMORY
    assert config.disk.max_bytes == 5
    assert config.disk.durability is Durability.NONE


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"[grpc]\naddreses = []", "grpc.addreses: unknown setting; did you mean addresses?"),
        (b"[grpc\n", "{file}: is not TOML: "),
        (b"\xff", "{file}: is not UTF-8 text; save it as UTF-8"),
        (b"instances = []", "instances: none is left; "),
        (b"[[instances]]\n[[instances]]", "instances: '' is there twice; keep one"),
        (b'[[instances]]\nname = "a//b"', "instances[0]: instance name 'a//b' cannot be: "),
        (b'[witness.fetch]\ncredentials = ["x"]', "witness.fetch.credentials: 'x' is not under "),
        (b'[witness.fetch]\nhosts = ["a b"]', "witness.fetch: 'a b' is no host name; "),
        (b"[witness.credentials.a]\nhosts = []", "witness.credentials.a: hosts is empty; "),
        (b'[[witness.rules]]\nverdict = "maybe"', "witness.rules[0].verdict: 'maybe' is not one"),
        (b'[[witness.rules]]\nverdict = "deny"\nports = [0]', "witness.rules[0]: a port is a "),
        (b"[execute.actions]\nmax_timeout_s = 1", "execute.actions: default_timeout_s must be"),
        (b"[scheduler]\nmax_attempts = 0", "scheduler: max_queued, max_queued_per_client and "),
    ],
)
def test_a_wrong_file_is_explained_in_one_line(
    tmp_path: Path, content: bytes, complaint: str
) -> None:
    file = tmp_path / "a.toml"
    file.write_bytes(content)

    with pytest.raises(ConfigError) as caught:
        load(file)

    assert str(caught.value).startswith(complaint.format(file=file))
    assert "\n" not in str(caught.value)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.toml: cannot be read: No such file"):
        load(tmp_path / "nothing.toml")


@pytest.mark.parametrize("section", ["grpc", "web"])
@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:1", "10.1.2.3:1", "build.example:1"])
@pytest.mark.parametrize("tls", [None, replace(TLS, client_authority=None)])
def test_beyond_loopback_everybody_must_be_encrypted_and_known(
    section: str, address: str, tls: TlsFiles | None
) -> None:
    listener = replace(getattr(Config(), section), addresses=(address,), tls=tls)

    with pytest.raises(ConfigError, match=rf"^{section}\.addresses: .*accept_insecure_network"):
        check(replace(Config(), **{section: listener}))


@pytest.mark.parametrize("section", ["grpc", "web"])
def test_mutual_tls_or_the_accepted_risk_opens_the_network(section: str) -> None:
    listener = replace(getattr(Config(), section), addresses=("0.0.0.0:1",))

    check(replace(Config(), **{section: replace(listener, tls=TLS)}))
    check(replace(Config(), accept_insecure_network=True, **{section: listener}))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:1", "localhost:1", "unix:/s"])
def test_loopback_needs_no_tls(address: str) -> None:
    check(replace(Config(), grpc=replace(Config().grpc, addresses=(address,))))


def test_instances_need_different_names() -> None:
    check(replace(Config(), instances=(Instance("a"), Instance("b/c"))))
    with pytest.raises(ConfigError, match="'a' is there twice"):
        check(replace(Config(), instances=(Instance("a"), Instance("a"))))


def test_data_and_files_of_secrets_are_kept_from_actions(tmp_path: Path) -> None:
    file = tmp_path / "armitage.toml"
    file.write_text(
        'data_dir = "/data"\n'
        '[web.tls]\ncertificate = "/c"\nkey = "/web.key"\n'
        '[grpc.tls]\ncertificate = "/c"\nkey = "/grpc.key"\n'
        '[witness.credentials.token]\nhosts = ["h.example"]\nfile = "/token"\n'
    )

    kept = kept_from_actions(load(file))

    assert kept == (Path("/data"), Path("/grpc.key"), Path("/web.key"), Path("/token"))
