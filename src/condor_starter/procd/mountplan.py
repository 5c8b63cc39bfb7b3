"""The mounts of one box as a list of operations: pure, and made in procd. mounts.py carries them out."""

from __future__ import annotations

from typing import NamedTuple

from condor_starter.isolation.boxplan import BoxPlan


class Mount(NamedTuple):
    """One mount operation. ``kind``: private, bind, tmpfs, proc, dev, scratch."""

    kind: str
    target: str  # absolute, in the job's view
    source: str = ""  # bind: a host path; private: a path beneath the scratch directory
    data: str = ""  # options of a tmpfs
    read_only: bool = False


def plan_mounts(plan: BoxPlan) -> list[Mount]:
    """The mounts that ``plan`` asks for, in the order in which they are made."""
    ops: list[Mount] = []
    if "mnt" not in plan.namespaces:
        return ops
    if plan.chroot:
        ops.append(Mount("dev", "/dev"))
    for directory in sorted(plan.private_dirs, key=lambda d: d.count("/")):
        ops.append(Mount("private", directory, source=directory.strip("/")))
    if plan.private_dev_shm:
        ops.append(Mount("tmpfs", "/dev/shm", data="mode=1777"))
    ops += [Mount("bind", b.target, source=b.source, read_only=b.read_only) for b in plan.binds]
    if "pid" in plan.namespaces or plan.chroot:
        ops.append(Mount("proc", "/proc"))
    ops.append(Mount("scratch", f"{plan.execute}/{plan.scratch}"))
    return ops
