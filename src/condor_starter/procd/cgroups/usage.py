"""What a box used, in a handful of preads whose cost does not depend on how many processes it has.

Each number comes from the one hierarchy that knows it best. Where a v1 controller is mounted it is v1: there
alone a container's processes are counted on hybrid machines. Otherwise it is v2.
"""

from __future__ import annotations

from condor_starter.isolation.boxplan import Usage
from condor_starter.procd.cgroups.files import Kept, field


class Sampler:
    """The kept files of one box. ``v1`` is controller -> directory, ``v2`` the unified directory or ""."""

    def __init__(self, v1: dict[str, str], v2: str) -> None:
        self._cpu = CpuV1(v1["cpuacct"]) if "cpuacct" in v1 else CpuV2(v2)
        memory = v1.get("memory", v2)
        self._memory = _kept(memory, "memory.stat")
        self._keys = (b"total_rss", b"total_shmem") if "memory" in v1 else (b"anon", b"shmem")
        self._peak = _kept(memory, "memory.max_usage_in_bytes" if "memory" in v1 else "memory.peak")
        self._pids = _kept(v1.get("pids", v2), "pids.current")
        self._io = _kept(v2, "io.stat")

    def sample(self, oom_kills: int) -> Usage:
        """The usage now; what this machine does not count, or a vanished cgroup no longer says, is None.

        ``processes`` counts threads too: it is what the process limit counts.
        """
        user, system = self._cpu.read()
        return Usage(
            user,
            system,
            self._memory_now(),
            self._peak.number(),
            self._pids.number(),
            oom_kills,
            *self._blocks(),
        )

    def _memory_now(self) -> int | None:
        text = self._memory.read()
        if text is None:
            return None
        return (field(text, self._keys[0]) or 0) + (field(text, self._keys[1]) or 0)

    def _blocks(self) -> tuple[int | None, int | None, int | None, int | None]:
        """Bytes read and written, reads and writes, over all devices (v2's io controller only)."""
        text = self._io.read()
        if text is None:
            return None, None, None, None
        sums = {b"rbytes": 0, b"wbytes": 0, b"rios": 0, b"wios": 0}
        for word in text.split():
            key, _, value = word.partition(b"=")
            if key in sums and value.isdigit():
                sums[key] += int(value)
        return sums[b"rbytes"], sums[b"wbytes"], sums[b"rios"], sums[b"wios"]

    def close(self) -> None:
        """Give up the descriptors."""
        self._cpu.close()
        for kept in (self._memory, self._peak, self._pids, self._io):
            kept.close()


def _kept(directory: str, name: str) -> Kept:
    return Kept(f"{directory}/{name}" if directory else "")  # "" is never there


class CpuV1:
    """cpuacct. ``usage`` is exact, in ns; usage_user and usage_sys are counted in clock ticks.

    So the exact sum is divided in the ratio of the two, as the kernel does for a process's times, and neither
    part ever falls.
    """

    def __init__(self, path: str) -> None:
        self._total = Kept(f"{path}/cpuacct.usage")
        self._user = Kept(f"{path}/cpuacct.usage_user")
        self._system = Kept(f"{path}/cpuacct.usage_sys")
        self._last = (0, 0)

    def read(self) -> tuple[int, int]:
        """User and system time in microseconds; the last ones known when the cgroup has vanished."""
        total = self._total.number()
        if total is not None:
            self._last = divide(
                total // 1000, self._user.number() or 0, self._system.number() or 0, self._last
            )
        return self._last

    def close(self) -> None:
        """Give up the descriptors."""
        for kept in (self._total, self._user, self._system):
            kept.close()


def divide(total: int, user: int, system: int, last: tuple[int, int]) -> tuple[int, int]:
    """``total`` in the ratio user : system, neither part below ``last``'s; all user time without ticks."""
    share = total * system // (user + system) if user + system else 0
    share = max(share, last[1])
    if total - share < last[0]:
        share = max(total - last[0], last[1])
    return max(total - share, last[0]), share


class CpuV2:
    """cpu.stat, which every v2 cgroup has, with or without the controller."""

    def __init__(self, path: str) -> None:
        self._stat = _kept(path, "cpu.stat")
        self._last = (0, 0)

    def read(self) -> tuple[int, int]:
        """User and system time in microseconds; the last ones known when the cgroup has vanished."""
        text = self._stat.read()
        if text is not None:
            self._last = field(text, b"user_usec") or 0, field(text, b"system_usec") or 0
        return self._last

    def close(self) -> None:
        """Give up the descriptor."""
        self._stat.close()
