"""Reading tar archives that may be hostile."""

from __future__ import annotations

import tarfile
from typing import Final

_MAX_EXTENSION_BYTES: Final = 1 << 20


class HeaderTooLong(tarfile.ReadError):
    """An extension of a header (a long name, PAX) says to be longer than any is."""

    def __init__(self) -> None:
        super().__init__("it has a header that is too long")


class BoundedHeader(tarfile.TarInfo):
    """A header whose extensions are not read into memory however long they say to be.

    For tarfile.open's `tarinfo`. Reading on raises HeaderTooLong.
    """

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        plain = {*tarfile.SUPPORTED_TYPES} - {tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
        if self.type not in plain and self.size > _MAX_EXTENSION_BYTES:
            raise HeaderTooLong
        return super()._proc_member(tar)  # type: ignore[misc,no-any-return]
