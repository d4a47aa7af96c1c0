"""Actions and Commands: reading and checking what is to be executed (REAPI `Action`, `Command`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.errors import InvalidRequest
from cas.digest import Digest, DigestFunction
from cas.errors import InvalidDigest
from executor.coeffects import PURE, Coeffects
from executor.coeffects_text import NAME as COEFFECTS
from executor.coeffects_text import parse_coeffects
from executor.errors import InvalidInput
from executor.paths import join
from executor.spec import OutputKind, OutputRequest

_MAX_PATH_BYTES = 4095
"""Linux's PATH_MAX without its NUL."""
_MAX_COEFFECTS_BYTES = 64 << 10
"""Far below what the checker takes, so that evidence fits beside it."""


@dataclass(frozen=True, slots=True)
class ActionLimits:
    """What an action may ask for."""

    max_timeout_s: float = 24 * 3600.0
    """A longer timeout is refused (REAPI `Action.timeout`: MUST)."""
    default_timeout_s: float = 3600.0
    """For an action that names none."""
    max_message_bytes: int = 16 * 2**20
    """For an Action or Command blob."""
    max_outputs: int = 100_000
    node_properties: frozenset[str] = field(default=frozenset(), metadata={"setting": False})
    """Names that `Command.output_node_properties` may hold: those that Capabilities advertises."""

    def __post_init__(self) -> None:
        if not 0 < self.default_timeout_s <= self.max_timeout_s:
            raise ValueError("default_timeout_s must be above 0 and at most max_timeout_s")


@dataclass(frozen=True, slots=True)
class ActionSpec:
    """An Action, checked as far as it goes without its Command."""

    command: Digest
    input_root: Digest
    timeout_s: float
    do_not_cache: bool
    platform: tuple[tuple[str, str], ...] | None
    """None where the Action has no platform, and the Command's counts."""


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """A Command, checked."""

    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    working_directory: str
    outputs: tuple[OutputRequest, ...]
    platform: tuple[tuple[str, str], ...]
    with_root_directories: bool
    """Whether `OutputDirectory.root_directory_digest` is asked for (`output_directory_format`)."""


def parse_action(data: bytes, function: DigestFunction, limits: ActionLimits) -> ActionSpec:
    """Reads an Action whose digests take the function. Raises InvalidRequest."""
    try:
        action = reapi.Action.FromString(data)
    except DecodeError as error:
        raise _invalid("action_digest", f"the blob is not an Action: {error}") from error
    return ActionSpec(
        command=_digest(function, action.command_digest, "action.command_digest"),
        input_root=_digest(function, action.input_root_digest, "action.input_root_digest"),
        timeout_s=_timeout(action.timeout, limits),
        do_not_cache=action.do_not_cache,
        platform=_platform(action.platform) if action.HasField("platform") else None,
    )


def parse_command(data: bytes, limits: ActionLimits) -> CommandSpec:
    """Reads a Command. Raises InvalidRequest."""
    try:
        command = reapi.Command.FromString(data)
    except DecodeError as error:
        raise _invalid("action.command_digest", f"the blob is not a Command: {error}") from error
    if not command.arguments:
        raise _invalid("command.arguments", "there are none; the first names the program")
    if not command.arguments[0]:
        raise _invalid("command.arguments", "the first, the program, is empty")
    _check_text("command.arguments", command.arguments)
    for name in command.output_node_properties:
        if name not in limits.node_properties:
            raise _invalid(
                "command.output_node_properties",
                f"property {name[:100]!r} is not supported here (see Capabilities)",
            )
    working_directory = command.working_directory
    _check_path("command.working_directory", "", working_directory)
    return CommandSpec(
        arguments=tuple(command.arguments),
        environment=_environment(command.environment_variables),
        working_directory=working_directory,
        outputs=_outputs(command, limits),
        platform=_platform(command.platform),
        with_root_directories=command.output_directory_format
        != reapi.Command.OutputDirectoryFormat.TREE_ONLY,
    )


def coeffects_text(platform: Iterable[tuple[str, str]]) -> str | None:
    """Answers the property `coeffects` as it was written; None where there is none. Raises
    InvalidRequest when it is there twice: neither reading of that would be safe.
    """
    texts = [value for name, value in platform if name == COEFFECTS]
    if len(texts) > 1:
        raise _invalid(f"platform.{COEFFECTS}", "it is there twice; join the terms by `+`")
    return texts[0] if texts else None


def coeffects_of(platform: Iterable[tuple[str, str]]) -> Coeffects:
    """Reads what an action declares; without the property it is pure. Raises InvalidRequest."""
    text = coeffects_text(platform)
    if text is None:
        return PURE
    field = f"platform.{COEFFECTS}"
    if len(text) > _MAX_COEFFECTS_BYTES:
        raise _invalid(field, f"{len(text)} characters are over {_MAX_COEFFECTS_BYTES}")
    try:
        return parse_coeffects(text)
    except InvalidInput as error:
        raise _invalid(field, str(error)) from error


def _invalid(field: str, description: str) -> InvalidRequest:
    return InvalidRequest(f"{field}: {description}", [(field, description)])


def _digest(function: DigestFunction, wire: reapi.Digest, field: str) -> Digest:
    try:
        return Digest(function, wire.hash, wire.size_bytes)
    except InvalidDigest as error:
        raise _invalid(field, str(error)) from error


def _timeout(timeout: Duration, limits: ActionLimits) -> float:
    seconds: float = timeout.seconds + timeout.nanos / 1e9
    if seconds < 0:
        raise _invalid("action.timeout", f"{seconds:g} s is negative")
    if seconds > limits.max_timeout_s:
        raise _invalid(
            "action.timeout",
            f"{seconds:g} s is over this server's maximum of {limits.max_timeout_s:g} s",
        )
    return seconds or min(limits.default_timeout_s, limits.max_timeout_s)


def _platform(platform: reapi.Platform) -> tuple[tuple[str, str], ...]:
    return tuple((entry.name, entry.value) for entry in platform.properties)


def _environment(
    variables: Iterable[reapi.Command.EnvironmentVariable],
) -> tuple[tuple[str, str], ...]:
    pairs = tuple((variable.name, variable.value) for variable in variables)
    field = "command.environment_variables"
    seen: set[str] = set()
    for name, value in pairs:
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise _invalid(field, f"{name[:100]!r} cannot be a variable (empty, '=' or NUL)")
        if name in seen:
            raise _invalid(field, f"{name[:100]!r} is there twice")
        seen.add(name)
    return pairs


def _outputs(command: reapi.Command, limits: ActionLimits) -> tuple[OutputRequest, ...]:
    """Reads the outputs: `output_paths` hides the two older lists (REAPI `Command`).

    A path in both older lists may turn out either way (Buck2's compatibility mode).
    """
    kinds: dict[str, OutputKind] = {}
    if command.output_paths:
        kinds = dict.fromkeys(command.output_paths, OutputKind.ANY)
        _check_outputs("command.output_paths", command, kinds)
    else:
        kinds = dict.fromkeys(command.output_files, OutputKind.FILE)
        _check_outputs("command.output_files", command, kinds)
        _check_outputs("command.output_directories", command, command.output_directories)
        for path in command.output_directories:
            kinds[path] = OutputKind.ANY if path in kinds else OutputKind.DIRECTORY
    if len(kinds) > limits.max_outputs:
        raise _invalid(
            "command.output_paths",
            f"{len(kinds)} paths are over this server's maximum of {limits.max_outputs}",
        )
    return tuple(OutputRequest(path, kind) for path, kind in kinds.items())


def _check_outputs(field: str, command: reapi.Command, paths: Iterable[str]) -> None:
    for path in paths:
        _check_path(field, command.working_directory, path)
        if path.endswith("/"):
            raise _invalid(field, f"path {path[:200]!r} ends in a slash")


def _check_path(field: str, working_directory: str, path: str) -> None:
    if len(path) > _MAX_PATH_BYTES or len(path.encode()) > _MAX_PATH_BYTES:
        raise _invalid(field, f"path {path[:40]!r}... is over {_MAX_PATH_BYTES} bytes")
    try:
        join(working_directory, path)
    except InvalidInput as error:
        raise _invalid(field, str(error)) from error


def _check_text(field: str, texts: Sequence[str]) -> None:
    for index, text in enumerate(texts):
        if "\0" in text:
            raise _invalid(field, f"number {index} holds a NUL character")
