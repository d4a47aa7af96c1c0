"""Reading Actions and Commands: whatever the bytes are, a spec or a refusal by name."""

from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.errors import InvalidRequest
from armitage.reapi.actions import ActionLimits, parse_action, parse_command
from armitage.reapi.digests import wire_digest
from cas.digest import DigestFunction
from executor.spec import OutputKind

SHA256 = DigestFunction.SHA256
LIMITS = ActionLimits()
EMPTY = wire_digest(SHA256.empty)
ACTION = reapi.Action(command_digest=EMPTY, input_root_digest=EMPTY).SerializeToString()
COMMAND = reapi.Command(
    arguments=["cc", "-o", "x"],
    environment_variables=[{"name": "A", "value": "1"}],
    output_files=["x"],
    platform={"properties": [{"name": "OSFamily", "value": "linux"}]},
    working_directory="w",
).SerializeToString()


def mutations_of(data: bytes) -> st.SearchStrategy[bytes]:
    """One byte changed, or the end cut off, or something appended."""
    changed = st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)).map(
        lambda at: data[: at[0]] + bytes([at[1]]) + data[at[0] + 1 :]
    )
    cut = st.integers(0, len(data)).map(lambda end: data[:end])
    return st.one_of(changed, cut, st.binary(max_size=40).map(lambda tail: data + tail))


@given(st.one_of(st.binary(max_size=200), mutations_of(ACTION)))
def test_any_bytes_are_an_action_or_refused(data: bytes) -> None:
    try:
        spec = parse_action(data, SHA256, LIMITS)
    except InvalidRequest:
        return
    assert 0 < spec.timeout_s <= LIMITS.max_timeout_s
    assert spec.command.function is SHA256


@given(st.one_of(st.binary(max_size=200), mutations_of(COMMAND)))
def test_any_bytes_are_a_command_or_refused(data: bytes) -> None:
    try:
        spec = parse_command(data, LIMITS)
    except InvalidRequest:
        return
    texts = [*spec.arguments, *(text for pair in spec.environment for text in pair)]
    texts += [spec.working_directory, *(output.path for output in spec.outputs)]
    assert spec.arguments[0]
    assert not any("\0" in text for text in texts)
    assert not any(output.path.startswith("/") for output in spec.outputs)


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [
        (Duration(seconds=2), 2.0),
        (Duration(nanos=1), 1e-9),
        (Duration(), LIMITS.default_timeout_s),
        (Duration(seconds=86_400), 86_400.0),
    ],
)
def test_timeout_is_taken_up_to_the_maximum(timeout: Duration, seconds: float) -> None:
    action = reapi.Action(command_digest=EMPTY, input_root_digest=EMPTY, timeout=timeout)

    assert parse_action(action.SerializeToString(), SHA256, LIMITS).timeout_s == seconds


@pytest.mark.parametrize("field", ["command_digest", "input_root_digest"])
def test_absent_digest_is_refused_by_its_name(field: str) -> None:
    action = reapi.Action(command_digest=EMPTY, input_root_digest=EMPTY)
    action.ClearField(field)

    with pytest.raises(InvalidRequest, match=field):
        parse_action(action.SerializeToString(), SHA256, LIMITS)


def test_digest_of_another_function_is_refused() -> None:
    other = wire_digest(DigestFunction.SHA512.empty)
    action = reapi.Action(command_digest=other, input_root_digest=EMPTY)

    with pytest.raises(InvalidRequest, match="command_digest"):
        parse_action(action.SerializeToString(), SHA256, LIMITS)


def test_absent_platform_is_told_from_an_empty_one() -> None:
    bare = reapi.Action(command_digest=EMPTY, input_root_digest=EMPTY)
    empty = reapi.Action(command_digest=EMPTY, input_root_digest=EMPTY, platform={})

    assert parse_action(bare.SerializeToString(), SHA256, LIMITS).platform is None
    assert parse_action(empty.SerializeToString(), SHA256, LIMITS).platform == ()


def test_output_lists_over_the_limit_are_refused() -> None:
    command = reapi.Command(arguments=["true"], output_paths=[str(i) for i in range(11)])

    with pytest.raises(InvalidRequest, match="maximum of 10"):
        parse_command(command.SerializeToString(), ActionLimits(max_outputs=10))


def test_property_that_is_supported_is_taken() -> None:
    command = reapi.Command(arguments=["true"], output_node_properties=["mtime"])

    parse_command(command.SerializeToString(), ActionLimits(node_properties=frozenset({"mtime"})))


def test_empty_output_path_is_the_working_directory() -> None:
    command = reapi.Command(arguments=["true"], output_directories=[""])

    (output,) = parse_command(command.SerializeToString(), LIMITS).outputs

    assert (output.path, output.kind) == ("", OutputKind.DIRECTORY)


@pytest.mark.parametrize(
    "options",
    [
        {"default_timeout_s": 0.0},
        {"default_timeout_s": 10.0, "max_timeout_s": 5.0},
    ],
)
def test_limits_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="default_timeout_s"):
        ActionLimits(**options)  # type: ignore[arg-type]
