"""What a new starterd does with the jobs and boxes of the one before it.

Two lists are matched: the job directories, written by our predecessor, and procd's boxes. Each job gets one
:class:`Fate`; a box that no job claims is killed and removed.
"""

from __future__ import annotations

import asyncio
import enum
from typing import NamedTuple

from condor_starter.communicators.base import Outcome
from condor_starter.daemon import report
from condor_starter.daemon.dispose import dispose
from condor_starter.daemon.jobs import Jobs
from condor_starter.daemon.store import Folder, Store, Submission
from condor_starter.job import BadAd, Blame, Hold, JobError
from condor_starter.log import StarterLog
from condor_starter.procd.client import BoxInfo, Procd
from condor_starter.sandbox.ads import parse_ad
from condor_starter.starter import JobRecord

_LIVE = frozenset({"starting", "running", "draining", "exited"})


class Fate(enum.Enum):
    """What becomes of a job that an earlier starterd left."""

    SHOW = "it has ended and says so"
    ADOPT = "it runs, or its end is known"
    RUN = "it never ran: from the start"
    GIVE_UP = "it ran, and its box is gone"


def fate(record: JobRecord, finished: bool, box: str | None) -> Fate:
    """Pure: from the record, whether there is a terminal record, and the state of the job's box."""
    if finished:
        return Fate.SHOW
    if box in _LIVE or record.exit is not None:
        return Fate.ADOPT
    if record.stage in ("accepted", "prepared"):
        return Fate.RUN
    return Fate.GIVE_UP


class Left(NamedTuple):
    """A job as its directory tells it."""

    folder: Folder
    submission: Submission
    record: JobRecord
    outcome: dict[str, object] | None


async def adopt(jobs: Jobs, store: Store, procd: Procd, boxes: list[BoxInfo], log: StarterLog) -> None:
    """Give every job its fate, and remove the boxes that no job claims, before anything new is started."""
    states = {b.box: b.state for b in boxes}
    left = [found for folder in store.folders() if (found := _read(folder, log))]
    fates = [(job, fate(job.record, job.outcome is not None, states.get(job.record.box))) for job in left]
    claimed = {job.record.box for job, what in fates if what is Fate.ADOPT}
    orphans = [box for box in boxes if box.box not in claimed]
    await asyncio.gather(*(dispose(procd, box, log) for box in orphans))
    for job, what in fates:
        if what is not Fate.SHOW:
            log.say(f"Job {job.folder.number} was left by an earlier starterd: {what.value}")
        _resume(jobs, job, what)


def _read(folder: Folder, log: StarterLog) -> Left | None:
    """The job in ``folder``. A torn record (the machine went down) is a job that ran and was lost."""
    try:
        outcome = folder.outcome()
    except ValueError:
        outcome = report.terminal(_lost("Its terminal record is torn."))
    try:
        submission = folder.submission()
    except (OSError, ValueError, TypeError) as e:
        log.say(f"Job {folder.number}: nobody knows any more whose it was; forgetting it: {e!r}")
        folder.remove()
        return None
    try:
        return Left(folder, submission, folder.record(), outcome)
    except (OSError, ValueError, TypeError):
        return Left(folder, submission, JobRecord(id=str(folder.number), stage="running"), outcome)


def _resume(jobs: Jobs, job: Left, what: Fate) -> None:
    match what:
        case Fate.SHOW:
            assert job.outcome is not None
            jobs.show(job.folder, job.submission, job.outcome)
        case Fate.ADOPT | Fate.RUN:
            _continue(jobs, job, what is Fate.ADOPT)
        case Fate.GIVE_UP:
            lost = _lost("The starter and the job's box were both lost while the job ran.")
            jobs.close(job.folder, job.submission, lost)


def _continue(jobs: Jobs, job: Left, adopted: bool) -> None:
    record = job.record
    if not adopted:
        record.box, record.plan = "", {}
    try:
        ad = parse_ad(job.folder.ad())
        if job.submission.user:
            ad["OsUser"] = job.submission.user
        jobs.resume(job.folder, job.submission, ad, record, adopted)
    except (OSError, ValueError, BadAd) as e:
        jobs.close(job.folder, job.submission, _lost(f"The job's ad cannot be read any more: {e}"))


def _lost(why: str) -> Outcome:
    return Outcome(error=JobError(Hold.STARTER_ERROR, 0, why, Blame.SYSTEM))
