"""What became of a job, in the words of the API: pure functions from ads and outcomes to plain data."""

from __future__ import annotations

import os
import time
from typing import Any

from condor_starter.communicators.base import ClassAd, Outcome
from condor_starter.isolation.boxplan import to_wire
from condor_starter.job import BadAd, Blame
from condor_starter.sandbox.accounts import NoAccount

HELD = 230
FAILED = 231
BAD = 2
HOW = ("exited", "signalled", "held", "failed", "ended")
"""How a job can end: by itself, by a signal, in a hold, by no fault of its own, or because somebody asked."""

_SHOWN = (
    "JobState",
    "RemoteUserCpu",
    "RemoteSysCpu",
    "MemoryUsage",
    "ResidentSetSize",
    "ImageSize",
    "NumPids",
    "DiskUsage",
)


def summary(update: ClassAd) -> dict[str, Any]:
    """The attributes of an update ad that the API shows."""
    shown = {name: update.get(name) for name in _SHOWN}
    return {name: value for name, value in shown.items() if type(value) in (int, float, str, bool)}


def terminal(outcome: Outcome) -> dict[str, Any]:
    """The terminal record of a job."""
    error, status = outcome.error, outcome.status
    return {
        "how": how(outcome),
        "exit_status": exit_status(outcome),
        "exit_code": os.WEXITSTATUS(status) if status is not None and os.WIFEXITED(status) else None,
        "exit_signal": os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else None,
        "error": error
        and {
            "code": error.code,
            "subcode": error.subcode,
            "text": error.text,
            "blame": error.blame.value,
        },
        "ended_by": outcome.ended_by
        and {
            "ask": outcome.ended_by.ask.value,
            "reason": outcome.ended_by.reason,
        },
        "usage": to_wire(outcome.usage),
        "started_at": outcome.started_at,
        "duration": outcome.duration,
        "ended_at": time.time(),
    }


def how(outcome: Outcome) -> str:
    """One of HOW."""
    if outcome.error:
        return "held" if outcome.error.holds and not isinstance(outcome.error, BadAd) else "failed"
    if outcome.ended_by:
        return "ended"
    if outcome.status is None:
        return "failed"
    return "exited" if os.WIFEXITED(outcome.status) else "signalled"


def exit_status(outcome: Outcome) -> int:
    """The status that ``starterctl submit --wait`` exits with: the contract of ``starterctl run``."""
    error = outcome.error
    if isinstance(error, BadAd) or (isinstance(error, NoAccount) and error.blame is Blame.USER):
        return BAD
    if error:
        return HELD if error.holds else FAILED
    if outcome.status is None or outcome.status < 0:
        return FAILED
    if os.WIFSIGNALED(outcome.status):
        return 128 + os.WTERMSIG(outcome.status)
    return os.WEXITSTATUS(outcome.status)
