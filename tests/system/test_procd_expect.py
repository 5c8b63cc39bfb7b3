"""The hint that a box will be made soon: it gets procd ready, and nothing else depends on it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from condor_starter.isolation.boxplan import BoxPlan, Identity, Stdio
from condor_starter.procd.cgroups.detect import own_procs
from condor_starter.procd.client import Procd

ROOT = os.geteuid() == 0
BASE = f"expect-test-{os.getpid()}"


@pytest.mark.req("G1")
def test_the_cgroup_that_is_entered_is_the_one_that_we_are_in() -> None:
    procs = own_procs()
    if not procs:  # a machine, or a container, that shows no cgroup of ours
        assert not Path("/sys/fs/cgroup/cgroup.controllers").exists()
        return
    assert str(os.getpid()) in Path(procs).read_text().split()


async def _procd(where: Path) -> Procd:
    (where / "execute").mkdir(mode=0o755, exist_ok=True)
    settings = {
        "execute": str(where / "execute"),
        "run": str(where / "run"),
        "client": str(os.getuid()),
        "base_cgroup": BASE,
        "min_uid": "1",
    }
    return await Procd.spawn(settings)


def _plan(where: Path, name: str) -> BoxPlan:
    who = Identity(65534, 65534) if ROOT else Identity(os.getuid(), os.getgid())
    execute, box = str(where / "execute"), f"{BASE}-{name}"
    namespaces = ("pid", "mnt", "ipc", "uts", "cgroup") if ROOT else ()
    return BoxPlan(
        *(box, box, "box" if ROOT else "tree", execute, box, who),
        argv=("/bin/true",),
        env=(),
        cwd=f"{execute}/{box}",
        stdout=Stdio("out"),
        namespaces=namespaces,
    )


async def _run(procd: Procd, plan: BoxPlan) -> int:
    await procd.make(plan.box, plan.kind, plan.execute, plan.scratch, plan.cgroup)
    await procd.start(plan)
    ended = await asyncio.wait_for(procd.exit(plan.box), 30)
    await procd.destroy(plan.box)
    return ended.status


def _children(pid: int, name: str) -> list[int]:
    """The children of ``pid`` whose name begins with ``name``, clones of a nursery included."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            comm, rest = stat[stat.index("(") + 1 : stat.rindex(")")], stat.rpartition(")")[2].split()
            if int(rest[1]) == pid and comm.startswith(name) and rest[0] != "Z":
                found.append(int(entry.name))
    return found


@pytest.mark.req("G1", "P9")
def test_hints_have_no_answer_and_procd_serves_on(open_dir: Path) -> None:
    async def go() -> None:
        procd = await _procd(open_dir)
        try:
            for _ in range(2000):  # far more than a socket's buffer holds
                procd.expect()
            assert await _run(procd, _plan(open_dir, "flood")) == 0
            facts, boxes = await asyncio.wait_for(procd.hello(), 20)
            assert facts and not boxes
        finally:
            await procd.close()

    asyncio.run(go())


@pytest.mark.req("G1", "X3")
def test_a_hint_to_a_dead_nursery_and_one_to_a_dead_procd_do_no_harm(open_dir: Path) -> None:
    async def go() -> None:
        procd = await _procd(open_dir)
        try:
            await procd.hello()
            assert procd._pid is not None
            for nursery in _children(procd._pid, "starter_init"):
                os.kill(nursery, signal.SIGKILL)
            procd.expect()
            assert await _run(procd, _plan(open_dir, "orphan")) == 0
            os.kill(procd._pid, signal.SIGKILL)
            await asyncio.wait_for(procd.gone.wait(), 10)
            procd.expect()
        finally:
            await procd.close()

    asyncio.run(go())
