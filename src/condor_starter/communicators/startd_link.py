"""The line to the startd: the machine's ad comes in over it, updates of the job go out, and its end is the
startd's.

It is a socket pair of the startd's, neither encrypted nor authenticated. Before the starter runs the startd
has written the slot's ad and an overlay for the job's, and from 24.9.2 on a second message with secrets
that we have no use for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from condor_starter.cedar.errors import CedarError
from condor_starter.cedar.stream import Stream
from condor_starter.cedar.version import version_of
from condor_starter.communicators.wire import WireAd

_UPDATE, _FINAL = 0, 1
_SECRETS_SINCE = (24, 9, 2)


class StartdLink:
    """One starter's line to its startd."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._watching: asyncio.Task[None] | None = None
        self.version = (0, 0, 0)

    async def machine(self) -> tuple[WireAd, WireAd]:
        """The slot's ad, and what is to be changed in the job's. Raises CedarError."""
        message = await self._stream.receive()
        machine, overlay = WireAd(message.ad()), WireAd(message.ad())
        message.end()
        self.version = version_of(machine.expression("CondorVersion") or "")
        if self.version >= _SECRETS_SINCE:
            (await self._stream.receive()).ad()
        return machine, overlay

    def watch(self, on_gone: Callable[[str], None]) -> None:
        """Call ``on_gone`` when the startd goes away."""
        self._watching = asyncio.create_task(self._watch(on_gone), name="startd")

    async def update(self, ad: Iterable[str], *, final: bool = False) -> None:
        """Tell the startd about the job. A startd that does not listen does not stop anybody.

        After the final update it hangs up, and nobody is told of that.
        """
        if final and self._watching is not None:
            self._watching.cancel()
        message = self._stream.writer().integer(_FINAL if final else _UPDATE).ad(ad)
        try:
            await self._stream.send(message)
        except CedarError:
            pass  # its end is told by watch()

    async def close(self) -> None:
        """Hang up."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        self._stream.close()

    async def _watch(self, on_gone: Callable[[str], None]) -> None:
        try:
            while True:
                await self._stream.receive_ever()  # newer startds may say something: nothing that we know
        except CedarError as e:
            on_gone(str(e))
