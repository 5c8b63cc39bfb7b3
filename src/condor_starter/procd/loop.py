"""A plain epoll loop: descriptors to callbacks, and timers. One thread; asyncio would double procd's size."""

from __future__ import annotations

import heapq
import select
import time
from collections.abc import Callable
from itertools import count

IN = select.EPOLLIN
PRI = select.EPOLLPRI


class Loop:
    """Callbacks run one at a time, to their end: none may block."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, Callable[[], None]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self.running = True

    def watch(self, fd: int, callback: Callable[[], None], events: int = IN) -> None:
        """Call ``callback`` whenever ``fd`` is ready (or hung up)."""
        self._epoll.register(fd, events)
        self._watched[fd] = callback

    def unwatch(self, fd: int) -> None:
        """Forget ``fd``; do this before it is closed. Unknown descriptors are fine."""
        if self._watched.pop(fd, None):
            self._epoll.unregister(fd)

    def after(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, ``seconds`` from now."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), callback))

    def run(self) -> None:
        """Until ``running`` is cleared."""
        while self.running:
            self._fire()
            if not self.running:
                return
            wait = self._timers[0][0] - time.monotonic() if self._timers else -1
            for fd, _ in self._epoll.poll(max(0.0, wait) if self._timers else -1):
                if callback := self._watched.get(fd):
                    callback()

    def _fire(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()
