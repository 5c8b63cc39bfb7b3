"""The client of the sandbox worker, under the room's name in which its users look for it."""

from __future__ import annotations

from condor_starter.procd.worker_client import Entry, SandboxWorker, WorkerGone

__all__ = ["Entry", "SandboxWorker", "WorkerGone"]
