"""The machine that is measured, and a place on it that leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from condor_starter.procd import syscalls
from condor_starter.procd.cgroups.base import Base, base
from condor_starter.procd.cgroups.detect import read_layout
from condor_starter.procd.cgroups.files import remove_tree

HERE = Path(__file__).parent
NAME = f"starter-bench-{os.getpid()}"
MEMORY, SHARES, PIDS = 64 << 20, 100, 100
"""The limits of every box that is measured: bytes, cpu.shares, processes."""


class Place(NamedTuple):
    """Where a run puts what it makes; all of it goes with the run."""

    disk: Path  # on the disk, 0755: execute directories, programs
    memory: Path  # on tmpfs, 0755, visible in boxes
    run: Path  # on tmpfs, as /run is: ledgers and sockets
    cgroups: Base  # cgroups of the peers

    def program(self, name: str) -> str:
        """The static program made of ``<name>.c``."""
        path = self.disk / "bin" / name
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            words = ["gcc", "-O2", "-static", "-o", str(path), str(HERE / f"{name}.c")]
            subprocess.run(words, check=True, timeout=120)
        return str(path)


@contextlib.contextmanager
def place(directory: str) -> Iterator[Place]:
    """A place beneath ``directory``, which boxes must be able to see (not /tmp). Enters a mount namespace
    of our own, so that no mount of ours is anybody else's."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_SLAVE)
    with (
        tempfile.TemporaryDirectory(dir=directory, prefix=f"{NAME}-") as disk,
        tempfile.TemporaryDirectory(dir=_run(), prefix=f"{NAME}-") as run,
    ):
        memory = Path(disk) / "tmpfs"
        memory.mkdir()
        syscalls.mount("tmpfs", str(memory), "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=755")
        for path in (disk, run):
            os.chmod(path, 0o755)
        made = base(read_layout(), NAME, True)
        try:
            yield Place(Path(disk), memory, Path(run), made)
        finally:
            for mount in _hierarchies():
                remove_tree(f"{mount}/{NAME}")
            syscalls.umount(str(memory))


def _run() -> str:
    return "/run" if _file_system("/run") == "tmpfs" else "/dev/shm"


def _hierarchies() -> list[str]:
    """Where cgroups are mounted: a container runtime makes some in every one of them."""
    lines = [line.split(" ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [line[4] for line in lines if line[line.index("-") + 1] in ("cgroup", "cgroup2")]


def _file_system(path: str) -> str:
    """The file system's type at ``path``, from the mount that is nearest above it."""
    found = {"/": "?"}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split(" ")
        found[words[4]] = words[words.index("-") + 1] + (
            " discard" if "discard" in words[-1].split(",") else ""
        )
    where = os.path.realpath(path)
    while where not in found:
        where = os.path.dirname(where)
    return found[where]


def facts(directory: str) -> list[str]:
    """The machine in words."""
    cpu = "?"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    layout = read_layout()
    return [
        f"{os.cpu_count()} x {cpu}, {memory:.0f} GiB, Linux {platform.release()}, cgroups {layout.kind}",
        f"Python {platform.python_version()}; disk {_file_system(directory)}, ledgers {_file_system(_run())}",
    ]
