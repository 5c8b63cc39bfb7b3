"""What knows the processes of a box: the tracker of its cgroup, or the tree under its init."""

from __future__ import annotations

from typing import Protocol

from condor_starter.isolation.boxplan import Limits, Usage
from condor_starter.procd.cgroups.base import Base


class Family(Protocol):
    """What a box needs of the thing that knows its processes: a cgroup's Tracker, or a Tree."""

    def limit(self, limits: Limits) -> list[str]: ...
    def processes(self) -> list[int]: ...
    def populated(self) -> bool: ...
    def freeze(self, timeout: float) -> bool: ...
    def thaw(self) -> None: ...
    def kill(self) -> None: ...
    def oom_kills(self) -> int: ...
    def usage(self) -> Usage: ...
    def remove(self, timeout: float) -> str: ...
    def close(self) -> None: ...


def needed(base: Base, kind: str) -> Base:
    """The hierarchies that a box of this kind uses: making and joining each costs every job some time.

    Where the v2 tree tracks, it freezes and counts cpu time too; but a container engine on a hybrid machine
    puts its container into the v1 hierarchies only.
    """
    if kind == "tree":
        return base._replace(dirs={})
    if kind == "box" and "v2" in base.dirs:
        return base._replace(dirs={k: d for k, d in base.dirs.items() if k not in ("freezer", "cpuacct")})
    return base
