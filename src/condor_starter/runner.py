"""What the job's coroutine drives: one running box, whatever it is made of.

:class:`BoxRunner` is a box of procd; a container engine has a runner of its own with the same methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from condor_starter.isolation.boxplan import BoxExit, BoxPlan, Usage
from condor_starter.procd.client import Procd, Started


class Runner(Protocol):
    """One job in its box. Methods raise ProcdError, ProcdGone, or JobError for the engine's refusals."""

    async def prepare(self) -> None:
        """What may take long and needs no box: fetching an image. Can be cancelled at any time."""

    async def start(self) -> Started:
        """Start the job; returns once it has been executed."""

    async def wait(self) -> BoxExit:
        """Wait until everything in the box is dead. May be called again after it was cancelled."""

    async def signal(self, number: int) -> None:
        """Send a signal to the job's main process."""

    async def kill(self) -> None:
        """SIGKILL to everything in the box; :meth:`wait` tells when it is empty."""

    async def freeze(self) -> None:
        """Suspend: returns when nothing in the box runs any more."""

    async def thaw(self) -> None:
        """Continue after :meth:`freeze`."""

    async def usage(self) -> Usage:
        """What the box has used until now."""

    async def close(self) -> None:
        """Let go of what this runner alone holds (an engine's container); the box is destroyed elsewhere."""


class HasProcd(Protocol):
    """Whoever holds the connection to procd. Read anew for each call: it is replaced when procd restarts."""

    procd: Procd


class BoxRunner:
    """A box that procd builds and runs: the cgroup+namespace, chroot and rlimit backends."""

    def __init__(self, house: HasProcd, plan: BoxPlan, fds: Sequence[int] = ()) -> None:
        self._house = house
        self._plan = plan
        self._fds = fds

    async def prepare(self) -> None:
        return None

    async def start(self) -> Started:
        return await self._house.procd.start(self._plan, self._fds)

    async def wait(self) -> BoxExit:
        return await self._house.procd.exit(self._plan.box)

    async def signal(self, number: int) -> None:
        await self._house.procd.signal(self._plan.box, number)

    async def kill(self) -> None:
        await self._house.procd.kill(self._plan.box)

    async def freeze(self) -> None:
        await self._house.procd.freeze(self._plan.box)

    async def thaw(self) -> None:
        await self._house.procd.thaw(self._plan.box)

    async def usage(self) -> Usage:
        return await self._house.procd.usage(self._plan.box)

    async def close(self) -> None:
        return None
