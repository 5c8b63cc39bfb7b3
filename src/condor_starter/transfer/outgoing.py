"""What is sent back: the files that the job lists, or those that it made or changed, as seen by the sandbox
worker.

The directory belongs to the job, whose processes are dead by now. Everything is looked up by the worker,
which has the job user's ids and does not leave the directory, whatever links the job has left there.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass

from condor_starter.sandbox.contents import OURS, Catalog
from condor_starter.sandbox.worker import Entry, SandboxWorker

STDOUT, STDERR = "_condor_stdout", "_condor_stderr"
"""What the standard streams of a transferred job are called in the sandbox; the shadow gives them their
names.
"""

MAX_ITEMS = 1_000_000
MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One item to send: ``source`` beneath the scratch directory becomes ``name`` on the submit side."""

    name: str
    source: str
    directory: bool = False
    mode: int = 0o644
    size: int = 0
    error: OSError | None = None  # it cannot be sent, and why


@dataclass(frozen=True, slots=True)
class Wanted:
    """What decides which files go back."""

    listed: tuple[str, ...] | None  # TransferOutput; None: whatever the job made or changed
    streams: tuple[str, ...]  # STDOUT and STDERR, as far as they are files here
    executable: str  # our name of a transferred executable, which never goes back; or ""
    scratch: str  # path of the directory as the job sees it
    keep_paths: bool = False  # PreserveRelativePaths


async def choose(wanted: Wanted, worker: SandboxWorker, catalog: Catalog) -> list[Outgoing]:
    """The items to send, in order. Each name once: the last one listed wins. Raises OSError for a broken
    worker.
    """
    streams = await listed(wanted.streams, wanted, worker)
    if wanted.listed is None:
        files = await _changed(wanted, worker, catalog)
    else:
        files = await listed(wanted.listed, wanted, worker)
    return list({item.name: item for item in [*files, *streams]}.values())


async def listed(names: Sequence[str], wanted: Wanted, worker: SandboxWorker) -> list[Outgoing]:
    """The items of a list of names: files, directories (``d``: with its name; ``d/``: what is in it)."""
    found: list[Outgoing] = []
    for name in names:
        source = _relative(name, wanted.scratch)
        keep = wanted.keep_paths and not source.startswith(("/", "."))
        target = source if keep else os.path.basename(source.rstrip("/"))
        if keep:
            found += _parents(target)
        try:
            found += await _tree(worker, source.rstrip("/") or ".", target.rstrip("/"), source.endswith("/"))
        except OSError as e:
            found.append(Outgoing(target.rstrip("/") or name, source, error=e))
    return found


def _relative(name: str, scratch: str) -> str:
    """A path into the sandbox may be written in full."""
    if name.startswith(scratch + "/"):
        name = name[len(scratch) + 1 :]
    return os.path.normpath(name) + ("/" if name.endswith("/") else "")


def _parents(target: str) -> list[Outgoing]:
    parts = target.rstrip("/").split("/")[:-1]
    return [Outgoing("/".join(parts[: n + 1]), "", True, 0o755) for n in range(len(parts))]


async def _tree(worker: SandboxWorker, source: str, target: str, inside: bool) -> list[Outgoing]:
    """The file ``source``, or the directory with all that is in it; ``inside`` leaves its own name out."""
    if source == "." or (kind := await worker.stat(source)).kind == "dir":
        mode = 0o755 if source == "." else kind.mode
        top = [] if inside or source == "." else [Outgoing(target, source, True, mode)]
        return top + await _below(worker, source, "" if inside or source == "." else target, MAX_DEPTH)
    return [await _file(worker, kind, source, target)]


async def _below(worker: SandboxWorker, source: str, target: str, depth: int) -> list[Outgoing]:
    if depth == 0:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), source)
    found: list[Outgoing] = []
    for entry in sorted(await worker.listdir(source), key=lambda e: e.name):
        inner = entry.name if source == "." else f"{source}/{entry.name}"
        name = f"{target}/{entry.name}" if target else entry.name
        if entry.kind == "dir":
            found.append(Outgoing(name, inner, True, entry.mode))
            found += await _below(worker, inner, name, depth - 1)
        elif entry.kind != "other" and inner not in OURS:
            found.append(await _file(worker, entry, inner, name))
        if len(found) > MAX_ITEMS:
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG), source)
    return found


async def _file(worker: SandboxWorker, entry: Entry, source: str, target: str) -> Outgoing:
    """A regular file, or a link that leads to one within the sandbox."""
    if entry.kind == "file":
        return Outgoing(target, source, mode=entry.mode, size=entry.size)
    try:
        fd = await worker.open(source)
    except OSError as e:
        return Outgoing(target, source, error=e)
    try:
        st = os.fstat(fd)
    finally:
        os.close(fd)
    return Outgoing(target, source, mode=st.st_mode & 0o777, size=st.st_size)


async def _changed(wanted: Wanted, worker: SandboxWorker, catalog: Catalog) -> list[Outgoing]:
    """Every file at the top that is new or was written to: never directories, nor what is the starter's
    own.
    """
    entries = {entry.name: entry for entry in await worker.listdir()}
    skip = {wanted.executable, STDOUT, STDERR}
    names = [name for name in catalog.changed(entries.values()) if name not in skip]
    return [await _file(worker, entries[name], name, name) for name in names]
