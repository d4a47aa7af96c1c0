"""The suite catches a server that lies, weighs what it catches, and says it in words."""

import json
from typing import Any

import pytest
from support.daemon import running_daemon
from support.executing import sandbox_missing
from support.lying import honest_gate, lying_server

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.conformance import CASES, Level, Outcome, Result, report, run
from armitage.transport.port import Code, Status

MISSING_SANDBOX = sandbox_missing()
needs_sandbox = [
    pytest.mark.sandbox,
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING_SANDBOX), reason=MISSING_SANDBOX or "none"),
]


def offer_an_unknown_function(capabilities: Any) -> None:
    capabilities.cache_capabilities.digest_functions.append(0)


def hide_one_missing_blob(response: Any) -> None:
    del response.missing_blob_digests[:1]


def miss_nothing(response: Any) -> None:
    del response.missing_blob_digests[:]


def accept_every_blob(response: Any) -> None:
    for blob in response.responses:
        blob.status.code = Code.OK


def answer_twice(response: Any) -> None:
    response.responses.extend(list(response.responses))


def change_a_byte(response: Any) -> None:
    if response.data:
        response.data = bytes([response.data[0] ^ 1]) + response.data[1:]


def read_short(response: Any) -> None:
    response.data = response.data[:-1]


def commit_one_more(response: Any) -> None:
    response.committed_size += 1


def commit_nothing(response: Any) -> None:
    response.committed_size = 0


def complete_all(response: Any) -> None:
    response.complete = True


def leave_a_directory_out(response: Any) -> None:
    del response.directories[-1:]


def lose_the_worker(result: Any) -> None:
    del result.execution_metadata.auxiliary_metadata[:]


def rename_outputs(result: Any) -> None:
    for file in result.output_files:
        file.path += "x"


def in_response(change: Any) -> Any:
    def lie(operation: Any) -> None:
        response = reapi.ExecuteResponse()
        if operation.done and operation.response.Unpack(response):
            change(response)
            operation.response.Pack(response)

    return lie


def fail_the_operation(operation: Any) -> None:
    if operation.done:
        operation.error.code = Code.INTERNAL


def claim_a_cached_result(response: Any) -> None:
    response.cached_result = True


def deny_a_cached_result(response: Any) -> None:
    response.cached_result = False


def exit_well(response: Any) -> None:
    response.result.exit_code = 0


def swap_lists(response: Any) -> None:
    for link in response.result.output_symlinks:
        response.result.output_files.add(path=link.path, digest=reapi.Digest(hash="0" * 64))
    del response.result.output_symlinks[:]


def finish_late(response: Any) -> None:
    response.result.execution_metadata.queued_timestamp.seconds += 3600


def no_violations(response: Any) -> None:
    del response.status.details[:]


def fetch_nothing(response: Any) -> None:
    response.blob_digest.hash = "0" * 64


LIES = [
    (1, "GetCapabilities", offer_an_unknown_function, Level.MUST, "UNKNOWN"),
    (5, "FindMissingBlobs", hide_one_missing_blob, Level.MUST, "of 5"),
    (7, "FindMissingBlobs", miss_nothing, Level.MUST, "wrong size for present"),
    (11, "BatchUpdateBlobs", accept_every_blob, Level.MUST, "the bad blob: OK"),
    (17, "BatchReadBlobs", answer_twice, Level.MUST, "6 responses to 3"),
    (21, "Write", commit_one_more, Level.MUST, "1001"),
    (27, "Write", commit_nothing, Level.MUST, "committed_size is 0"),
    (26, "FindMissingBlobs", miss_nothing, Level.MUST, "there all the same"),
    (32, "QueryWriteStatus", complete_all, Level.MUST, "complete True"),
    (44, "Read", read_short, Level.MUST, "not the last"),
    (47, "Read", change_a_byte, Level.MUST, "written plain"),
    (51, "GetTree", leave_a_directory_out, Level.MUST, "of 5 directories"),
    (58, "GetActionResult", rename_outputs, Level.MUST, "output_files differ"),
    (58, "GetActionResult", lose_the_worker, Level.INTEROP, "unknown Any is lost"),
    (104, "FetchBlob", fetch_nothing, Level.MUST, "another digest"),
]
EXECUTION_LIES = [
    (67, fail_the_operation, Level.MUST, "Operation.error is set"),
    (67, in_response(claim_a_cached_result), Level.MUST, "cached_result is true"),
    (67, in_response(finish_late), Level.SHOULD, "not in order"),
    (68, in_response(deny_a_cached_result), Level.SHOULD, "cached_result is false"),
    (72, in_response(exit_well), Level.MUST, "exit code 0"),
    (75, in_response(no_violations), Level.SHOULD, "no MISSING"),
    (80, in_response(swap_lists), Level.MUST, "output_files are"),
]


def name(lie: Any) -> str | None:
    return getattr(lie, "__name__", None)


async def judge(number: int, lies: dict[str, Any], **options: Any) -> Result:
    async with (
        running_daemon() as daemon,
        lying_server(daemon.addresses.grpc[0], lies, options.pop("gate", None)) as target,
    ):
        (result,) = await run(target, only=[number], **options)
        return result


@pytest.mark.parametrize(("number", "method", "lie", "level", "seen"), LIES, ids=name)
async def test_a_lie_is_found_and_weighed(
    number: int, method: str, lie: Any, level: Level, seen: str
) -> None:
    result = await judge(number, {method: lie})

    assert (result.outcome, result.level) == (Outcome.FAIL, level), result.seen
    assert seen in result.seen


@pytest.mark.parametrize(
    ("number", "lie", "level", "seen"),
    [pytest.param(*lie, marks=needs_sandbox) for lie in EXECUTION_LIES],
    ids=name,
)
async def test_a_lie_about_execution_is_found_and_weighed(
    number: int, lie: Any, level: Level, seen: str
) -> None:
    result = await judge(number, {"Execute": lie})

    assert (result.outcome, result.level) == (Outcome.FAIL, level), result.seen
    assert seen in result.seen


@pytest.mark.parametrize("number", [26, 44, 48, 51, 58, 103])
async def test_the_wrong_code_is_found(number: int) -> None:
    def internal(error: BaseException) -> Status:
        status = honest_gate(error)
        return Status(Code.INTERNAL, status.message)

    result = await judge(number, {}, gate=internal)

    assert result.outcome == Outcome.FAIL
    assert "saw INTERNAL" in result.seen


async def test_an_honest_proxy_passes() -> None:
    result = await judge(5, {})

    assert (result.outcome, result.seen) == (Outcome.PASS, "")


async def test_level_leaves_out_what_weighs_less() -> None:
    lies = {"GetActionResult": lose_the_worker}

    result = await judge(58, lies, level=Level.SHOULD)

    assert result.outcome == Outcome.PASS


async def test_what_is_not_implemented_is_not_supported() -> None:
    def absent(error: BaseException) -> Status:
        return Status(Code.UNIMPLEMENTED, "not here")

    result = await judge(58, {}, gate=absent)

    assert result.outcome == Outcome.NOT_SUPPORTED
    assert "GetActionResult: UNIMPLEMENTED" in result.seen


async def test_what_needs_a_hand_inside_is_skipped_with_the_reason() -> None:
    result = await judge(49, {})

    assert result.outcome == Outcome.SKIPPED
    assert "ServerControl.corrupt" in result.seen


async def test_a_crash_of_the_suite_is_no_verdict_on_the_server() -> None:
    async with running_daemon() as daemon:
        (result,) = await run(daemon.addresses.grpc[0], only=[49], control=object())  # type: ignore[arg-type]

    assert result.outcome == Outcome.ERROR
    assert "AttributeError" in result.seen


async def test_an_unknown_number_is_named() -> None:
    with pytest.raises(LookupError, match="999"):
        await run("127.0.0.1:1", only=[5, 999])


def made(number: int, outcome: Outcome, level: Level | None = None, seen: str = "") -> Result:
    case = next(case for case in CASES if case.number == number)
    return Result(case, outcome, level, seen, 0.5)


def test_table_has_fixed_columns_and_counts() -> None:
    results = [
        made(5, Outcome.PASS),
        made(24, Outcome.FAIL, Level.MUST, "gap: saw OK"),
        made(54, Outcome.NOT_SUPPORTED, None, "split_blob_support is not set"),
    ]

    lines = report.table(results).splitlines()

    columns = [
        line.index(word) for line, word in zip(lines[1:4], ("Find", "A gap", "Split"), strict=True)
    ]
    assert len(set(columns)) == 1
    assert lines[-1] == "3 cases: 1 pass, 1 fail (1 must), 1 not supported"


def test_json_has_all_that_the_table_has() -> None:
    document = json.loads(report.as_json([made(24, Outcome.FAIL, Level.MUST, "gap: saw OK")]))

    (result,) = document["results"]
    assert result["number"] == 24
    assert (result["outcome"], result["failed_level"]) == ("fail", "must")
    assert result["seen"] == "gap: saw OK"
    assert document["counts"] == {"fail": 1}


def test_every_case_has_a_title_and_a_source() -> None:
    assert all(case.title and case.source for case in CASES)
    assert len({case.name for case in CASES}) == len(CASES)
