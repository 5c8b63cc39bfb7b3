"""Descendants: who is under whom, by /proc/PID/stat (proc(5)), and how to end all of them."""

from __future__ import annotations

import os
import time

_SIGKILL, _SIGSTOP = 9, 19


def processes() -> dict[int, tuple[int, list[str]]]:
    """Every process: pid -> (parent's pid, the fields of /proc/PID/stat from the state on)."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := _stat(int(name))):
            found[int(name)] = (int(fields[1]), fields)
    return found


def start_time(pid: int) -> int:
    """When ``pid`` was started, in clock ticks since boot; 0 if there is none. With the pid: an identity."""
    fields = _stat(pid)
    return int(fields[19]) if fields else 0


def _stat(pid: int) -> list[str]:
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        data = os.read(fd, 4096)
    except OSError:
        return []
    finally:
        os.close(fd)
    return data[data.rindex(b")") + 2 :].decode().split()


def descendants(root: int) -> dict[int, list[str]]:
    """The descendants of ``root`` (not itself), pid -> stat fields; zombies included."""
    everybody = processes()
    children: dict[int, list[int]] = {}
    for pid, (parent, _) in everybody.items():
        children.setdefault(parent, []).append(pid)
    found = {}
    todo = [root]
    while todo:
        for pid in children.get(todo.pop(), ()):
            found[pid] = everybody[pid][1]
            todo.append(pid)
    return found


def kill_children(timeout: float = 30.0, keep: frozenset[int] = frozenset()) -> int:
    """SIGKILL and reap every descendant of ours but ``keep`` (and theirs); returns how many there were.

    Stops them first, so that a fork bomb does not outrun us. Bounded: what is left after ``timeout`` seconds
    is in the kernel's hands.
    """
    killed: set[int] = set()
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        alive = _alive(os.getpid(), keep)
        if not alive:
            break
        for signum in (_SIGSTOP, _SIGKILL):
            signal_all(alive, signum)
        killed |= alive
        _reap_all(killed)
    return len(killed)


def _alive(root: int, keep: frozenset[int]) -> set[int]:
    found = set(descendants(root))
    for pid in keep & found:
        found -= {pid, *descendants(pid)}
    return found


def signal_all(pids: set[int], signum: int) -> None:
    """Send ``signum`` to all that are there and ours to signal."""
    for pid in pids:
        try:
            os.kill(pid, signum)
        except (ProcessLookupError, PermissionError):
            continue


def _reap_all(pids: set[int]) -> None:
    for pid in pids:
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            continue
