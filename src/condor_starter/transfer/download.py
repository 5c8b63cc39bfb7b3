"""Receiving the input files: we are the client of the shadow's FILETRANS_UPLOAD."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass

from condor_starter.cedar.errors import ProtocolError
from condor_starter.cedar.literals import LiteralAd, line
from condor_starter.cedar.stream import Stream
from condor_starter.cedar.wire import MAX_MESSAGE
from condor_starter.job import Hold
from condor_starter.sandbox.contents import Catalog
from condor_starter.transfer.incoming import Scratch
from condor_starter.transfer.protocol import EMPTY_FILE, UNREADABLE, Ack, GoAhead, Item, spoken_errno

_NO_PLUGIN = -1001  # HTCondor's subcode: no plugin for this kind of URL
_REUSE_INFO = 8  # subcommand of Item.OTHER
_DIRECT = 1 << 20  # bytes; what is larger is written in a thread, so that a slow disk stops nobody else


@dataclass(frozen=True, slots=True)
class Downloaded:
    """What came."""

    files: int
    size: int  # bytes
    catalog: Catalog  # what lies in the directory now


async def download(
    stream: Stream, key: str, path: str, executable: str, remaps: Mapping[str, str] | None = None
) -> Downloaded:
    """Take all files that the shadow has for us into the directory ``path``.

    ``key`` is the job ad's TransferKey. Raises JobError when either side failed, with HTCondor's codes and
    words; CedarError when the connection broke.
    """
    with Scratch(path, executable, remaps or {}) as scratch:
        took = _Download(stream, scratch)
        await took.run(key)
    return Downloaded(took.files, took.size, Catalog.of_fresh(path))


class _Download:
    def __init__(self, stream: Stream, scratch: Scratch) -> None:
        self._stream = stream
        self._scratch = scratch
        self._go_ahead = GoAhead(stream, downloading=True)
        self.files = 0
        self.size = 0
        self._problem: Ack | None = None  # the first thing that went wrong here

    async def run(self, key: str) -> None:
        await self._stream.send(self._stream.writer().text(key))
        hello = await self._stream.receive()
        hello.integer()  # the final flag, which says nothing in this direction
        if not hello.left:
            raise ProtocolError("the shadow does not take our transfer key")
        hello.ad()
        hello.end()
        while await self._item():
            pass
        await self._acknowledge()

    async def _item(self) -> bool:
        """Take one item; False at the end."""
        code = await self._integer()
        if code == Item.FINISHED:
            return False
        message = await self._stream.receive()
        name = self._scratch.local_name(message.text())
        message.end()
        await self._go_ahead.before_item()
        match code:
            case Item.FILE | Item.FILE_ENCRYPTED | Item.FILE_CLEAR:
                await self._file(name)
            case Item.MKDIR:
                self._mkdir(name, await self._integer())
            case Item.URL:
                await self._url()
            case Item.OTHER:
                await self._other()
            case Item.PROXY:
                raise ProtocolError("the shadow delegates an X.509 proxy, which is not supported here")
            case _:
                raise ProtocolError(f"the shadow sends an item of the unknown kind {code}")
        return True

    async def _file(self, name: str) -> None:
        mode = await self._integer()
        message = await self._stream.receive()
        size, piece = message.integer(), message.integer()
        message.end()
        if size < 0 or not 1 <= piece <= MAX_MESSAGE:
            raise ProtocolError(f"a file of {size} bytes in pieces of {piece}")
        fd = -1 if mode & UNREADABLE else self._create(name)
        try:
            await self._content(fd, name, size, piece)
            if fd >= 0:
                self._scratch.finish(fd, name, mode)
        except OSError as e:
            if isinstance(e, ConnectionError):
                raise
            self._failed("writing to file", name, e)
        finally:
            if fd >= 0:
                os.close(fd)
        self.files += 1
        self.size += size

    async def _content(self, fd: int, name: str, size: int, piece: int) -> None:
        """The file's bytes. When writing fails the rest is read and thrown away: the transfer must go on."""
        if size == 0 and await self._integer() != EMPTY_FILE:
            raise ProtocolError("an empty file with something in it")
        left, keeps = size, fd >= 0
        while left:
            message = await self._stream.receive()
            data = message.raw(min(left, piece))
            message.end()
            left -= len(data)
            if keeps:
                try:
                    await _write(fd, data, size)
                except OSError as e:
                    self._failed("writing to file", name, e)
                    keeps = False

    def _create(self, name: str) -> int:
        try:
            return self._scratch.create(name)
        except OSError as e:
            self._failed("writing to file", name, e)
            return -1

    def _mkdir(self, name: str, mode: int) -> None:
        try:
            self._scratch.mkdir(name, mode)
        except OSError as e:
            self._failed("creating directory", name, e)

    async def _url(self) -> None:
        message = await self._stream.receive()
        url = message.text()
        text = f"|Error: no file transfer plugin for this kind of URL is installed here ( URL file = {url} )"
        self._problem = self._problem or Ack(-1, Hold.TRANSFER_OUTPUT_ERROR, _NO_PLUGIN, text)

    async def _other(self) -> None:
        """Files that we might have already: we have none, and say so."""
        message = await self._stream.receive()
        request = LiteralAd(message.ad())
        message.end()
        if request.integer("SubCommand") != _REUSE_INFO:
            raise ProtocolError(f"the shadow sends subcommand {request.integer('SubCommand')}, unknown here")
        await self._stream.send(self._stream.writer().ad([line("Result", 1)]))

    def _failed(self, what: str, name: str, error: OSError) -> None:
        text = f"|Error: {what} {name}: {spoken_errno(error)}"
        self._problem = self._problem or Ack(-1, Hold.TRANSFER_OUTPUT_ERROR, error.errno or 0, text)

    async def _integer(self) -> int:
        message = await self._stream.receive()
        value = message.integer()
        message.end()
        return value

    async def _acknowledge(self) -> None:
        """Read the sender's word on it, say ours, and raise what the two come to."""
        theirs = Ack.read(await self._stream.receive())
        ours = self._ours(theirs)
        with contextlib.suppress(ConnectionError):  # it may have gone when its own side failed
            await self._stream.send(self._stream.writer().ad(ours.lines(self.files, self.size)))
        if ours.result:
            raise ours.error(f"Failed to transfer files: {ours.reason}")

    def _ours(self, theirs: Ack) -> Ack:
        peer, host = self._stream.peer_address(), host_of(self._stream.local_address())
        if theirs.result:
            told = f"{theirs.reason}; STARTER failed to receive file(s) from {peer}"
            return Ack(theirs.result, theirs.code, theirs.subcode, told)
        if self._problem is not None:
            told = f"STARTER at {host} failed to receive file(s) from {peer}: {self._problem.reason}"
            return Ack(-1, self._problem.code, self._problem.subcode, told)
        return Ack()


async def _write(fd: int, data: bytes, whole: int) -> None:
    view = memoryview(data)
    while view:
        done = os.write(fd, view) if whole <= _DIRECT else await asyncio.to_thread(os.write, fd, view)
        view = view[done:]


def host_of(address: str) -> str:
    """``127.0.0.1`` from ``<127.0.0.1:9618>``."""
    return address.strip("<>").rpartition(":")[0].strip("[]")
