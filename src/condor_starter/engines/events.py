"""What an engine tells of its containers: one stream of events for all jobs, read by one thread.

The docker package reads events by blocking; one thread of a process does so for every job, however many run.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from condor_starter.isolation.docker import LABEL

Stream = Any
"""docker's CancellableStream of decoded events: iterable, with ``close()``."""

_WANTED = {"type": "container", "label": f"{LABEL}=True", "event": ["die", "oom", "kill"]}


@dataclass(slots=True)
class Watch:
    """What happened to one container since it is watched."""

    ended: asyncio.Event = field(default_factory=asyncio.Event)  # it died, or the stream broke
    died: bool = False
    oom: bool = False
    signals: list[int] = field(default_factory=list)  # sent through the engine, by whomever


class Events:
    """The events of one engine. ``connect(filters)`` opens the stream (blocking, in a thread)."""

    def __init__(self, connect: Callable[[dict[str, Any]], Stream]) -> None:
        self._connect = connect
        self._watches: dict[str, Watch] = {}
        self._stream: Stream | None = None
        self._opening = asyncio.Lock()

    async def watch(self, container: str) -> Watch:
        """Watch ``container`` from now on: events before this call are not seen, later ones never missed.

        Raises what ``connect`` raises when the engine cannot be reached.
        """
        async with self._opening:
            if self._stream is None:
                await self._open()
        return self._watches.setdefault(container, Watch())

    def forget(self, container: str) -> None:
        """Nobody watches ``container`` any more."""
        self._watches.pop(container, None)

    def close(self) -> None:
        """End the stream and its thread."""
        stream, self._stream = self._stream, None
        if stream is not None:
            _close(stream)

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        stream = await asyncio.to_thread(self._connect, _WANTED)
        self._stream = stream
        threading.Thread(target=self._read, args=(loop, stream), name="docker-events", daemon=True).start()

    def _read(self, loop: asyncio.AbstractEventLoop, stream: Stream) -> None:
        """The thread: hand each event to the loop, and the end of the stream, however it ends."""
        try:
            for event in stream:
                loop.call_soon_threadsafe(self._happened, event)
        except (OSError, ValueError, AttributeError, RuntimeError):
            pass  # cut, garbled, or closed by us while it was read: the stream is over
        finally:
            _close(stream)
            try:
                loop.call_soon_threadsafe(self._broken, stream)
            except RuntimeError:
                pass  # the loop is closed: nobody is left to tell

    def _happened(self, event: Any) -> None:
        if not isinstance(event, dict) or not isinstance(actor := event.get("Actor"), dict):
            return
        watch = self._watches.get(str(actor.get("ID")))
        if watch is None:
            return
        match event.get("Action"):
            case "oom":
                watch.oom = True
            case "kill":
                watch.signals.append(_number((actor.get("Attributes") or {}).get("signal")))
            case "die":
                watch.died = True
                watch.ended.set()

    def _broken(self, stream: Stream) -> None:
        if self._stream is not stream and self._stream is not None:
            return  # an older stream than the one in use
        self._stream = None
        for watch in self._watches.values():
            watch.ended.set()


def _close(stream: Stream) -> None:
    try:
        stream.close()
    except (OSError, AttributeError, RuntimeError):
        pass  # it is closed: the package looks into a response that is gone


def _number(text: Any) -> int:
    try:
        return int(text)
    except (TypeError, ValueError):
        return 0
