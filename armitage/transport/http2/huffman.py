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
        self.steps: _Steps = _Steps(self)


class _Steps(dict[int, tuple["_Steps", bytes]]):
    """By the next byte: the steps from where it leads, and the symbols on the way."""

    __slots__ = ("node",)

    def __init__(self, node: _Node) -> None:
        super().__init__()
        self.node = node

    def __missing__(self, byte: int) -> tuple[_Steps, bytes]:
        node = self.node
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
        step = (node.steps, bytes(symbols))
        self[byte] = step
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
    steps = _ROOT.steps
    parts = []
    for byte in data:
        steps, symbols = steps[byte]
        parts.append(symbols)
    if not steps.node.ends:
        raise InvalidHuffman("invalid padding")
    return b"".join(parts)
