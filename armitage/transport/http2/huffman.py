"""Huffman strings (RFC 7541 section 5.2), decoded a byte at a time.

The code is a binary tree. A state is a node of it; a byte takes us from one to another and emits
the symbols on the way. Those steps are worked out when they are first needed (there are 256 states,
hence at most 65,536 steps) and remembered: some ten times faster than a library that steps through
half bytes, which matters since some clients compress every header.
"""

from __future__ import annotations

from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

_END_OF_STRING = 256
_PADDING_LIMIT = 7


class InvalidHuffman(Exception):
    """No text is encoded like this."""


class _Node:
    """Where in the tree the bits so far lead."""

    __slots__ = ("branches", "ends", "steps")

    def __init__(self) -> None:
        self.branches: list[_Node | int | None] = [None, None]
        self.ends = False
        """Whether a string may stop here: the bits since the last symbol are legal padding."""
        self.steps: list[tuple[_Node, bytes] | None] = [None] * 256
        """By the next byte: the node that it leads to, and the symbols on the way."""

    def step(self, byte: int) -> tuple[_Node, bytes]:
        """Works out a step. Raises InvalidHuffman."""
        node = self
        symbols = bytearray()
        for shift in range(7, -1, -1):
            branch = node.branches[byte >> shift & 1]
            if isinstance(branch, int):
                if branch == _END_OF_STRING:
                    raise InvalidHuffman("the end-of-string symbol")
                symbols.append(branch)
                node = _ROOT
            else:
                assert branch is not None, "the code is complete"
                node = branch
        step = self.steps[byte] = (node, bytes(symbols))
        return step


def _plant() -> _Node:
    root = _Node()
    for symbol, (code, length) in enumerate(zip(REQUEST_CODES, REQUEST_CODES_LENGTH, strict=True)):
        node = root
        for shift in range(length - 1, 0, -1):
            bit = code >> shift & 1
            branch = node.branches[bit]
            if branch is None:
                branch = node.branches[bit] = _Node()
            assert isinstance(branch, _Node), "no code begins another"
            node = branch
        node.branches[code & 1] = symbol
    node = root
    for _ in range(_PADDING_LIMIT + 1):
        node.ends = True
        following = node.branches[1]
        assert isinstance(following, _Node), "no code of ones is as short as that"
        node = following
    return root


_ROOT = _plant()


def decode(data: bytes) -> bytes:
    """The text. Raises InvalidHuffman for the end-of-string symbol or padding that is too long or
    not all ones.
    """
    node = _ROOT
    parts = []
    for byte in data:
        node, symbols = node.steps[byte] or node.step(byte)
        parts.append(symbols)
    if not node.ends:
        raise InvalidHuffman("invalid padding")
    return b"".join(parts)
