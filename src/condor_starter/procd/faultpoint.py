"""Where the tests interrupt us: every numbered step of a plan passes through :func:`point`.

Disarmed (always, but in tests) a point is one comparison. Armed by the setting ``pause_at = <step>`` the
process that reaches the step writes "<step> <pid>" to ``<run>/paused`` and stands still until it is killed or
the file is removed.
"""

from __future__ import annotations

import os
import select

_armed = ""
_marker = -1


def arm(step: str, run: str) -> None:
    """Stand still at ``step`` from now on; opens the marker file while we may."""
    global _armed, _marker
    _armed = step
    _marker = os.open(f"{run}/paused", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)


def armed() -> tuple[str, int]:
    """Where we are to stand still ("": nowhere), and the marker's descriptor: for a child of the nursery."""
    return _armed, _marker


def take(step: str, marker: int) -> None:
    """Be armed as procd is."""
    global _armed, _marker
    _armed, _marker = step, marker


def marker_fd() -> int:
    """The marker's descriptor, which a child must keep open; -1 when disarmed."""
    return _marker


def point(step: str) -> None:
    """We are about to carry out ``step``."""
    if step == _armed:
        os.write(_marker, f"{step} {os.getpid()}\n".encode())
        while os.fstat(_marker).st_nlink:
            select.select([], [], [], 0.02)
