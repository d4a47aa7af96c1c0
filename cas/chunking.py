"""Content-defined chunking: FastCDC 2020 (REAPI `FastCdc2020Params`).

Equal stretches of two blobs give mostly equal chunks, wherever in the blobs they lie. The one file
that knows the library. Parameters as the API pins them down: normalisation level 2, the smallest
chunk a quarter of the average, the largest four times it. The API's text has a gear table of
`MD5(byte(i))`; the implementations that it names, and its test vectors, hash each byte 64 times
over, and so does this.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pyfastcdc import FastCDC

from cas.digest import Buffer

_NORMALISATION: Final = 2
_LOWEST, _HIGHEST = 1 << 10, 4 << 20
"""The API allows up to 8 MiB; the library, half of that."""
_WINDOW = 4


@dataclass(frozen=True, slots=True)
class ChunkSizes:
    """The sizes in bytes that decide where a blob is cut. Whoever is to find the same chunks must
    use the same ones.
    """

    average: int
    smallest: int
    largest: int

    @classmethod
    def of_average(cls, average_bytes: int) -> ChunkSizes:
        """Answers the sizes that REAPI derives from an average.

        Raises ValueError unless that is a power of two from 1 KiB to 4 MiB.
        """
        if not _LOWEST <= average_bytes <= _HIGHEST or average_bytes.bit_count() != 1:
            raise ValueError(
                f"an average of {average_bytes} bytes is not a power of two from {_LOWEST} to"
                f" {_HIGHEST}"
            )
        return cls(average_bytes, average_bytes // 4, average_bytes * 4)


class Cutter:
    """Cuts one blob, streamed in pieces of any sizes. Keeps up to four of the largest chunks.

    Blocks for about a millisecond a MiB, most of it without the interpreter's lock.
    """

    def __init__(self, sizes: ChunkSizes, *, seed: int = 0) -> None:
        self._largest = sizes.largest
        self._algorithm = FastCDC(
            sizes.average,
            min_size=sizes.smallest,
            max_size=sizes.largest,
            normalized_chunking=_NORMALISATION,
            seed=seed,
        )
        self._kept: list[Buffer] = []
        self._kept_bytes = 0

    def feed(self, data: Buffer) -> Iterator[bytes]:
        """Takes bytes in and gives out chunks that are whole. Must be read to its end."""
        self._kept.append(data)
        self._kept_bytes += len(data)
        # Seldom, since what is left over is copied each time.
        if self._kept_bytes < _WINDOW * self._largest:
            return
        window = memoryview(b"".join(self._kept))
        taken = 0
        # Where a chunk ends depends on no byte after the largest that it could be.
        while len(window) - taken >= self._largest:
            chunk = next(self._algorithm.cut_buf(window[taken:]))
            taken += chunk.length
            yield bytes(chunk.data)
        self._kept = [bytes(window[taken:])]
        self._kept_bytes -= taken

    def finish(self) -> Iterator[bytes]:
        """Gives out the chunks that are left: the blob ends here."""
        window, self._kept = b"".join(self._kept), []
        for chunk in self._algorithm.cut_buf(window):
            yield bytes(chunk.data)
