"""Limits bite and numbers are true, on this kernel's real cgroups."""

from __future__ import annotations

import mmap
import os
import resource
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator

import pytest

from condor_starter.isolation.boxplan import Limits
from condor_starter.procd.cgroups import files
from condor_starter.procd.cgroups.base import Base
from condor_starter.procd.cgroups.tracker import Tracker
from system.cgroup_help import (
    PATIENCE,
    eventually,
    fresh_base,
    kill_until_empty,
    layouts,
    make_sub,
    python,
    spawn,
    spawn_in,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes real cgroups: needs root")
LAYOUTS = layouts()
MIB = 1 << 20
HOG = "import mmap\nm = mmap.mmap(-1, 256 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n" + (
    "for i in range(0, len(m), 4096): m[i] = 1"
)
BURN = """
import os, time
end = time.process_time() + 0.4
while time.process_time() < end: os.getppid()
"""


def hold(mib: int, kind: str) -> tuple[str, ...]:
    """argv that touches ``mib`` MiB, says x and stays; ``kind`` MAP_PRIVATE or MAP_SHARED."""
    return python(
        f"import mmap, os, time\nm = mmap.mmap(-1, {mib} << 20, mmap.{kind} | mmap.MAP_ANONYMOUS)\n"
        f"for i in range(0, len(m), {mmap.PAGESIZE}): m[i] = 1\nos.write(1, b'x')\ntime.sleep(600)"
    )


@pytest.fixture(params=LAYOUTS)
def base(request: pytest.FixtureRequest) -> Iterator[Base]:
    with fresh_base(LAYOUTS[request.param]) as made:
        yield made


@pytest.fixture
def box(base: Base) -> Iterator[Tracker]:
    tracker = Tracker.create(base, "box")
    yield tracker
    tracker.remove(PATIENCE)
    tracker.close()


def wait_for_oom(box: Tracker) -> bool:
    """Whether oom_fd wakes us and the box was struck then."""
    poll = select.poll()
    poll.register(box.oom_fd(), select.POLLIN | select.POLLPRI)
    return eventually(lambda: poll.poll(1000) and eventually(box.oom_struck, 1))


@pytest.mark.req("G3", "G4", "G5")
def test_a_job_over_its_memory_is_killed_and_oom_fd_tells(box: Tracker) -> None:
    assert box.limit(Limits(memory=64 * MIB, swap=0)) == []
    assert box.oom_fd() >= 0
    assert (box.oom_kills(), box.oom_struck()) == (0, False)
    job = spawn(box, *python(HOG))
    assert wait_for_oom(box)
    assert job.wait(PATIENCE) == -signal.SIGKILL
    usage = box.usage()
    assert usage.oom_kills == box.oom_kills() >= 1
    if usage.memory_peak_bytes is not None:  # v2 has memory.peak since Linux 5.19
        assert 60 * MIB <= usage.memory_peak_bytes <= 64 * MIB


@pytest.mark.req("G3", "D16")
def test_memory_over_the_limit_in_a_sub_cgroup_counts(box: Tracker) -> None:
    assert box.limit(Limits(memory=64 * MIB, swap=0)) == []
    box.oom_fd()
    inner = make_sub(box, "container")
    job = spawn_in([f"{path}/cgroup.procs" for path in inner], *python(HOG))
    assert wait_for_oom(box)
    assert job.wait(PATIENCE) == -signal.SIGKILL
    assert box.usage().oom_kills >= 1
    for path in inner:
        assert eventually(lambda path=path: _gone(path))
    assert box.oom_kills() >= 1, "the count does not go with the sub-cgroup"
    assert box.oom_struck()


@pytest.mark.req("D16")
def test_a_limit_of_a_sub_cgroups_own_counts_as_the_boxs(box: Tracker) -> None:
    assert box.limit(Limits(memory=512 * MIB, swap=0)) == []
    box.oom_fd()
    if "memory" not in box.dirs:
        files.write(f"{box.dirs['v2']}/cgroup.subtree_control", "+memory")
    inner = make_sub(box, "container")
    key, limit = ("memory", "limit_in_bytes") if "memory" in box.dirs else ("v2", "max")
    files.write(f"{box.dirs[key]}/container/memory.{limit}", str(64 * MIB))
    job = spawn_in([f"{path}/cgroup.procs" for path in inner], *python(HOG))
    assert job.wait(PATIENCE) == -signal.SIGKILL
    assert eventually(box.oom_struck)
    assert box.oom_kills() >= 1


def _gone(path: str) -> bool:
    try:
        os.rmdir(path)
    except OSError:
        return False
    return True


@pytest.mark.req("G4")
def test_a_kill_by_hand_is_no_oom(box: Tracker) -> None:
    box.limit(Limits(memory=64 * MIB, swap=0))
    box.oom_fd()
    job = spawn(box, *hold(20, "MAP_PRIVATE"), stdout=subprocess.PIPE)
    assert job.stdout and job.stdout.read(1) == b"x"
    kill_until_empty(box)
    assert job.wait(PATIENCE) == -signal.SIGKILL
    job.stdout.close()
    assert (box.oom_kills(), box.oom_struck()) == (0, False)


@pytest.mark.req("G3")
def test_a_reader_of_files_larger_than_its_limit_is_not_killed(
    box: Tracker, tmp_path: os.PathLike[str]
) -> None:
    assert box.limit(Limits(memory=32 * MIB, swap=0)) == []
    box.oom_fd()
    big = os.path.join(tmp_path, "big")
    with open(big, "wb") as f:
        f.write(bytes(128 * MIB))
    job = spawn(box, "sh", "-c", f"cat {big} >/dev/null && cp {big} {big}.copy")
    assert job.wait(PATIENCE * 5) == 0
    assert (box.oom_kills(), box.oom_struck()) == (0, False)
    assert (box.usage().memory_bytes or 0) < 16 * MIB


@pytest.mark.req("P1")
def test_no_more_processes_than_the_limit(box: Tracker) -> None:
    assert box.limit(Limits(pids=5)) == []
    code = """
import os, time
made = 0
try:
    while True:
        if os.fork() == 0: time.sleep(600)
        made += 1
except BlockingIOError: pass
os.write(1, b"%d" % made)
"""
    job = spawn(box, *python(code), stdout=subprocess.PIPE)
    assert job.stdout and job.stdout.read(1) == b"4"
    assert job.wait(PATIENCE) == 0
    job.stdout.close()
    assert box.usage().processes == len(box.processes()) == 4


@pytest.mark.req("G6", "G3")
def test_the_kernel_has_the_numbers_that_were_asked_for(box: Tracker) -> None:
    assert box.limit(Limits(memory=64 * MIB, swap=16 * MIB, cpu_shares=250, pids=77)) == []

    def value(v1: str, v2: str) -> str:
        controller = v1.split(".")[0]
        path = f"{box.dirs[controller]}/{v1}" if controller in box.dirs else f"{box.dirs['v2']}/{v2}"
        with open(path) as f:
            return f.read().strip()

    assert value("memory.limit_in_bytes", "memory.max") == str(64 * MIB)
    both = "memory" in box.dirs  # v1 limits the sum of memory and swap
    assert value("memory.memsw.limit_in_bytes", "memory.swap.max") == str((80 if both else 16) * MIB)
    assert value("cpu.shares", "cpu.weight") == "250"
    assert value("pids.max", "pids.max") == "77"
    if not both:
        assert value("-", "memory.oom.group") == "1"


@pytest.mark.req("G6")
@pytest.mark.parametrize(("asked", "v1", "v2"), [(0, "2", "1"), (10**9, "262144", "10000")])
def test_cpu_shares_beyond_the_kernels_range_are_clamped(box: Tracker, asked: int, v1: str, v2: str) -> None:
    assert box.limit(Limits(cpu_shares=asked)) == []
    path = f"{box.dirs['cpu']}/cpu.shares" if "cpu" in box.dirs else f"{box.dirs['v2']}/cpu.weight"
    with open(path) as f:
        assert f.read().strip() == (v1 if "cpu" in box.dirs else v2)


@pytest.mark.req("G6", "R5")
def test_twice_the_shares_get_twice_the_cpu(base: Base) -> None:
    boxes = [Tracker.create(base, f"box{shares}") for shares in (100, 200)]
    cpu = {min(os.sched_getaffinity(0))}
    for box, shares in zip(boxes, (100, 200), strict=True):
        assert box.limit(Limits(cpu_shares=shares)) == []
    jobs = [spawn(box, "sh", "-c", "while :; do :; done") for box in boxes]
    for job in jobs:
        os.sched_setaffinity(job.pid, cpu)
    before = [box.usage().user_usec + box.usage().system_usec for box in boxes]
    time.sleep(1.5)
    one, two = (
        b.usage().user_usec + b.usage().system_usec - was for b, was in zip(boxes, before, strict=True)
    )
    for box, job in zip(boxes, jobs, strict=True):
        assert box.remove(PATIENCE) == ""
        job.wait(PATIENCE)
        box.close()
    assert 1.5 < two / one < 2.7


@pytest.mark.req("G3", "X5")
def test_a_limit_that_is_refused_is_a_note_with_file_and_data(box: Tracker) -> None:
    notes = box.limit(Limits(pids=-5, cpu_shares=100))
    assert len(notes) == 1
    assert notes[0].startswith("process limit: write '-5' to /")
    assert notes[0].endswith("/box/pids.max: Invalid argument")


@pytest.mark.req("G8")
def test_cpu_time_of_children_that_are_gone_is_counted(box: Tracker) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    job = spawn(box, *python(f"import os\nif os.fork() == 0:\n os.setsid()\nelse:\n os.wait()\n{BURN}"))
    assert job.wait(PATIENCE) == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    usage = box.usage()
    counted = (usage.user_usec + usage.system_usec) / 1e6
    assert counted == pytest.approx(spent, rel=0.05, abs=0.03)
    assert counted >= 0.8
    assert usage.user_usec > 50_000 and usage.system_usec > 50_000, "a loop of system calls has both"


@pytest.mark.req("G8")
def test_neither_part_of_the_cpu_time_ever_falls(box: Tracker) -> None:
    job = spawn(box, *python(BURN))
    last = box.usage()
    while job.poll() is None:
        now = box.usage()
        assert now.user_usec >= last.user_usec and now.system_usec >= last.system_usec
        last = now
        time.sleep(0.01)
    assert job.wait(PATIENCE) == 0


@pytest.mark.req("G8", "G7")
def test_a_frozen_box_uses_no_cpu(box: Tracker) -> None:
    job = spawn(box, "sh", "-c", "while :; do :; done")
    assert eventually(lambda: box.usage().user_usec > 0)
    assert box.freeze(PATIENCE)
    before = box.usage()
    time.sleep(0.2)
    after = box.usage()
    assert after.user_usec + after.system_usec - before.user_usec - before.system_usec < 5000
    kill_until_empty(box)
    job.wait(PATIENCE)


@pytest.mark.req("G8")
@pytest.mark.parametrize("kind", ["MAP_PRIVATE", "MAP_SHARED"])
def test_memory_is_what_the_processes_hold(box: Tracker, kind: str) -> None:
    job = spawn(box, *hold(48, kind), stdout=subprocess.PIPE)
    assert job.stdout and job.stdout.read(1) == b"x"
    usage = box.usage()
    assert 48 * MIB <= (usage.memory_bytes or 0) < 64 * MIB
    assert usage.processes == 1
    kill_until_empty(box)
    job.wait(PATIENCE)
    job.stdout.close()
    after = box.usage()
    assert (after.memory_bytes or 0) < 4 * MIB
    if usage.memory_peak_bytes is not None:
        assert (after.memory_peak_bytes or 0) >= 48 * MIB, "the peak outlives the process"


def controllers(box: Tracker) -> list[bytes]:
    return (files.read(f"{box.dirs['v2']}/cgroup.controllers") or b"").split()


@pytest.mark.req("G8")
def test_block_io_is_counted_where_a_controller_counts_it(box: Tracker) -> None:
    if "v2" not in box.dirs or b"io" not in controllers(box):
        assert box.usage()[-4:] == (None, None, None, None)
        return
    with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:
        job = spawn(
            box, "dd", "if=/dev/zero", f"of={scratch}/f", "bs=1M", "count=8", "conv=fsync", "status=none"
        )
        assert job.wait(PATIENCE) == 0
    usage = box.usage()
    assert 8 * MIB <= (usage.write_bytes or 0) < 32 * MIB
    assert (usage.write_ops or 0) > 0


@pytest.mark.req("G8")
def test_one_sample_costs_the_same_for_one_process_and_for_many(box: Tracker) -> None:
    def cost() -> float:
        box.usage()
        rounds = []
        for _ in range(300):
            start = time.perf_counter()
            box.usage()
            rounds.append(time.perf_counter() - start)
        return sorted(rounds)[len(rounds) // 2] * 1e6

    job = spawn(box, *SLEEPERS, stdout=subprocess.PIPE)
    one = cost()
    assert job.stdout and job.stdin is None and job.stdout.read(1) == b"x"
    many = cost()
    count = len(box.processes())
    kill_until_empty(box)
    job.wait(PATIENCE)
    job.stdout.close()
    print(f"one usage sample: {one:.0f} us with 1 process, {many:.0f} us with {count}")


SLEEPERS = python(
    "import os, time\ntime.sleep(0.5)\nfor i in range(200):\n if os.fork() == 0: time.sleep(600)\n"
    "os.write(1, b'x')\ntime.sleep(600)"
)
