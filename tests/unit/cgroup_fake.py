"""A fake cgroup file system in a temporary directory: ordinary files, no kernel behind them.

What the kernel would put into a new cgroup is put there by the stand-in for ``files.make``; ``files.remove``
takes it away again. Nothing is enforced: these trees show what is written where.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from condor_starter.procd.cgroups import files
from condor_starter.procd.cgroups.detect import Layout

V1_FILES = {
    "memory": {
        "memory.limit_in_bytes": "",
        "memory.memsw.limit_in_bytes": "",
        "memory.max_usage_in_bytes": "4096\n",
        "memory.stat": "cache 9\nrss 1\nshmem 1\ntotal_cache 90\ntotal_rss 1000\ntotal_shmem 24\n",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        "memory.use_hierarchy": "1\n",
    },
    "cpu": {"cpu.shares": ""},
    "cpuacct": {
        "cpuacct.usage": "4000000\n",
        "cpuacct.usage_user": "3000000\n",
        "cpuacct.usage_sys": "1000000\n",
    },
    "pids": {"pids.max": "", "pids.current": "3\n"},
    "freezer": {"freezer.state": ""},
}
V2_FILES = {
    "cgroup.controllers": "cpu io memory pids\n",
    "cgroup.subtree_control": "",
    "cgroup.events": "populated 0\nfrozen 0\n",
    "cgroup.freeze": "",
    "cgroup.kill": "",
    "cgroup.type": "domain\n",
    "cpu.stat": "usage_usec 30\nuser_usec 20\nsystem_usec 10\n",
    "cpu.weight": "",
    "io.stat": "254:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=9\n8:0 rbytes=5 wbytes=6 rios=3 wios=4\n",
    "memory.max": "",
    "memory.swap.max": "",
    "memory.oom.group": "",
    "memory.stat": "anon 100\nfile 5000\nshmem 11\n",
    "memory.peak": "7000\n",
    "memory.events": "low 0\nhigh 0\nmax 5\noom 1\noom_kill 1\noom_group_kill 0\n",
    "pids.max": "",
    "pids.current": "4\n",
}


class FakeTree:
    """Hierarchies beneath ``top``: name -> the files that each new cgroup of it gets."""

    def __init__(self, top: Path, kinds: dict[str, dict[str, str]]) -> None:
        self.top = top
        self.kinds = kinds
        self.made: list[str] = []
        self.refuse: Callable[[str], int] = lambda path: 0  # path -> errno
        for name in kinds:
            (top / name).mkdir()
            self._fill(str(top / name))

    def _fill(self, path: str) -> None:
        hierarchy = Path(path).relative_to(self.top).parts[0]
        for name, text in {**self.kinds[hierarchy], "cgroup.procs": ""}.items():
            Path(path, name).write_text(text)

    def make(self, path: str) -> None:
        """As files.make."""
        if number := self.refuse(path):
            raise files.CgroupError(number, "make cgroup", path)
        try:
            os.mkdir(path)
        except OSError as e:
            raise files.CgroupError(e.errno or 0, "make cgroup", path) from None
        self.made.append(path)
        self._fill(path)

    def remove(self, path: str, dir_fd: int | None = None) -> bool:
        """As files.remove: refuses where a process or a sub-cgroup is."""
        full = path if dir_fd is None else f"/proc/self/fd/{dir_fd}/{path}"
        if not os.path.isdir(full):
            return True
        with os.scandir(full) as entries:
            if Path(full, "cgroup.procs").read_text() or any(e.is_dir() for e in entries):
                return False
        for name in os.listdir(full):
            os.unlink(f"{full}/{name}")
        os.rmdir(full)
        return True

    def text(self, *parts: str) -> str:
        """The contents of a file beneath the top."""
        return self.top.joinpath(*parts).read_text()


def fake_v1(top: Path, monkeypatch: pytest.MonkeyPatch, *, together: bool = False) -> tuple[FakeTree, Layout]:
    """The five v1 controllers, each alone, or cpu with cpuacct as on most machines."""
    kinds = dict(V1_FILES)
    mounts = {name: str(top / name) for name in kinds}
    if together:
        kinds["cpu,cpuacct"] = {**kinds.pop("cpu"), **kinds.pop("cpuacct")}
        mounts["cpu"] = mounts["cpuacct"] = str(top / "cpu,cpuacct")
    return install(FakeTree(top, kinds), monkeypatch), Layout("v1", mounts)


def fake_v2(top: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[FakeTree, Layout]:
    """A pure v2 machine, ourselves in its top cgroup."""
    tree = install(FakeTree(top, {"v2": V2_FILES}), monkeypatch)
    (top / "v2" / "cgroup.type").unlink()  # only the machine's root has none
    return tree, Layout("v2", {}, str(top / "v2"), ("cpu", "io", "memory", "pids"), str(top / "v2"))


def install(tree: FakeTree, monkeypatch: pytest.MonkeyPatch) -> FakeTree:
    """Let the tracker's directories be made and removed as ``tree`` does."""
    monkeypatch.setattr(files, "make", tree.make)
    monkeypatch.setattr(files, "remove", tree.remove)
    return tree
