"""kill -9 of each process at each numbered step of a plan; afterwards the next procd leaves nothing.

Real processes, real cgroups and mounts. A process pauses at the named step (setting pause_at), a victim is
killed, whoever is still paused goes on, and then a fresh procd on the same run directory does what any next
start does. What must hold: no process, no cgroup, no mount, no scratch directory, no state file, and one
terminal record.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from condor_starter.isolation.boxplan import BoxPlan, steps
from condor_starter.procd.client import Procd

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces and cgroups")

sys.path.insert(0, str(Path(__file__).parent))
from one_box import BASE, plan  # noqa: E402

STEPS = [s.name for s in steps(plan("/x", "x", "/bin/true"))]
MAIN = Path(sys.modules["condor_starter.procd.client"].__file__ or "").with_name("main.py")


@pytest.fixture
def place() -> Iterator[Path]:
    base = Path(f"/var/lib/crash-test-{os.getpid()}")
    (base / "execute").mkdir(parents=True)
    yield base
    for path in sorted(base.rglob("*"), key=lambda p: -len(p.parts)):
        path.rmdir() if path.is_dir() else path.unlink()
    base.rmdir()


class Victims:
    """The processes of one run, found by parentage from the client that we started."""

    def __init__(self, client: subprocess.Popen[bytes]) -> None:
        self.client = client

    def procd(self) -> int:
        return _children(self.client.pid)[0]

    def nursery(self) -> int:
        return _children(self.procd())[0]

    def init(self) -> int:
        children = _children(self.procd())[1:]
        return children[0] if children else 0


def _children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _wait(what: Callable[[], object], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "did not happen in time"
        time.sleep(0.01)


def _start(place: Path, box: str, pause_at: str) -> Victims:
    script = Path(__file__).with_name("one_box.py")
    words = [sys.executable, str(script), str(place / "execute"), str(place / "run"), box, pause_at]
    return Victims(subprocess.Popen(words))


def _paused(place: Path) -> bool:
    marker = place / "run" / "paused"
    return marker.exists() and bool(marker.read_text())


async def _next_start(place: Path) -> None:
    """What any next start does with what it finds."""
    procd = await Procd.spawn(_settings(place))
    await procd.hello()
    await procd.close()


def _settings(place: Path) -> dict[str, str]:
    run, execute = str(place / "run"), str(place / "execute")
    return {"execute": execute, "run": run, "client": "0", "base_cgroup": BASE}


def _leftovers(place: Path, box: str) -> list[str]:
    left = [str(p) for p in (place / "execute").iterdir()]
    left += [str(p) for p in (place / "run" / "ledger").iterdir()]
    left += [str(p) for p in Path("/sys/fs/cgroup").glob(f"*/{BASE}/{box}")]
    left += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(place) in line]
    for proc in Path("/proc").glob("[0-9]*"):
        try:
            words = (proc / "cmdline").read_bytes().replace(b"\0", b" ")
        except OSError:
            continue
        if b"4711" in words or str(place).encode() in words:
            left.append(f"process {proc.name} {words!r}")
    return left


def _records(place: Path) -> list[dict[str, object]]:
    found = []
    for path in (place / "run" / "done").iterdir():
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        found += [line["terminal"] for line in lines if "terminal" in line]
    return found


@pytest.mark.req("X3", "X10", "G2")
@pytest.mark.parametrize("victim", ["procd", "init", "nursery", "client"])
@pytest.mark.parametrize("step", STEPS)
def test_kill_at_step_leaves_nothing_after_the_next_start(place: Path, step: str, victim: str) -> None:
    box = f"crash-{step}-{victim}-{os.getpid()}"
    run = _start(place, box, step)
    _wait(lambda: _paused(place))
    victims = {"procd": run.procd, "init": run.init, "nursery": run.nursery, "client": lambda: run.client.pid}
    pid = victims[victim]()
    if pid:  # at the first and last steps there is no init
        os.kill(pid, signal.SIGKILL)
    (place / "run" / "paused").unlink()
    if victim == "procd":
        run.client.wait(20)
    _settle(run)
    if victim == "procd":
        assert _leftovers(place, box), "nothing to undo: the kill came too late to test anything"
    if victim == "nursery":
        assert run.client.returncode == 0, "another nursery does what the dead one did"
    asyncio.run(asyncio.wait_for(_next_start(place), 60))
    _wait(lambda: not _leftovers(place, box))
    assert len(_records(place)) == 1


def _settle(run: Victims) -> None:
    """The client ends by itself (or is dead); a private procd ends with its client."""
    try:
        run.client.wait(20)
    except subprocess.TimeoutExpired:
        run.client.kill()
        run.client.wait()
        raise


@pytest.mark.req("X3", "X10")
def test_every_step_of_the_plan_is_a_fault_point(place: Path) -> None:
    for step in STEPS:
        run = _start(place, f"all-{step}", step)
        _wait(lambda: _paused(place))
        where = (place / "run" / "paused").read_text().split()[0]
        (place / "run" / "paused").unlink()
        assert run.client.wait(20) == 0
        assert where == step


class Listening:
    """A listening procd of the test's own."""

    def __init__(self, place: Path) -> None:
        self._place = place
        words = [sys.executable, "-I", "-S", str(MAIN), "--config", "/nonexistent"]
        words += [f"--set={k}={v}" for k, v in _settings(place).items()]
        self.process = subprocess.Popen(words)
        _wait(self._answers)

    @property
    def path(self) -> str:
        return str(self._place / "run" / "procd.sock")

    def _answers(self) -> bool:
        async def ask() -> None:
            procd = await Procd.connect(self.path)
            await procd.hello()
            await procd.close()

        try:
            asyncio.run(ask())
        except ConnectionError:
            return False
        return True

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(20) == 0


async def _begin(path: str, wish: BoxPlan) -> None:
    procd = await Procd.connect(path)
    await procd.make(wish.box, wish.kind, wish.execute, wish.scratch, wish.cgroup)
    await procd.start(wish)
    await procd.close()


async def _finish(path: str, box: str) -> tuple[int, int, str]:
    procd = await Procd.connect(path)
    await procd.hello()
    ended = await asyncio.wait_for(procd.exit(box), 30)
    worker = await procd.worker(box)
    fd = await worker.open("out")
    worker.close()
    with os.fdopen(fd) as f:
        out = f.read()
    await procd.destroy(box)
    await procd.close()
    return ended.status, ended.usage.user_usec + ended.usage.system_usec, out


BURN = "import time\nt=time.process_time()\nwhile time.process_time()-t < 0.3: pass\nprint(42)"


@pytest.mark.req("X3")
@pytest.mark.parametrize("how", ["killed", "stopped"])
@pytest.mark.parametrize("ends", ["before the next procd", "after"])
def test_running_job_survives_procd_and_its_exit_is_true(place: Path, how: str, ends: str) -> None:
    box = f"adopt-{os.getpid()}"
    seconds = 0.2 if ends.startswith("before") else 1.5
    script = f'/usr/bin/python3 -c "{BURN}"; sleep {seconds}; echo end; exit 7'
    wish = plan(str(place / "execute"), box, "/bin/sh", "-c", script)
    first = Listening(place)
    asyncio.run(_begin(first.path, wish))
    first.kill() if how == "killed" else first.stop()
    if ends.startswith("before"):
        time.sleep(1.5)
    second = Listening(place)
    try:
        status, cpu, out = asyncio.run(_finish(second.path, box))
    finally:
        second.stop()
    assert os.waitstatus_to_exitcode(status) == 7
    assert out.split() == ["42", "end"]
    assert cpu > 250_000
    assert _leftovers(place, box) == []
    assert len(_records(place)) == 1


@pytest.mark.req("X3", "G2")
def test_sweep_undoes_what_a_dead_listening_procd_kept(place: Path) -> None:
    box = f"sweep-{os.getpid()}"
    wish = plan(str(place / "execute"), box, "/bin/sh", "-c", "setsid env -i /bin/sleep 4711 & sleep 100")
    first = Listening(place)
    asyncio.run(_begin(first.path, wish))
    first.kill()

    async def sweep() -> list[dict[str, object]]:
        procd = await Procd.spawn(_settings(place))
        records = await procd.sweep()
        await procd.close()
        return records

    records = asyncio.run(asyncio.wait_for(sweep(), 30))
    assert [r["box"] for r in records] == [box]
    assert _leftovers(place, box) == []
    assert len(_records(place)) == 1


@pytest.mark.req("X3")
def test_box_starts_although_the_init_made_ahead_for_it_was_killed(place: Path) -> None:
    async def box(procd: Procd, name: str) -> None:
        wish = plan(str(place / "execute"), name, "/bin/true")
        await procd.make(name, wish.kind, wish.execute, wish.scratch, wish.cgroup)
        await procd.start(wish)
        assert (await asyncio.wait_for(procd.exit(name), 30)).status == 0
        await procd.destroy(name)

    async def two_boxes() -> None:
        procd = await Procd.spawn(_settings(place))
        try:
            await box(procd, f"first-{os.getpid()}")
            pid = _children(os.getpid())[-1]
            _wait(lambda: len(_children(pid)) == 2)
            _kill(_children(pid)[1])
            await box(procd, f"second-{os.getpid()}")
        finally:
            await procd.close()

    asyncio.run(two_boxes())
    assert _leftovers(place, "second") == []


def _kill(pid: int) -> None:
    """SIGKILL, and wait until it is dead: a zombie, as long as nobody has reaped it."""
    os.kill(pid, signal.SIGKILL)
    _wait(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
