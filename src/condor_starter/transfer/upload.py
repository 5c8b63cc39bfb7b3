"""Sending the output files: we are the client of the shadow's FILETRANS_DOWNLOAD."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass

from condor_starter.cedar.codec import Writer
from condor_starter.cedar.literals import line
from condor_starter.cedar.stream import Stream
from condor_starter.job import Hold
from condor_starter.sandbox.worker import SandboxWorker
from condor_starter.transfer.download import host_of
from condor_starter.transfer.outgoing import Outgoing
from condor_starter.transfer.protocol import BUFFER, EMPTY_FILE, UNREADABLE, Ack, GoAhead, Item, spoken_errno

_TOO_MUCH = 33  # HTCondor's hold code: MaxTransferOutputSizeExceeded
_DIRECT = 1 << 20  # bytes; what is larger is read in a thread, so that a slow disk stops nobody else


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What was sent."""

    files: int
    size: int  # bytes


async def upload(
    stream: Stream,
    key: str,
    items: Sequence[Outgoing],
    worker: SandboxWorker,
    scratch: str,
    *,
    final: bool = True,
) -> Uploaded:
    """Send ``items``; ``scratch`` is the directory's path for messages. The same errors as a download's.

    ``final``: these are the job's outputs; else its files are kept for its next run, as they are named here.
    """
    return await _Upload(stream, worker, scratch).run(key, items, final)


class _Upload:
    def __init__(self, stream: Stream, worker: SandboxWorker, scratch: str) -> None:
        self._stream = stream
        self._worker = worker
        self._where = scratch
        self._go_ahead = GoAhead(stream, downloading=False)
        self._files = 0
        self._size = 0
        self._problem: Ack | None = None  # the first thing that went wrong here

    async def run(self, key: str, items: Sequence[Outgoing], final: bool) -> Uploaded:
        total = sum(item.size for item in items)
        hello = self._integer(final).ad([line("SandboxSize", total)])
        await self._stream.send(self._stream.writer().text(key), hello)
        for item in items:
            await self._item(item)
            if self._problem is not None and self._problem.code == _TOO_MUCH:
                break
        await self._acknowledge()
        return Uploaded(self._files, self._size)

    async def _item(self, item: Outgoing) -> None:
        code = Item.MKDIR if item.directory else Item.FILE
        await self._stream.send(self._integer(code), self._stream.writer().text(item.name))
        await self._go_ahead.before_item()
        if item.directory:
            await self._stream.send(self._integer(item.mode & 0o777))
            return
        fd = -1 if item.error else await self._open(item)
        if fd < 0:
            if item.error:
                self._failed(item, item.error)
            await self._nothing(UNREADABLE)
            return
        try:
            await self._file(fd, item)
        finally:
            os.close(fd)

    async def _open(self, item: Outgoing) -> int:
        try:
            return await self._worker.open(item.source)
        except ConnectionError:
            raise
        except OSError as e:
            self._failed(item, e)
            return -1

    async def _file(self, fd: int, item: Outgoing) -> None:
        st = os.fstat(fd)
        limit = self._go_ahead.limit
        if 0 <= limit < self._size + st.st_size:
            text = f"|Error: the output files are larger than the {limit} bytes that the submit side allows"
            self._problem = Ack(-1, _TOO_MUCH, 0, text)
            await self._nothing(UNREADABLE)
        elif st.st_size == 0:
            await self._nothing(st.st_mode & 0o777)
            self._files += 1
        else:
            await self._content(fd, st.st_size, st.st_mode & 0o777, item)
            self._files += 1
            self._size += st.st_size

    async def _content(self, fd: int, size: int, mode: int, item: Outgoing) -> None:
        """Mode, size, and exactly ``size`` bytes, whatever becomes of the file meanwhile."""
        ready = [self._integer(mode), self._integer(size).integer(BUFFER)]
        left = size
        while left:
            data = await self._read(fd, min(left, BUFFER), size, item)
            left -= len(data)
            await self._stream.send(*ready, self._stream.writer().raw(data))
            ready = []

    async def _read(self, fd: int, wanted: int, size: int, item: Outgoing) -> bytes:
        data = b""
        try:
            while len(data) < wanted:
                rest = wanted - len(data)
                more = os.read(fd, rest) if size <= _DIRECT else await asyncio.to_thread(os.read, fd, rest)
                if not more:
                    break
                data += more
        except OSError as e:
            self._failed(item, e)
        if len(data) < wanted and self._problem is None:
            text = f"|Error: reading from file {self._where}/{item.source}: it became shorter meanwhile"
            self._problem = Ack(-1, Hold.TRANSFER_INPUT_ERROR, 0, text)
        return data.ljust(wanted, b"\0")

    async def _nothing(self, mode: int) -> None:
        """An empty file, or one that is not there."""
        await self._stream.send(
            self._integer(mode), self._integer(0).integer(BUFFER), self._integer(EMPTY_FILE)
        )

    def _failed(self, item: Outgoing, error: OSError) -> None:
        source = item.source if item.source.startswith("/") else f"{self._where}/{item.source}"
        text = f"|Error: reading from file {source}: {spoken_errno(error)}"
        self._problem = self._problem or Ack(-1, Hold.TRANSFER_INPUT_ERROR, error.errno or 0, text)

    def _integer(self, value: int) -> Writer:
        return self._stream.writer().integer(value)

    async def _acknowledge(self) -> None:
        """Say how it went, hear how they saw it, and raise what the two come to."""
        peer, mine = self._stream.peer_address(), self._stream.local_address()
        ours = Ack()
        if self._problem is not None:
            told = f"STARTER at {host_of(mine)} failed to send file(s) to {peer}: {self._problem.reason}"
            ours = Ack(-1, self._problem.code, self._problem.subcode, told)
        ad = self._stream.writer().ad(ours.lines(self._files, self._size))
        await self._stream.send(self._integer(Item.FINISHED), ad)
        theirs = Ack.read(await self._stream.receive())
        if ours.result:
            told = theirs.reason or f"SHADOW failed to receive file(s) from {mine}"
            raise ours.error(f"{ours.reason}; {told}")
        if theirs.result:
            raise theirs.error(
                f"STARTER at {host_of(mine)} failed to send file(s) to {peer}; {theirs.reason}"
            )
