"""What a new starterd does with the jobs and boxes of the one before it.

Two lists are matched: the jobs' journals, written by our predecessor, and procd's boxes. Each job gets one
:class:`Fate`; a box that no job claims is killed and removed.
"""

from __future__ import annotations

import asyncio
import enum

from condor_starter.communicators.base import Outcome
from condor_starter.daemon.dispose import dispose
from condor_starter.daemon.jobs import Jobs
from condor_starter.daemon.store import Journal, Left, Store
from condor_starter.daemon.way import stillborn
from condor_starter.job import BadAd, Blame, Hold, JobError
from condor_starter.log import StarterLog
from condor_starter.procd.client import BoxInfo, Procd
from condor_starter.record import JobRecord
from condor_starter.sandbox.ads import parse_ad

_LIVE = frozenset({"starting", "running", "draining", "exited"})


class Fate(enum.Enum):
    """What becomes of a job that an earlier starterd left."""

    SHOW = "it has ended and says so"
    ADOPT = "it runs, or its end is known"
    RUN = "it never ran: from the start"
    GIVE_UP = "it ran, and its box is gone"


def fate(record: JobRecord, begun: bool, finished: bool, box: str | None) -> Fate:
    """Pure: from the record, whether procd was asked to start the job, whether there is a terminal record,
    and the state of the job's box. A job that may have run is not run again.
    """
    if finished:
        return Fate.SHOW
    if stillborn(record.exit):  # our predecessor died between its end and its next beginning
        return Fate.RUN
    if box in _LIVE or record.exit is not None:
        return Fate.ADOPT
    if record.stage in ("accepted", "prepared") and (not begun or box == "made"):
        return Fate.RUN
    return Fate.GIVE_UP


async def adopt(jobs: Jobs, store: Store, procd: Procd, boxes: list[BoxInfo], log: StarterLog) -> None:
    """Give every job its fate, and remove the boxes that no job claims, before anything new is started."""
    states = {b.box: b.state for b in boxes}
    left = [found for journal in store.journals() if (found := _read(journal, log))]
    fates = [
        (job, fate(job.record, job.begun, job.outcome is not None, states.get(job.record.box)))
        for job in left
    ]
    claimed = {job.record.box for job, what in fates if what is Fate.ADOPT}
    orphans = [box for box in boxes if box.box not in claimed]
    await asyncio.gather(*(dispose(procd, box, log) for box in orphans))
    for job, what in fates:
        if what is not Fate.SHOW:
            log.say(f"Job {job.journal.number} was left by an earlier starterd: {what.value}")
        _resume(jobs, job, what)


def _read(journal: Journal, log: StarterLog) -> Left | None:
    try:
        return journal.read()
    except (OSError, ValueError) as e:  # it was never acknowledged, or the machine went down
        log.say(f"Job {journal.number}: nobody knows any more whose it was; forgetting it: {e}")
        journal.remove()
        return None


def _resume(jobs: Jobs, left: Left, what: Fate) -> None:
    match what:
        case Fate.SHOW:
            jobs.show(left)
        case Fate.ADOPT | Fate.RUN:
            _continue(jobs, left, what is Fate.ADOPT)
        case Fate.GIVE_UP:
            jobs.close(left, _lost("The starter and the job's box were both lost while the job ran."))


def _continue(jobs: Jobs, left: Left, adopted: bool) -> None:
    if not adopted:
        left.record.box, left.record.plan = "", {}
    try:
        ad = parse_ad(left.ad)
        ad["OsUser"] = left.submission.user
        jobs.resume(left, ad, adopted)
    except BadAd as e:
        jobs.close(left, _lost(f"The job's ad cannot be read any more: {e}"))


def _lost(why: str) -> Outcome:
    return Outcome(error=JobError(Hold.STARTER_ERROR, 0, why, Blame.SYSTEM))
