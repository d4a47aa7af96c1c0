"""Setting a bucket up and finding out whether it will do: `armitage bucket`.

What concerns the bucket itself goes through boto3; what the daemon does with it is tried through
the daemon's own way (cas.s3), below `PREFIX/probe/`, and removed again. Only `set_up` changes
anything: it makes a bucket that is not there, and sets lifecycle and CORS rules whose ID begins
with `armitage-`, leaving all others as they are.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from armitage.remote import RemoteOptions
from cas.digest import Buffer
from cas.errors import CasError, StoreDenied
from cas.objects import Layout
from cas.s3 import MIB, S3Bucket

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

_OURS = "armitage-"
_UNFINISHED = f"{_OURS}unfinished-uploads"
_EXPIRY = f"{_OURS}expiry-"
_READ = f"{_OURS}read"
_UNFINISHED_DAYS = 2
_EXPIRING = ("cas", "ac")
"""What may be removed by age: it can be made again. All else in a bucket is a record."""
_TIMEOUT_S = 10
_DAY_S = 86400.0
_MADE_ALREADY = {"BucketAlreadyOwnedByYou"}


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a bucket is to be like, beside being there."""

    expire_days: int | None = None
    """Blobs and results are removed so many days after they were written; None: never."""
    cors_origins: tuple[str, ...] = ()
    """Web pages that may read from the bucket."""


class Finding(NamedTuple):
    """One thing that was looked at."""

    name: str
    is_fine: bool
    text: str


class Refused(Exception):
    """The service refuses something; the text says what and why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}" if code else message)
        self.code = code


class Administration:
    """A bucket as its owner sees it. Blocks."""

    def __init__(self, options: RemoteOptions) -> None:
        """Finds credentials in the standard chain. Raises Refused."""
        self._bucket = options.s3.bucket
        self._layout = Layout(options.store.prefix)
        self._region = options.s3.region
        self._client = _client(options)

    def exists(self) -> bool:
        """Whether the bucket is there. Raises Refused, also when it is somebody else's."""
        try:
            _call(self._client.head_bucket, Bucket=self._bucket)
        except Refused as refused:
            if refused.code in ("404", "NoSuchBucket"):
                return False
            raise
        return True

    def make(self) -> None:
        """Makes the bucket, private. Raises Refused."""
        where: dict[str, Any] = {}
        if self._region not in ("auto", "us-east-1"):  # AWS refuses to be told its default.
            where = {"CreateBucketConfiguration": {"LocationConstraint": self._region}}
        try:
            _call(self._client.create_bucket, Bucket=self._bucket, **where)
        except Refused as refused:
            if refused.code not in _MADE_ALREADY:
                raise

    def lifecycle(self) -> list[dict[str, Any]]:
        """Answers the bucket's lifecycle rules. Raises Refused."""
        get = self._client.get_bucket_lifecycle_configuration
        return self._rules(get, "NoSuchLifecycleConfiguration", "Rules")

    def set_lifecycle(self, wishes: Wishes) -> list[dict[str, Any]]:
        """Sets our rules beside others', and answers all. Raises Refused."""
        rules = [rule for rule in self.lifecycle() if not rule.get("ID", "").startswith(_OURS)]
        rules.append(
            {
                "ID": _UNFINISHED,
                "Status": "Enabled",
                "Filter": {"Prefix": self._layout.below("")},
                "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": _UNFINISHED_DAYS},
            }
        )
        if wishes.expire_days is not None:
            rules += [
                {
                    "ID": f"{_EXPIRY}{top}",
                    "Status": "Enabled",
                    "Filter": {"Prefix": self._layout.below(f"{top}/")},
                    "Expiration": {"Days": wishes.expire_days},
                }
                for top in _EXPIRING
            ]
        put = self._client.put_bucket_lifecycle_configuration
        _call(put, Bucket=self._bucket, LifecycleConfiguration={"Rules": rules})
        return rules

    def cors(self) -> list[dict[str, Any]]:
        """Answers the bucket's CORS rules. Raises Refused."""
        return self._rules(self._client.get_bucket_cors, "NoSuchCORSConfiguration", "CORSRules")

    def set_cors(self, wishes: Wishes) -> list[dict[str, Any]]:
        """Sets our rule beside others', and answers all. Raises Refused."""
        rules = [rule for rule in self.cors() if rule.get("ID") != _READ]
        rules.append(
            {
                "ID": _READ,
                "AllowedMethods": ["GET", "HEAD"],
                "AllowedOrigins": list(wishes.cors_origins),
                "AllowedHeaders": ["Range"],
                "ExposeHeaders": ["ETag", "Content-Range"],
                "MaxAgeSeconds": 3600,
            }
        )
        configuration = {"CORSRules": rules}
        _call(self._client.put_bucket_cors, Bucket=self._bucket, CORSConfiguration=configuration)
        return rules

    def _rules(self, get: Callable[..., Any], absent: str, field: str) -> list[dict[str, Any]]:
        try:
            return list(_call(get, Bucket=self._bucket)[field])
        except Refused as refused:
            if refused.code == absent:
                return []
            raise


def set_up(options: RemoteOptions, wishes: Wishes) -> list[Finding]:
    """Makes the bucket what is wished, where it is not yet, and says what came of it. Blocks."""
    findings: list[Finding] = []

    def bucket(owner: Administration) -> str:
        if owner.exists():
            return "was there already"
        owner.make()
        return "made"

    def lifecycle(owner: Administration) -> str:
        return _judged(owner.set_lifecycle(wishes), options)

    def cors(owner: Administration) -> str:
        return _cors_text(owner.set_cors(wishes) if wishes.cors_origins else owner.cors())

    _go_through(options, findings, bucket, lifecycle, cors)
    return findings


def look(options: RemoteOptions) -> list[Finding]:
    """Says what the bucket is like, changing nothing. Blocks."""
    findings: list[Finding] = []

    def bucket(owner: Administration) -> str:
        if not owner.exists():
            raise Refused("", "there is none; `armitage bucket init` makes it")
        return "is there"

    def lifecycle(owner: Administration) -> str:
        return _judged(owner.lifecycle(), options)

    _go_through(options, findings, bucket, lifecycle, lambda owner: _cors_text(owner.cors()))
    return findings


def _go_through(
    options: RemoteOptions,
    findings: list[Finding],
    bucket: Callable[[Administration], str],
    lifecycle: Callable[[Administration], str],
    cors: Callable[[Administration], str],
) -> None:
    """Goes on after a failure, except where nothing further can work."""
    try:
        owner = Administration(options)
        findings.append(Finding("bucket", True, bucket(owner)))
    except Refused as refused:
        findings.append(Finding("bucket", False, str(refused)))
        return
    for name, step in (("lifecycle", lifecycle), ("cors", cors)):
        try:
            findings.append(Finding(name, True, step(owner)))
        except Refused as refused:
            findings.append(Finding(name, False, str(refused)))


def _judged(rules: Sequence[dict[str, Any]], options: RemoteOptions) -> str:
    wrong = _shortcoming(rules, options)
    if wrong:
        raise Refused("", wrong)
    return _lifecycle_text(rules)


def _shortcoming(rules: Sequence[dict[str, Any]], options: RemoteOptions) -> str:
    """What is wrong with lifecycle rules, if anything."""
    layout = Layout(options.store.prefix)
    if not any("AbortIncompleteMultipartUpload" in rule for rule in _enabled(rules)):
        return "broken uploads are never removed; `armitage bucket init` adds a rule"
    blobs = layout.below("cas/")
    for rule in _enabled(rules):
        days, prefix = rule.get("Expiration", {}).get("Days"), _prefix(rule)
        if days is None or not (blobs.startswith(prefix) or prefix.startswith(blobs)):
            continue
        most = options.store.max_age_s
        if most is None or most >= days * _DAY_S:
            return (
                f"a rule removes blobs after {days} days; set remote.store.max_age_s to less, such"
                f' as "{max(1, days - 1)}d", so that they are written anew before'
            )
    return ""


def _enabled(rules: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [rule for rule in rules if rule.get("Status") == "Enabled"]


def _prefix(rule: dict[str, Any]) -> str:
    """A rule's prefix, in each of the forms that S3 has for it."""
    found = rule.get("Filter", {})
    prefix: str = found.get("Prefix", found.get("And", {}).get("Prefix", rule.get("Prefix", "")))
    return prefix


def _lifecycle_text(rules: Sequence[dict[str, Any]]) -> str:
    said = []
    for rule in _enabled(rules):
        below = _prefix(rule) or "everything"
        if "AbortIncompleteMultipartUpload" in rule:
            days = rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"]
            said.append(f"broken uploads of {below} go after {days} days")
        if "Days" in rule.get("Expiration", {}):
            said.append(f"{below} goes after {rule['Expiration']['Days']} days")
    return "; ".join(said) or "no rules"


def _cors_text(rules: Sequence[dict[str, Any]]) -> str:
    origins = [origin for rule in rules for origin in rule.get("AllowedOrigins", [])]
    return f"web pages of {', '.join(origins)} may read" if origins else "no web page may read"


async def try_out(bucket: S3Bucket, options: RemoteOptions) -> list[Finding]:
    """Does with a bucket what the daemon does, and says what works."""
    layout = Layout(options.store.prefix)
    probe = f"{layout.below('probe')}/{os.urandom(8).hex()}"
    small, large = os.urandom(100), os.urandom(options.s3.part_bytes + 1)

    async def reading() -> str:
        await bucket.check(f"{probe}-absent")
        return "what is absent is told from what may not be seen"

    async def writing() -> str:
        await bucket.put(probe, small)
        if await bucket.get(probe, len(small)) != small:
            raise StoreDenied("what was written is not what is read")
        return "objects are written and read back"

    async def conditions() -> str:
        other = f"{probe}-condition"
        try:
            if not await bucket.create(other, small) or await bucket.create(other, large[:10]):
                raise StoreDenied("If-None-Match does not keep an object from being overwritten")
        finally:
            await bucket.delete(other)
        return "conditional writes (If-None-Match) are obeyed"

    async def parts() -> str:
        async def pieces() -> AsyncIterator[Buffer]:
            for start in range(0, len(large), MIB):
                yield large[start : start + MIB]

        await bucket.put_large(probe, len(large), pieces)
        read = b"".join([bytes(piece) async for piece in bucket.stream(probe, len(large))])
        if read != large:
            raise StoreDenied("what was uploaded in parts is not what is read")
        return "multipart uploads"

    async def removing() -> str:
        await bucket.delete(probe)
        if await bucket.head(probe) is not None:
            raise StoreDenied("an object that was removed is still there")
        return "objects are removed"

    steps = {
        "reading": reading,
        "writing": writing,
        "conditional writes": conditions,
        "multipart": parts,
        "removing": removing,
    }
    return [await _tried(name, step) for name, step in steps.items()]


async def _tried(name: str, step: Callable[[], Awaitable[str]]) -> Finding:
    try:
        return Finding(name, is_fine=True, text=await step())
    except (CasError, FileNotFoundError) as error:
        return Finding(name, is_fine=False, text=str(error))


def _client(options: RemoteOptions) -> S3Client:
    import boto3  # Large, and only needed here.
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    config = Config(
        connect_timeout=_TIMEOUT_S,
        read_timeout=_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": 3},
        s3={"addressing_style": "path"},
        # Other checksums than those that S3 itself demands are not known everywhere.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        session = boto3.Session(profile_name=options.profile or None)
        return session.client(
            "s3",
            endpoint_url=options.s3.url,
            region_name=options.s3.region,
            verify=None if options.s3.ca_file is None else str(options.s3.ca_file),
            config=config,
        )
    except BotoCoreError as error:
        raise Refused("", str(error)) from None


def _call(method: Callable[..., Any], **arguments: object) -> Any:
    """Calls boto3 and turns what it raises into Refused."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return method(**arguments)
    except ClientError as error:
        said = error.response.get("Error", {})
        raise Refused(str(said.get("Code", "")), str(said.get("Message", error))) from None
    except BotoCoreError as error:
        raise Refused("", str(error)) from None
