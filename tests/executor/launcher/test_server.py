"""The launcher's process: started, asked wrongly, killed, replaced."""

import asyncio
import contextlib
import os
import resource
import select
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.executing import Bench, JsonCodec, Seen, bubblewrap_missing, launcher_missing

import executor.namespace
from armitage.clock import SystemClock
from cas.memory import MemoryStore
from executor.errors import SandboxUnavailable, WorkerFailure
from executor.launcher.binary import BINARY, find_launcher
from executor.launcher.document import Document, Op, u32
from executor.launcher.own import OwnLauncher, trial_job
from executor.launcher.plan import Plan
from executor.launcher.server import LauncherServer, receive
from executor.launching import Confinement
from executor.namespace import NamespaceExecutor
from executor.options import ExecutorOptions, LauncherKind
from executor.paths import BUILD_ROOT
from executor.toolchain import Toolchain, read_toolchain

MISSING = launcher_missing()
pytestmark = [pytest.mark.sandbox, pytest.mark.skipif(bool(MISSING), reason=MISSING)]
CONFINEMENT = Confinement({}, 1000, 1000)
SOURCES = sorted(BINARY.parent.glob("*.c"))


@pytest.fixture
def options(tmp_path: Path) -> ExecutorOptions:
    return ExecutorOptions(scratch=tmp_path / "scratch", launcher=LauncherKind.ARMITAGE)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def planned(place: Path) -> Plan:
    options = ExecutorOptions(scratch=place)
    return Plan(read_toolchain(options, place.resolve()), options)


@pytest.fixture(scope="module")
def server(planned: Plan) -> Iterator[LauncherServer]:
    server = LauncherServer(BINARY, planned.template())
    yield server
    server.close()


def ask(server: LauncherServer, document: bytes) -> list[bytes]:
    """What a launcher has to say to a document, to the end."""
    null = os.open("/dev/null", os.O_WRONLY)
    try:
        control = server.ask(document, (null, null), None)
    finally:
        os.close(null)
    said = []
    with control:
        control.settimeout(10)
        while message := control.recv(2048):
            said.append(message)
    return said


def test_a_sandbox_is_told_of_from_start_to_end(
    server: LauncherServer, planned: Plan, place: Path
) -> None:
    said = ask(server, planned.action(trial_job(str(place)), CONFINEMENT))

    assert sorted(message[:1] for message in said) == [b"P", b"R", b"X"]


def test_a_launcher_starts_also_when_many_files_are_open(planned: Plan) -> None:
    """select(2) takes no descriptor over 1023, and a launcher that died could not be replaced."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 1_200:
        pytest.skip("this host allows too few open files")
    with contextlib.ExitStack() as stack:
        for _ in range(1_030):
            stack.callback(os.close, os.dup(0))
        LauncherServer(BINARY, planned.template()).close()


def test_a_document_cut_anywhere_makes_no_sandbox_and_no_harm(
    server: LauncherServer, planned: Plan, place: Path
) -> None:
    document = planned.action(trial_job(str(place)), CONFINEMENT)

    for size in range(1, len(document), max(1, len(document) // 40)):
        kinds = {message[:1] for message in ask(server, document[:size])}
        assert b"E" in kinds or b"X" in kinds, size
        assert kinds <= {b"P", b"E", b"R", b"X", b"N"}
    assert b"X" in {message[:1] for message in ask(server, document)}


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"\0",
        b"\xff" * 64,
        Op.BIND.to_bytes(4, "little") + (1 << 31).to_bytes(4, "little"),
        Op.IDS.to_bytes(4, "little") + (3).to_bytes(4, "little") + b"abc",
        Op.ARGUMENT.to_bytes(4, "little") + (2).to_bytes(4, "little") + b"no",
    ],
    ids=["empty", "short", "noise", "size", "field", "unended"],
)
def test_a_malformed_document_is_named_as_that(server: LauncherServer, document: bytes) -> None:
    said = {message[:1]: message for message in ask(server, document)}

    assert set(said) <= {b"P", b"E"}  # In either order: two processes say them.
    assert b"document" in said[b"E"]


def test_mounts_are_never_made_through_a_link(server: LauncherServer, place: Path) -> None:
    root = place / "linked"
    root.mkdir()
    (root / "etc").symlink_to("/build")
    document = Document()
    document.add(Op.ROOT_BIND, str(root))
    document.add(Op.DIR, u32(0o755), "/etc/made")
    document.add(Op.IDS, u32(1000, 1000, 1000, 1000))
    document.add(Op.ARGUMENT, "/bin/true")

    [complaint] = [one for one in ask(server, document.encode()) if one[:1] == b"E"]

    assert b"/etc" in complaint
    assert not os.path.lexists("/build/made")


def test_a_sandbox_ends_when_its_control_socket_is_let_go_of(
    server: LauncherServer, planned: Plan, place: Path
) -> None:
    """Also when nobody kills it: what asked for it may have failed half way."""
    job = trial_job(str(place))
    work = replace(job.work, arguments=("/bin/sleep", "60"))
    null = os.open("/dev/null", os.O_WRONLY)
    try:
        document = planned.action(replace(job, work=work), CONFINEMENT)
        control = server.ask(document, (null, null), None)
    finally:
        os.close(null)
    with control:
        control.settimeout(10)
        told = dict(heard(control) for _ in range(2))
    first = told[b"P"]
    try:
        is_over, _, _ = select.select([first], [], [], 10)
    finally:
        os.close(first)

    assert is_over


def heard(control: socket.socket) -> tuple[bytes, int]:
    """The kind of a message, and the first descriptor that came with it, or -1."""
    message, fds = receive(control)
    return message[:1], [*fds, -1][0]


async def test_a_killed_launcher_fails_what_runs_and_is_replaced(options: ExecutorOptions) -> None:
    executor = NamespaceExecutor(MemoryStore(), JsonCodec(), options, SystemClock().wall)
    bench = Bench(executor, executor._store, options.scratch, BUILD_ROOT)
    launcher = executor._launcher
    assert isinstance(launcher, OwnLauncher)
    seen = Seen()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(failing(bench.sh("echo; sleep 60", progress=seen)))
        await seen.heard.wait()
        launcher._server.kill()
    told = task.result()
    after = await bench.says("echo fine")
    await executor.close()

    assert "killed from outside" in told
    assert after == "fine\n"


async def failing(action: object) -> str:
    with pytest.raises(WorkerFailure) as raised:
        await action  # type: ignore[misc]
    return str(raised.value)


def test_a_sandbox_is_made_in_its_version_2_group(
    server: LauncherServer, planned: Plan, place: Path
) -> None:
    group = version_2_group()
    document = Document()
    document.add(Op.HOLD)
    held = document.encode() + planned.action(trial_job(str(place)), CONFINEMENT)
    null, directory = os.open("/dev/null", os.O_WRONLY), os.open(group, os.O_PATH)
    try:
        with server.ask(held, (null, null), directory) as control:
            control.settimeout(10)
            told = {control.recv(2048)[:1], control.recv(2048)[:1]}
            members = (group / "cgroup.procs").read_text().split()
            control.send(b"G")
            while control.recv(2048):
                pass
    finally:
        os.close(null)
        os.close(directory)
        removed(group)

    assert told == {b"P", b"R"}
    assert len(members) == 1


def version_2_group() -> Path:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            group = Path(place) / f"armitage-test-{os.getpid()}"
            try:
                group.mkdir()
            except OSError as error:
                pytest.skip(f"no version 2 group can be made: {error}")
            return group
    pytest.skip("no version 2 control groups here")


def removed(group: Path) -> None:
    for _ in range(100):
        try:
            group.rmdir()
            return
        except OSError:
            time.sleep(0.01)  # Its last process is on its way out.


async def test_many_actions_leave_nothing_behind(options: ExecutorOptions) -> None:
    """benchmarks/sandbox.py --soak does this with thousands."""
    store = MemoryStore()
    executor = NamespaceExecutor(store, JsonCodec(), options, SystemClock().wall)
    bench = Bench(executor, store, options.scratch, BUILD_ROOT)
    await bench.run("true")
    before = traces(executor)

    for _ in range(3):
        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(bench.sh("sleep 9 & echo > f", outputs=["f"]))

    assert bench.leftovers() == []
    assert traces_at_last(executor, before) == before
    await executor.close()


def traces_at_last(executor: NamespaceExecutor, expected: tuple[str, int, int, int]) -> object:
    """The thread that starts rm has descriptors of its own meanwhile."""
    until = time.monotonic() + 5
    while traces(executor) != expected and time.monotonic() < until:
        time.sleep(0.002)
    return traces(executor)


def traces(executor: NamespaceExecutor) -> tuple[str, int, int, int]:
    parents = set(executor._cgroups._parents.values())
    return (
        Path("/proc/self/mounts").read_text(),
        len(os.listdir("/proc/self/fd")),
        sum(children_of(os.getpid())),
        sum(one.is_dir() for parent in parents for one in parent.iterdir()),
    )


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [1 for _ in text.split()]


class TestAbsence:
    def test_missing_program_is_told_with_the_remedy(self, tmp_path: Path) -> None:
        with pytest.raises(SandboxUnavailable, match=r"hatch_build\.py"):
            find_launcher(tmp_path / "none")

    def test_a_program_that_ends_at_once_is_not_taken_for_it(self) -> None:
        with pytest.raises(SandboxUnavailable, match=r"/bin/true"):
            LauncherServer(Path("/bin/true"), b"template")

    def test_one_of_another_version_is_refused(self, tmp_path: Path) -> None:
        program = tmp_path / "old"
        program.write_text("#!/bin/sh\nprintf 'K\\377\\0' >&0; exec sleep 9\n")
        program.chmod(0o755)

        with pytest.raises(SandboxUnavailable, match="another version"):
            LauncherServer(program, b"template")

    def test_template_that_cannot_be_made_says_why(self, place: Path) -> None:
        gone = Toolchain(shown=(f"{place}/gone",), links=(), files=())

        with pytest.raises(SandboxUnavailable, match="gone: No such file"):
            LauncherServer(BINARY, Plan(gone, ExecutorOptions()).template())

    async def test_bubblewrap_takes_its_place_and_that_is_told(
        self, options: ExecutorOptions, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if missing := bubblewrap_missing():
            pytest.skip(missing)
        monkeypatch.setattr(executor.namespace, "find_launcher", lost)
        chosen = replace(options, launcher=LauncherKind.AUTO)

        made = NamespaceExecutor(MemoryStore(), JsonCodec(), chosen, SystemClock().wall)
        await made.close()

        assert made.fallback == "it is lost"
        assert made.sandbox()["launcher"] == "bubblewrap"
        assert made.sandbox()["seccomp"] == "keyrings and io_uring"

    def test_nothing_takes_its_place_where_it_is_demanded(
        self, options: ExecutorOptions, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(executor.namespace, "find_launcher", lost)

        with pytest.raises(SandboxUnavailable, match="it is lost"):
            NamespaceExecutor(MemoryStore(), JsonCodec(), options, SystemClock().wall)


def lost() -> Path:
    raise SandboxUnavailable("it is lost")


class TestUnprivileged:
    @pytest.fixture
    def program(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        """The launcher, run by a user without privileges."""
        if os.geteuid() != 0 or shutil.which("setpriv") is None:
            pytest.skip("takes root and setpriv to become somebody else")
        with tempfile.TemporaryDirectory() as directory:
            os.chmod(directory, 0o755)
            shutil.copy(BINARY, f"{directory}/launcher")
            program = Path(directory) / "as-nobody"
            program.write_text(
                "#!/bin/sh\nexec setpriv --reuid 65534 --regid 65534 --clear-groups"
                f" --inh-caps=-all --bounding-set=-all {directory}/launcher\n"
            )
            program.chmod(0o755)
            monkeypatch.setattr(os, "geteuid", lambda: 65534)
            monkeypatch.setattr(os, "getegid", lambda: 65534)
            yield program

    def test_a_user_without_privileges_makes_the_same_sandbox(
        self, program: Path, server: LauncherServer
    ) -> None:
        root = program.parent / "root"
        root.mkdir()
        os.chown(root, 65534, 65534)
        options = ExecutorOptions(scratch=root)

        launcher = OwnLauncher(program, read_toolchain(options, root), options)
        try:
            for _ in range(2):  # In the same network namespace, where it is used again.
                launcher.try_out(trial_job(str(root)), CONFINEMENT)
        finally:
            launcher.close()

        assert launcher._server.reuses_networks is server.reuses_networks


def test_trial_that_fails_is_told_of_with_what_it_printed(tmp_path: Path) -> None:
    job = trial_job(str(tmp_path))
    work = replace(job.work, arguments=("/bin/sh", "-c", "echo no such luck >&2; exit 3"))
    options = ExecutorOptions(scratch=tmp_path)

    with (
        contextlib.closing(
            OwnLauncher(BINARY, read_toolchain(options, tmp_path), options)
        ) as launcher,
        pytest.raises(SandboxUnavailable, match="without success: no such luck"),
    ):
        launcher.try_out(replace(job, work=work), CONFINEMENT)


@pytest.mark.slow
def test_sources_compile_without_a_warning() -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (apt-get install gcc)")
    flags = ("-std=c11", "-O1", "-Wall", "-Wextra", "-Wshadow", "-Werror", "-fsyntax-only")

    done = subprocess.run([compiler, *flags, *SOURCES], capture_output=True, text=True, check=False)

    assert done.stderr == ""


def test_every_number_is_answered_as_the_list_says_after_a_few_comparisons(tmp_path: Path) -> None:
    """Each comparison is made for every number whenever a sandbox installs the filter."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (apt-get install gcc)")
    program = tmp_path / "walk"
    source = Path(__file__).with_name("filter_walk.c")
    command = [compiler, "-I", str(BINARY.parent), "-o", str(program), str(source)]
    subprocess.run(command, check=True)

    said = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout.split()

    assert said[:1] == ["longest"]
    assert int(said[1]) < 25
