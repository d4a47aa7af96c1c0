import itertools
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.faults import FaultProxy, fault_proxy
from support.s3 import OWNER, READER, REGION, Key, S3Server

from armitage.bucket import Finding, Wishes, look, set_up, try_out
from armitage.cli.entry import main
from armitage.clock import SystemClock
from armitage.remote import RemoteOptions, open_remote
from cas.retry import RetryOptions
from cas.s3 import MIB, S3Options
from cas.s3_store import S3StoreOptions

_numbers = itertools.count()

pytestmark = pytest.mark.slow


def set_key(monkeypatch: pytest.MonkeyPatch, key: Key) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key.access)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key.secret)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    set_key(monkeypatch, OWNER)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))


@pytest.fixture
def options(s3: S3Server) -> Iterator[RemoteOptions]:
    """A bucket that is not there yet, with parts as small as S3 takes them."""
    name = f"made-{next(_numbers)}"
    yield RemoteOptions(
        s3=S3Options(
            bucket=name,
            endpoint=s3.endpoint,
            region=REGION,
            part_bytes=5 * MIB,
            retry=RetryOptions(attempts=1),
        )
    )
    client = s3.client()
    if name in [bucket.get("Name") for bucket in client.list_buckets()["Buckets"]]:
        for one in client.list_objects_v2(Bucket=name).get("Contents", []):
            client.delete_object(Bucket=name, Key=one.get("Key", ""))
        client.delete_bucket(Bucket=name)


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_absent_bucket_is_said_to_be(options: RemoteOptions) -> None:
    [finding] = look(options)

    assert not finding.is_fine
    assert "armitage bucket init" in finding.text


def test_bucket_is_made_once(options: RemoteOptions) -> None:
    assert by_name(set_up(options, Wishes()))["bucket"].text == "made"
    assert by_name(set_up(options, Wishes()))["bucket"].text == "was there already"

    assert all(finding.is_fine for finding in look(options))


def test_rules_of_others_stay(options: RemoteOptions, s3: S3Server) -> None:
    set_up(options, Wishes())
    client, bucket = s3.client(), options.s3.bucket
    client.put_bucket_lifecycle_configuration(
        Bucket=bucket,
        LifecycleConfiguration={
            "Rules": [
                {
                    "ID": "theirs",
                    "Status": "Enabled",
                    "Filter": {"Prefix": "other/"},
                    "Expiration": {"Days": 3},
                }
            ]
        },
    )
    client.put_bucket_cors(
        Bucket=bucket,
        CORSConfiguration={
            "CORSRules": [
                {
                    "ID": "theirs",
                    "AllowedMethods": ["PUT"],
                    "AllowedOrigins": ["https://theirs.example"],
                }
            ]
        },
    )

    for _ in range(2):
        set_up(options, Wishes(cors_origins=("https://ours.example",)))

    rules = client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    assert sorted(rule.get("ID", "") for rule in rules) == ["armitage-unfinished-uploads", "theirs"]
    origins = [r["AllowedOrigins"] for r in client.get_bucket_cors(Bucket=bucket)["CORSRules"]]
    assert origins == [["https://theirs.example"], ["https://ours.example"]]


def test_expiry_needs_an_age_at_which_blobs_are_written_anew(options: RemoteOptions) -> None:
    unset = by_name(set_up(options, Wishes(expire_days=30)))["lifecycle"]
    assert not unset.is_fine
    assert 'remote.store.max_age_s to less, such as "29d"' in unset.text

    late = replace(options, store=S3StoreOptions(max_age_s=30 * 86400.0))
    assert not by_name(look(late))["lifecycle"].is_fine
    early = replace(options, store=S3StoreOptions(max_age_s=29 * 86400.0))
    assert by_name(look(early))["lifecycle"].is_fine

    set_up(options, Wishes())
    assert by_name(look(options))["lifecycle"].is_fine


def test_expiry_of_something_else_is_not_minded(options: RemoteOptions) -> None:
    set_up(replace(options, store=S3StoreOptions("theirs")), Wishes(expire_days=30))

    ours = replace(options, store=S3StoreOptions("ours"))
    assert by_name(look(ours))["lifecycle"].is_fine


def test_bucket_without_rules_lacks_one(options: RemoteOptions, s3: S3Server) -> None:
    s3.client().create_bucket(Bucket=options.s3.bucket)

    lifecycle = by_name(look(options))["lifecycle"]

    assert not lifecycle.is_fine
    assert "broken uploads" in lifecycle.text


@pytest.mark.parametrize("key", [Key("AKIANOBODY", "x"), Key(OWNER.access, "wrong")])
def test_refusal_is_a_finding(
    options: RemoteOptions, monkeypatch: pytest.MonkeyPatch, key: Key
) -> None:
    set_key(monkeypatch, key)

    for findings in (look(options), set_up(options, Wishes())):
        assert [finding.is_fine for finding in findings] == [False]
        assert "wrong" not in findings[0].text


async def tried(options: RemoteOptions, tmp_path: Path) -> dict[str, Finding]:
    remote = open_remote(options, SystemClock(), spool=tmp_path)
    return by_name(await try_out(remote.bucket, options))


async def test_all_that_the_daemon_does_is_tried_and_nothing_left(
    options: RemoteOptions, s3: S3Server, tmp_path: Path
) -> None:
    s3.client().create_bucket(Bucket=options.s3.bucket)

    findings = await tried(options, tmp_path)

    assert list(findings) == ["reading", "writing", "conditional writes", "multipart", "removing"]
    assert all(finding.is_fine for finding in findings.values()), findings
    assert s3.client().list_objects_v2(Bucket=options.s3.bucket).get("Contents", []) == []


@pytest.fixture
async def proxy(s3: S3Server) -> AsyncIterator[FaultProxy]:
    async with fault_proxy(s3.endpoint) as proxy:
        yield proxy


async def test_reader_may_only_read(
    options: RemoteOptions, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.client().create_bucket(Bucket=options.s3.bucket)
    set_key(monkeypatch, READER)

    findings = await tried(options, tmp_path)

    fine = [name for name, finding in findings.items() if finding.is_fine]
    assert fine == ["reading"]
    assert "AccessDenied" in findings["writing"].text


async def test_api_that_ignores_conditions_is_found_out(
    options: RemoteOptions, proxy: FaultProxy, s3: S3Server, tmp_path: Path
) -> None:
    s3.client().create_bucket(Bucket=options.s3.bucket)
    proxy.ignored_header = b"if-none-match"
    spied = replace(options, s3=replace(options.s3, endpoint=proxy.url))

    findings = await tried(spied, tmp_path)

    fine = [name for name, finding in findings.items() if not finding.is_fine]
    assert fine == ["conditional writes"]


def test_command_makes_and_checks(
    options: RemoteOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [
        "--storage=memory",
        "--set=remote.tiers.mode=write-through",
        f"--set=remote.s3.bucket={options.s3.bucket}",
        f"--set=remote.s3.endpoint={options.s3.endpoint}",
    ]

    assert main(["bucket", "check", *flags]) == 1
    assert "FAIL  bucket: there is none" in capsys.readouterr().out
    assert main(["bucket", "init", "--cors-origin", "https://a.example", *flags]) == 0
    assert main(["bucket", "check", "--json", *flags]) == 0

    printed = capsys.readouterr().out
    value = json.loads(printed[printed.index("{") :])
    assert value["ok"]
    assert len(value["findings"]) == 8
    assert OWNER.secret not in printed


def test_command_without_a_bucket_is_a_matter_of_configuration(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["bucket", "check", "--storage=memory"]) == 3
    assert "remote.s3.bucket" in capsys.readouterr().err


def test_expiry_shorter_than_a_lease_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bucket", "init", "--expire-days", "1"]) == 2
    assert "at least 2" in capsys.readouterr().err
