"""Where thin clients hand over their jobs: the other end of :mod:`condor_starter.cli.thin`.

A thin client (its module has the protocol) is the startd's child in our place: its environment, working
directory, descriptors and signals are the job's starter's. Only root and our own account may come here, and a
request is bounded in size and time.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import traceback
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from condor_starter.daemon.httpd import peer_of
from condor_starter.log import StarterLog
from condor_starter.procd.passing import receive_fds

VERSION = "1"
MAX_REQUEST = 4 << 20
MAX_FDS = 64
MAX_CLIENTS = 256
REQUEST_SECONDS = 5.0
KILL_SECONDS = 30.0  # between the death of a thin client and giving up on its job's orderly end


class Client:
    """One thin client and what it handed over. Owns the descriptors that nobody took."""

    def __init__(self, pid: int, cwd: str, argv: list[str], env: dict[str, str], fds: dict[int, int]) -> None:
        self.pid = pid  # the startd knows the starter, and names its scratch directory, by this
        self.cwd = cwd
        self.argv = argv  # with the program's name
        self.env = env
        self.signals: asyncio.Queue[int] = asyncio.Queue()
        self._fds = fds
        self._mine = set(fds)

    def fd_of(self, number: int) -> int:
        """Our descriptor for the client's ``number``. Raises KeyError if it has none.

        0, 1 and 2 stay ours: dup(2) them to keep them. Any other is the caller's to close from now on.
        """
        if number > 2:
            self._mine.discard(number)
        return self._fds[number]

    def close(self) -> None:
        """Close what nobody took."""
        for number in self._mine:
            os.close(self._fds[number])
        self._mine.clear()


Serve = Callable[[Client], Awaitable[int]]
"""Runs the job that a client describes; returns the starter's exit status. SIGQUIT in its signals ends it."""


Abandon = Callable[[Client], Awaitable[None]]


class _Request(NamedTuple):
    data: bytes
    fds: list[int]


class Intake:
    """The listening side."""

    def __init__(self, serve: Serve, abandon: Abandon, log: StarterLog) -> None:
        """``abandon`` removes what the job of a client left whose ``serve`` failed."""
        self._serve = serve
        self._abandon = abandon
        self._log = log
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None
        self.clients: dict[int, Client] = {}

    def start(self, listener: socket.socket) -> None:
        """Take connections from ``listener``, which is ours from now on."""
        listener.setblocking(False)
        self._accepting = asyncio.create_task(self._accept(listener), name="intake")

    async def stop(self, seconds: float) -> None:
        """Take no more; end the jobs that are here, and give them ``seconds`` to say so to their shadows."""
        if self._accepting:
            self._accepting.cancel()
            await asyncio.wait({self._accepting})
        for client in self.clients.values():
            client.signals.put_nowait(signal.SIGQUIT)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

    async def idle(self) -> None:
        """Wait until no client is here."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with listener:
            while True:
                try:
                    sock, _ = await loop.sock_accept(listener)
                except OSError as e:  # out of descriptors: what is waiting is taken later
                    self._log.say(f"No thin client can be taken now: {e}")
                    await asyncio.sleep(0.5)
                    continue
                self._let_in(sock)

    def _let_in(self, sock: socket.socket) -> None:
        peer = peer_of(sock)
        if peer.uid not in (0, os.getuid()) or not peer.pid or len(self._tasks) >= MAX_CLIENTS:
            sock.close()
            return
        task = asyncio.create_task(self._meet(sock, peer.pid), name=f"thin client {peer.pid}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _meet(self, sock: socket.socket, pid: int) -> None:
        with sock:
            try:
                async with asyncio.timeout(REQUEST_SECONDS):
                    client = await self._take(sock, pid)
            except (OSError, ValueError, TimeoutError) as e:
                self._log.say(f"Thin client {pid} was refused: {e!r}")
                return
            if client is None:
                return  # it only wanted to know that we are here
            self.clients[pid] = client
            try:
                await self._run(sock, client)
            finally:
                del self.clients[pid]
                client.close()

    async def _take(self, sock: socket.socket, pid: int) -> Client | None:
        """Read the request, say that we take it, and hear that it is ours."""
        loop = asyncio.get_running_loop()
        data, fds = await _receive(sock)
        try:
            if not data:
                return None
            if len(data) < 4:
                raise ValueError("half a request")
            size = int.from_bytes(data, "big")
            if size == 0:
                await loop.sock_sendall(sock, b"A")
                return None
            if size > MAX_REQUEST:
                await loop.sock_sendall(sock, b"R")
                raise ValueError(f"a request of {size} bytes")
            client = parse(await _exactly(sock, size), fds, pid)
            await loop.sock_sendall(sock, b"A")
            if await _exactly(sock, 1) != b"G":
                raise ValueError("no go-ahead")
            fds = []
            return client
        finally:
            for fd in fds:
                os.close(fd)

    async def _run(self, sock: socket.socket, client: Client) -> None:
        """Run the job beside the client: its signals in, its death ends the job, the exit status out."""
        job = asyncio.ensure_future(self._serve(client))
        listening = asyncio.create_task(_listen(sock, client))
        await asyncio.wait({job, listening}, return_when=asyncio.FIRST_COMPLETED)
        if not job.done():
            self._log.say(f"Thin client {client.pid} died: killing its job")
            client.signals.put_nowait(signal.SIGQUIT)
            await asyncio.wait({job}, timeout=KILL_SECONDS)
            job.cancel()
        listening.cancel()
        await asyncio.wait({listening})  # the loop must have let go of the socket before it is closed
        status = await self._status(job, client)
        try:
            await asyncio.get_running_loop().sock_sendall(sock, b"X" + bytes((status & 0xFF,)))
        except OSError:
            pass  # it died

    async def _status(self, job: asyncio.Future[int], client: Client) -> int:
        """The exit status of ``job``; a bug of ours is 1, and the job runs again elsewhere."""
        try:
            return await job
        except asyncio.CancelledError:
            self._log.say(f"Thin client {client.pid}: its job did not end in time and is abandoned")
        except Exception:
            self._log.say(f"Thin client {client.pid}: its starter failed: {traceback.format_exc()}")
        await self._abandon(client)
        return 1


async def _listen(sock: socket.socket, client: Client) -> None:
    """Signals of the client, until it is gone."""
    loop = asyncio.get_running_loop()
    try:
        while data := await loop.sock_recv(sock, 64):
            for number in data:
                client.signals.put_nowait(number)
    except OSError:
        pass


def parse(data: bytes, fds: list[int], pid: int) -> Client:
    """The client that a request describes. Raises ValueError for anything that is not whole."""
    words = [w.decode("utf-8", "surrogateescape") for w in data.split(b"\0")]
    if words.pop() != "" or len(words) < 4 or words[0] != VERSION:
        raise ValueError("not a request of this version")
    cwd = words[1]
    argv, rest = _counted(words[2:])
    numbers, environ = _counted(rest)
    if len(numbers) != len(fds) or not all(n.isdecimal() for n in numbers) or not argv:
        raise ValueError("descriptors or arguments are missing")
    env = dict(e.partition("=")[::2] for e in environ)
    return Client(pid, cwd, argv, env, dict(zip(map(int, numbers), fds, strict=True)))


def _counted(words: list[str]) -> tuple[list[str], list[str]]:
    if not words or not words[0].isdecimal() or int(words[0]) >= len(words):
        raise ValueError("a count is wrong")
    count = int(words[0]) + 1
    return words[1:count], words[count:]


async def _receive(sock: socket.socket) -> _Request:
    """The first four bytes and the descriptors that came with them."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock, _resolve, ready)
    try:
        await ready
    finally:
        loop.remove_reader(sock)
    data, fds, flags = receive_fds(sock, 4, MAX_FDS)
    if flags & socket.MSG_CTRUNC:
        for fd in fds:
            os.close(fd)
        raise ValueError("too many descriptors")
    return _Request(data, fds)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _exactly(sock: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = bytearray()
    while len(data) < size:
        piece = await loop.sock_recv(sock, min(size - len(data), 1 << 18))
        if not piece:
            raise ValueError("the client went away")
        data += piece
    return bytes(data)
