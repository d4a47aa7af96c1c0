"""What a guest is told: words survive its shell whatever they hold."""

from __future__ import annotations

import io
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from executor.microvm import cpio
from executor.microvm.job import GuestJob, pack_job
from executor.spec import PassedDevice

JOB = GuestJob(
    arguments=("tool", "a b", "$(reboot)", "'\"\n", "*", ""),
    environment=(("PATH", "/x:/bin"), ("ODD.NAME", "v'\n$x")),
    cwd="/build/it's here",
    token="unguessable",
    outputs=(("o ut",), ()),
    is_root=False,
    mounted_at="/build",
    uid=1000,
    gid=1000,
    hostname="armitage",
    etc=(("passwd", "root:x:0:0::/:/bin/sh\n"),),
    tmp_bytes=1 << 20,
    open_files=64,
)


def contents(job: GuestJob) -> dict[str, bytes]:
    reader = cpio.Reader(io.BytesIO(pack_job(job)))
    return {entry.name: b"".join(reader.data()) for entry in reader.entries()}


def run(job: GuestJob, directory: Path) -> subprocess.CompletedProcess[bytes]:
    """Runs a guest's script here, with a busybox that prints what it is given, NUL by NUL."""
    fake = directory / "fake"
    fake.write_text("#!/bin/sh\nprintf '%s\\0' \"$@\"\n")
    fake.chmod(0o755)
    script = contents(job)["job/run"].decode("utf-8", "surrogateescape")
    (directory / "run").write_text(
        script.replace("/dev/armitage/busybox", str(fake)), errors="surrogateescape"
    )
    return subprocess.run(["/bin/sh", str(directory / "run")], capture_output=True, check=False)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tool").touch(0o755)
    return tmp_path


def test_words_and_variables_arrive_as_they_are(place: Path) -> None:
    job = replace(JOB, cwd=str(place), environment=(("PATH", f"/x:{place}/bin"), ("A.B", "v'\n$x")))

    words = run(job, place).stdout.decode().split("\0")[:-1]

    assert words[:2] == ["setpriv", "--nnp"]
    assert "A.B=v'\n$x" in words
    assert words[-6:] == [f"{place}/bin/tool", "a b", "$(reboot)", "'\"\n", "*", ""]
    at = words.index("nsenter")
    assert words[at : at + 6] == ["nsenter", "-F", "-S", "1000", "-G", "1000"]


@pytest.mark.parametrize(
    ("program", "code"), [("nosuch", 127), ("./nosuch", 127), ("./plain", 126), ("./bin", 126)]
)
def test_what_cannot_be_run_ends_as_in_a_shell(place: Path, program: str, code: int) -> None:
    (place / "plain").touch(0o644)
    job = replace(JOB, arguments=(program,), cwd=str(place), environment=(("PATH", "/x"),))

    done = run(job, place)

    assert done.returncode == code
    assert done.stderr.decode().startswith(f"armitage: cannot run {program}: ")


def test_settings_are_words_of_a_shell() -> None:
    settings = contents(replace(JOB, hostname="it's"))["job/settings"].decode()

    out = subprocess.run(
        ["/bin/sh", "-c", f'{settings}\necho "$HOST_NAME $TMP_BYTES $IS_ROOT"'],
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert out == "it's 1048576 0\n"


def test_disks_without_names_are_told_by_their_order() -> None:
    settings = contents(replace(JOB, disks=("input", "toolchain")))["job/settings"].decode()

    assert "TOKEN=unguessable\n" in settings
    assert "DISKS='input=/dev/vda toolchain=/dev/vdb'\n" in settings
    assert "DISKS=''\n" in contents(JOB)["job/settings"].decode()


def test_outputs_end_with_nul_and_begin_with_a_dot() -> None:
    assert contents(JOB)["job/outputs"] == b"./o ut\0.\0"


@pytest.mark.skipif(not shutil.which("busybox"), reason="apt-get install busybox-static")
def test_guests_scripts_are_scripts_of_busybox() -> None:
    from importlib import resources

    init = resources.files("executor.microvm").joinpath("init.sh").read_bytes()

    for script in (init, contents(JOB)["job/run"]):
        subprocess.run(["busybox", "sh", "-n"], input=script, check=True)


def test_granted_files_lie_at_their_paths_and_ports_are_told() -> None:
    found = contents(replace(JOB, ports=(8981, 80), files=(("/run/w/ca.pem", b"authority"),)))

    assert found["job/files/run/w/ca.pem"] == b"authority"
    assert {"job/files/run", "job/files/run/w"} <= set(found)
    assert b"WITNESS_PORTS='8981 80'\n" in found["job/settings"]


def test_guest_is_told_what_its_lease_says_of_devices() -> None:
    device = PassedDevice(
        "0000:41:00.0", "10de:2330", "7", "sm_90", "nvidia", "580.1", ("nvidia*", "dri")
    )

    told = contents(replace(JOB, devices=(device, device)))

    assert told["job/devices"] == b"10de:2330 nvidia 580.1\n" * 2
    assert told["job/nodes"] == b"nvidia*\ndri\n"
    assert not {"job/devices", "job/nodes"} & contents(JOB).keys()
