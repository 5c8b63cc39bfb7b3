"""One CEDAR connection over a socket: messages in and out, with a time limit on everything."""

from __future__ import annotations

import asyncio
import socket

from condor_starter.cedar.codec import Reader, Writer
from condor_starter.cedar.errors import CedarError, PeerClosed
from condor_starter.cedar.wire import MAX_MESSAGE, Wire

READ_SIZE = 1 << 18


class Stream:
    """A connected socket that speaks CEDAR. It owns the socket.

    Methods raise CedarError, and after that the connection is of no use. One task may read while another
    writes; two that read, or two that write, would mix their messages.
    """

    def __init__(self, sock: socket.socket, *, wire: Wire | None = None, timeout: float = 300.0) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._wire = wire or Wire(limit=MAX_MESSAGE)
        self.timeout = timeout

    @property
    def encrypted(self) -> bool:
        return self._wire.encrypted

    def writer(self) -> Writer:
        """For the next message; send its payload with :meth:`send`."""
        return Writer(self._wire.encrypted)

    def set_key(self, key: bytes) -> None:
        """Encrypt everything from here on."""
        self._wire.set_key(key)

    def forget_clear(self) -> None:
        """What was said so far was for the shared port, not for the peer."""
        self._wire.forget_clear()

    def local_address(self) -> str:
        """``<host:port>`` of our end, or "" where there is none."""
        return _address(self._sock.getsockname)

    def peer_address(self) -> str:
        """``<host:port>`` of the peer's end, or "" where there is none."""
        return _address(self._sock.getpeername)

    async def send(self, *messages: Writer) -> None:
        """Send messages, together in one write: each write is a segment of its own on the network."""
        data = b"".join(self._wire.pack(message.payload()) for message in messages)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.timeout):
                await loop.sock_sendall(self._sock, data)
        except TimeoutError:
            raise CedarError(f"the peer has taken no data for {self.timeout:.0f} s") from None
        except OSError as e:
            raise PeerClosed(f"sending failed: {e.strerror or e}") from None

    async def receive(self) -> Reader:
        """The next message. Raises PeerClosed at the end of the stream."""
        return await self._next(self.timeout)

    async def receive_ever(self) -> Reader:
        """The next message, however long it takes: for a peer that speaks when it likes."""
        return await self._next(None)

    async def _next(self, limit: float | None) -> Reader:
        try:
            async with asyncio.timeout(limit):
                while (message := self._wire.next_message()) is None:
                    self._wire.feed(await self._read())
        except TimeoutError:
            raise CedarError(f"the peer has said nothing for {limit:.0f} s") from None
        return Reader(message, self._wire.encrypted)

    async def _read(self) -> bytes:
        loop = asyncio.get_running_loop()
        try:
            data = await loop.sock_recv(self._sock, READ_SIZE)
        except TimeoutError as e:  # ETIMEDOUT of the kernel, not ours
            raise PeerClosed(f"reading failed: {e.strerror}") from None
        except OSError as e:
            raise PeerClosed(f"reading failed: {e.strerror or e}") from None
        if not data:
            raise PeerClosed("the peer closed the connection")
        return data

    def close(self) -> None:
        """Close the socket. May be called again."""
        self._sock.close()


def _address(name: object) -> str:
    try:
        host, port = name()[:2]  # type: ignore[operator]
    except (OSError, ValueError):
        return ""
    return f"<[{host}]:{port}>" if ":" in host else f"<{host}:{port}>"
