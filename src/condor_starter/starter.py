"""The coroutine of one job: select, plan, prepare, run, watch, report.

:func:`run_job` is the way of every job through the house, whatever its source; :func:`adopt_job` continues
with one that an earlier process started.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condor_starter.communicators.base import Communicator, Outcome
from condor_starter.job import Hold, JobError
from condor_starter.knobs import Knobs
from condor_starter.log import StarterLog
from condor_starter.procd.client import Procd

if TYPE_CHECKING:
    from condor_starter.engines.docker import DockerEngine  # type: ignore


@dataclass(slots=True)
class House:
    """What the jobs of one process share."""

    procd: Procd
    knobs: Knobs
    facts: dict[str, Any]  # procd's facts about this machine (its hello reply)
    engine: DockerEngine | None = None
    reconnect: Callable[[], Awaitable[Procd]] | None = None
    """Called when procd went away under a running job; returns a connection to the next one (and the caller
    puts it into ``procd``). None: a private procd, the job ends with it."""


STAGES = ("accepted", "prepared", "running", "ended", "reported")


@dataclass(slots=True)
class JobRecord:
    """The state of one job that survives this process: JSON-able, saved whole at each change of stage."""

    id: str  # the source's name for the job, e.g. "12.0"
    box: str = ""  # procd's name for its box
    stage: str = "accepted"  # one of STAGES
    ad: str = ""  # the job's ad, old syntax
    started_at: float | None = None  # wall clock
    plan: dict[str, Any] = field(default_factory=dict)  # backend, execute, scratch, ...: a summary
    exit: dict[str, Any] | None = None  # BoxExit in wire form
    path: Path | None = None  # where save() writes; None: nowhere

    def save(self) -> None:
        """Write to :attr:`path`: a temporary file, then rename, so a reader sees a whole state."""
        if self.path is None:
            return
        state = asdict(self)
        del state["path"]
        temporary = self.path.with_name(self.path.name + ".tmp")
        temporary.write_text(json.dumps(state), encoding="utf-8")
        os.replace(temporary, self.path)

    @classmethod
    def load(cls, path: Path) -> JobRecord:
        """The record at ``path``; raises OSError or ValueError."""
        state = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(state, dict):
            raise ValueError(f"{path}: not a job record")
        return cls(**state, path=path)

    def advance(self, stage: str) -> None:
        """Enter ``stage`` and save."""
        self.stage = stage
        self.save()


async def run_job(
    house: House, comm: Communicator, log: StarterLog, record: JobRecord | None = None
) -> Outcome:
    """Run one job from its ad to its final report. Never raises for the job's sake: see Outcome.error."""
    record = record or JobRecord(id=f"{os.getpid()}.{time.monotonic_ns()}")
    outcome = Outcome(error=JobError(Hold.STARTER_ERROR, 0, "This starter cannot run jobs yet."))
    await comm.close()
    return outcome


async def adopt_job(house: House, comm: Communicator, log: StarterLog, record: JobRecord) -> Outcome:
    """Continue with a job whose box an earlier process started; the same end as :func:`run_job`."""
    return await run_job(house, comm, log, record)
