"""The coroutine of one job on a real procd: adoption at every stage, requests at every station."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from condor_starter.communicators.base import Ask, ClassAd, Outcome, Request
from condor_starter.communicators.local import Files, LocalCommunicator
from condor_starter.job import BadAd, JobError, JobSpec
from condor_starter.knobs import load
from condor_starter.log import StarterLog
from condor_starter.procd.client import Procd
from condor_starter.record import JobRecord
from condor_starter.sandbox.ads import parse_ad
from condor_starter.starter import House, adopt_job, run_job
from system.run_help import sh


class Door(LocalCommunicator):
    """A local communicator that tells what was asked of it, and can be held up at one call."""

    def __init__(self, ad: str, place: Place) -> None:
        super().__init__(parse_ad(ad), "slot1", str(place.execute), Files(), StarterLog(None), place.number())
        self.calls: list[str] = []
        self.ends: list[Outcome] = []
        self.final: ClassAd = None
        self.hold_up: asyncio.Event | None = None
        self.broken = False

    async def job_ad(self) -> ClassAd:
        self.calls.append("job_ad")
        if self.broken:
            raise BadAd("The ad cannot be read any more.")
        return await super().job_ad()

    async def fetch_inputs(self, spec: JobSpec, scratch: str) -> None:
        self.calls.append("fetch_inputs")
        assert set(os.listdir(scratch)) == {".job.ad", ".machine.ad"}
        if self.hold_up:
            await self.hold_up.wait()

    async def executing(self, spec: JobSpec) -> None:
        self.calls.append("executing")

    async def update(self, ad: ClassAd, *, final: bool = False) -> None:
        self.calls.append("final update" if final else f"update {ad['JobState']}")

    async def finished(self, spec: JobSpec | None, outcome: Outcome, ad: ClassAd) -> None:
        self.calls.append("finished")
        self.ends.append(outcome)
        self.final = ad

    async def close(self) -> None:
        self.calls.append("close")
        await super().close()


class Place:
    """Directories and a house of a test's own."""

    def __init__(self, base: Path, name: str) -> None:
        self.execute, self.run, self.name = base / "execute", base / "run", name
        self.home = base / "home"
        self.execute.mkdir(mode=0o755)
        self.home.mkdir()
        self.home.chmod(0o1777)
        self._number = os.getpid() * 100
        self.house: House

    def number(self) -> int:
        self._number += 1
        return self._number

    def record(self) -> JobRecord:
        return JobRecord("7.0", path=self.home / "record.json")

    def door(self, ad: str) -> Door:
        return Door(ad, self)

    async def up(self, name: str = "up") -> None:
        for _ in range(1500):
            if (self.home / name).exists():
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"the job did not make {name}")


Body = Callable[[Place], Awaitable[None]]


@pytest.fixture
def place(open_dir: Path, unique: str) -> Iterator[Callable[[Body], None]]:
    """Runs a coroutine with a private procd, and sees that no box of it is left."""
    where = Place(open_dir, unique)

    async def main(body: Body) -> None:
        settings = {"execute": str(where.execute), "run": str(where.run), "client": str(os.getuid())}
        procd = await Procd.spawn({**settings, "base_cgroup": unique})
        try:
            facts, _ = await procd.hello()
            knobs = load(environ={}, overrides={"EXECUTE": str(where.execute)})
            where.house = House(procd, knobs, facts)
            await asyncio.wait_for(body(where), 60)
            _, boxes = await procd.hello()
            assert boxes == []
        finally:
            await procd.close()

    yield lambda body: asyncio.run(main(body))
    assert list(where.execute.iterdir()) == [] and list((where.run / "ledger").iterdir()) == []


def run(place: Place, door: Door, record: JobRecord | None = None) -> asyncio.Task[Outcome]:
    return asyncio.ensure_future(run_job(place.house, door, StarterLog(None), record))


async def leave(task: asyncio.Task[Any]) -> None:
    """As when the process is about to end: the task is gone, the box is not."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.req("X4")
def test_the_stations_come_in_order_and_the_end_is_told_once(place: Callable[[Body], None]) -> None:
    async def body(p: Place) -> None:
        door = p.door(sh("exit 3"))
        outcome = await run(p, door)
        assert outcome.status == 3 << 8 and outcome.ran_to_its_end and outcome.started_at
        assert door.calls == ["job_ad", "fetch_inputs", "executing", "final update", "finished", "close"]
        assert door.final["ExitCode"] == 3

    place(body)


@pytest.mark.req("X9")
def test_a_job_that_cannot_be_started_is_told_once_and_leaves_nothing(place: Callable[[Body], None]) -> None:
    async def body(p: Place) -> None:
        door = p.door('Cmd = "/no/such"\nOsUser = "nobody"\n')
        outcome = await run(p, door)
        assert outcome.status is None and outcome.error is not None and outcome.error.code == 6
        assert door.calls[-2:] == ["finished", "close"] and "final update" not in door.calls

    place(body)


@pytest.mark.req("P8")
@pytest.mark.parametrize("ask", [Ask.REMOVE, Ask.HOLD, Ask.VACATE_SOFT, Ask.VACATE_FAST, Ask.LOST])
def test_a_request_while_inputs_travel_ends_the_job_before_it_runs(
    place: Callable[[Body], None], ask: Ask
) -> None:
    async def body(p: Place) -> None:
        door = p.door(sh(f"touch {p.home}/ran"))
        door.hold_up = asyncio.Event()
        task = run(p, door)
        while "fetch_inputs" not in door.calls:  # noqa: ASYNC110  (a real procd makes the directory)
            await asyncio.sleep(0.01)
        door.requests.put_nowait(Request(ask, "changed my mind"))
        outcome = await task
        assert outcome.status is None and outcome.ended_by is not None and outcome.ended_by.ask is ask
        assert "executing" not in door.calls and not (p.home / "ran").exists()

    place(body)


@pytest.mark.req("G7", "P8")
def test_a_suspended_job_makes_no_progress_until_it_is_continued(place: Callable[[Body], None]) -> None:
    async def body(p: Place) -> None:
        door = p.door(sh(f"touch {p.home}/up; while :; do date +%N > {p.home}/tick; sleep 0.02; done"))
        task = run(p, door)
        await p.up("tick")
        door.requests.put_nowait(Request(Ask.SUSPEND))
        while "update Suspended" not in door.calls:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        before = (p.home / "tick").read_text()
        await asyncio.sleep(0.3)
        assert (p.home / "tick").read_text() == before
        door.requests.put_nowait(Request(Ask.CONTINUE))
        await asyncio.sleep(0.3)
        assert (p.home / "tick").read_text() != before
        door.requests.put_nowait(Request(Ask.VACATE_FAST))
        outcome = await task
        assert outcome.status == 9 and door.calls.count("update Running") == 1

    place(body)


@pytest.mark.req("X3", "H6")
class TestAdoption:
    def test_a_running_job_goes_on_and_its_true_status_is_told(self, place: Callable[[Body], None]) -> None:
        async def body(p: Place) -> None:
            ad = sh(f"touch {p.home}/up; while [ ! -e {p.home}/go ]; do sleep 0.05; done; exit 5")
            first = run(p, door := p.door(ad), record := p.record())
            await p.up()
            await leave(first)
            assert door.calls[-1] == "close" and "finished" not in door.calls and record.stage == "running"
            again = JobRecord.load(p.home / "record.json")
            second = p.door(ad)
            task = asyncio.ensure_future(adopt_job(p.house, second, StarterLog(None), again))
            await asyncio.sleep(0.1)
            (p.home / "go").touch()
            outcome = await task
            assert outcome.status == 5 << 8 and outcome.started_at == record.started_at
            assert second.calls == ["job_ad", "final update", "finished", "close"]
            assert again.stage == "reported" and second.final["JobPid"] == record.plan["pid"]

        place(body)

    def test_a_job_that_ended_meanwhile_is_reported(self, place: Callable[[Body], None]) -> None:
        async def body(p: Place) -> None:
            ad = sh(f"touch {p.home}/up; sleep 0.2; exit 6")
            first = run(p, p.door(ad), p.record())
            await p.up()
            await leave(first)
            await asyncio.sleep(0.6)
            second = p.door(ad)
            outcome = await adopt_job(
                p.house, second, StarterLog(None), JobRecord.load(p.home / "record.json")
            )
            assert outcome.status == 6 << 8

        place(body)

    def test_a_job_that_was_only_prepared_begins_anew(self, place: Callable[[Body], None]) -> None:
        async def body(p: Place) -> None:
            door = p.door(sh("exit 4"))
            door.hold_up = asyncio.Event()
            first = run(p, door, p.record())
            while "fetch_inputs" not in door.calls:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await leave(first)
            record = JobRecord.load(p.home / "record.json")
            assert record.stage == "accepted" and record.box
            second = p.door(sh("exit 4"))
            outcome = await adopt_job(p.house, second, StarterLog(None), record)
            assert outcome.status == 4 << 8 and "executing" in second.calls

        place(body)

    def test_a_job_that_cannot_be_understood_any_more_is_not_left_running(
        self, place: Callable[[Body], None]
    ) -> None:
        async def body(p: Place) -> None:
            ad = sh(f"touch {p.home}/up; exec sleep 1000")
            first = run(p, p.door(ad), p.record())
            await p.up()
            await leave(first)
            second = p.door(ad)
            second.broken = True
            outcome = await adopt_job(
                p.house, second, StarterLog(None), JobRecord.load(p.home / "record.json")
            )
            assert isinstance(outcome.error, BadAd) and second.calls[-2:] == ["finished", "close"]

        place(body)

    def test_a_box_that_procd_has_lost_is_the_systems_failure(self, place: Callable[[Body], None]) -> None:
        async def body(p: Place) -> None:
            record = p.record()
            record.box, record.plan = "no-such-box", {"scratch": "dir_1", "pid": 1}
            record.stage, record.started_at = "ended", 1.0
            door = p.door(sh("true"))
            record.exit = {"box": "no-such-box", "status": 768, "usage": {}, "duration_usec": 1, "oom": False}
            outcome = await adopt_job(p.house, door, StarterLog(None), record)
            assert outcome.status == 768 and door.calls[-2:] == ["finished", "close"]

        place(body)


@pytest.mark.req("X9")
def test_a_report_that_fails_does_not_lose_the_outcome(place: Callable[[Body], None]) -> None:
    class Deaf(Door):
        async def finished(self, spec: JobSpec | None, outcome: Outcome, ad: ClassAd) -> None:
            raise JobError(1007, 0, "nobody listens")

    async def body(p: Place) -> None:
        door = Deaf(sh("exit 2"), p)
        assert (await run(p, door)).status == 2 << 8 and door.calls[-1] == "close"

    place(body)
