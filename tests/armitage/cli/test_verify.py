"""`armitage verify`, `trust`, `attest` and `key rotate`, without a daemon."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from support.attested import LOG, SIGNER, bundle, facts, named, receipt_of
from support.clock import FakeClock
from support.command_line import Cli

from armitage.attest.bundle import parse_bundle
from armitage.attest.facts import Outputs
from armitage.attest.keyring import AttestOptions, open_own
from armitage.attest.keys import SeedSigner
from armitage.attest.service import Attestations
from armitage.clock import SystemClock
from armitage.log.keys import read_key
from armitage.log.note import KeyType, Signer
from armitage.witness.archive import open_archive

OTHER = SeedSigner(bytes(32))
OTHER_LOG = Signer("log.example/other", KeyType.ED25519, bytes(32))
WHO = ("--key", SIGNER.public, "--log", LOG.public)
OTHERS = ("--key", OTHER.public, "--log", OTHER_LOG.public)


@pytest.fixture
def artefact(tmp_path: Path) -> Path:
    path = tmp_path / "a"
    path.write_text("a")
    path.with_name("a.intoto.jsonl").write_bytes(bundle().encode())
    return path


def test_every_step_from_the_artefact_to_the_policy_is_told(armitage: Cli, artefact: Path) -> None:
    done = armitage("verify", "a", *WHO)

    assert done.err == ""
    assert done.code == 0
    assert [line.split()[:2] for line in done.out.splitlines()] == [
        ["STEP", "FOUND"],
        *(
            [step, "ok"]
            for step in (
                *("form", "signature", "entry", "receipt", "documents", "checker", "outputs"),
                *("network", "artefact", "policy"),
            )
        ),
    ]


def test_what_others_wrote_steers_no_terminal(armitage: Cli, artefact: Path) -> None:
    data = bundle().encode().replace(SIGNER.public.key_id.encode(), b"\\u001b[2J")
    artefact.with_name("a.intoto.jsonl").write_bytes(data)

    done = armitage("verify", "a", *WHO)

    assert done.code == 1
    assert "[2J' is not known" in done.out
    assert "\x1b" not in done.out


def test_programs_get_json(armitage: Cli, artefact: Path) -> None:
    told = json.loads(armitage("verify", "--json", "a", *WHO).out)

    assert told["holds"] is True
    assert told["steps"][-1] == {
        "bundle": "",
        "step": "policy",
        "holds": True,
        "told": "`org:given` holds",
    }
    (attestation,) = told["attestations"]
    assert attestation["action"] == str(named("action"))
    assert attestation["key"] == SIGNER.public.key_id


def test_a_digest_may_stand_for_the_artefact(armitage: Cli, artefact: Path) -> None:
    for text in (named("a").hash, f"sha256:{named('a').hash}", named("action").hash):
        assert armitage("verify", text, "--bundle", "a.intoto.jsonl", *WHO).code == 0


def test_another_artefact_fails_at_its_step(armitage: Cli, artefact: Path) -> None:
    artefact.write_text("b")

    done = armitage("verify", "a", *WHO)

    assert done.code == 1
    assert "artefact   FAILS  a is not what it is about\n" in done.out
    assert "policy     FAILS" in done.out


def test_a_key_that_nobody_named_fails(armitage: Cli, artefact: Path) -> None:
    done = armitage("verify", "a", *OTHERS)

    assert done.code == 1
    assert f"signature  FAILS  its key '{SIGNER.public.key_id}' is not known" in done.out


def test_a_policy_may_demand_more(armitage: Cli, artefact: Path) -> None:
    policy = "threshold(2, key:1, key:2)"

    done = armitage("verify", "a", *WHO, *OTHERS, "--policy", policy)
    Path(artefact.with_name("two")).write_bytes(
        bundle(facts(invocation="2"), OTHER, OTHER_LOG).encode()
    )
    both = armitage(
        *("verify", "a", "--bundle", "a.intoto.jsonl", "--bundle", "two"),
        *(*WHO, *OTHERS, "--policy", policy),
    )

    assert done.code == 1
    assert "attested by 1 of 2 distinct keys of key:1, key:2 (1)" in done.out
    assert (both.code, both.err) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", "--key", SIGNER.public), "every --key needs the --log"),
        (("a", *WHO, "--policy", "nobody"), "policy 'nobody': 'nobody' is not known"),
        (("a", "--key", "x", "--log", LOG.public), "'x' is no ed25519 public key"),
        (("gone", *WHO), "gone: is no file here, and no digest"),
        (("sha1:" + "0" * 39, *WHO), "is no file here, and no digest"),
        (("0" * 64, "--offline", *WHO), "there is no attestation of it at hand"),
        (("a", *WHO, "--bundle", "none"), "none: No such file or directory"),
    ],
)
def test_what_cannot_be_asked_is_told(
    armitage: Cli, artefact: Path, arguments: tuple[object, ...], message: str
) -> None:
    done = armitage("verify", *arguments)

    assert done.code == 2
    assert message in done.err


def test_what_is_no_checker_is_told(armitage: Cli, artefact: Path) -> None:
    done = armitage("verify", "a", *WHO, "--module", "a")

    assert done.code == 3
    assert "a: is no checker's module" in done.err


def test_a_bundle_is_unpacked_for_other_tools(
    armitage: Cli, artefact: Path, tmp_path: Path
) -> None:
    done = armitage("attest", "unpack", "a.intoto.jsonl", "--to", "parts")

    assert done.code == 0
    assert sorted(done.out.split()) == sorted(
        str(path.relative_to(tmp_path)) for path in (tmp_path / "parts").iterdir()
    )
    checked = armitage("proofs", "check", "parts/declaration", "parts/evidence")
    assert (checked.code, checked.out) == (0, "approve\n")


def test_trust_check_asks_about_one_result(armitage: Cli, artefact: Path) -> None:
    other = facts(outputs=Outputs(1), subjects=())
    artefact.with_name("other").write_bytes(bundle(other, OTHER, OTHER_LOG).encode())
    policy = ("--policy", "reproduced(2)")

    done = armitage("trust", "check", "a.intoto.jsonl", "other", *WHO, *OTHERS, *policy)

    assert done.code == 1
    assert "reproduced by 1 of 2 independent executions (1)" in done.out
    assert "does not count: 2 attested other outputs" in done.out


def test_trust_explain_shows_rules_and_keys(armitage: Cli, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(
        f"""
        [trust]
        policy = "any"
        [[trust.rules]]
        policy = "org:acme and not key:old"
        platform = {{ pool = "prod" }}
        [trust.orgs]
        acme = ["new", "old"]
        [[trust.keys]]
        name = "new"
        public = "{SIGNER.public}"
        log = "{LOG.public}"
        [[trust.keys]]
        name = "old"
        public = "{OTHER.public}"
        log = "{OTHER_LOG.public}"
        not_after = "2020-01-01T00:00:00Z"
        """
    )

    done = armitage("trust", "explain", "--config", "c.toml", "--data-dir", "none")

    assert done.out.splitlines() == [
        "APPLIES TO  POLICY",
        "pool=prod   org:acme and not key:old",
        "others      any",
        "",
        "KEY  ID                COUNTS",
        "new  a050837d85070582  yes",
        f"old  {OTHER.public.key_id[:16]}  for what it signed until 2020-01-01T00:00:00.000Z",
    ]


async def attest(data_dir: Path) -> None:
    """What a daemon leaves in its record."""
    record = data_dir / "record"
    async with open_archive(record, "log.example/r", FakeClock()) as archive:
        own = open_own(record, AttestOptions(), SystemClock().wall)
        now_s = SystemClock().wall()
        service = Attestations(
            archive.store, archive.log.append_all, own.signer, ThreadPoolExecutor(1)
        )
        await service.attest(facts(started_s=now_s, finished_s=now_s))


@pytest.mark.slow
def test_a_record_is_carried_pushed_pulled_and_verified(armitage: Cli, tmp_path: Path) -> None:
    asyncio.run(attest(tmp_path / "data"))
    (tmp_path / "a").write_text("a")
    here = ("--data-dir", "data")

    assert armitage("attest", "commit", *here).out == "carried 1 attestations over\n"
    assert armitage("attest", "commit", *here).out == "carried 0 attestations over\n"
    assert armitage("verify", "a", *here).code == 0
    (name,) = armitage("attest", "bundle", "a", *here).out.splitlines()
    assert armitage("trust", "check", name, *here).code == 0
    key = armitage("key", "show", "data/record/attestation.key").out.strip()
    log = str(read_key(tmp_path / "data/record/log.key").public)
    armitage("attest", "push", "remote", *here)
    assert armitage("attest", "push", "remote", *here).code == 5  # There is no such repository.

    pulled = armitage(
        *("attest", "pull", "data/record/git", "--data-dir", "other", "--key", key, "--log", log)
    )
    assert (pulled.code, pulled.out) == (0, "1 new attestations hold, 0 do not\n")
    found = armitage("verify", "a", "--data-dir", "other", "--key", key, "--log", log)
    assert (found.code, found.err) == (0, "")
    strange = armitage("attest", "pull", "data/record/git", "--data-dir", "third", *WHO)
    assert strange.code == 1
    assert "FAILS" in strange.out


@pytest.mark.slow
def test_what_was_signed_before_a_rotation_goes_on_counting(armitage: Cli, tmp_path: Path) -> None:
    asyncio.run(attest(tmp_path / "data"))
    here = ("--data-dir", "data")
    armitage("attest", "commit", *here)
    before = armitage("key", "show", "data/record/attestation.key").out

    rotated = armitage("key", "rotate", *here, "--valid", "90d")

    assert (rotated.code, rotated.err) == (0, "")
    assert rotated.out == armitage("key", "show", "data/record/attestation.key").out != before
    assert armitage("verify", named("a").hash, *here).code == 0
    assert armitage("audit", "verify", "--data-dir", "data/record").code == 0


def test_what_stands_in_a_log_that_ended_goes_on_counting(armitage: Cli, tmp_path: Path) -> None:
    record, here = tmp_path / "data/record", ("--data-dir", "data")
    asyncio.run(attest(tmp_path / "data"))
    armitage("attest", "commit", *here)
    (name,) = armitage("attest", "bundle", named("a").hash, *here).out.splitlines()
    asyncio.run(attest(tmp_path / "data"))  # So the receipt is of an earlier tree than the last.
    first = read_key(record / "log.key")
    for origin in ("log.example/second", "log.example/third"):
        assert armitage("key", "rotate-log", origin, *here).code == 0

    done = armitage("trust", "check", name, "--json", *here)
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["attestations"][0]["log"] == str(first.public)
    assert armitage("verify", named("a").hash, "--bundle", name, *here).code == 0

    (tmp_path / "c.toml").write_text(
        f'[trust]\npolicy = "self"\nrevoked_logs = ["{first.public}"]\n'
    )
    revoked = armitage("trust", "check", name, "--config", "c.toml", *here)
    assert revoked.code == 1
    assert "the log that it stands in is revoked, log.example/r" in revoked.out

    stolen = parse_bundle((tmp_path / name).read_bytes())
    (tmp_path / "forged").write_bytes(
        replace(stolen, receipt=receipt_of(stolen.entry, first)).encode()
    )
    forged = armitage("trust", "check", "forged", *here)
    assert forged.code == 1
    failed = next(line for line in forged.out.splitlines() if "FAILS" in line)
    assert failed.startswith("receipt ")
    assert "does not begin with" in failed

    explained = armitage("trust", "explain", "--config", "c.toml", *here).out.splitlines()
    assert explained[-3:] == [
        "LOG THAT ENDED      COUNTS",
        "log.example/r       no: revoked",
        "log.example/second  up to its end",
    ]

    (record / "past/0002/log/checkpoint").unlink()
    broken = armitage("trust", "check", name, *here)
    assert broken.code == 1
    assert "of the logs that ended, none counts here" in broken.err


def test_where_no_daemon_keeps_a_record_nothing_is_begun(armitage: Cli, tmp_path: Path) -> None:
    for command in (("key", "rotate"), ("attest", "commit"), ("attest", "push", "x")):
        done = armitage(*command, "--data-dir", "none")

        assert done.code == 2
        assert "no daemon keeps a record there" in done.err
    assert not (tmp_path / "none").exists()
