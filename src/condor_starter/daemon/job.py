"""One job as the daemon knows it."""

from __future__ import annotations

import asyncio
import enum
from dataclasses import dataclass, field
from typing import Any

from condor_starter.communicators.api import ApiCommunicator
from condor_starter.communicators.base import Request
from condor_starter.daemon.store import Journal, Submission


class Phase(enum.Enum):
    """How far a job is, in the words of the API."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    SUSPENDED = "suspended"
    ENDING = "ending"
    DONE = "done"


@dataclass(slots=True)
class Job:
    """One job as the daemon knows it; what is on disk is in ``journal``."""

    journal: Journal
    submission: Submission
    phase: Phase = Phase.QUEUED
    comm: ApiCommunicator | None = None
    task: asyncio.Task[None] | None = None
    outcome: dict[str, Any] | None = None  # the terminal record
    update: dict[str, Any] = field(default_factory=dict)  # of the last update ad: what the API shows
    asked: Request | None = None  # to end it
    size: int = 0  # bytes on disk, once it is done
    done: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def number(self) -> int:
        """The job's number in the API."""
        return self.journal.number

    def view(self) -> dict[str, Any]:
        """The job as the API shows it."""
        return {
            "id": self.number,
            "user": self.submission.user,
            "uid": self.submission.uid,
            "cmd": self.submission.cmd,
            "streams": self.submission.streams,
            "state": self.phase.value,
            "submitted_at": self.submission.submitted_at,
            "asked": self.asked.ask.value if self.asked else None,
            "usage": self.update or None,
            "outcome": self.outcome,
        }
