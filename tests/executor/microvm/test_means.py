"""What guests take is found, or named with its remedy; what runs them is the one that is meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from executor.errors import SandboxUnavailable
from executor.microvm import means
from executor.microvm.firecracker import Firecracker
from executor.microvm.machine import Accel, MachineKind, MicrovmOptions
from executor.microvm.means import find_machine, find_means
from executor.microvm.qemu import Qemu


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host whose system programs are those that a test puts there."""
    monkeypatch.setattr(means, "SYSTEM_PATH", str(tmp_path))
    return tmp_path


def install(host: Path, *names: str) -> None:
    for name in names:
        (host / name).touch(0o755)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (MicrovmOptions(toolchain_image=Path("/nowhere")), "armitage microvm image makes one"),
        (MicrovmOptions(qemu="/nowhere/qemu"), "apt-get install qemu-system-x86"),
        (
            MicrovmOptions(machine=MachineKind.FIRECRACKER, firecracker="/nowhere/fc"),
            r"/nowhere/fc is not installed: .*microvm\.firecracker",
        ),
    ],
)
def test_what_is_missing_is_named_with_its_remedy(options: MicrovmOptions, words: str) -> None:
    with pytest.raises(SandboxUnavailable, match=words):
        find_means(options, None)


def test_qemu_goes_before_firecracker_where_both_are(host: Path) -> None:
    with pytest.raises(SandboxUnavailable, match="apt-get install qemu-system-x86"):
        find_machine(MicrovmOptions())
    install(host, "firecracker")
    assert find_machine(MicrovmOptions()) == Firecracker(f"{host}/firecracker")
    install(host, "qemu-system-x86_64")
    assert find_machine(MicrovmOptions()) == Qemu(f"{host}/qemu-system-x86_64")


def test_machine_that_is_named_is_the_one_that_is_meant(host: Path) -> None:
    install(host, "firecracker", "qemu-system-x86_64")
    (host / "link").symlink_to("firecracker")

    named = MicrovmOptions(machine=MachineKind.FIRECRACKER, firecracker=f"{host}/link")

    assert find_machine(named) == Firecracker(f"{host}/firecracker")


@pytest.mark.parametrize("options", [{"qemu": "/nowhere/qemu"}, {"accel": Accel.TCG}])
def test_firecracker_is_not_taken_where_qemu_was_meant(
    host: Path, options: dict[str, object]
) -> None:
    install(host, "firecracker")

    with pytest.raises(SandboxUnavailable, match="apt-get install qemu-system-x86"):
        find_machine(MicrovmOptions(**options))  # type: ignore[arg-type]


def test_firecracker_without_kvm_is_refused_in_the_configuration() -> None:
    with pytest.raises(ValueError, match="Firecracker runs guests with KVM alone"):
        MicrovmOptions(machine=MachineKind.FIRECRACKER, accel=Accel.TCG)


@pytest.mark.parametrize("wrong", [{"memory_bytes": 1}, {"cpus": 0}, {"disk_bytes": 1}])
def test_settings_that_cannot_work_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MicrovmOptions(**wrong)  # type: ignore[arg-type]
