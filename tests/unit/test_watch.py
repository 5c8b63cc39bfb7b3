"""Watching a job: every request, in any order, ends in one end, and nobody is waited for without a bound."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from condor_starter import monitor
from condor_starter.communicators.base import Ask, Request
from condor_starter.isolation.boxplan import BoxExit, Usage
from condor_starter.job import JobError
from condor_starter.log import StarterLog
from condor_starter.monitor import Stopped, Watch, unless_stopped
from condor_starter.procd.client import ProcdError, Started
from unit.plan_help import knobs, spec

SOFT = (Ask.VACATE_SOFT, Ask.REMOVE, Ask.HOLD)
FAST = (Ask.VACATE_FAST, Ask.LOST)


class FakeRunner:
    """A box in memory: remembers what was done to it, dies of SIGKILL and of the signals in ``deadly``."""

    def __init__(self, deadly: tuple[int, ...] = (), immortal: bool = False) -> None:
        self.done: list[str] = []
        self.frozen = False
        self.over: asyncio.Event = asyncio.Event()
        self._deadly = deadly
        self._immortal = immortal
        self.status = 0

    async def start(self) -> Started:
        return Started(7, (), "")

    async def wait(self) -> BoxExit:
        await self.over.wait()
        return BoxExit("b", self.status, Usage(), 1000, False)

    async def signal(self, number: int) -> None:
        self._must_live("signal")
        self.done.append(f"signal {number}")
        if number in self._deadly:
            assert not self.frozen, "a frozen job gets no signal"
            self.end(number)

    async def kill(self) -> None:
        self._must_live("kill")
        self.done.append("kill")
        if not self._immortal:
            self.end(9)

    async def freeze(self) -> None:
        self._must_live("freeze")
        self.done.append("freeze")
        self.frozen = True

    async def thaw(self) -> None:
        self._must_live("thaw")
        self.done.append("thaw")
        self.frozen = False

    async def usage(self) -> Usage:
        self._must_live("usage")
        return Usage(memory_bytes=5 << 20, processes=1)

    async def close(self) -> None:
        self.done.append("close")

    def end(self, status: int) -> None:
        self.status = status
        self.over.set()

    def _must_live(self, what: str) -> None:
        if self.over.is_set():
            raise ProcdError(what, 3, "box b does not run", "system")


class FakeDoor:
    """The part of a communicator that Watch uses."""

    name, slot, machine_ad = "test", "slot1", None

    def __init__(self) -> None:
        self.requests: asyncio.Queue[Request] = asyncio.Queue()
        self.states: list[str] = []
        self.answer: Callable[[], Awaitable[None]] | None = None

    async def update(self, ad: Any, *, final: bool = False) -> None:
        self.states.append(ad["JobState"])
        if self.answer:
            await self.answer()


def watched(
    body: Callable[[Watch, FakeRunner, FakeDoor], Awaitable[None]],
    job: str = "",
    values: dict[str, str] | None = None,
    **runner: Any,
) -> tuple[Watch, FakeRunner, FakeDoor, BoxExit | JobError]:
    """Run ``body`` beside a watch; what the watch ended in."""

    async def main() -> tuple[Watch, FakeRunner, FakeDoor, BoxExit | JobError]:
        run, door = FakeRunner(**runner), FakeDoor()
        watch = Watch(run, door, StarterLog(None), spec(job), knobs(**(values or {})))  # type: ignore[arg-type]
        watch.began(7, time.time(), cgroup=True)
        end = asyncio.ensure_future(watch.until_end())
        await body(watch, run, door)
        try:
            return watch, run, door, await asyncio.wait_for(end, 10)
        except JobError as e:
            return watch, run, door, e

    return asyncio.run(main())


def asking(*asks: Ask) -> Callable[[Watch, FakeRunner, FakeDoor], Awaitable[None]]:
    async def body(_watch: Watch, _runner: FakeRunner, door: FakeDoor) -> None:
        for ask in asks:
            door.requests.put_nowait(Request(ask, "because"))
            await asyncio.sleep(0.01)

    return body


async def ends_by_itself(_watch: Watch, runner: FakeRunner, _door: FakeDoor) -> None:
    await asyncio.sleep(0.01)
    runner.end(3 << 8)


def test_a_job_that_ends_by_itself_is_ended_by_nobody() -> None:
    watch, runner, _, ended = watched(ends_by_itself)
    assert isinstance(ended, BoxExit) and ended.status == 3 << 8
    assert watch.ended_by is None and runner.done == []


@pytest.mark.req("G7", "P8")
def test_suspend_and_continue_freeze_and_thaw_and_are_told() -> None:
    async def body(_watch: Watch, runner: FakeRunner, door: FakeDoor) -> None:
        for ask in (Ask.SUSPEND, Ask.SUSPEND, Ask.CONTINUE, Ask.CONTINUE):
            door.requests.put_nowait(Request(ask))
        await asyncio.sleep(0.02)
        runner.end(0)

    watch, runner, door, _ = watched(body)
    assert runner.done == ["freeze", "thaw"] and door.states == ["Suspended", "Running"]
    assert watch.ended_by is None


@pytest.mark.req("P8")
@pytest.mark.parametrize(("ask", "number"), [(Ask.VACATE_SOFT, 1), (Ask.REMOVE, 1), (Ask.HOLD, 3)])
def test_each_soft_request_sends_its_own_signal(ask: Ask, number: int) -> None:
    job = 'KillSig = "INT"\nRemoveKillSig = "HUP"\nHoldKillSig = "QUIT"'
    watch, runner, _, ended = watched(asking(ask), job, deadly=(number,))
    assert runner.done == [f"signal {number}"] and isinstance(ended, BoxExit) and ended.status == number
    assert watch.ended_by is not None and watch.ended_by.ask is ask


@pytest.mark.parametrize("ask", FAST)
def test_a_fast_request_kills_at_once(ask: Ask) -> None:
    watch, runner, _, _ = watched(asking(ask))
    assert runner.done == ["kill"] and watch.ended_by is not None and watch.ended_by.ask is ask


@pytest.mark.parametrize("name", ["KILL", "STOP"])
def test_a_kill_signal_that_nothing_can_catch_is_a_kill(name: str) -> None:
    assert watched(asking(Ask.VACATE_SOFT), f'KillSig = "{name}"')[1].done == ["kill"]


@pytest.mark.parametrize("ask", SOFT)
def test_a_suspended_job_is_continued_before_it_is_asked_to_end(ask: Ask) -> None:
    _, runner, door, _ = watched(asking(Ask.SUSPEND, ask), deadly=(15,))
    assert runner.done == ["freeze", "thaw", "signal 15"] and door.states == ["Suspended"]


@pytest.mark.req("P8")
def test_a_job_that_ignores_its_kill_signal_is_killed_after_its_time() -> None:
    async def body(watch: Watch, _runner: FakeRunner, door: FakeDoor) -> None:
        watch.vacate_seconds = 0.1
        door.requests.put_nowait(Request(Ask.VACATE_SOFT))

    began = time.monotonic()
    watch, runner, _, _ = watched(body)
    assert runner.done == ["signal 15", "kill"] and 0.1 <= time.monotonic() - began < 5
    assert watch.ended_by is not None and watch.ended_by.ask is Ask.VACATE_SOFT


def test_asking_harder_takes_effect_asking_again_softly_does_not() -> None:
    watch, runner, _, _ = watched(asking(Ask.VACATE_SOFT, Ask.REMOVE, Ask.VACATE_FAST))
    assert runner.done == ["signal 15", "kill"]
    assert watch.ended_by is not None and watch.ended_by.ask is Ask.VACATE_FAST


@pytest.mark.req("X9")
def test_what_cannot_be_killed_is_reported_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "PROCD_SECONDS", 0.1)
    *_, ended = watched(asking(Ask.VACATE_FAST), values={"KILLING_TIMEOUT": "0"}, immortal=True)
    assert isinstance(ended, JobError) and "do not end when they are killed" in ended.text and not ended.holds


@pytest.mark.req("G8")
def test_updates_come_after_the_first_interval_and_then_regularly() -> None:
    async def body(_watch: Watch, runner: FakeRunner, door: FakeDoor) -> None:
        second = asyncio.Event()

        async def count() -> None:
            if len(door.states) == 2:
                second.set()

        door.answer = count
        await second.wait()
        runner.end(0)

    values = {"STARTER_INITIAL_UPDATE_INTERVAL": "0.05", "STARTER_UPDATE_INTERVAL": "1"}
    began = time.monotonic()
    watch, _, door, _ = watched(body, values=values)
    assert door.states == ["Running", "Running"] and 1.0 <= time.monotonic() - began < 5
    ad = watch.state_ad()
    assert ad["ResidentSetSize"] == 5120 and ad["JobPid"] == 7 and ad["CgroupEnforced"] is True


def test_an_update_that_nobody_takes_or_that_fails_does_not_stop_the_job() -> None:
    async def refuse() -> None:
        raise JobError(1007, 0, "no")

    async def body(_watch: Watch, runner: FakeRunner, door: FakeDoor) -> None:
        door.answer = refuse
        door.requests.put_nowait(Request(Ask.SUSPEND))
        door.requests.put_nowait(Request(Ask.CONTINUE))
        await asyncio.sleep(0.02)
        runner.end(0)

    *_, ended = watched(body)
    assert isinstance(ended, BoxExit)


@settings(max_examples=60, deadline=5000)
@given(st.lists(st.sampled_from(list(Ask)), max_size=8), st.booleans())
def test_any_sequence_of_requests_ends_once_and_in_order(asks: list[Ask], deadly: bool) -> None:
    async def body(watch: Watch, runner: FakeRunner, door: FakeDoor) -> None:
        watch.vacate_seconds = 0.02
        for ask in asks:
            door.requests.put_nowait(Request(ask))
        await asyncio.sleep(0.005)
        if not {*SOFT, *FAST} & set(asks):
            runner.end(0)

    watch, runner, _, ended = watched(body, deadly=(15,) if deadly else ())
    assert isinstance(ended, BoxExit) and runner.done.count("kill") <= 1
    marks = [d for d in runner.done if d in ("freeze", "thaw")]
    assert marks == ["freeze", "thaw"] * (len(marks) // 2) + ["freeze"] * (len(marks) % 2)
    enders = [a for a in asks if a not in (Ask.SUSPEND, Ask.CONTINUE)]
    assert (watch.ended_by is None) == (not enders)
    assert sum(d.startswith("signal") for d in runner.done) <= 1


class TestUnlessStopped:
    def test_work_that_finishes_is_returned(self) -> None:
        async def main() -> int:
            async def work() -> int:
                await asyncio.sleep(0.01)
                return 5

            requests: asyncio.Queue[Request] = asyncio.Queue()
            requests.put_nowait(Request(Ask.SUSPEND))
            return await unless_stopped(work(), requests)

        assert asyncio.run(main()) == 5

    @pytest.mark.parametrize(
        ("ask", "soft", "stops"),
        [(Ask.REMOVE, True, True), (Ask.REMOVE, False, False), (Ask.LOST, False, True)],
    )
    def test_a_request_that_ends_the_job_stops_it_cleanly(self, ask: Ask, soft: bool, stops: bool) -> None:
        cleaned: list[bool] = []

        async def work() -> str:
            try:
                await asyncio.sleep(0.1 if not stops else 30)
                return "done"
            finally:
                await asyncio.sleep(0.01)
                cleaned.append(True)

        async def main() -> str:
            requests: asyncio.Queue[Request] = asyncio.Queue()
            requests.put_nowait(Request(ask))
            return await unless_stopped(work(), requests, soft=soft)

        if stops:
            with pytest.raises(Stopped) as e:
                asyncio.run(main())
            assert e.value.request.ask is ask
        else:
            assert asyncio.run(main()) == "done"
        assert cleaned == [True]

    def test_what_the_work_raises_is_raised(self) -> None:
        async def work() -> None:
            raise JobError(13, 2, "no such file")

        with pytest.raises(JobError, match="no such file"):
            asyncio.run(unless_stopped(work(), asyncio.Queue()))
