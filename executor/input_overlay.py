"""Input trees as overlays: what is lent to many actions below what each changes for itself."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from functools import partial

from executor.errors import InputsMissing, WorkerFailure
from executor.layers import Layer
from executor.staging import FIXED_MTIME_S, InputTree, InputTrees
from executor.tree_cache import Tree, TreeCache


class Overlay:
    """Layers of an input tree as one action sees them, and a directory for the kernel's use."""

    def __init__(self, lowers: Sequence[str], work: str, give_back: Callable[[], None]) -> None:
        """`give_back` is called once, when nothing uses the layers any more."""
        self.lowers = lowers
        self.work = work
        self._give_back: Callable[[], None] | None = give_back
        self._view: int | None = None

    def take(self, view: int) -> None:
        """Takes over an open directory: the tree with all that the action changed."""
        if self._view is not None:
            os.close(self._view)
        self._view = view

    @property
    def merged(self) -> str:
        """A path of that directory, while this is open. Raises WorkerFailure without one."""
        if self._view is None:
            raise WorkerFailure("the launcher gave no view of the action's files")
        return f"/proc/self/fd/{self._view}/."

    def close(self) -> None:
        """Lets go of the view and gives the tree back. Idempotent."""
        if self._view is not None:
            os.close(self._view)
            self._view = None
            with contextlib.suppress(FileNotFoundError):
                os.chmod(f"{self.work}/work", 0o700)  # The kernel's own, for nobody: to look into.
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back()


class InputOverlays:
    """Makes the overlays of one executor. Owned by the event loop."""

    def __init__(self, inputs: InputTrees, trees: TreeCache, from_entries: int) -> None:
        """Layers with `from_entries` or more are lent by `trees`, others made for each action."""
        self._inputs = inputs
        self._trees = trees
        self._from_entries = from_entries

    async def show(self, tree: InputTree, root: str) -> Overlay:
        """Answers an overlay of a tree for the directory `root`, which is to have what changes.

        Raises what InputTrees.lay_out does. The caller closes it.
        """
        lent = contextlib.ExitStack()
        lowers: list[str] = []
        overlay = Overlay(lowers, f"{root}.work", lent.close)
        try:
            await self._find_lowers(tree, f"{root}.own", lowers, lent)
            os.mkdir(overlay.work, 0o700)
            os.utime(root, (FIXED_MTIME_S, FIXED_MTIME_S))
        except InputsMissing as error:  # In one layer.
            overlay.close()
            missing = await self._inputs.find_missing_files(tree.directories)
            raise InputsMissing(list(dict.fromkeys((*error.digests, *missing)))) from None
        except BaseException:
            overlay.close()
            raise
        return overlay

    async def _find_lowers(
        self, tree: InputTree, place: str, lowers: list[str], lent: contextlib.ExitStack
    ) -> None:
        """Adds the layers of a tree: those that are lent, and at `place` what is left."""
        own = []
        for layer in await self._inputs.divide(tree, self._from_entries):
            shared = await self._take(tree, layer)
            if shared is None:
                own.append(layer)
            else:
                lent.callback(self._trees.give_back, shared)
                lowers.append(shared.root)
        if own:
            os.mkdir(place, 0o755)
            lowers.append(place)
            await self._inputs.lay_out(await self._inputs.expand(tree, own), place)

    async def _take(self, tree: InputTree, layer: Layer) -> Tree | None:
        """None for a layer that is small, or that there is no room for."""
        if layer.entries < self._from_entries:
            return None
        return await self._trees.take(layer, partial(self._inputs.expand, tree, [layer]))
