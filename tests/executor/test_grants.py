"""Which of the host's files an action may be given."""

from pathlib import Path

import pytest

from executor.coeffects import FilesystemGrant
from executor.errors import InvalidInput, SandboxUnavailable
from executor.grants import Mount, device_mounts, filesystem_mounts
from executor.spec import Devices


@pytest.fixture
def data(tmp_path: Path) -> Path:
    directory = (tmp_path / "data").resolve()
    (directory / "models").mkdir(parents=True)
    return directory


def mounts(path: str | Path, *allowed: str | Path, private: tuple[Path, ...] = ()) -> Mount:
    [mount] = filesystem_mounts(
        [FilesystemGrant(str(path))], [str(one) for one in allowed], private
    )
    return mount


def test_directory_in_an_allowed_one_is_shown_where_it_is(data: Path) -> None:
    mount = mounts(data / "models", data)

    assert mount == Mount(f"{data}/models", f"{data}/models", is_checked=True)


def test_writable_only_where_declared(data: Path) -> None:
    declared = [FilesystemGrant(str(data), writable=True), FilesystemGrant(f"{data}/models")]

    first, second = filesystem_mounts(declared, [str(data)], ())

    assert first.is_writable
    assert not second.is_writable


def test_nothing_is_allowed_unless_configured(data: Path) -> None:
    with pytest.raises(SandboxUnavailable, match=r"executor\.filesystem_allow"):
        mounts(data)


def test_allowed_name_is_not_a_prefix_of_letters(data: Path) -> None:
    (data / "models-secret").mkdir()

    with pytest.raises(SandboxUnavailable):
        mounts(data / "models-secret", data / "models")


@pytest.mark.parametrize(
    "path", ["/", "/proc", "/proc/1", "/sys/fs", "/dev", "/dev/mem", "/build", "/build/x"]
)
def test_what_no_worker_gives_is_refused_even_when_allowed(path: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be given"):
        mounts(path, "/")


@pytest.mark.parametrize("path", ["data", "/data/../etc", "/data/", "//data", "/data/./x"])
def test_path_not_in_normal_form_is_refused(path: str) -> None:
    with pytest.raises(InvalidInput, match="normal form"):
        mounts(path, "/")


def test_daemons_data_is_never_shown_nor_what_it_lies_in(data: Path) -> None:
    private = (data / "models" / "armitage",)

    for path in (data, data / "models", data / "models/armitage/cas"):
        with pytest.raises(InvalidInput, match="daemon's own data"):
            mounts(path, data, private=private)


def test_daemons_data_is_recognised_behind_a_link(data: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(data / "models")

    with pytest.raises(InvalidInput, match="daemon's own data"):
        mounts(data / "models", data, private=(tmp_path / "link",))


def test_path_through_a_link_is_refused_with_where_it_leads(data: Path) -> None:
    (data / "link").symlink_to("/etc")

    with pytest.raises(InvalidInput, match="declare /etc"):
        mounts(data / "link", data)


def test_missing_path_is_this_workers_fault(data: Path) -> None:
    with pytest.raises(SandboxUnavailable, match="not there"):
        mounts(data / "gone", data)


class TestDevices:
    def test_nodes_are_writable_devices(self) -> None:
        devices = Devices((), nodes=("/dev/nvidia0",))

        assert device_mounts(devices, ()) == (
            Mount("/dev/nvidia0", "/dev/nvidia0", is_writable=True, is_device=True),
        )

    def test_what_the_toolchain_shows_is_not_mounted_again(self, data: Path) -> None:
        (data / "libcuda.so.1").write_text("")
        (data / "libcuda.so").symlink_to("libcuda.so.1")
        devices = Devices((), files=(f"{data}/libcuda.so", f"{data}/libcuda.so.1"))

        assert device_mounts(devices, (str(data),)) == ()

    def test_what_a_link_leads_to_is_shown_too(self, data: Path, tmp_path: Path) -> None:
        real = tmp_path.resolve() / "libcuda.so.1"
        real.write_text("")
        (data / "libcuda.so").symlink_to(real)
        devices = Devices((), files=(f"{data}/libcuda.so",))

        assert device_mounts(devices, (str(data),)) == (Mount(str(real), str(real)),)
        assert len(device_mounts(devices, ())) == 2

    def test_a_directory_behind_a_link_counts_as_what_it_is(
        self, data: Path, tmp_path: Path
    ) -> None:
        (data / "lib.so").write_text("")
        (tmp_path / "lib").symlink_to(data)
        devices = Devices((), files=(f"{tmp_path}/lib/lib.so",))

        assert device_mounts(devices, (str(data),)) == ()
