"""Files that guests are made of are known as they are, also after they were replaced."""

from __future__ import annotations

import hashlib
from pathlib import Path

from executor.microvm.made_of import MadeOf


def test_replaced_file_is_noticed_and_read_again(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"one")
    files = MadeOf({"toolchain": image})
    assert not files.is_as_seen()
    files.look()
    assert files.is_as_seen()
    assert files.hashes == {"toolchain": hashlib.sha256(b"one").hexdigest()}

    (tmp_path / "other").write_bytes(b"two")
    (tmp_path / "other").replace(image)

    assert not files.is_as_seen()
    files.look()
    assert files.hashes == {"toolchain": hashlib.sha256(b"two").hexdigest()}
