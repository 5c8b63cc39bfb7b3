"""Jobs that a startd starts us for: a shadow at the other end has the job, its files, and wants to hear all
about it.

:func:`open_shadow` takes over what the startd left to its starter: two connected sockets (to the shadow, to
the startd itself), the listener of our command port, and the keys of three sessions. It is told the
environment and how to find the descriptors, because the starter may run in another process than the one
that the startd started.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping

from condor_starter.cedar.errors import CedarError
from condor_starter.cedar.literals import line
from condor_starter.cedar.server import CommandPort
from condor_starter.cedar.sessions import PARENT, Keyring
from condor_starter.cedar.version import version_of
from condor_starter.communicators import command_port, keep_alive, shadow_ads, shadow_files
from condor_starter.communicators.base import Ask, ClassAd, Outcome, Request
from condor_starter.communicators.inherited import Inherited, take_over
from condor_starter.communicators.shadow_calls import CALL_SECONDS, CallFailed, ShadowCalls
from condor_starter.communicators.shadow_files import ShadowFiles
from condor_starter.communicators.wire import WireAd, to_lines
from condor_starter.job import BadAd, JobError, JobSpec, Streams
from condor_starter.knobs import Knobs
from condor_starter.log import StarterLog
from condor_starter.sandbox.worker import SandboxWorker

START_SECONDS = 20.0
"""For the startd's and the shadow's first words."""

LINGER_SECONDS = 5.0
"""How long the command port outlives the job: a startd that cannot reach its starter any more kills it."""

LOST_SHADOW = 2
"""The starter's exit status that tells the startd to give the claim up."""

_UPDATES_PER_INTERVAL = 10  # the shadow gives us up after three times ten missed updates, as HTCondor's does


_SIGNAL_LINES: dict[int, str] = {
    signal.SIGTERM: "Got SIGTERM. Performing graceful shutdown.",
    signal.SIGQUIT: "Got SIGQUIT.  Performing fast shutdown.",
}


async def open_shadow(
    host: str,
    env: Mapping[str, str],
    fd_of: Callable[[int], int],
    log: StarterLog,
    knobs: Knobs,
    pid: int | None = None,
) -> ShadowCommunicator:
    """The communicator of the job that the startd started us for; the startd's words have been read.

    ``host``: the submit machine, as the command line names it. ``fd_of(n)``: our descriptor for number
    ``n`` of the process that the startd started, whose pid is ``pid`` (ours if None). Raises CedarError.
    """
    inherited = take_over(env, fd_of, CALL_SECONDS)
    try:
        async with asyncio.timeout(START_SECONDS):
            machine, overlay = await inherited.startd.machine()
        execute = env.get("_CONDOR_EXECUTE", "")
        return ShadowCommunicator(
            host, inherited, (machine, overlay), log, knobs, (pid or os.getpid(), execute)
        )
    except TimeoutError:
        await inherited.close()
        raise CedarError("the startd did not send the machine's ad") from None
    except (CedarError, BadAd) as e:
        await inherited.close()
        raise CedarError(f"the startd's ad of this machine: {e}") from None


class ShadowCommunicator:
    """The door of one pool job; implements :class:`condor_starter.communicators.base.Communicator`."""

    name = "shadow"

    def __init__(
        self,
        host: str,
        inherited: Inherited,
        ads: tuple[WireAd, WireAd],
        log: StarterLog,
        knobs: Knobs,
        place: tuple[int, str],
    ) -> None:
        """``ads``: the machine's, and the changes to the job's; ``place``: the startd's child's pid,
        EXECUTE.
        """
        self.submit_host = host
        self.requests: asyncio.Queue[Request] = asyncio.Queue()
        self._machine, self._overlay = ads
        self.machine_ad: ClassAd = self._machine.parsed()
        self.slot = str(self.machine_ad.get("Name", "slot1")).partition("@")[0]
        self.exit_status = 0
        self._log = log
        self._knobs = knobs
        self._pid, self._execute = place
        self._job = WireAd(())
        self._scratch = ""
        self._over = False
        self._keyring = Keyring()
        for session in inherited.sessions:
            self._keyring.add(session)
        self._address = inherited.address()
        self._startd = inherited.startd
        self._calls = ShadowCalls(inherited.shadow, self._shadow_lost)
        self._files = ShadowFiles(self._calls, str(self._address))
        self._port = self._serve(inherited)
        self._startd.watch(self._startd_gone)
        self._alive = keep_alive.start(
            inherited.where.parent, self._keyring.of(PARENT), str(self._address), self._pid, log
        )

    # -- the job ----------------------------------------------------------------------------------

    async def job_ad(self) -> ClassAd:
        """get_job_info, and whatever the shadow must know before the job's files can travel."""
        try:
            self._job = WireAd(await self._calls.job_ad())
            self._job.update(self._overlay)
            self._log.say(f"Communicating with shadow {self._job.text('ShadowIpAddr')}")
            self._log.say(f'Submitting machine is "{self.submit_host}"')
            await self._calls.register_starter(self._registration())
            await self._take_sessions()
        except (CedarError, CallFailed) as e:
            raise shadow_files.broken(e) from None
        return self._job.parsed()

    def scratch_name(self) -> str:
        """The startd removes the directory of this name when its child is gone."""
        return f"dir_{self._pid}"

    def streams(self, spec: JobSpec, cwd: str) -> Streams:
        """With file transfer the streams are files in the scratch directory, and the shadow names them."""
        del cwd
        return shadow_files.streams(self._job, spec)

    def stream_fds(self) -> dict[str, int]:
        return {}

    async def fetch_inputs(self, spec: JobSpec, scratch: str) -> None:
        """Everything that the shadow has for the job, into the fresh directory ``scratch``."""
        self._scratch = scratch
        if spec.transfer_files:
            await self._files.fetch(self._job, spec, scratch)
            self._log.say("File transfer completed successfully.")

    async def executing(self, spec: JobSpec) -> None:
        """begin_execution; and the startd hears where we are before anybody asks it."""
        await self._startd.update([*self._place(), line("CondorScratchDir", self._scratch)])
        try:
            await self._calls.begin_execution()
        except (CedarError, CallFailed) as e:
            raise shadow_files.broken(e) from None

    async def update(self, ad: ClassAd, *, final: bool = False) -> None:
        """To the startd, and to the shadow. A lost shadow is told by Ask.LOST, not from here."""
        lines = [*to_lines(ad), *shadow_ads.provisioned(self._machine), *self._place()]
        lines.append(line("_condor_JOBINFO_MAXINTERVAL", self._interval(final)))
        await self._startd.update([*lines, line("CondorScratchDir", self._scratch)])
        try:
            if final:
                await self._event("ActivationExecutionExit")
            await self._calls.register_job_info(lines)
        except CallFailed as e:
            self._log.say(f"The update was not taken: {e}")
        except CedarError:
            pass

    async def send_outputs(self, spec: JobSpec, worker: SandboxWorker, *, final: bool = True) -> None:
        """What the job wants back. The shadow gives the files their names on the submit side."""
        await self._files.bring_back(self._job, spec, worker, self._scratch, final=final)
        self._log.say("File transfer completed successfully.")

    async def finished(self, spec: JobSpec | None, outcome: Outcome, ad: ClassAd) -> None:
        """The end: to the startd first, then to the shadow, as HTCondor's starter does."""
        lines = [*to_lines(ad), *self._place()]
        lines += [line("BytesSent", float(self._files.sent)), line("BytesRecvd", float(self._files.received))]
        await self._startd.update(lines, final=True)
        try:
            await self._tell_end(outcome, lines)
        except CallFailed as e:
            self._log.say(f"The end of the job was not taken: {e}")
        except CedarError as e:
            if not self._files.failed:  # then the shadow knows it already, and has hung up
                self._log.say(f"Failed to send job exit status to shadow: {e}")
                self.exit_status = LOST_SHADOW
        if outcome.ended_by is not None and outcome.ended_by.ask is Ask.LOST:
            self.exit_status = LOST_SHADOW

    async def close(self) -> None:
        """Hang up everywhere; the command port goes a little later."""
        self._over = True
        if self._alive is not None:
            self._alive.cancel()
            await asyncio.gather(self._alive, return_exceptions=True)
        if self._port is not None:
            self._port.retire(LINGER_SECONDS)
        await self._calls.close()
        await self._startd.close()

    # -- from outside -----------------------------------------------------------------------------

    def signal(self, number: int) -> None:
        """The process that the startd started has got this signal."""
        if number in _SIGNAL_LINES:
            self._log.say(_SIGNAL_LINES[number])
        if (ask := command_port.ask_for_signal(number)) is not None:
            self.ask(Request(ask, f"signal {number}"))

    def ask(self, request: Request) -> None:
        """Somebody wants something of the job. Nobody hears it when the job is over."""
        if self._over:
            return
        if request.code or request.subcode:
            self._log.say(f"Got vacate code={request.code} subcode={request.subcode} reason={request.reason}")
        self.requests.put_nowait(request)

    def _shadow_lost(self, reason: str) -> None:
        self._log.say(f"Lost connection to shadow: {reason}")
        self.requests.put_nowait(Request(Ask.LOST, f"Lost connection to shadow: {reason}"))

    def _startd_gone(self, reason: str) -> None:
        self._log.say(f"The startd is gone: {reason}")
        self.requests.put_nowait(Request(Ask.VACATE_FAST, "The startd is gone"))

    def _serve(self, inherited: Inherited) -> CommandPort | None:
        if inherited.listener is None:
            self._log.say("No command port was inherited: the job cannot be suspended or vacated gently")
            return None
        self._log.say(f"DaemonCore: command socket at {self._address}")
        commands = command_port.Commands(self.ask, self._startd.version)
        return CommandPort(
            inherited.listener,
            self._keyring,
            commands.handle,
            command_port.allowed,
            self._log.say,
            shared=bool(inherited.where.endpoint),
        )

    # -- what is told -----------------------------------------------------------------------------

    async def _tell_end(self, outcome: Outcome, lines: list[str]) -> None:
        ended, error = outcome.ended_by, outcome.error
        if ended is not None and ended.ask is Ask.LOST:
            return
        if error is not None:
            if self._files.failed and not self._calls.lost:
                await self._calls.job_termination(lines)
            await self._calls.ulog(self._failure(error))
        elif ended is not None and ended.ask is Ask.HOLD:
            if ended.code > 0:  # the startd's own wish: the shadow has to hear it from us
                await self._calls.ulog(self._failure(JobError(ended.code, ended.subcode, ended.reason)))
        else:
            reason = shadow_ads.exit_reason(outcome)
            await self._calls.job_exit(-1 if outcome.status is None else outcome.status, reason, lines)

    async def _event(self, kind: str) -> None:
        try:
            await self._calls.event([line("EventType", kind)])
        except CallFailed:
            pass  # a shadow that does nothing with it says so with an error

    def _registration(self) -> list[str]:
        place = [*self._place(), line("MyAddress", str(self._address))]
        if self._execute:
            place.append(line("CondorScratchDir", f"{self._execute}/{self.scratch_name()}"))
        return shadow_ads.registration(self._machine, self._job, place)

    def _failure(self, error: JobError) -> list[str]:
        return shadow_ads.failure(error, version_of(self._job.expression("ShadowVersion") or ""))

    def _place(self) -> list[str]:
        return [line("StarterIpAddr", str(self._address))] if self._port else []

    def _interval(self, final: bool) -> int:
        """How long the shadow may have to wait for the next update; -1: it need not wait for any."""
        return -1 if final else int(_UPDATES_PER_INTERVAL * self._knobs.number("STARTER_UPDATE_INTERVAL"))

    # -- small things -----------------------------------------------------------------------------

    async def _take_sessions(self) -> None:
        """Keys for the file transfers, and for a shadow that calls us."""
        try:
            claim, self._files.session = await self._calls.sessions()
        except CallFailed as e:
            self._log.say(f"The shadow gives no session for file transfers: {e}")
            return
        self._keyring.add(claim)
