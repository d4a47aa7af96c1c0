"""What an operator cannot mean (executor.options)."""

import pytest

from executor.options import ExecutorOptions


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"filesystem_allow": ("etc",)}, "filesystem_allow: 'etc' is not an absolute path"),
        ({"toolchain": ("/usr", "lib*")}, r"toolchain: 'lib\*' is not an absolute path"),
        ({"rootfs": {"nix": "nix"}}, "rootfs: nix is 'nix'; write an absolute path"),
        ({"rootfs": {"cas:x": "/nix"}}, "rootfs: 'cas:x' cannot name a directory"),
        ({"rootfs_trees": 0}, "rootfs_trees must be at least 1"),
    ],
)
def test_options_that_can_mean_nothing_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ExecutorOptions(**options)  # type: ignore[arg-type]
