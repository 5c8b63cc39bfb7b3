"""Jobs that come from a file or from stdin: no shadow, no transfer; an output ad at the end.

The genuine starter's local mode (condor_starter -job-input-ad ...) and ``starterctl run`` both enter here.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from condor_starter.communicators.base import ClassAd, Outcome, Request
from condor_starter.job import Hold, JobError, JobSpec, Streams, spec_from_ad
from condor_starter.log import StarterLog
from condor_starter.sandbox.ads import MAX_AD, parse_ad, print_ad
from condor_starter.sandbox.machine import machine_ad
from condor_starter.sandbox.worker import SandboxWorker

STREAMS = ("stdin", "stdout", "stderr")


@dataclass(frozen=True, slots=True)
class Files:
    """Where a local job's things go. Descriptors are the caller's, and stay open."""

    output_ad: int | None = None  # descriptor that the final ad is appended to
    output_name: str = ""  # its name, for the log
    update_ad: Path | None = None  # each update is written here, by rename
    paths: Mapping[str, str] = field(default_factory=dict)  # "stdout" -> path, in the place of the ad's
    fds: Mapping[str, int] = field(default_factory=dict)  # "stdout" -> descriptor, in the place of the ad's
    spare: Mapping[str, int] = field(default_factory=dict)  # the same, only for streams that nothing names
    failures: bool = False  # write an output ad for a job that never ran, too


def read_ad(fd: int, name: str) -> ClassAd:
    """The ad that ``fd`` holds, to its end (a pipe: until the writer closes it). Raises BadAd, OSError."""
    pieces = []
    size = 0
    while size <= MAX_AD and (piece := os.read(fd, 1 << 16)):
        pieces.append(piece)
        size += len(piece)
    return parse_ad(b"".join(pieces).decode("utf-8", "surrogateescape"))


class LocalCommunicator:
    """The door of one local job; implements :class:`condor_starter.communicators.base.Communicator`."""

    name = "local"

    def __init__(
        self, ad: ClassAd, slot: str, execute: str, files: Files, log: StarterLog, pid: int = 0
    ) -> None:
        """``execute``: the directory that scratch directories are made in, for the machine's ad. ``pid``: the
        process that the scratch directory is named after; 0 is our own.

        Raises BadAd for an ad that asks for nothing sensible.
        """
        self._pid = pid or os.getpid()
        self.slot = slot
        self.requests: asyncio.Queue[Request] = asyncio.Queue()
        self.machine_ad = machine_ad(slot, execute, spec_from_ad(ad, transfers=False))
        self._ad = ad
        self._files = files
        self._log = log
        self._fds: dict[str, int] = {}
        self._opened: list[int] = []

    async def job_ad(self) -> ClassAd:
        return self._ad

    def scratch_name(self) -> str:
        return f"dir_{self._pid}"

    def streams(self, spec: JobSpec, cwd: str) -> Streams:
        """The ad's names, unless the command line has others; relative names mean the working directory.

        What a container writes comes through us: its files are opened here, with our ids.
        """
        names = {n: self._files.paths.get(n) or getattr(spec.streams, n) for n in STREAMS}
        self._fds = {n: fd for n, fd in self._files.fds.items() if n in STREAMS}
        self._fds |= {n: fd for n, fd in self._files.spare.items() if names[n] is None and n not in self._fds}
        if spec.docker is not None:
            for name in STREAMS:
                self._open_here(name, names[name], spec.iwd)
        return Streams(**{n: None if n in self._fds else names[n] for n in STREAMS})

    def stream_fds(self) -> dict[str, int]:
        return dict(self._fds)

    def _open_here(self, name: str, path: str | None, iwd: str) -> None:
        """Open a stream of a container in the directory that the job was described for."""
        if path in (None, "/dev/null") or name in self._fds or not (iwd or os.path.isabs(path)):
            return
        flags = os.O_RDONLY if name == "stdin" else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        full = os.path.join(iwd, path)
        try:
            fd = os.open(full, flags | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK, 0o644)
        except OSError as e:
            code = Hold.UNABLE_TO_OPEN_INPUT if name == "stdin" else Hold.UNABLE_TO_OPEN_OUTPUT
            words = {"stdin": "input", "stdout": "output", "stderr": "error"}[name]
            text = f"Failed to open '{full}' as standard {words}: {e.strerror} (errno {e.errno})"
            raise JobError(code, e.errno or 0, text) from None
        self._opened.append(fd)
        self._fds[name] = fd

    async def fetch_inputs(self, spec: JobSpec, scratch: str) -> None:
        """Nothing travels."""

    async def executing(self, spec: JobSpec) -> None:
        """Nobody is told."""

    async def update(self, ad: ClassAd, *, final: bool = False) -> None:
        """Write the update ad, whole: a reader sees the one before or this one."""
        path = self._files.update_ad
        if path is None:
            return
        temporary = path.with_name(path.name + ".tmp")
        try:
            temporary.write_text(print_ad(ad), encoding="utf-8")
            os.replace(temporary, path)
        except OSError as e:
            self._log.say(f"Cannot write the update ad {path}: {e.strerror}")

    async def send_outputs(self, spec: JobSpec, worker: SandboxWorker, *, final: bool = True) -> None:
        """Nothing travels."""

    async def finished(self, spec: JobSpec | None, outcome: Outcome, ad: ClassAd) -> None:
        """Append the output ad, in old syntax."""
        if self._files.output_ad is None or (outcome.status is None and not self._files.failures):
            return
        ad.pop("ToE", None)  # HTCondor's starter tells its ticket of execution to shadows only
        self._log.say(f'Writing job output ClassAd to "{self._files.output_name}"')
        try:
            with open(self._files.output_ad, "w", encoding="utf-8", closefd=False) as f:
                f.write(print_ad(ad))
        except OSError as e:
            self._log.say(f"Cannot write the output ad {self._files.output_name}: {e.strerror}")

    async def close(self) -> None:
        while self._opened:
            os.close(self._opened.pop())
