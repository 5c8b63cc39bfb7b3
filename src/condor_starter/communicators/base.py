"""The only door between a job and the outside world.

A communicator knows where the job came from (a shadow, a file, the daemon's API) and takes back what
became of it. The job's coroutine (:mod:`condor_starter.starter`) calls these methods in the order in which
they stand here and knows nothing of sockets or files.
"""

from __future__ import annotations

import asyncio
import enum
from dataclasses import dataclass, field
from typing import Any, Protocol

from condor_starter.isolation.boxplan import Usage
from condor_starter.job import JobError, JobSpec, Streams
from condor_starter.sandbox.worker import SandboxWorker

ClassAd = Any
"""A ``classad2.ClassAd``. The library has no type information."""


class Ask(enum.Enum):
    """What the outside may ask of a running job."""

    SUSPEND = "suspend"
    CONTINUE = "continue"
    VACATE_SOFT = "vacate"  # kill signal; outputs only back if the job wants them on eviction
    VACATE_FAST = "vacate-fast"  # SIGKILL to everything, no outputs
    REMOVE = "remove"
    HOLD = "hold"
    LOST = "lost"  # the other side is gone for good: kill, clean up, tell nobody


@dataclass(frozen=True, slots=True)
class Request:
    """One request from outside, with the reason that travels into the job's ad."""

    ask: Ask
    reason: str = ""
    code: int = 0
    subcode: int = 0


@dataclass(slots=True)
class Outcome:
    """What became of a job. Filled in as the job ends, then handed to :meth:`Communicator.finished`."""

    status: int | None = None  # raw wait(2) status of the job; None: it never ran
    usage: Usage = field(default_factory=Usage)
    error: JobError | None = None  # hold (error.holds) or requeue
    ended_by: Request | None = None  # the request that ended it, if one did
    started_at: float | None = None  # wall clock, seconds since the epoch
    duration: float = 0.0  # seconds from exec to exit

    @property
    def ran_to_its_end(self) -> bool:
        """The job's own exit: neither an error nor a request ended it."""
        return self.status is not None and self.error is None and self.ended_by is None


class Communicator(Protocol):
    """One implementation for each source of jobs: ``local``, ``api`` and ``shadow``."""

    name: str  # "local", "api", "shadow": for logs
    slot: str  # slot name, e.g. "slot1_1"; names the log, the cgroup and _CONDOR_SLOT
    machine_ad: ClassAd  # what the machine offers this job: at least Cpus, Memory (MiB), Name
    requests: asyncio.Queue[Request]  # filled by the communicator, read by the coroutine

    async def job_ad(self) -> ClassAd:
        """The job's ad. Raises JobError (BadAd) if there is none to be had."""

    def scratch_name(self) -> str:
        """Name of the scratch directory beneath EXECUTE: ``dir_<pid of the startd's child>``, or our own."""

    def streams(self, spec: JobSpec, cwd: str) -> Streams:
        """Where the three standard streams really go: absolute in the job's view, or relative to cwd."""

    def stream_fds(self) -> dict[str, int]:
        """Streams that are open descriptors already (``-job-stdout -``): {"stdout": 1}. Usually empty."""

    async def fetch_inputs(self, spec: JobSpec, scratch: str) -> None:
        """Fill the fresh scratch directory (ours until the job starts). Raises JobError."""

    async def executing(self, spec: JobSpec) -> None:
        """The job is about to be started (the shadow's begin_execution)."""

    async def update(self, ad: ClassAd, *, final: bool = False) -> None:
        """Usage and state while the job runs, and once after it ended."""

    async def send_outputs(self, spec: JobSpec, worker: SandboxWorker, *, final: bool = True) -> None:
        """Bring the outputs back; the job is dead, its files are read through ``worker``. Raises JobError.

        ``final``: the job ended by itself; else it was evicted, and its files are kept for its next run.
        """

    async def finished(self, spec: JobSpec | None, outcome: Outcome, ad: ClassAd) -> None:
        """The end, told exactly once: exit, hold or requeue. ``ad`` is the final update ad."""

    async def close(self) -> None:
        """Let go of sockets and files. Called last, always."""
