"""What the settings of wasm executors may be."""

from typing import Any

import pytest

from executor.wasm.options import WasmOptions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fuel_per_s": 0}, "fuel_per_s"),
        ({"idle_workers": -1}, "idle_workers"),
        ({"toolchains": {"a/b": "/p"}}, "slashes"),
        ({"toolchains": {"a": "relative"}}, "absolute path"),
        ({"toolchains": {"a": "abc/3"}}, "HASH/SIZE"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WasmOptions(**options)
