"""Which starter made a container, so that what a dead one left can be told from what a living one uses."""

from __future__ import annotations

import os
from pathlib import Path


def mine() -> str:
    """This process as a label value: pid namespace, pid and start time, which no other process ever has."""
    return f"{_namespace()}.{os.getpid()}.{_started(os.getpid())}"


def is_dead(label: str) -> bool:
    """True if the starter that wrote ``label`` cannot be alive; False also when that cannot be told here."""
    parts = label.split(".")
    if len(parts) != 3 or not parts[1].isdigit() or parts[0] != _namespace():
        return False
    return _started(int(parts[1])) != parts[2]


def _namespace() -> str:
    return str(os.stat("/proc/self/ns/pid").st_ino)


def _started(pid: int) -> str:
    """The process's start in clock ticks since boot (proc(5), stat field 22); "" if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]
