"""One log on disk: appends that survive a power failure, and never two checkpoints that disagree.

    checkpoint            the last one published, signed
    tile/...              full tiles and entry bundles, named as C2SP tlog-tiles names them
    partial/LEVEL-NUMBER  the tile at the right edge of each level, as wide as it is
    new/                  what is being written

An append goes through four steps, each durable before the next begins:

1. New full tiles, and the edge with the new entries: written apart, synced, renamed, their folders
   synced. Nothing that the published checkpoint covers changes by that: a wider edge begins with
   the narrower one.
2. The new tree is proven to begin with the published one.
3. The checkpoint over it: signed, written apart, synced, renamed, the directory synced.
4. Only now is it told to anybody.

So after a crash the checkpoint on disk is one that was told, or the one that was about to be told;
its tree is complete below it, and opening proves that. What lies beyond it was never signed, and is
written over. When the tree below it is not what it says, or it is gone, nothing is ever signed
again: restoring an older state and going on would fork the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from armitage.log.checkpoint import Checkpoint, SignedCheckpoint, open_checkpoint
from armitage.log.durable import FOLDER, Replacer, read_file
from armitage.log.errors import LogDamaged, LogError, NotLogged
from armitage.log.merkle import (
    HASH_BYTES,
    Frontier,
    Subtrees,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    verify_consistency,
)
from armitage.log.note import KeyType, PublicKey, Reader, Signer, sign_note
from armitage.log.receipt import Receipt
from armitage.log.tiles import (
    HEIGHT,
    WIDTH,
    Tile,
    cut_bundle,
    decode_entries,
    encode_entry,
    read_entries,
    subtrees_of,
)
from cas.volume import Volume

NAMES = frozenset({"checkpoint", "tile", "partial", FOLDER})
"""What a log's directory may hold."""

CHECKPOINT = "checkpoint"
_REMEMBERED_HASHES = 4_096


@dataclass(frozen=True, slots=True)
class _State:
    """What is published, and the edge of each level: its tile's content so far. Never changed."""

    tree: Frontier
    edges: dict[int | None, bytes]
    signed: SignedCheckpoint
    encoded: bytes


class LogStore:
    """A log that only this process appends to. Its methods block; reads are safe beside an append.

    Appends are for one thread at a time.
    """

    def __init__(self, volume: Volume, signer: Signer) -> None:
        """Opens the log that the volume holds, or begins it.

        Raises LogDamaged when what is there is not a log that this key signed, whole up to its
        checkpoint.
        """
        if signer.public.type is not KeyType.ED25519:
            raise ValueError("a log signs with a key of its own type, not a witness's")
        self._volume = volume
        self._signer = signer
        self._folders = {""}
        self._is_sound = True
        self._replacer = Replacer(volume)
        self._hashes: dict[tuple[int, int], bytes] = {}
        """Of complete subtrees, for receipts; none ever changes."""
        for folder in ("tile", "partial"):
            self._make_folder(folder)
        self._state = self._load()
        self._drop_stale_edges()

    @property
    def key(self) -> PublicKey:
        """Whose signature its checkpoints bear; its name is the log's origin."""
        return self._signer.public

    @property
    def checkpoint(self) -> Checkpoint:
        """The published one."""
        return self._state.signed.checkpoint

    @property
    def signed_checkpoint(self) -> bytes:
        """The published one as a signed note. Only this is ever to be served."""
        return self._state.encoded

    def append(self, entries: Sequence[bytes]) -> int:
        """Adds entries, durably and under a new checkpoint, and answers the index of the first.

        Either all are in or, when it raises, none: ValueError for an entry too long for a log
        (64 KiB), OSError for the disk's refusal, LogError when the log must be opened anew first.
        """
        if not self._is_sound:
            raise LogError(
                f"{self._volume.root}: the disk failed while a checkpoint was being published;"
                " restart to find out which one it holds"
            )
        state = self._state
        if not entries:
            return state.tree.size
        tree, edges = state.tree.copy(), {k: bytearray(v) for k, v in state.edges.items()}
        full: dict[Tile, bytes] = {}
        for entry in entries:
            _grow(tree, edges, full, entry)
        frozen = {level: bytes(edge) for level, edge in edges.items()}
        changed = {k: v for k, v in frozen.items() if v and v != state.edges.get(k)}
        self._write_tiles(full, changed, tree.size)
        self._prove_growth(state, tree, frozen, full)
        self._publish(tree, frozen)
        for level in {tile.level for tile in full}:
            self._volume.remove(_edge_name(level, state.tree.size))
        return state.tree.size

    def read(self, tile: Tile) -> bytes:
        """Answers a tile of the published tree. Raises NotLogged; LogDamaged when it is gone."""
        return self._read(tile, self._state)

    def entry(self, index: int) -> bytes:
        """Answers an entry. Raises NotLogged."""
        state = self._state
        if not 0 <= index < state.tree.size:
            raise NotLogged(f"the log has {state.tree.size} entries, none at {index}")
        number = index // WIDTH
        width = min(WIDTH, state.tree.size - number * WIDTH)
        return decode_entries(self._read(Tile(None, number, width), state))[index % WIDTH]

    def entries(self, first: int, end: int) -> list[bytes]:
        """Answers the entries from one index up to another, reading each bundle once. Raises
        NotLogged.
        """
        return read_entries(self.read, first, end)

    def receipt(self, index: int) -> Receipt:
        """Proves that an entry is in the published tree. Raises NotLogged."""
        state = self._state
        if not 0 <= index < state.tree.size:
            raise NotLogged(f"the log has {state.tree.size} entries, none at {index}")
        proof = inclusion_proof(index, state.tree.size, self._remembered(state))
        return Receipt(index, tuple(proof), state.encoded)

    def consistency(self, old: int) -> list[bytes]:
        """Proves that the published tree begins with the first `old` entries. Raises NotLogged."""
        state = self._state
        if not 0 <= old <= state.tree.size:
            raise NotLogged(f"the log has {state.tree.size} entries, not {old}")
        return consistency_proof(old, state.tree.size, self._subtrees(state))

    def close(self) -> None:
        """Lets the directory go. Idempotent."""
        self._volume.close()

    # Reading

    def _subtrees(self, state: _State) -> Subtrees:
        return subtrees_of(state.tree.size, lambda tile: self._read(tile, state))

    def _remembered(self, state: _State) -> Subtrees:
        """The same, for proofs of many entries: neighbours share nearly all of their hashes."""
        read, known = self._subtrees(state), self._hashes

        def subtree(level: int, index: int) -> bytes:
            found = known.get((level, index))
            if found is None:
                if len(known) >= _REMEMBERED_HASHES:
                    known.clear()
                found = known[level, index] = read(level, index)
            return found

        return subtree

    def _read(self, tile: Tile, state: _State) -> bytes:
        level = tile.level or 0
        rows = state.tree.size >> (HEIGHT * level)
        if tile.number * WIDTH + tile.width > rows:
            raise NotLogged(f"{tile.path}: the log has not grown so far")
        if tile.number == rows // WIDTH:
            return _narrow(state.edges[tile.level], tile)
        return _narrow(self._read_whole(Tile(tile.level, tile.number).path), tile)

    def _read_whole(self, name: str) -> bytes:
        try:
            return read_file(self._volume, name)
        except FileNotFoundError:
            raise LogDamaged(f"{self._volume.root}: {name} is gone") from None

    # Opening

    def _load(self) -> _State:
        try:
            encoded = read_file(self._volume, CHECKPOINT)
        except FileNotFoundError:
            return self._begin()
        try:
            signed = open_checkpoint(encoded, self.key)
            return self._restore(signed, encoded)
        except LogDamaged:
            raise
        except LogError as error:
            raise LogDamaged(
                f"{self._volume.root}: {error}; nothing will be signed here. Restore the directory"
                " from a copy that is not older than what was published, or begin a new log"
            ) from error

    def _begin(self) -> _State:
        """A new log. Where tiles are, there was a checkpoint, and its loss must not be passed
        over.
        """
        for found in (*self._volume.scan("tile"), *self._volume.scan("partial")):
            raise LogDamaged(
                f"{self._volume.root}: holds {found.name} and no checkpoint; nothing will be"
                " signed here. Restore its checkpoint, or begin a new log in another directory"
            )
        if isinstance(self._signer, Reader):
            raise LogDamaged(f"{self._volume.root}: holds no checkpoint, and is only read")
        self._publish(Frontier(0, []), {})
        return self._state

    def _restore(self, signed: SignedCheckpoint, encoded: bytes) -> _State:
        size = signed.checkpoint.size
        edges = {}
        for level in _levels(size):
            edge = self._load_edge(level, size)
            if edge:
                edges[level] = edge
        bare = _State(Frontier(size, []), edges, signed, encoded)
        tree = Frontier.at(size, self._subtrees(bare))
        if tree.root() != signed.checkpoint.root:
            raise LogDamaged(
                f"{self._volume.root}: the tree of {size} entries is not the one that its"
                " checkpoint signs; nothing will be signed here. Restore the directory"
            )
        leaves = b"".join(map(leaf_hash, decode_entries(edges.get(None, b""))))
        if leaves != edges.get(0, b""):
            raise LogDamaged(f"{self._volume.root}: the last entries are not those of the tree")
        return _State(tree, edges, signed, encoded)

    def _load_edge(self, level: int | None, size: int) -> bytes:
        number, width = divmod(size >> (HEIGHT * (level or 0)), WIDTH)
        if not width:
            return b""
        return _narrow(self._read_whole(_edge_name(level, size)), Tile(level, number, width))

    def _drop_stale_edges(self) -> None:
        """Removes edges that a crash left behind."""
        size = self._state.tree.size
        current = {_edge_name(level, size) for level in self._state.edges}
        for found in list(self._volume.scan("partial")):
            if found.name not in current:
                self._volume.remove(found.name)

    # Appending

    def _write_tiles(
        self, full: dict[Tile, bytes], edges: dict[int | None, bytes], size: int
    ) -> None:
        folders = {"partial"}
        for tile, content in full.items():
            folder = tile.path.rpartition("/")[0]
            self._make_folder(folder)
            folders.add(folder)
            self._replacer.replace(tile.path, content)
        for level, content in edges.items():
            self._replacer.replace(_edge_name(level, size), content)
        for folder in sorted(folders):
            self._volume.sync_folder(folder)

    def _prove_growth(
        self,
        state: _State,
        tree: Frontier,
        edges: dict[int | None, bytes],
        full: dict[Tile, bytes],
    ) -> None:
        grown = _State(tree, edges, state.signed, state.encoded)

        def read(tile: Tile) -> bytes:
            fresh = full.get(Tile(tile.level, tile.number))
            return self._read(tile, grown) if fresh is None else _narrow(fresh, tile)

        old = state.tree.size
        proof = consistency_proof(old, tree.size, subtrees_of(tree.size, read))
        verify_consistency(old, tree.size, proof, state.signed.checkpoint.root, tree.root())

    def _publish(self, tree: Frontier, edges: dict[int | None, bytes]) -> None:
        text = Checkpoint(self.key.name, tree.size, tree.root()).text()
        encoded = sign_note(text, [self._signer.sign(text)]).encode()
        signed = open_checkpoint(encoded, self.key)
        temporary = self._replacer.write_apart(encoded)
        # From here on a failure leaves open which checkpoint the disk has: only opening anew tells.
        self._is_sound = False
        self._volume.rename(temporary, CHECKPOINT)
        self._volume.sync_folder("")
        self._state = _State(tree, edges, signed, encoded)
        self._is_sound = True

    def _make_folder(self, name: str) -> None:
        """Makes a folder whose name is durable."""
        if name in self._folders:
            return
        around = name.rpartition("/")[0]
        self._make_folder(around)
        self._volume.make_folder(name)
        self._volume.sync_folder(around)
        self._folders.add(name)


def read_tile(root: Path, size: int, tile: Tile) -> bytes:
    """Reads a tile of the directory of a log of that size, which another process may have open.
    Nothing is verified. Raises LogDamaged and OSError.
    """
    level = tile.level or 0
    if tile.number == (size >> (HEIGHT * level)) // WIDTH:
        with suppress(FileNotFoundError):  # It became a full one meanwhile.
            return _narrow((root / _edge_name(tile.level, size)).read_bytes(), tile)
    return _narrow((root / Tile(tile.level, tile.number).path).read_bytes(), tile)


def _levels(size: int) -> list[int | None]:
    levels: list[int | None] = [None]
    levels += range(-(-size.bit_length() // HEIGHT))
    return levels


def _edge_name(level: int | None, size: int) -> str:
    number = (size >> (HEIGHT * (level or 0))) // WIDTH
    return f"partial/{'entries' if level is None else level}-{number}"


def _narrow(content: bytes, tile: Tile) -> bytes:
    """The first of what a tile holds, as wide as asked for. Raises LogDamaged when it is not."""
    if tile.level is None:
        try:
            return cut_bundle(content, tile.width)
        except LogError as error:
            raise LogDamaged(f"{tile.path}: {error}") from error
    cut = content[: tile.width * HASH_BYTES]
    if len(cut) != tile.width * HASH_BYTES:
        raise LogDamaged(f"{tile.path}: holds less than {tile.width}")
    return cut


def _grow(
    tree: Frontier, edges: dict[int | None, bytearray], full: dict[Tile, bytes], entry: bytes
) -> None:
    """Adds one entry to the tree and to the edge of each level; what is full moves to `full`."""
    index = tree.size
    edges.setdefault(None, bytearray()).extend(encode_entry(entry))
    grown: list[tuple[int | None, int]] = [(None, index)]
    for height, row, hashed in tree.append(leaf_hash(entry)):
        if height % HEIGHT == 0:
            edges.setdefault(height // HEIGHT, bytearray()).extend(hashed)
            grown.append((height // HEIGHT, row))
    for level, row in grown:
        if row % WIDTH == WIDTH - 1:
            full[Tile(level, row // WIDTH)] = bytes(edges.pop(level))
