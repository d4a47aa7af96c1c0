"""Cases 80-94: what an action finds when it starts, and what is collected when it ends."""

from __future__ import annotations

import secrets

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage.conformance import actions, wire
from armitage.conformance.actions import File, Link, Verdict
from armitage.conformance.control import Variant
from armitage.conformance.model import Failed, Level, Need, NotSupported, Skipped, case
from armitage.conformance.session import Session
from armitage.transport.port import Code

_NEEDS = (Need.SHELL,)
_REFUSALS = frozenset({Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION})


def _check_refused(s: Session, verdict: Verdict, what: str, level: Level) -> None:
    s.check(verdict.code in _REFUSALS, f"{what}: {verdict.says()}", level)


@case(
    80,
    "output_paths of every kind come back in the right list, absent ones not at all",
    source="Command.output_paths; ActionResult.output_files, _directories, _symlinks",
    needs=_NEEDS,
)
async def outputs_are_sorted_by_kind(s: Session) -> None:
    script = """
        echo data > file; mkdir dir; echo inner > dir/inner
        ln -s file to-file; ln -s dir to-dir; ln -s nowhere dangling
    """
    asked = ["absent", "dangling", "dir", "file", "to-dir", "to-file"]
    result = (await actions.run_script(s, script, output_paths=asked)).expect_ok()
    files = {file.path: file for file in result.output_files}
    s.check(set(files) == {"file"}, f"output_files are {sorted(files)}")
    if "file" in files:
        s.check(await s.get(files["file"].digest) == b"data\n", "the file is other bytes")
    directories = {directory.path: directory for directory in result.output_directories}
    s.check(set(directories) == {"dir"}, f"output_directories are {sorted(directories)}")
    if "dir" in directories:
        names = sorted(await actions.tree_of(s, directories["dir"]))
        s.check(names == ["inner"], f"the directory holds {names}")
    links = {link.path: link.target for link in result.output_symlinks}
    wanted = {"dangling": "nowhere", "to-dir": "dir", "to-file": "file"}
    s.check(links == wanted, f"output_symlinks are {links}")


@case(
    81,
    "Legacy output fields: a wrong kind is FAILED_PRECONDITION; both lists take either",
    source="ActionResult.output_files, .output_directories; Buck2's compatibility mode",
    needs=_NEEDS,
)
async def legacy_outputs_are_checked(s: Session) -> None:
    result = (
        await actions.run_script(
            s,
            "echo x > f; mkdir d; ln -s f fl; ln -s d dl",
            output_files=["f", "fl"],
            output_directories=["d", "dl"],
        )
    ).expect_ok()
    files = [file.path for file in result.output_files]
    directories = [directory.path for directory in result.output_directories]
    s.check(files == ["f"], f"output_files are {files}")
    s.check(directories == ["d"], f"output_directories are {directories}")
    file_links = {*(x.path for x in result.output_file_symlinks)}
    directory_links = {*(x.path for x in result.output_directory_symlinks)}
    seen = f"output_file_symlinks are {sorted(file_links)}"
    s.check(file_links == {"fl"}, seen, Level.SHOULD)
    seen = f"output_directory_symlinks are {sorted(directory_links)}"
    s.check(directory_links == {"dl"}, seen, Level.SHOULD)
    verdict = await actions.run_script(s, "mkdir made", output_files=["made"])
    wrong = verdict.code == Code.FAILED_PRECONDITION
    s.check(wrong, f"a directory under output_files: {verdict.says()}")
    verdict = await actions.run_script(s, "echo x > made", output_directories=["made"])
    wrong = verdict.code == Code.FAILED_PRECONDITION
    s.check(wrong, f"a file under output_directories: {verdict.says()}")
    for script, kind in (("echo x > both", "file"), ("mkdir both", "directory")):
        verdict = await actions.run_script(
            s, script, output_files=["both"], output_directories=["both"]
        )
        found = verdict.result.output_files if kind == "file" else verdict.result.output_directories
        fine = verdict.code == Code.OK and [x.path for x in found] == ["both"]
        s.check(fine, f"a {kind} in both lists (Buck2): {verdict.says()}", Level.INTEROP)


@case(
    82,
    "An output of '' or of '../..' inside the root is the whole tree; escaping is refused",
    source="Command.output_directories: the empty string; BuildStream asks for ../..",
    needs=_NEEDS,
)
async def whole_tree_can_be_an_output(s: Session) -> None:
    tree = {"a": {"b": {"input": b"x"}}}
    script = "echo y > made"
    verdict = await actions.run_script(s, script, tree, output_directories=[""])
    await _check_whole(s, verdict, "", {"made", "a/", "a/b/", "a/b/input"}, Level.MUST)
    verdict = await actions.run_script(
        s, script, tree, working_directory="a/b", output_directories=["../.."]
    )
    wanted = {"a/", "a/b/", "a/b/input", "a/b/made"}
    await _check_whole(s, verdict, "../..", wanted, Level.INTEROP)
    verdict = await actions.run_script(
        s, script, tree, working_directory="a/b", output_directories=["../../.."]
    )
    _check_refused(s, verdict, "an output above the input root", Level.SHOULD)


async def _check_whole(
    s: Session, verdict: Verdict, path: str, wanted: set[str], level: Level
) -> None:
    what = f"output directory {path!r}"
    found = list(verdict.result.output_directories)
    fine = verdict.code == Code.OK and [directory.path for directory in found] == [path]
    if s.check(fine, f"{what}: {verdict.says()}, paths {[d.path for d in found]}", level):
        names = set(await actions.tree_of(s, found[0]))
        s.check(names == wanted, f"{what} holds {sorted(names)[:8]}", level)


@case(
    83,
    "Parents of outputs exist before the run, an output directory itself does not",
    source="Command.output_files, .output_directories, .output_paths: created by the worker",
    needs=_NEEDS,
)
async def output_parents_exist(s: Session) -> None:
    script = "echo x > deep/er/file && echo y > other/place/too"
    verdict = await actions.run_script(s, script, output_paths=["deep/er/file", "other/place/too"])
    files = sorted(file.path for file in verdict.expect_ok(None).output_files)
    s.check(files == ["deep/er/file", "other/place/too"], f"output_paths give {files}")
    verdict = await actions.run_script(s, "echo x > deep/er/file", output_files=["deep/er/file"])
    s.check(verdict.expect_ok(None).exit_code == 0, "output_files: the parent does not exist")
    verdict = await actions.run_script(
        s, "test -d up && ! test -e up/made", output_directories=["up/made"]
    )
    s.check(
        verdict.expect_ok(None).exit_code == 0,
        "output_directories: the parent is lacking, or the directory itself is there",
    )
    verdict = await actions.run_script(
        s, "test -f kept/old", {"kept": {"old": b"x"}}, output_directories=["kept"]
    )
    s.check(verdict.expect_ok(None).exit_code == 0, "an output directory in the inputs is lost")


_EQUAL = "mkdir -p out/b/c out/a; echo 1 > out/b/c/f; echo 2 > out/a/g; ln -s a out/l"


@case(
    84,
    "Equal output directories have equal Tree digests",
    source="Tree.children: servers SHOULD order them consistently",
    level=Level.SHOULD,
    needs=_NEEDS,
)
async def equal_trees_have_equal_digests(s: Session) -> None:
    other_way = "mkdir -p out/a out/b/c; ln -s a out/l; echo 2 > out/a/g; echo 1 > out/b/c/f"
    digests = []
    for script in (_EQUAL, other_way):
        result = (await actions.run_script(s, script, output_paths=["out"])).expect_ok()
        digests += [wire.key(directory.tree_digest) for directory in result.output_directories]
    same = len(digests) == 2 and digests[0] == digests[1]
    s.check(same, f"tree digests {digests}", Level.SHOULD)


@case(
    85,
    "A Tree that claims to be topologically sorted is",
    source="OutputDirectory.is_topologically_sorted",
    needs=_NEEDS,
)
async def sorted_claim_is_true(s: Session) -> None:
    script = "for d in a b c; do mkdir -p out/$d/same/deep; echo x > out/$d/same/deep/f; done"
    result = (await actions.run_script(s, script, output_paths=["out"])).expect_ok()
    (directory,) = result.output_directories
    if not directory.is_topologically_sorted:
        raise NotSupported("is_topologically_sorted is not claimed")
    records = _records(await s.get(directory.tree_digest))
    s.check(records[0][0] == 0x0A, "the first record is not the root")
    s.check(all(tag == 0x12 for tag, _ in records[1:]), "a later record is not a child")
    keys = [wire.key(s.digest(raw)) for _, raw in records]
    s.check(len(set(keys)) == len(keys), "a directory is stored twice")
    expected = {keys[0]}
    for key, (_, raw) in zip(keys, records, strict=True):
        s.check(key in expected, "a directory comes before its parents, or has none")
        nodes = reapi.Directory.FromString(raw).directories
        expected |= {wire.key(node.digest) for node in nodes}
    s.check(expected == set(keys), "a child directory is lacking")


def _records(raw: bytes) -> list[tuple[int, bytes]]:
    records = []
    at = 0
    while at < len(raw):
        tag, at = raw[at], at + 1
        size, shift = 0, 0
        while True:
            byte, at = raw[at], at + 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        records.append((tag, raw[at : at + size]))
        at += size
    if at != len(raw):
        raise Failed("the Tree is not a sequence of records")
    return records


@case(
    86,
    "DIRECTORY_ONLY gives a root_directory_digest that GetTree can read",
    source="Command.output_directory_format; OutputDirectory.root_directory_digest",
    needs=(Need.SHELL, Need.GET_TREE),
)
async def directory_format_is_readable(s: Session) -> None:
    only = reapi.Command.DIRECTORY_ONLY
    verdict = await actions.run_script(
        s, _EQUAL, output_paths=["out"], output_directory_format=only
    )
    (directory,) = verdict.expect_ok().output_directories
    if not directory.HasField("root_directory_digest"):
        s.check(directory.HasField("tree_digest"), "neither kind of digest is set")
        raise NotSupported("DIRECTORY_ONLY falls back to TREE_ONLY")
    responses = await s.get_tree(directory.root_directory_digest)
    count = sum(len(response.directories) for response in responses)
    s.check(count == 4, f"GetTree gives {count} directories, not 4")
    has_tree = directory.HasField("tree_digest")
    s.check(has_tree, "tree_digest is not set (Buck2 needs it)", Level.INTEROP)
    if has_tree:
        tree = reapi.Tree.FromString(await s.get(directory.tree_digest))
        same = wire.key(s.digest(tree.root)) == wire.key(directory.root_directory_digest)
        s.check(same, "root_directory_digest is not that of the Tree's root")


@case(
    87,
    "Commands are found by PATH, by a default PATH, and relative to the working directory",
    source="Command.arguments; Buck2 sets no PATH",
    needs=_NEEDS,
)
async def commands_are_found(s: Session) -> None:
    tool = File(b"#!/bin/sh\necho tool\n", executable=True)
    relative = actions.prepare(
        s, ["./tool"], {"sub": {"tool": tool}, "tool": b"no"}, working_directory="sub"
    )
    result = (await actions.run_prepared(s, relative)).expect_ok()
    s.check(await actions.stdout_of(s, result) == b"tool\n", "./tool is another one")
    by_path = actions.prepare(
        s, ["conformance-tool"], {"conformance-tool": tool}, environment={"PATH": "/usr/bin:/bin:."}
    )
    verdict = await actions.run_prepared(s, by_path)
    fine = verdict.code == Code.OK and verdict.result.exit_code == 0
    s.check(fine, f"found by the Command's PATH: {verdict.says()}", Level.SHOULD)
    bare = actions.prepare(s, ["sh", "-c", "exit 0"], environment={})
    verdict = await actions.run_prepared(s, bare)
    fine = verdict.code == Code.OK and verdict.result.exit_code == 0
    s.check(fine, f"sh without a PATH (Buck2): {verdict.says()}", Level.INTEROP)


@case(
    88,
    "A working directory that is not in the inputs is a clean error",
    source="Command.working_directory: must be a directory which exists in the input tree",
    level=Level.SHOULD,
    needs=(Need.EXECUTION,),
)
async def absent_working_directory_is_refused(s: Session) -> None:
    verdict = await actions.run_script(s, "true", working_directory="not/there")
    _check_refused(s, verdict, "an absent one", Level.SHOULD)
    verdict = await actions.run_script(s, "true", {"file": b"x"}, working_directory="file")
    _check_refused(s, verdict, "a file", Level.SHOULD)
    for path in ("../..", "/", "/tmp"):  # noqa: S108
        verdict = await actions.run_script(s, "true", working_directory=path)
        _check_refused(s, verdict, f"{path!r}", Level.SHOULD)


@case(
    89,
    "Executable bits are kept on inputs and reported on outputs",
    source="FileNode.is_executable, OutputFile.is_executable",
    needs=_NEEDS,
)
async def executable_bits_are_kept(s: Session) -> None:
    tree = {"plain": b"echo", "tool": File(b"#!/bin/sh\nexit 0\n", executable=True)}
    script = "test -x tool && ! test -x plain && ./tool && echo > out; echo > run; chmod +x run"
    result = (await actions.run_script(s, script, tree, output_paths=["out", "run"])).expect_ok()
    bits = {file.path: file.is_executable for file in result.output_files}
    s.check("out" in bits, "a plain input is executable, or an executable one is not")
    s.check(bits.get("run") is True, "an executable output is not reported as such")
    s.check(bits.get("out", False) is False, "a plain output is reported as executable")


@case(
    90,
    "A command that overwrites its inputs changes nobody else's",
    source="content is immutable; workers may hard-link from their store",
    needs=_NEEDS,
)
async def inputs_are_safe_from_commands(s: Session) -> None:
    data = secrets.token_bytes(20).hex().encode()
    tree = {"input": data, "sub": {"same": data}}
    script = (
        "chmod u+w input sub/same; echo evil > input; echo evil >> sub/same; chmod 777 input; :"
    )
    (await actions.run_script(s, script, tree)).expect_ok(None)
    (digest,) = [s.digest(data)]
    s.check(await s.read(digest) == data, "the CAS now serves other bytes")
    result = (await actions.run_script(s, "cat input sub/same", tree)).expect_ok()
    same = await actions.stdout_of(s, result) == data * 2
    s.check(same, "the next action sees what the first one wrote")
    verdict = await actions.run_script(s, "test -x input", tree)
    s.check(verdict.expect_ok(None).exit_code != 0, "the next action sees the changed mode")


@case(
    91,
    "Directories left read-only are collected and cleaned up",
    source="cleaning up must not depend on what a command left behind",
    level=Level.SHOULD,
    needs=_NEEDS,
)
async def read_only_leftovers_are_cleaned(s: Session) -> None:
    script = "mkdir -p out/in junk/in; echo x > out/in/f; echo y > junk/in/g; chmod -R a-w out junk"
    for _ in range(2):
        verdict = await actions.run_script(s, script, output_paths=["out"])
        if verdict.code != Code.OK:
            s.fail(verdict.says(), Level.SHOULD)
            return
        (directory,) = verdict.expect_ok().output_directories
        names = set(await actions.tree_of(s, directory))
        s.check(names == {"in/", "in/f"}, f"the output holds {sorted(names)}", Level.SHOULD)


@case(
    92,
    "A fifo or socket as an output does not hang; very many output files are collected",
    source="only files, directories and symlinks can be outputs",
    level=Level.INTEROP,
    needs=_NEEDS,
    time_limit_s=90,
)
async def special_and_many_outputs(s: Session) -> None:
    verdict = await actions.run_script(s, "mkfifo pipe; echo x > f", output_paths=["f", "pipe"])
    _check_special(s, verdict, "a fifo")
    script = "mkdir out; mkfifo out/pipe; echo x > out/f"
    verdict = await actions.run_script(s, script, output_paths=["out"])
    _check_special(s, verdict, "a fifo in a directory")
    count = 50_000 if s.options.full else 1_500
    script = f"mkdir out; i=0; while [ $i -lt {count} ]; do echo $i > out/$i; i=$((i+1)); done"
    verdict = await actions.run_script(s, script, output_paths=["out"])
    (directory,) = verdict.expect_ok().output_directories
    found = len(await actions.tree_of(s, directory))
    s.check(found == count, f"{found} of {count} files were collected", Level.MUST)


def _check_special(s: Session, verdict: Verdict, what: str) -> None:
    fine = verdict.code in {Code.OK, Code.FAILED_PRECONDITION, Code.INVALID_ARGUMENT}
    s.check(fine, f"{what}: {verdict.says()}", Level.INTEROP)
    paths = [file.path for file in verdict.result.output_files]
    s.check("pipe" not in paths, f"{what} came back as a file", Level.INTEROP)


@case(
    93,
    "Absolute symlinks among the inputs are made or refused, as advertised",
    source="SymlinkAbsolutePathStrategy",
    needs=_NEEDS,
)
async def absolute_symlinks_follow_the_strategy(s: Session) -> None:
    await _check_strategy(s)
    for variant in (Variant.SYMLINKS_ALLOWED, Variant.SYMLINKS_DISALLOWED):
        try:
            async with s.elsewhere(variant) as other:
                await _check_strategy(other)
        except Skipped:
            continue


async def _check_strategy(s: Session) -> None:
    strategy = s.cache.symlink_absolute_path_strategy
    tree = {"link": Link("/no/such/target")}
    verdict = await actions.run_script(s, "readlink link; ls -l link", tree)
    match strategy:
        case reapi.SymlinkAbsolutePathStrategy.ALLOWED:
            stdout = await actions.stdout_of(s, verdict.expect_ok(None))
            s.check(stdout.startswith(b"/no/such/target\n"), "ALLOWED, but the link is not made")
        case reapi.SymlinkAbsolutePathStrategy.DISALLOWED:
            refused = verdict.code == Code.INVALID_ARGUMENT
            s.check(refused, f"DISALLOWED, an input link: {verdict.says()}")
            verdict = await actions.run_script(s, "ln -s /tmp made", output_paths=["made"])
            refused = verdict.code == Code.FAILED_PRECONDITION
            s.check(refused, f"DISALLOWED, an output link: {verdict.says()}")
        case _:
            raise NotSupported("symlink_absolute_path_strategy is UNKNOWN")


@case(
    94,
    "An output name that is not UTF-8 is a clean error, not a crash",
    source="protobuf strings are UTF-8; a name that is not cannot be answered",
    level=Level.INTEROP,
    needs=_NEEDS,
)
async def strange_names_are_refused(s: Session) -> None:
    script = "mkdir out; echo x > \"$(printf 'out/\\377')\""
    verdict = await actions.run_script(s, script, output_paths=["out"])
    if verdict.code == Code.OK:
        for directory in verdict.result.output_directories:
            await actions.tree_of(s, directory)
        return
    _check_refused(s, verdict, "a name of byte 0xFF", Level.INTEROP)
    s.check(verdict.status.message, "the error has no message", Level.INTEROP)
