"""Jobs that come by starterd's API: an ad, the account it was submitted by, and a directory for what remains.

No files travel: such a job runs in its Iwd (or in the scratch directory, if it names none), and files that
its ad names are opened inside its box as its user. Streams that the ad does not name are captured (see
:mod:`condor_starter.communicators.capture`) and kept with the job's record.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from condor_starter.communicators.base import ClassAd, Outcome, Request
from condor_starter.communicators.capture import Capture
from condor_starter.job import Hold, JobError, JobSpec, Streams
from condor_starter.sandbox.machine import machine_ad
from condor_starter.sandbox.worker import SandboxWorker

STREAMS = {"stdout": "_condor_stdout", "stderr": "_condor_stderr"}
"""Captured streams and their names in the scratch directory."""


def captured(spec: JobSpec) -> list[str]:
    """The streams that are captured: those without a name, and all of a container, which sees no Iwd."""
    return [s for s in STREAMS if spec.docker is not None or getattr(spec.streams, s) is None]


class ApiCommunicator:
    """The door of one API job; implements :class:`condor_starter.communicators.base.Communicator`.

    ``ad`` is the parsed ad, with the owner settled; ``kept`` the files that captured streams go to,
    ``execute`` the directory that its ``scratch`` directory is made in. ``changed`` is called when the job is
    executed (with None) and with every update ad; ``ended`` with the outcome and the final ad, exactly once.
    """

    name = "api"

    def __init__(
        self,
        number: int,
        ad: ClassAd,
        spec: JobSpec,
        kept: Mapping[str, Path],
        execute: str,
        scratch: str,
        changed: Callable[[ClassAd | None], None],
        ended: Callable[[Outcome, ClassAd], None],
    ) -> None:
        self.slot = f"slot1_{number}"
        self.machine_ad = machine_ad(self.slot, execute, spec)
        self.requests: asyncio.Queue[Request] = asyncio.Queue()
        self.captures: dict[str, Capture] = {}
        self.closed = False
        self._scratch = scratch
        if "ClusterId" not in ad:
            ad["ClusterId"] = number
        self._ad = ad
        self._kept = kept
        self._changed = changed
        self._ended = ended

    async def job_ad(self) -> ClassAd:
        return self._ad

    def scratch_name(self) -> str:
        return self._scratch

    def streams(self, spec: JobSpec, cwd: str) -> Streams:
        """As the ad names them; relative names mean the working directory, as everywhere."""
        return replace(spec.streams, **dict.fromkeys(captured(spec)))

    def stream_fds(self) -> dict[str, int]:
        return {name: capture.fd for name, capture in self.captures.items()}

    async def fetch_inputs(self, spec: JobSpec, scratch: str) -> None:
        """No files travel; the captured streams are made here, while the directory is ours alone."""
        try:
            for stream in captured(spec):
                self.captures[stream] = Capture.create(scratch, STREAMS[stream])
        except OSError as e:
            raise JobError(
                Hold.SCRATCH_DIR_ERROR, e.errno or 0, f"The job's output file could not be made: {e}"
            ) from e

    async def readopt(self, spec: JobSpec, worker: SandboxWorker) -> None:
        """Find the captured streams of a job that an earlier process started; what is gone is gone."""
        for stream in captured(spec):
            with contextlib.suppress(OSError):
                self.captures[stream] = await Capture.reopen(worker, STREAMS[stream])

    async def executing(self, spec: JobSpec) -> None:
        self._changed(None)

    async def update(self, ad: ClassAd, *, final: bool = False) -> None:
        if final:
            self._keep()  # while the scratch directory is still there for whoever comes after us
        self._changed(ad)

    async def send_outputs(self, spec: JobSpec, worker: SandboxWorker, *, final: bool = True) -> None:
        """Nothing travels."""

    async def finished(self, spec: JobSpec | None, outcome: Outcome, ad: ClassAd) -> None:
        self._keep()
        self._ended(outcome, ad)

    def _keep(self) -> None:
        """Copy the captured streams to the job's record, and let go of them."""
        for stream, capture in self.captures.items():
            with contextlib.suppress(OSError):  # our disk is full: the exit status is still worth telling
                capture.preserve(self._kept[stream])
        self._release()

    def _release(self) -> None:
        for capture in self.captures.values():
            capture.close()
        self.captures.clear()

    async def close(self) -> None:
        self._release()
        self.closed = True
