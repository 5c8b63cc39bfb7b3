"""The files of a pool's job: inputs before it runs, outputs when it has ended, and where its streams go
meanwhile.
"""

from __future__ import annotations

import os

from condor_starter.cedar.client import Target, open_command
from condor_starter.cedar.commands import Command
from condor_starter.cedar.errors import CedarError
from condor_starter.cedar.sessions import Session
from condor_starter.cedar.sinful import BadSinful, Sinful
from condor_starter.cedar.stream import Stream
from condor_starter.communicators.shadow_calls import CALL_SECONDS, ShadowCalls
from condor_starter.communicators.shadow_streams import streamed, write_back
from condor_starter.communicators.wire import WireAd
from condor_starter.job import Blame, Hold, JobError, JobSpec, Streams
from condor_starter.sandbox.contents import Catalog
from condor_starter.sandbox.worker import SandboxWorker
from condor_starter.transfer.download import download
from condor_starter.transfer.incoming import parse_remaps
from condor_starter.transfer.outgoing import STDERR, STDOUT, Wanted, choose
from condor_starter.transfer.upload import upload

_NULL = (None, "", "/dev/null")


def broken(e: Exception, prefix: str = "") -> JobError:
    """What a broken connection means for the job: it is not to blame, and runs again."""
    return JobError(Hold.STARTER_ERROR, 0, f"{prefix}{e}", Blame.SYSTEM)


def streams(job: WireAd, spec: JobSpec) -> Streams:
    """Where the job's streams are: with file transfer in the sandbox, under names that the shadow knows."""
    names = spec.streams
    if not spec.transfer_files:
        return names
    stdin = names.stdin
    if stdin is not None and stdin not in _NULL and job.flag("TransferIn", True):
        stdin = os.path.basename(stdin)
    out = STDOUT if names.stdout not in _NULL and job.flag("TransferOut", True) else names.stdout
    err = STDERR if names.stderr not in _NULL and job.flag("TransferErr", True) else names.stderr
    if out == STDOUT and err == STDERR and names.stdout == names.stderr:
        err = STDOUT
    return Streams(stdin, out, err)


class ShadowFiles:
    """The transfers of one job. ``session`` is set when the shadow has given one."""

    def __init__(self, calls: ShadowCalls, ours: str) -> None:
        """``ours``: our command port's address, for the shadow's log."""
        self.session: Session | None = None
        self.sent = self.received = 0  # bytes
        self.failed = False  # the outputs could not be brought back, and the shadow knows why
        self._calls = calls
        self._ours = ours
        self._catalog = Catalog({})

    async def fetch(self, job: WireAd, spec: JobSpec, scratch: str) -> None:
        """Fill the fresh directory ``scratch``. Raises JobError."""
        executable = os.path.basename(spec.cmd) if spec.transfer_executable else ""
        remaps = parse_remaps(job.text("TransferInputRemaps"))
        try:
            stream = await self._connect(job, Command.FILETRANS_UPLOAD)
            try:
                took = await download(stream, job.text("TransferKey"), scratch, executable, remaps)
            finally:
                stream.close()
        except (CedarError, OSError) as e:
            raise broken(e, "Failed to transfer files: ") from None
        self._catalog, self.received = took.catalog, took.size

    async def bring_back(
        self, job: WireAd, spec: JobSpec, worker: SandboxWorker, scratch: str, *, final: bool
    ) -> None:
        """Send what the job wants back from its sandbox, whose path was ``scratch``. Raises JobError.

        Not ``final``: the job was evicted, and the submit side keeps the files for its next run.
        """
        plain, live = self._split_streams(job, spec)
        wanted = Wanted(
            listed=spec.transfer_output,
            streams=plain,
            executable=os.path.basename(spec.cmd) if spec.transfer_executable else "",
            scratch=scratch,
            keep_paths=job.flag("PreserveRelativePaths", False),
        )
        try:
            await self._send(job, wanted, worker, final)
            for here, there in live.items():
                await write_back(self._calls, worker, here, there)
        except JobError as e:
            self.failed = e.holds
            raise
        except (CedarError, OSError) as e:
            raise broken(e, "Failed to transfer files: ") from None

    async def _send(self, job: WireAd, wanted: Wanted, worker: SandboxWorker, final: bool) -> None:
        items = await choose(wanted, worker, self._catalog)
        stream = await self._connect(job, Command.FILETRANS_DOWNLOAD)
        try:
            key = job.text("TransferKey")
            sent = await upload(stream, key, items, worker, wanted.scratch, final=final)
        finally:
            stream.close()
        self.sent = sent.size

    def _split_streams(self, job: WireAd, spec: JobSpec) -> tuple[tuple[str, ...], dict[str, str]]:
        """The streams that are sent like other files, and those that are written to a path over there."""
        here, there = streams(job, spec), spec.streams
        live = streamed(job)
        pairs = {"Out": (here.stdout, there.stdout), "Err": (here.stderr, there.stderr)}
        ours = {n: (str(h), str(t)) for n, (h, t) in pairs.items() if h in (STDOUT, STDERR)}
        plain = dict.fromkeys(h for n, (h, _) in ours.items() if n not in live)
        iwd = job.text("Iwd")
        return tuple(plain), {h: os.path.join(iwd, t) for n, (h, t) in ours.items() if n in live}

    async def _connect(self, job: WireAd, command: int) -> Stream:
        if self.session is None:
            raise CedarError("there is no session for file transfers with this shadow")
        try:
            address = Sinful.parse(job.text("TransferSocket"))
        except BadSinful as e:
            raise CedarError(f"TransferSocket: {e}") from None
        return await open_command(Target(address, command, self.session, self._ours, CALL_SECONDS))
