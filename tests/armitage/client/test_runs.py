from pathlib import Path

import pytest

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.client.channel import Channel
from armitage.client.download import LinkToWrite
from armitage.client.errors import UntrustworthyAnswer, UsageError
from armitage.client.remote import Remote
from armitage.client.runs import Run, absent_outputs, check_output_path, pack, plan_outputs
from armitage.reapi.digests import wire_digest
from cas.digest import DigestFunction

SHA256 = DigestFunction.SHA256
FILE = wire_digest(SHA256.digest(b"x"))


def command_of(run: Run) -> tuple[reapi.Action, reapi.Command]:
    packed = pack(run, SHA256)
    encoded = packed.blobs[packed.action]
    assert isinstance(encoded, bytes)
    action = reapi.Action.FromString(encoded)
    named = {(digest.hash, digest.size_bytes): data for digest, data in packed.blobs.items()}
    command = named[action.command_digest.hash, action.command_digest.size_bytes]
    assert isinstance(command, bytes)
    return action, reapi.Command.FromString(command)


def test_an_action_says_all_that_was_asked_for_in_canonical_order(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    run = Run(
        arguments=["a", "b"],
        input=tmp_path,
        outputs=["z", "y", "z"],
        environment={"B": "2", "A": "1"},
        platform=[("k", "2"), ("k", "1")],
        working_directory="d",
        timeout_s=1.5,
        do_not_cache=True,
    )
    action, command = command_of(run)

    assert list(command.arguments) == ["a", "b"]
    assert list(command.output_paths) == ["y", "z"]
    assert [(v.name, v.value) for v in command.environment_variables] == [("A", "1"), ("B", "2")]
    assert command.working_directory == "d"
    assert [(p.name, p.value) for p in action.platform.properties] == [("k", "1"), ("k", "2")]
    assert action.platform == command.platform
    assert action.timeout.ToMilliseconds() == 1500
    assert action.do_not_cache


def test_equal_runs_are_equal_actions() -> None:
    one = pack(Run(["a"], environment={"A": "1", "B": "2"}), SHA256)
    other = pack(Run(["a"], environment={"B": "2", "A": "1"}), SHA256)

    assert one.action == other.action


def test_without_a_timeout_the_server_decides() -> None:
    action, _ = command_of(Run(["a"]))

    assert not action.HasField("timeout")
    assert action.input_root_digest == wire_digest(SHA256.empty)


@pytest.mark.parametrize(("path", "asked"), [("a", "a"), ("./a/b", "a/b"), ("a/", "a")])
def test_output_paths_are_trimmed(path: str, asked: str) -> None:
    assert check_output_path(path) == asked


@pytest.mark.parametrize("path", ["", ".", "/", "/a", "..", "a/../b", "a//b", "./"])
def test_output_paths_stay_below_the_working_directory(path: str) -> None:
    with pytest.raises(UsageError, match="write a path below the working directory"):
        check_output_path(path)


@pytest.mark.parametrize("path", ["other", "../a", "/etc/passwd", "a/b"])
@pytest.mark.parametrize("kind", ["output_files", "output_symlinks", "output_directories"])
async def test_outputs_that_nobody_asked_for_are_refused(path: str, kind: str) -> None:
    result = reapi.ActionResult()
    getattr(result, kind).add(path=path)
    async with Channel("unused:1") as channel:
        remote = Remote(channel, "", SHA256, 1000, exec_enabled=True)

        with pytest.raises(UntrustworthyAnswer, match="was not asked for"):
            await plan_outputs(remote, result, ["a"])


async def test_symlinks_count_once_whichever_field_they_come_in() -> None:
    result = reapi.ActionResult()
    result.output_symlinks.add(path="both", target="new")
    result.output_file_symlinks.add(path="both", target="new")
    result.output_file_symlinks.add(path="old", target="t")
    result.output_directory_symlinks.add(path="dir", target="u")
    async with Channel("unused:1") as channel:
        remote = Remote(channel, "", SHA256, 1000, exec_enabled=True)

        plan = await plan_outputs(remote, result, ["both", "old", "dir"])

    assert plan.links == (
        LinkToWrite(("both",), "new"),
        LinkToWrite(("old",), "t"),
        LinkToWrite(("dir",), "u"),
    )


def test_what_the_command_did_not_leave_is_told_in_order() -> None:
    result = reapi.ActionResult()
    result.output_files.add(path="b", digest=FILE)

    assert absent_outputs(result, ["c", "b", "a"]) == ["c", "a"]
