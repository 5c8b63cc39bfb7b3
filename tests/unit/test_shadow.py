"""The shadow communicator between the sockets that a startd leaves: what it says, to whom, and what it keeps.

The peers here are scripts that say what a real shadow and startd were seen to say; the real ones are in
tests/pool.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import classad2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from condor_starter.cedar.cipher import Aes, CipherState, derive_key
from condor_starter.cedar.codec import Reader, Writer
from condor_starter.cedar.commands import Command
from condor_starter.cedar.errors import CedarError
from condor_starter.cedar.literals import LiteralAd, line, lines
from condor_starter.cedar.shared_port import pass_connection
from condor_starter.cedar.stream import Stream
from condor_starter.cedar.wire import Wire
from condor_starter.communicators import shadow_calls as calls
from condor_starter.communicators.base import Ask, Outcome, Request
from condor_starter.communicators.shadow import ShadowCommunicator, open_shadow
from condor_starter.communicators.shadow_streams import write_back
from condor_starter.communicators.wire import WireAd, is_secret
from condor_starter.job import Blame, Hold, JobError, spec_from_ad
from condor_starter.knobs import load
from condor_starter.log import StarterLog
from condor_starter.sandbox.ads import print_ad
from unit.sandbox_help import sandbox_worker

KEY, SECRET, CLAIM = b"k" * 32, "5ec7e7" * 10, "c1a1m0" * 10
PARENT = "<127.0.0.1:9618?addrs=127.0.0.1-9618&noUDP&sock=startd_1_2>"
INFO = '[Encryption="YES";CryptoMethodsList="AES.BLOWFISH.3DES";ShortVersion="23.9.6";]'
MACHINE = [
    'Name = "slot1_1@pool.test"',
    'CondorVersion = "$CondorVersion: 23.9.6 2024-08-08 PackageID: x $"',
    'MachineResources = "Cpus Memory Disk GPUs"',
    "Cpus = 1",
    "Memory = 128",
    "Disk = 10240",
    'AssignedGPUs = "GPU-1"',
    "Requirements = START && (TARGET.RequestMemory <= MY.Memory)",
    f'ClaimId = "<1.2.3.4:5>#1#2#{INFO.replace(chr(34), chr(92) + chr(34))}{CLAIM}"',
]
JOB = [
    "ClusterId = 7",
    "ProcId = 3",
    'Cmd = "/home/alice/job.sh"',
    'Iwd = "/home/alice"',
    'Out = "job.out"',
    'Err = "job.err"',
    'OsUser = "alice"',
    'ShouldTransferFiles = "YES"',
    'WhenToTransferOutput = "ON_EXIT"',
    'ShadowIpAddr = "<127.0.0.1:9618?sock=shadow_1>"',
    'ShadowVersion = "$CondorVersion: 23.9.6 2024-08-08 PackageID: x $"',
    f'TransferKey = "1#{CLAIM}"',
    'TransferSocket = "<127.0.0.1:1?sock=shadow_1>"',
    f'ClaimId = "x#{CLAIM}"',
    f'_condor_privRemotePool = "{CLAIM}"',
    'UserLogExecuteEventAttrs = "Memory,ClaimId"',
]


class Stage:
    """A starter's surroundings: its sockets' other ends, and what is heard at them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = StarterLog(path / "log")
        startd_ours, startd_theirs = socket.socketpair()
        shadow_ours, shadow_theirs = socket.socketpair()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path / "slot1_1_9"))
        listener.listen()
        self.numbers = [sock.detach() for sock in (startd_ours, shadow_ours, listener)]
        self.startd = Stream(startd_theirs, timeout=5)
        self.shadow = Stream(shadow_theirs, wire=Wire(_cipher(out=9, into=4)), timeout=5)
        startd, shadow, port = self.numbers
        self.env = {
            "CONDOR_INHERIT": f"18 {PARENT} 1 {startd}*3*0*0*0*0***0**0*0*0*0*0*0*0* "
            f"1 {_serialised(shadow, out=4, into=9)} "
            f"0 SharedPort:{path}/slot1_1_9*{port}*6*0*0*0*0***1**0*0*0*0*0*0*0* 0",
            "CONDOR_PRIVATE_INHERIT": f"SessionKey:parent#{INFO}{SECRET}",
            "_CONDOR_EXECUTE": "/execute",
        }

    async def say_machine(self, machine: list[str] | None = None) -> None:
        """What the startd has written before its starter runs."""
        await self.startd.send(Writer(False).ad(machine or MACHINE).ad(['Overlaid = "yes"']))

    async def answer(self, *replies: tuple[int, Writer]) -> list[Reader]:
        """Be the shadow: for each expected call, its arguments, and our reply."""
        heard = []
        for number, reply in replies:
            message = await self.shadow.receive()
            assert message.integer() == number
            heard.append(message)
            await self.shadow.send(reply)
        return heard

    async def job_ad(
        self, comm: ShadowCommunicator, job: list[str] | None = None
    ) -> tuple[Any, list[Reader]]:
        """Let ``comm`` get its job; the ad that it gives, and the three calls' arguments."""
        sessions = W().integer(1).text("claim").text(INFO).text(SECRET)
        sessions.text("filetrans.claim").text(INFO).text(SECRET)
        heard = asyncio.create_task(
            self.answer(
                (calls.GET_JOB_INFO, W().integer(0).ad(job or JOB)),
                (calls.REGISTER_STARTER_INFO, W().integer(0)),
                (calls.GET_SEC_SESSION_INFO, sessions),
            )
        )
        ad = await comm.job_ad()
        return ad, await heard

    async def call(self, command: int, payload: Writer) -> Stream:
        """Be the startd: send a command through the shared port."""
        theirs, passed = socket.socketpair()
        knock = socket.socket(socket.AF_UNIX)
        knock.connect(str(self.path / "slot1_1_9"))
        with knock, passed:
            pass_connection(knock, passed)
        stream = Stream(theirs, timeout=5)
        request = {"UseSession": "YES", "Sid": "parent", "Command": command, "ResumeResponse": True}
        await stream.send(Writer(False).integer(Command.DC_AUTHENTICATE).ad(lines(request)))
        assert LiteralAd((await stream.receive()).ad()).text("ReturnCode") == "AUTHORIZED"
        stream.set_key(derive_key(SECRET))
        await stream.send(payload)
        return stream

    def said(self) -> str:
        return (self.path / "log").read_text() if (self.path / "log").exists() else ""

    def close(self) -> None:
        self.startd.close()
        self.shadow.close()
        self.log.close()


def W() -> Writer:
    """For what is said on the encrypted connection."""
    return Writer(True)


def _cipher(*, out: int, into: int) -> Aes:
    sent, received = (b"a" * 16, b"b" * 16) if out == 4 else (b"b" * 16, b"a" * 16)
    return Aes(CipherState(KEY, out, into, sent, received, True, True, bytes(64)))


def _serialised(fd: int, *, out: int, into: int) -> str:
    state = struct.pack("=II", out, into) + b"a" * 16 + b"b" * 16
    return (
        f"{fd}*3*20*1*0*0***0*<127.0.0.1:4>*64*3*1*{state.hex()}*{KEY.hex()}*1*1*1*1*64*{bytes(64).hex()}*0*"
    )


@contextlib.asynccontextmanager
async def opened(path: Path) -> AsyncIterator[tuple[Stage, ShadowCommunicator]]:
    stage = Stage(path)
    await stage.say_machine()
    comm = await open_shadow("submit.test", stage.env, lambda n: n, stage.log, load(environ={}), 4711)
    try:
        yield stage, comm
    finally:
        await comm.close()
        if comm._port is not None:
            await comm._port.close()
        stage.close()


Test = Callable[[Stage, ShadowCommunicator], Coroutine[Any, Any, None]]


def run(path: Path, test: Test) -> None:
    async def main() -> None:
        async with opened(path) as (stage, comm):
            await test(stage, comm)

    asyncio.run(asyncio.wait_for(main(), 20))


async def asked(comm: ShadowCommunicator) -> Request:
    return await asyncio.wait_for(comm.requests.get(), 5)


@pytest.mark.req("H1", "P3")
def test_the_job_and_machine_ads_come_without_what_could_act_in_the_claims_name(tmp_path: Path) -> None:
    async def test(stage: Stage, comm: ShadowCommunicator) -> None:
        ad, _ = await stage.job_ad(comm)
        assert (ad["ClusterId"], ad["Cmd"], ad["Overlaid"]) == (7, "/home/alice/job.sh", "yes")
        assert comm.machine_ad["Memory"] == 128
        assert (comm.slot, comm.name, comm.scratch_name()) == ("slot1_1", "shadow", "dir_4711")
        for text in (print_ad(ad), print_ad(comm.machine_ad), stage.said()):
            assert CLAIM not in text
            assert SECRET not in text
        assert "TransferSocket" in ad
        assert "Communicating with shadow <127.0.0.1:9618?sock=shadow_1>" in stage.said()
        assert 'Submitting machine is "submit.test"' in stage.said()

    run(tmp_path, test)


@pytest.mark.req("H1")
def test_the_shadow_is_told_who_we_are_and_no_secret(tmp_path: Path) -> None:
    async def test(stage: Stage, comm: ShadowCommunicator) -> None:
        _, heard = await stage.job_ad(comm)
        told = WireAd(heard[1].ad())
        assert told.text("Name") == "slot1_1@pool.test"
        assert told.text("StarterIpAddr") == PARENT.replace("startd_1_2", "slot1_1_9")
        assert told.text("CondorVersion").startswith("$CondorVersion: 24.0.1 ")
        assert "condor_starter" in told.text("CondorPlatform")
        assert told.flag("HasReconnect", True) is False
        assert told.text("CondorScratchDir") == "/execute/dir_4711"
        assert told.expression("Memory") == "128"
        assert "Requirements = START" in (told.expression("SlotAd") or "")
        assert CLAIM not in "".join(told.lines())
        assert CLAIM not in (told.expression("SlotAd") or "")
        assert told.expression("ClaimId") is None

    run(tmp_path, test)


@pytest.mark.req("H1")
def test_every_update_names_our_address_and_the_startd_hears_the_scratch_directory(tmp_path: Path) -> None:
    async def test(stage: Stage, comm: ShadowCommunicator) -> None:
        await stage.job_ad(comm)
        spec = spec_from_ad(await _plain_ad())
        await comm.fetch_inputs(spec, "/execute/dir_4711")
        heard = asyncio.create_task(
            stage.answer(
                (calls.BEGIN_EXECUTION, W().integer(0)),
                (calls.REGISTER_JOB_INFO, W().integer(0)),
                (calls.EVENT_NOTIFICATION, W().integer(-3)),
                (calls.REGISTER_JOB_INFO, W().integer(0)),
            )
        )
        await comm.executing(spec)
        await comm.update(classad2.ClassAd({"JobState": "Running"}))
        await comm.update(classad2.ClassAd({"JobState": "Exited"}), final=True)
        _, first, event, last = (WireAd(m.ad()) if m.left else WireAd(()) for m in await heard)
        assert event.text("EventType") == "ActivationExecutionExit"
        assert (first.text("JobState"), last.text("JobState")) == ("Running", "Exited")
        assert first.expression("_condor_JOBINFO_MAXINTERVAL") == "3000"
        assert last.expression("_condor_JOBINFO_MAXINTERVAL") == "-1"
        assert first.expression("MemoryProvisioned") == "128"
        assert first.text("AssignedGPUs") == "GPU-1"
        for _ in range(3):
            message = await stage.startd.receive()
            assert message.integer() == 0
            ad = WireAd(message.ad())
            assert ad.text("StarterIpAddr").endswith("sock=slot1_1_9>")
            assert ad.text("CondorScratchDir") == "/execute/dir_4711"

    run(tmp_path, test)


async def _plain_ad() -> Any:
    return WireAd([x for x in JOB if "ShouldTransfer" not in x]).parsed()


@pytest.mark.req("H1")
def test_a_shadow_that_hangs_up_ends_the_job_with_exit_status_2(tmp_path: Path) -> None:
    async def test(stage: Stage, comm: ShadowCommunicator) -> None:
        await stage.job_ad(comm)
        stage.shadow.close()
        request = await asked(comm)
        assert request.ask is Ask.LOST
        await comm.update(classad2.ClassAd())  # nobody is there: nothing happens
        with pytest.raises(JobError) as failed:
            await comm.executing(spec_from_ad(await _plain_ad()))
        assert not failed.value.holds
        await comm.finished(None, Outcome(status=9, ended_by=request), classad2.ClassAd())
        assert comm.exit_status == 2
        assert "Lost connection to shadow" in stage.said()

    run(tmp_path, test)


@pytest.mark.req("H1", "X2")
def test_a_shadow_that_speaks_unasked_is_lost(tmp_path: Path) -> None:
    async def test(stage: Stage, comm: ShadowCommunicator) -> None:
        await stage.shadow.send(W().integer(0))
        assert (await asked(comm)).ask is Ask.LOST

    run(tmp_path, test)


@pytest.mark.req("H1")
def test_a_call_whose_caller_gave_up_does_not_answer_the_next_one(tmp_path: Path) -> None:
    async def test(stage: Stage, comm: ShadowCommunicator) -> None:
        await stage.job_ad(comm)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(comm._calls.register_job_info(["A = 1"]), 0.05)
        second = asyncio.create_task(comm._calls.register_job_info(["A = 2"]))
        heard = await stage.answer(
            (calls.REGISTER_JOB_INFO, W().integer(-1).integer(22)),
            (calls.REGISTER_JOB_INFO, W().integer(0)),
        )
        await second  # the first one's error was not its own
        assert [m.ad() for m in heard] == [("A = 1",), ("A = 2",)]

    run(tmp_path, test)


@pytest.mark.req("H1")
def test_a_startd_that_is_gone_ends_the_job_fast_but_not_after_the_final_update(tmp_path: Path) -> None:
    async def test(stage: Stage, comm: ShadowCommunicator) -> None:
        stage.startd.close()
        assert (await asked(comm)).ask is Ask.VACATE_FAST

    run(tmp_path, test)

    async def after(stage: Stage, comm: ShadowCommunicator) -> None:
        await stage.job_ad(comm)
        heard = asyncio.create_task(stage.answer((calls.JOB_EXIT, W().integer(0))))
        await comm.finished(None, Outcome(status=0), classad2.ClassAd())
        await heard
        message = await stage.startd.receive()
        assert message.integer() == 1
        assert "BytesSent" in WireAd(message.ad()).names()
        stage.startd.close()
        await asyncio.sleep(0.05)
        assert comm.requests.empty()
        assert comm.exit_status == 0

    (tmp_path / "2").mkdir()
    run(tmp_path / "2", after)


@pytest.mark.req("H1")
@pytest.mark.parametrize(
    ("number", "ask"),
    [(15, Ask.VACATE_SOFT), (3, Ask.VACATE_FAST), (10, Ask.REMOVE), (1, None), (12, None)],
)
def test_signals_mean_what_they_mean_to_a_starter(tmp_path: Path, number: int, ask: Ask | None) -> None:
    async def test(stage: Stage, comm: ShadowCommunicator) -> None:
        comm.signal(number)
        assert (comm.requests.get_nowait().ask if ask else comm.requests.empty()) == (ask or True)

    run(tmp_path, test)


@pytest.mark.req("H1", "G7")
@pytest.mark.parametrize(
    ("number", "ask"),
    [
        (100, Ask.SUSPEND),
        (101, Ask.CONTINUE),
        (102, Ask.VACATE_SOFT),
        (103, Ask.VACATE_FAST),
        (105, Ask.REMOVE),
        (106, Ask.HOLD),
    ],
)
def test_the_startds_commands_come_through_the_shared_port(tmp_path: Path, number: int, ask: Ask) -> None:
    async def test(stage: Stage, comm: ShadowCommunicator) -> None:
        stream = await stage.call(Command.DC_RAISESIGNAL, W().integer(number))
        assert (await asked(comm)).ask is ask
        stream.close()

    run(tmp_path, test)


@pytest.mark.req("H1")
def test_a_hold_by_the_startd_is_answered_and_travels_to_the_shadow_with_its_code(tmp_path: Path) -> None:
    async def test(stage: Stage, comm: ShadowCommunicator) -> None:
        await stage.job_ad(comm)
        stream = await stage.call(1500, W().text("disk is on fire").integer(21).integer(7).integer(1))
        assert (await stream.receive()).integer() == 1
        stream.close()
        request = await asked(comm)
        assert request == Request(Ask.HOLD, "disk is on fire", 21, 7)
        await comm.finished(None, Outcome(status=15, ended_by=request), classad2.ClassAd())
        message = await stage.shadow.receive()
        assert message.integer() == calls.ULOG
        event = LiteralAd(message.ad())
        assert (event.integer("HoldReasonCode"), event.integer("HoldReasonSubCode")) == (21, 7)
        assert event.text("ErrorMsg") == "disk is on fire"

    run(tmp_path, test)


@pytest.mark.req("H1")
@pytest.mark.parametrize(
    ("outcome", "status", "reason"),
    [
        (Outcome(status=3 << 8), 768, 100),
        (Outcome(status=11), 11, 100),
        (Outcome(status=11 | 0x80), 139, 103),
        (Outcome(status=15, ended_by=Request(Ask.VACATE_SOFT)), 15, 107),
        (Outcome(status=9, ended_by=Request(Ask.VACATE_FAST)), 9, 107),
        (Outcome(status=9, ended_by=Request(Ask.REMOVE)), 9, 102),
        (Outcome(ended_by=Request(Ask.VACATE_SOFT)), -1, 107),
        (Outcome(), -1, 108),
    ],
)
def test_the_end_is_told_once_with_its_reason(
    tmp_path: Path, outcome: Outcome, status: int, reason: int
) -> None:
    async def test(stage: Stage, comm: ShadowCommunicator) -> None:
        await stage.job_ad(comm)
        heard = asyncio.create_task(stage.answer((calls.JOB_EXIT, W().integer(0))))
        await comm.finished(None, outcome, classad2.ClassAd({"ExitCode": 3}))
        (message,) = await heard
        assert (message.integer(), message.integer()) == (status, reason)
        assert WireAd(message.ad()).expression("ExitCode") == "3"
        assert comm.exit_status == 0

    run(tmp_path, test)


@pytest.mark.req("H1", "X9")
@pytest.mark.parametrize(
    ("error", "shadow", "codes"),
    [
        (JobError(34, 102, "over memory"), "23.9.6", (34, 102)),
        (JobError(Hold.STARTER_ERROR, 0, "our fault", Blame.SYSTEM), "23.9.6", None),
        (JobError(Hold.STARTER_ERROR, 0, "our fault", Blame.SYSTEM), "25.0.1", (1007, 0)),
    ],
)
def test_an_error_holds_or_requeues_as_the_shadows_version_understands_it(
    tmp_path: Path, error: JobError, shadow: str, codes: tuple[int, int] | None
) -> None:
    async def test(stage: Stage, comm: ShadowCommunicator) -> None:
        await stage.job_ad(comm, [x.replace("23.9.6", shadow) for x in JOB])
        await comm.finished(None, Outcome(error=error), classad2.ClassAd())
        message = await stage.shadow.receive()
        assert message.integer() == calls.ULOG
        event = LiteralAd(message.ad())
        assert (event.text("MyType"), event.integer("EventTypeNumber")) == ("RemoteErrorEvent", 21)
        assert event.text("ErrorMsg") == error.text
        assert "CriticalError" not in event  # it is one unless it says otherwise
        told = (event.integer("HoldReasonCode"), event.integer("HoldReasonSubCode"))
        assert told == (codes or (0, 0))
        assert ("HoldReasonCode" in event) == (codes is not None)

    run(tmp_path, test)


@pytest.mark.req("H4")
def test_streams_of_a_transferred_job_are_files_in_the_sandbox(tmp_path: Path) -> None:
    async def test(stage: Stage, comm: ShadowCommunicator) -> None:
        def streams(*more: str) -> tuple[str | None, str | None, str | None]:
            ad = WireAd([*JOB, *more])
            comm._job = ad
            s = comm.streams(spec_from_ad(ad.parsed()), "/execute/dir_4711")
            return s.stdin, s.stdout, s.stderr

        assert streams() == (None, "_condor_stdout", "_condor_stderr")
        assert streams('Err = "job.out"') == (None, "_condor_stdout", "_condor_stdout")
        assert streams('Out = "/dev/null"', 'In = "/home/alice/in.txt"')[:2] == ("in.txt", "/dev/null")
        assert streams('In = "/data/in.txt"', "TransferIn = false")[0] == "/data/in.txt"
        assert streams("TransferOut = false")[1] == "job.out"
        assert streams('ShouldTransferFiles = "NO"') == (None, "job.out", "job.err")

    run(tmp_path, test)


@pytest.mark.req("H4")
def test_a_streamed_output_is_written_to_its_place_by_remote_calls(tmp_path: Path) -> None:
    (tmp_path / "box").mkdir()
    (tmp_path / "box/_condor_stdout").write_text("what the job said")

    async def test(stage: Stage, comm: ShadowCommunicator) -> None:
        with sandbox_worker(tmp_path / "box") as worker:
            heard = asyncio.create_task(
                stage.answer(
                    (calls.OPEN, W().integer(5)),
                    (calls.WRITE, W().integer(4)),  # a slow disk takes what it can
                    (calls.WRITE, W().integer(13)),
                    (calls.CLOSE, W().integer(0)),
                )
            )
            await write_back(comm._calls, worker, "_condor_stdout", "/home/alice/job.out")
            opened, first, second, _ = await heard
            assert (opened.integer(), opened.integer(), opened.text()) == (
                0x301,
                0o666,
                "/home/alice/job.out",
            )
            assert (first.integer(), first.integer(), first.raw(first.left)) == (5, 17, b"what the job said")
            assert (second.integer(), second.integer(), second.raw(second.left)) == (5, 13, b" the job said")

    run(tmp_path, test)


@pytest.mark.req("H4", "X2", "X9")
@pytest.mark.parametrize("written", [0, 18, -1])
def test_a_shadow_that_cannot_write_or_says_nonsense_does_not_hold_us_up(
    tmp_path: Path, written: int
) -> None:
    (tmp_path / "box").mkdir()
    (tmp_path / "box/_condor_stdout").write_text("what the job said")

    async def test(stage: Stage, comm: ShadowCommunicator) -> None:
        with sandbox_worker(tmp_path / "box") as worker:
            reply = W().integer(written).integer(2**40)
            heard = asyncio.create_task(stage.answer((calls.OPEN, W().integer(5)), (calls.WRITE, reply)))
            with pytest.raises(JobError if written < 0 else CedarError):
                await write_back(comm._calls, worker, "_condor_stdout", "/home/alice/job.out")
            await heard

    run(tmp_path, test)


@pytest.mark.req("H1", "X9")
@pytest.mark.parametrize(
    ("spoilt", "words"),
    [
        ({"CONDOR_INHERIT": ""}, "CONDOR_INHERIT cannot be read"),
        ({"CONDOR_INHERIT": f"18 {PARENT} 0 0"}, "left 0 connections"),
        ({"CONDOR_PRIVATE_INHERIT": "SessionKey:x#[CryptoMethodsList=BLOWFISH;]y"}, "speaks AES only"),
    ],
)
def test_a_call_that_is_not_whole_is_refused_in_words(
    tmp_path: Path, spoilt: dict[str, str], words: str
) -> None:
    async def main() -> None:
        stage = Stage(tmp_path)
        try:
            with pytest.raises(CedarError, match=words):
                await open_shadow("h", stage.env | spoilt, lambda n: n, stage.log, load(environ={}))
        finally:
            stage.close()
            for number in stage.numbers:
                os.close(number)

    asyncio.run(main())


@pytest.mark.req("H1")
def test_a_startd_of_24_9_sends_its_secrets_in_a_message_of_their_own(tmp_path: Path) -> None:
    async def main() -> None:
        stage = Stage(tmp_path)
        await stage.say_machine([x.replace("23.9.6", "24.9.2") for x in MACHINE])
        await stage.startd.send(Writer(False).ad([f'ClaimId = "{CLAIM}"']))
        comm = await open_shadow("h", stage.env, lambda n: n, stage.log, load(environ={}))
        assert CLAIM not in print_ad(comm.machine_ad)
        assert comm._startd.version == (24, 9, 2)
        await comm.close()
        assert comm._port is not None
        await comm._port.close()
        stage.close()

    asyncio.run(asyncio.wait_for(main(), 20))


@pytest.mark.req("H1")
@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r'A = "plain"', "plain"),
        (r'A = "C:\dir\new"', r"C:\dir\new"),
        (r'A = "say \"hi\""', 'say "hi"'),
        ('A = "ends in \\"', "ends in \\"),
        ('A = "two\nlines"', "two\nlines"),
        (r'A = strcat("x\y", "z")', r"x\yz"),
        (r'A = "a\\b"', r"a\\b"),
        ('A = ""', ""),
        ("A = 3 + 4", 7),
    ],
)
def test_strings_of_the_wire_mean_what_they_mean_in_old_syntax(text: str, value: object) -> None:
    assert WireAd([text]).parsed().eval("A") == value


@pytest.mark.req("H1")
@given(st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]), max_size=40))
def test_any_string_reads_as_it_was_quoted(value: str) -> None:
    if value.endswith("\\") or '\\"' in value:
        return  # old syntax has no way to write these
    assert WireAd([line("A", value), "B = 1"]).parsed()["A"] == value


@pytest.mark.req("P3")
def test_names_of_secrets_are_known_in_any_case() -> None:
    assert all(map(is_secret, ("ClaimId", "CLAIMIDS", "transferkey", "_condor_PRIV_x", "SplitClaimId")))
    assert not any(map(is_secret, ("PublicClaimId", "TransferSocket", "Claim")))
