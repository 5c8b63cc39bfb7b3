"""Out of memory inside the box: to hear of it at once, to count it, and to tell it from the machine's own.

The counter ``oom_kill`` counts victims, whoever killed them: a machine that runs out of memory counts too.
That the box's *own* limit was hit shows elsewhere: v1 signals an eventfd registered on memory.oom_control, v2
counts ``oom`` in memory.events. ``struck`` wants both.
"""

from __future__ import annotations

import os

from condor_starter.procd.cgroups import files


class OomV1:
    """memory.oom_control of a v1 memory cgroup."""

    def __init__(self, path: str, adopted: bool) -> None:
        self._path = path
        self._control = files.Kept(f"{path}/memory.oom_control")
        self._event = -1
        self._seen = adopted  # what was signalled before we came is lost: then the count decides
        self._kills = 0

    def fd(self) -> int:
        """An eventfd that becomes readable when the limit of this cgroup is hit; -1 where v1 has no events.

        It also becomes readable when the cgroup is removed, so a wake-up alone proves nothing.
        """
        if self._event < 0 and self._control.fd >= 0:
            event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            try:
                files.write(f"{self._path}/cgroup.event_control", f"{event} {self._control.fd}")
                self._event = event
            except files.CgroupError:
                os.close(event)
                self._seen = True
        return self._event

    def kills(self) -> int:
        """Processes that an OOM killer took; v1 counts each cgroup by itself, so sub-cgroups are added here.

        Never falls, although a sub-cgroup that is removed takes its count along.
        """
        own = files.field(self._control.read() or b"", b"oom_kill") or 0
        inner = 0
        if files.nested(self._path):
            inner = sum(_oom_kill(fd) for fd in files.walk(self._path)) - own
        self._seen = self._seen or inner > 0  # a sub-cgroup's own limit, which no event tells us of
        self._kills = max(self._kills, own + inner)
        return self._kills

    def struck(self) -> bool:
        """Whether the limit of the box, or one beneath it, was hit and a process was killed for it."""
        if self._event >= 0:
            try:
                self._seen = os.eventfd_read(self._event) > 0 or self._seen
            except BlockingIOError:
                pass
        else:
            self._seen = True
        return self.kills() > 0 and self._seen

    def close(self) -> None:
        """Give up the descriptors."""
        self._control.close()
        if self._event >= 0:
            os.close(self._event)
        self._event = -1


def _oom_kill(fd: int) -> int:
    return files.field(files.read("memory.oom_control", fd) or b"", b"oom_kill") or 0


class OomV2:
    """memory.events of a v2 cgroup; the kernel adds the sub-cgroups' numbers."""

    def __init__(self, path: str) -> None:
        self._events = files.Kept(f"{path}/memory.events")

    def fd(self) -> int:
        """A descriptor to poll for POLLPRI; :meth:`kills` and :meth:`struck` re-arm it. -1 without one."""
        self._events.read()
        return self._events.fd

    def kills(self) -> int:
        """Processes that an OOM killer took in the subtree."""
        return files.field(self._events.read() or b"", b"oom_kill") or 0

    def struck(self) -> bool:
        """Whether the limit of the box, or one beneath it, was hit and a process was killed for it."""
        text = self._events.read() or b""
        return bool(files.field(text, b"oom")) and bool(files.field(text, b"oom_kill"))

    def close(self) -> None:
        """Give up the descriptor."""
        self._events.close()
