"""What a shadow is told: who we are, what the slot gives, how the job failed or ended. Pure."""

from __future__ import annotations

import os
import time

from condor_starter.cedar.literals import Literal, line, lines
from condor_starter.cedar.version import CONDOR_PLATFORM, CONDOR_VERSION
from condor_starter.communicators.base import Ask, Outcome
from condor_starter.communicators.wire import WireAd
from condor_starter.job import JobError

EXITED, KILLED, COREDUMPED, SHOULD_REQUEUE, NOT_STARTED = 100, 102, 103, 107, 108
"""Why job_exit is called: HTCondor's condor_includes/exit.h."""

_VACATE_CODES_SINCE = (24, 9, 2)
_REMOTE_ERROR = 21  # the event's number in the user log


def registration(machine: WireAd, job: WireAd, place: list[str]) -> list[str]:
    """The ad of register_starter_info. ``place``: our addresses and scratch directory.

    The shadow chooses by our version what it may send us, and names the slot to the user. The job may ask for
    more of the machine's attributes in its event log.
    """
    wanted = job.text("UserLogExecuteEventAttrs").replace(",", " ").split()
    names = ["Name", "Machine", "UidDomain", "FileSystemDomain", "MachineResources"]
    names += [*resources(machine), *(f"Assigned{r}" for r in resources(machine))]
    names += [n for n in wanted if n.lower() not in ("starteripaddr", "slotad", "condorversion")]
    return [
        *machine.lines(dict.fromkeys(names)),
        *place,
        line("HasReconnect", False),
        line("CondorVersion", CONDOR_VERSION),
        line("CondorPlatform", CONDOR_PLATFORM),
        f"SlotAd = {machine.nested()}",
    ]


def resources(machine: WireAd) -> list[str]:
    """The names of what the slot has: Cpus, Memory, Disk, and the admin's own."""
    return (machine.text("MachineResources") or "Cpus Memory Disk").split()


def provisioned(machine: WireAd) -> list[str]:
    """What the slot gives the job, for the "Allocated" column of the event log and the job's history."""
    names = resources(machine)
    found = [(f"{n}Provisioned", machine.expression(n)) for n in names]
    found += [(f"Assigned{n}", machine.expression(f"Assigned{n}")) for n in names]
    told = [f"{name} = {value}" for name, value in found if value is not None]
    return [*told, line("ProvisionedResources", " ".join(names))]


def failure(error: JobError, shadow: tuple[int, int, int]) -> list[str]:
    """The event that makes a shadow of this version hold the job, or run it again.

    Older shadows know hold codes only; an event without a code makes them run the job again.
    """
    event: dict[str, Literal] = {
        "MyType": "RemoteErrorEvent",
        "EventTypeNumber": _REMOTE_ERROR,
        "EventTime": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "Daemon": "starter",
        "ErrorMsg": error.text,
    }
    if error.holds or shadow >= _VACATE_CODES_SINCE:
        event |= {"HoldReasonCode": error.code, "HoldReasonSubCode": error.subcode}
    return lines(event)


def exit_reason(outcome: Outcome) -> int:
    """The reason of job_exit."""
    if outcome.ended_by is not None:
        return KILLED if outcome.ended_by.ask is Ask.REMOVE else SHOULD_REQUEUE
    if outcome.status is None:
        return NOT_STARTED
    dumped = os.WIFSIGNALED(outcome.status) and os.WCOREDUMP(outcome.status)
    return COREDUMPED if dumped else EXITED
