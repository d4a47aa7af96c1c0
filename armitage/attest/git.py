"""Attestations in a bare git repository, to carry them to others and to keep a second copy.

    refs/attestations/INSTANCE      this daemon's, and what pushes merged with it; only ever grows
    refs/pulled/REMOTE/INSTANCE     what was fetched from others

The tree of each commit holds every attestation so far as a bundle (armitage.attest.bundle), under
its own name and under those of what it is about, all the same blob:

    ab/cd/RECORD.intoto.jsonl
    by-action/ab/ACTION/RECORD.intoto.jsonl
    by-subject/ab/HASH/RECORD.intoto.jsonl

Commits are signed with a key of their own (SSH, namespace git). Git is a means of transport and
nothing more: its object names are SHA-1 and a ref can be set back, so an attestation counts by its
signature and its log's receipt alone, which whoever reads it from here verifies.

Everything blocks. git is run with no configuration of the user's or the system's, and no hooks.
"""

from __future__ import annotations

import re
import secrets
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote

from armitage.attest.bundle import SUFFIX, Bundle
from armitage.attest.claim import parse_subjects
from armitage.attest.dsse import parse_envelope
from armitage.attest.entries import record_digest
from armitage.attest.errors import AttestationError
from armitage.attest.sshsig import SshSigner

OWN: Final = "refs/attestations/"
PULLED: Final = "refs/pulled/"
_NONE: Final = "0" * 40
_WHO: Final = "Armitage <attestations@armitage.invalid>"
_SETTINGS: Final = (
    *(
        "-c",
        "core.hooksPath=/dev/null",
        "-c",
        "gc.auto=0",
        "-c",
        "core.fsync=committed,loose-object",
    ),
    *("-c", "protocol.ext.allow=never", "-c", "fetch.fsckObjects=true"),
)
MAX_BUNDLE_BYTES: Final = 4 << 20
_NAME: Final = re.compile(rb"[0-9a-z/-]*/[0-9a-f]{64}" + re.escape(SUFFIX).encode())
"""Names are others' to choose, and end up in terminals and as files."""
_MAX_FOUND: Final = 256
_TRIES: Final = 5
_TIMEOUT_S: Final = 600.0


class GitFailed(AttestationError):
    """git is not there or refuses; the message has its words."""


class Moved(AttestationError):
    """A ref was changed by somebody else meanwhile."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file of a repository."""

    name: str
    data: bytes


class GitStore:
    """One bare repository."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        """`environment` is what git may see: PATH, and for remotes HOME and the agent of ssh."""
        self._directory = directory
        self._environment = {
            **environment,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_TERMINAL_PROMPT": "0",
            "LC_ALL": "C",
        }

    @classmethod
    def open(cls, directory: Path, environment: Mapping[str, str]) -> Self:
        """Opens a repository, making it where there is none. Raises GitFailed."""
        made = cls(directory, environment)
        made.make()
        return made

    def exists(self) -> bool:
        """Whether the repository is there."""
        return (self._directory / "HEAD").exists()

    def make(self) -> None:
        """Makes the repository where there is none: apart, so that no half of one is ever there.
        Raises GitFailed, OSError.
        """
        if self.exists():
            return
        apart = self._directory.with_name(f"{self._directory.name}.{secrets.token_hex(8)}")
        apart.mkdir(mode=0o700, parents=True)
        try:
            made = GitStore(apart, self._environment)
            made.git("init", "--quiet", "--bare", "--template=")
            made.git("config", "receive.denyNonFastForwards", "true")
            made.git("config", "receive.denyDeletes", "true")
            apart.rename(self._directory)
        except BaseException:
            shutil.rmtree(apart)
            if not self.exists():  # Otherwise another was quicker.
                raise

    def git(self, *arguments: str, data: bytes = b"", fails: bool = False) -> bytes:
        """Runs git and answers what it prints. Raises GitFailed; with `fails`, a status of 1 is an
        empty answer.
        """
        try:
            done = subprocess.run(
                self._command(arguments),
                input=data,
                capture_output=True,
                check=False,
                env=self._environment,
                timeout=_TIMEOUT_S,
            )
        except (FileNotFoundError, PermissionError):  # The latter where PATH cannot be searched.
            raise GitFailed(
                "git is not there; install it (on Debian: apt-get install git)"
            ) from None
        except subprocess.TimeoutExpired:
            raise GitFailed(f"git {arguments[0]} takes longer than {_TIMEOUT_S:g} s") from None
        if done.returncode and not (fails and done.returncode == 1):
            said = done.stderr.decode(errors="replace").strip()[-500:]
            raise GitFailed(f"git {arguments[0]}: {said}")
        return b"" if done.returncode else done.stdout

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Starts a git that reads stdin and writes stdout. Raises OSError."""
        return subprocess.Popen(
            self._command(arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=self._environment,
        )

    def _command(self, arguments: Sequence[str]) -> list[str]:
        return ["git", *_SETTINGS, "--git-dir", str(self._directory), *arguments]

    def tip(self, ref: str) -> str | None:
        """The commit of a ref."""
        found = self.git("rev-parse", "--quiet", "--verify", ref, fails=True)
        return found.decode().strip() or None

    def refs(self, prefix: str) -> dict[str, str]:
        """Commits by ref below a prefix. A ref of others may name anything: no commit is none."""
        told = self.git("for-each-ref", "--format=%(objecttype) %(refname) %(objectname)", prefix)
        lines = [line.split(" ") for line in told.decode().splitlines()]
        return {ref: commit for kind, ref, commit in lines if kind == "commit"}

    # Adding

    def add(
        self, instance: str, bundles: Sequence[Bundle], signer: SshSigner, now_s: float
    ) -> str | None:
        """Adds attestations of one instance in one signed commit, and answers its name; None where
        all were there. Others may add at the same time. Raises GitFailed, and AttestationError for
        what is no attestation.
        """
        ref = ref_of(instance)
        for _ in range(_TRIES):
            parent = self.tip(ref)
            tree = self._grow(parent, bundles)
            if parent is not None and tree == self._tree_of(parent):
                return None
            message = _message(instance, bundles)
            commit = self._commit(tree, [parent] if parent else [], message, signer, now_s)
            if self._move(ref, commit, parent):
                return commit
        raise Moved(f"{ref} is changed by others all the time; try again")

    def _grow(self, parent: str | None, bundles: Sequence[Bundle]) -> str:
        """Answers the tree of a commit with more attestations."""
        # A ref that nobody else has, so that two batches at once do not meet.
        staging = f"refs/staging/{secrets.token_hex(8)}"
        lines = [b"feature done\n"]
        for mark, bundle in enumerate(bundles, 1):
            data = bundle.encode()
            lines += [b"blob\nmark :%d\ndata %d\n" % (mark, len(data)), data, b"\n"]
        lines.append(f"commit {staging}\ncommitter {_WHO} 0 +0000\ndata 0\n".encode())
        if parent:
            lines.append(f"from {parent}\n".encode())
        for mark, bundle in enumerate(bundles, 1):
            lines += [f"M 100644 :{mark} {path}\n".encode() for path in paths_of(bundle)]
        lines.append(b"done\n")
        self.git("fast-import", "--quiet", "--date-format=raw", data=b"".join(lines))
        tree = self._tree_of(staging)
        self.git("update-ref", "-d", staging)
        return tree

    def _tree_of(self, commit: str) -> str:
        return self.git("rev-parse", "--verify", f"{commit}^{{tree}}").decode().strip()

    def _commit(
        self, tree: str, parents: Sequence[str], message: str, signer: SshSigner, now_s: float
    ) -> str:
        head = [f"tree {tree}", *(f"parent {each}" for each in parents)]
        head += [f"author {_WHO} {int(now_s)} +0000", f"committer {_WHO} {int(now_s)} +0000"]
        signature = signer.sign(("\n".join(head) + f"\n\n{message}").encode())
        head.append("gpgsig " + signature.replace("\n", "\n "))
        content = ("\n".join(head) + f"\n\n{message}").encode()
        made = self.git("hash-object", "-t", "commit", "-w", "--stdin", data=content)
        return made.decode().strip()

    def _move(self, ref: str, commit: str, before: str | None) -> bool:
        """Compare and swap."""
        try:
            self.git("update-ref", ref, commit, before or _NONE)
        except GitFailed:
            if self.tip(ref) == before:
                raise
            return False
        return True

    # Reading

    def find(self, hashes: Iterable[str]) -> Iterator[Found]:
        """Answers bundles about an action or an output with one of these hashes, own and pulled,
        256 at most. Nothing is verified.
        """
        folders = [
            f"{kind}/{hashed[:2]}/{hashed}"
            for hashed in hashes
            for kind in ("by-action", "by-subject")
        ]
        seen: set[str] = set()
        for commit in {**self.refs(OWN), **self.refs(PULLED)}.values():
            listed = self.git("ls-tree", "-r", "-z", "-l", commit, "--", *folders)
            for name, blob in _blobs(listed):
                if blob not in seen and len(seen) < _MAX_FOUND:
                    seen.add(blob)
                    yield Found(name.rpartition("/")[2], self.git("cat-file", "blob", blob))

    def since(self, commit: str | None, tip: str) -> Iterator[Found]:
        """Answers the bundles that a commit has and an earlier one (None: none) has not. Nothing is
        verified.
        """
        if commit is None:
            listed = self.git("ls-tree", "-r", "-z", "-l", tip)
            named = [(n, b) for n, b in _blobs(listed) if not n.startswith("by-")]
        else:
            told = self.git("diff-tree", "-r", "-z", "--diff-filter=AM", commit, tip)
            named = self._small(list(_added(told)))
        for name, blob in named:
            yield Found(name.rpartition("/")[2], self.git("cat-file", "blob", blob))

    def _small(self, named: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """Leaves out what no bundle is as large as, before it is read."""
        asked = "".join(f"{blob}\n" for _, blob in named).encode()
        told = self.git("cat-file", "--batch-check=%(objectsize)", data=asked).split()
        sizes = map(int, told)
        return [each for each, size in zip(named, sizes, strict=True) if size <= MAX_BUNDLE_BYTES]

    # Others

    def fetch(self, remote: str) -> Iterator[tuple[str, str | None, str]]:
        """Fetches what a remote has, and answers for each ref below PULLED that moved: its name,
        the commit before, the commit now. Raises GitFailed.
        """
        prefix = f"{PULLED}{sha256(remote.encode()).hexdigest()[:12]}/"
        before = self.refs(prefix)
        self.git("fetch", "--quiet", "--no-tags", "--", remote, f"+{OWN}*:{prefix}*")
        for ref, now in self.refs(prefix).items():
            if before.get(ref) != now:
                yield ref, before.get(ref), now

    def push(self, remote: str, signer: SshSigner, now_s: float) -> dict[str, str]:
        """Pushes our refs, merged with what others pushed there before, and answers them. Nothing
        is ever taken away from a remote. Raises GitFailed.
        """
        for _ in range(_TRIES):
            ours = self.refs(OWN)
            try:
                if ours:
                    specs = [f"{ref}:{ref}" for ref in ours]
                    self.git("push", "--quiet", "--atomic", "--", remote, *specs)
                return ours
            except GitFailed as error:
                if not any(word in str(error) for word in ("rejected", "fetch first", "stale")):
                    raise
            self._merge_from(remote, ours, signer, now_s)
        raise Moved(f"{remote} is changed by others all the time; try again")

    def _merge_from(
        self, remote: str, ours: Mapping[str, str], signer: SshSigner, now_s: float
    ) -> None:
        for _ in self.fetch(remote):
            pass
        prefix = f"{PULLED}{sha256(remote.encode()).hexdigest()[:12]}/"
        for ref, mine in ours.items():
            theirs = self.tip(prefix + ref.removeprefix(OWN))
            if theirs is None or self._is_ancestor(theirs, mine):
                continue
            if self._is_ancestor(mine, theirs):
                self._move(ref, theirs, mine)
                continue
            told = self.git(
                "merge-tree", "--write-tree", "--allow-unrelated-histories", mine, theirs
            )
            tree = told.decode().split("\n", 1)[0]
            message = "Merge what others attested\n"
            merged = self._commit(tree, [mine, theirs], message, signer, now_s)
            self._move(ref, merged, mine)

    def _is_ancestor(self, old: str, new: str) -> bool:
        base = self.git("merge-base", old, new, fails=True).decode().strip()
        return base == old


def ref_of(instance: str) -> str:
    """The ref of an instance, whose name may be anything: percent-encoded where a ref cannot hold
    it, and `_` for the empty one.
    """
    quoted = quote(instance, safe="").replace(".", "%2E").replace("~", "%7E")
    if quoted.startswith("_"):
        quoted = f"%5F{quoted[1:]}"
    return f"{OWN}{quoted or '_'}"


def paths_of(bundle: Bundle) -> list[str]:
    """Under which names a bundle stands in a tree. Raises AttestationError."""
    provenance = parse_envelope(bundle.record.partition(b"\n")[0]).payload
    action, subjects = parse_subjects(provenance)
    record = record_digest(bundle.record).hash
    name = f"{record}{SUFFIX}"
    hashes = {hashed for subject in subjects for _, hashed in subject.digests}
    return [
        f"{record[:2]}/{record[2:4]}/{name}",
        f"by-action/{action.hash[:2]}/{action.hash}/{name}",
        *(f"by-subject/{hashed[:2]}/{hashed}/{name}" for hashed in sorted(hashes)),
    ]


def _message(instance: str, bundles: Sequence[Bundle]) -> str:
    """With the newest checkpoint among them, for whoever looks at the history alone."""
    newest = max(bundles, key=lambda bundle: bundle.receipt.index).receipt.checkpoint
    origin, size, root = newest.decode().split("\n")[:3]
    many = f"{len(bundles)} action{'s' * (len(bundles) > 1)}"
    return (
        f"Attest {many} of the instance {instance!r}\n\n"
        f"Log-Origin: {origin}\nLog-Size: {size}\nLog-Root: {root}\n"
    )


def _blobs(listed: bytes) -> Iterator[tuple[str, str]]:
    """Name and object of each bundle that `ls-tree -l -z` lists."""
    for line in listed.split(b"\0")[:-1]:
        head, _, name = line.partition(b"\t")
        _, kind, blob, size = head.split()
        if kind == b"blob" and _NAME.fullmatch(name) and int(size) <= MAX_BUNDLE_BYTES:
            yield name.decode(), blob.decode()


def _added(told: bytes) -> Iterator[tuple[str, str]]:
    """Name and object of each bundle that `diff-tree -z` tells of."""
    fields = told.split(b"\0")
    for head, name in zip(fields[::2], fields[1::2], strict=False):
        mode, blob = head.split()[1], head.split()[3]
        if mode == b"100644" and _NAME.fullmatch(name) and not name.startswith(b"by-"):
            yield name.decode(), blob.decode()
