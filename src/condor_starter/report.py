"""What is told about a job: the attributes of its updates and of its end, and the sentences of its failures.

Pure. Names and sentences are HTCondor's: tools and users' scripts read them.
"""

from __future__ import annotations

import errno as errnos
import os
import signal
import time
from dataclasses import dataclass, field
from typing import Any

import classad2

from condor_starter.arguments import join_v1
from condor_starter.communicators.base import Outcome
from condor_starter.isolation.boxplan import BoxExit, BoxPlan, Usage
from condor_starter.isolation.docker import out_of_memory as docker_out_of_memory
from condor_starter.job import OUT_OF_MEMORY, Blame, Hold, JobError
from condor_starter.log import escape

ClassAd = Any
"""A ``classad2.ClassAd``. The library has no type information."""

RECENT_SECONDS = 1200.0
"""HTCondor's window for the Recent* attributes."""

_MEMORY_USAGE = classad2.ExprTree("((ResidentSetSize + 1023) / 1024)")
MIB = 1048576


@dataclass(slots=True)
class Tally:
    """The usage of one job over time: sizes are the largest seen, counters the last."""

    usage: Usage = field(default_factory=Usage)
    rss_kb: int = 0
    _samples: list[tuple[float, Usage]] = field(default_factory=list)

    def add(self, usage: Usage, now: float) -> None:
        """Take a sample; ``now`` is monotonic."""
        self.usage = usage
        seen = max(usage.memory_bytes or 0, usage.memory_peak_bytes or 0)
        self.rss_kb = max(self.rss_kb, -(-seen // 1024))
        self._samples.append((now, usage))
        while len(self._samples) > 1 and self._samples[1][0] <= now - RECENT_SECONDS:
            del self._samples[0]

    def recent(self, name: str, now: float) -> int:
        """How much the counter ``name`` grew within the window."""
        before = self._samples[0] if self._samples and self._samples[0][0] <= now - RECENT_SECONDS else None
        total = getattr(self.usage, name) or 0
        return int(total - (getattr(before[1], name) or 0)) if before else int(total)


_BLOCK_IO = {
    "BlockReadKbytes": ("read_bytes", 1024),
    "BlockWriteKbytes": ("write_bytes", 1024),
    "BlockReads": ("read_ops", 1),
    "BlockWrites": ("write_ops", 1),
}


def usage_ad(tally: Tally, seconds: float, now: float) -> ClassAd:
    """The usage attributes after ``seconds`` of running. What is not known here is left out, not 0."""
    usage = tally.usage
    ad = classad2.ClassAd()
    ad["RemoteUserCpu"] = usage.user_usec / 1e6
    ad["RemoteSysCpu"] = usage.system_usec / 1e6
    ad["ImageSize"] = tally.rss_kb
    ad["ResidentSetSize"] = tally.rss_kb
    ad["MemoryUsage"] = _MEMORY_USAGE
    ad["NumPids"] = usage.processes or 0
    ad["StatsLifetime"] = int(seconds)
    ad["RecentStatsLifetime"] = int(min(seconds, RECENT_SECONDS))
    for name, (field_name, unit) in _BLOCK_IO.items():
        ad[name] = (getattr(usage, field_name) or 0) // unit
        ad[f"Recent{name}"] = tally.recent(field_name, now) // unit
    return ad


def running_ad(ad: ClassAd, *, pid: int, started_at: float, suspended: bool, cgroup: bool) -> ClassAd:
    """``ad`` (from :func:`usage_ad`) with the state of a running job."""
    ad["JobState"] = "Suspended" if suspended else "Running"
    ad["JobPid"] = pid
    ad["JobStartDate"] = int(started_at)
    if cgroup:
        ad["CgroupEnforced"] = True
    return ad


def exit_ad(ad: ClassAd, status: int, duration: float) -> ClassAd:
    """``ad`` with the job's own end: a raw wait(2) status."""
    ad["JobState"] = "Exited"
    ad["JobDuration"] = round(duration, 6)
    ad["NumPids"] = 0
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        ad["ExitBySignal"] = True
        ad["ExitSignal"] = number
        ad["ExitReason"] = f"died on signal {number} ({signal.strsignal(number) or 'unknown'})"
        if os.WCOREDUMP(status):
            ad["JobCoreDumped"] = True
    else:
        ad["ExitBySignal"] = False
        ad["ExitCode"] = os.WEXITSTATUS(status)
    return ad


def own_end_ad(ad: ClassAd, when: float) -> ClassAd:
    """``ad`` (from :func:`exit_ad`) with HTCondor's ticket of execution: the job ended by itself at ``when``.

    Who ended it is told for no other end: those who end jobs (the startd, the schedd) write it themselves.
    """
    ticket = classad2.ClassAd({"Who": "itself", "How": "OF_ITS_OWN_ACCORD", "HowCode": 0, "When": int(when)})
    for name in ("ExitBySignal", "ExitSignal", "ExitCode"):
        if name in ad:
            ticket[name] = ad[name]
    ad["ToE"] = ticket
    return ad


def error_ad(ad: ClassAd, error: JobError) -> ClassAd:
    """``ad`` with the hold, or with the reason for running the job again."""
    if error.holds:
        ad["HoldReason"] = escape(error.text)
        ad["HoldReasonCode"] = error.code
        ad["HoldReasonSubCode"] = error.subcode
    else:
        ad["VacateReason"] = escape(error.text)
        ad["VacateReasonCode"] = error.code
        ad["VacateReasonSubCode"] = error.subcode
    return ad


def final_ad(outcome: Outcome, tally: Tally, pid: int, cgroup: bool) -> ClassAd:
    """Everything that is told at the end of a job, however it ended."""
    ad = usage_ad(tally, outcome.duration, time.monotonic())
    if outcome.started_at is not None:
        running_ad(ad, pid=pid, started_at=outcome.started_at, suspended=False, cgroup=cgroup)
    if outcome.status is not None:
        exit_ad(ad, outcome.status, outcome.duration)
    if outcome.ran_to_its_end and outcome.started_at is not None:
        own_end_ad(ad, outcome.started_at + outcome.duration)
    if outcome.error is not None:
        error_ad(ad, outcome.error)
    return ad


def describe_status(status: int) -> str:
    """As the StarterLog has it: ``status=3`` or ``signal=9``."""
    if os.WIFSIGNALED(status):
        return f"signal={os.WTERMSIG(status)}"
    return f"status={os.WEXITSTATUS(status)}"


def verdict(ended: BoxExit, plan: BoxPlan, always_hold: bool) -> JobError | None:
    """The error that an end by itself amounts to; None for a job that simply ended."""
    if ended.oom and plan.kind == "container":
        return docker_out_of_memory(plan.limits.memory)
    if ended.oom:
        return out_of_memory(ended, plan.limits.memory, always_hold)
    return box_lost(ended) if ended.status < 0 else None


def out_of_memory(ended: BoxExit, limit: int | None, always_hold: bool) -> JobError:
    """The hold for a job that met its memory limit (bytes), or that the machine's own memory ended.

    With ``always_hold`` off a job that used less than 90 % of its limit is not to blame: it runs again.
    """
    if limit is None:
        text = "Job has encountered an out-of-memory event."
        return JobError(Hold.JOB_OUT_OF_RESOURCES, OUT_OF_MEMORY, text)
    megabytes = limit // MIB
    used = (ended.usage.memory_peak_bytes or 0) // MIB
    if not always_hold and 0 < used < 0.9 * megabytes:
        return JobError(Hold.STARTER_ERROR, 0, "Worker node is out of memory", Blame.SITE)
    measured = megabytes if always_hold or not used else used
    text = (
        f"Job has gone over cgroup memory limit of {megabytes} megabytes. Last measured usage: {measured} "
        "megabytes.  Consider resubmitting with a higher request_memory."
    )
    return JobError(Hold.JOB_OUT_OF_RESOURCES, OUT_OF_MEMORY, text)


_STREAMS = {
    "stdin": ("input", Hold.UNABLE_TO_OPEN_INPUT),
    "stdout": ("output", Hold.UNABLE_TO_OPEN_OUTPUT),
    "stderr": ("error", Hold.UNABLE_TO_OPEN_OUTPUT),
}


def start_failed(step: str, errno: int, text: str, blame: str, plan: BoxPlan, interpreter: str) -> JobError:
    """A box that did not start: which step failed with which errno, and procd's words for it.

    ``interpreter`` is the missing one of the job's script, "" if that is not what is wrong.
    """
    why = os.strerror(errno)
    if step in _STREAMS:
        name, code = _STREAMS[step]
        path = os.path.join(plan.cwd, getattr(plan, step).path or "")
        return JobError(code, errno, f"Failed to open '{path}' as standard {name}: {why} (errno {errno})")
    if step == "cwd":
        said = f"Cannot access initial working directory {plan.cwd}: {why} (errno={errno})"
        return JobError(Hold.IWD_ERROR, errno, said)
    if step == "exec":
        return _exec_failed(errno, why, plan, interpreter)
    who = Blame(blame) if blame in ("user", "site", "system") else Blame.SYSTEM
    return JobError(
        Hold.STARTER_ERROR, errno, f"The job's box could not be built at the step {step}: {text}", who
    )


def _exec_failed(errno: int, why: str, plan: BoxPlan, interpreter: str) -> JobError:
    args = join_v1(plan.argv[1:])
    words = f" with arguments {args}" if args else ""
    detail = f"invalid interpreter ({interpreter}) specified on first line of script " if interpreter else ""
    if errno == errnos.ENOEXEC:
        detail = ""
    text = f"Failed to execute '{plan.argv[0]}'{words}: {detail}(errno={errno}: '{why}')"
    return JobError(Hold.FAILED_TO_CREATE_PROCESS, errno, text)


def box_lost(ended: BoxExit) -> JobError:
    """A box whose end nobody saw, or which holds a process that cannot be killed."""
    said = f"The job's box ended without a status: {ended.error or 'its init was killed'}"
    return JobError(Hold.STARTER_ERROR, ended.errno, said, Blame.SYSTEM)


def wall_clock() -> float:
    """Seconds since the epoch; intervals are measured by time.monotonic instead."""
    return time.time()
