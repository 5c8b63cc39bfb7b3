"""The HTTP server on a unix socket, and what keeps a hostile client from holding it.

Who speaks is known by the kernel (SO_PEERCRED), not by what is said. A connection is closed when its request
is not complete in time, however slowly it trickles in, and nobody can have more than a share of them.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from aiohttp import web

MAX_CONNECTIONS = 512
MAX_PER_USER = 64  # root is not counted: it could do worse
REQUEST_SECONDS = 10.0  # for a request's head, for its body, and between two requests
ANSWER_SECONDS = 90.0  # for a handler with its answer; above the longest long poll
MAX_BODY = 1 << 20  # bytes of an ad

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Peer(NamedTuple):
    """The process at the other end, by SO_PEERCRED: as it was when it connected."""

    pid: int
    uid: int
    gid: int


def peer_of(sock: socket.socket) -> Peer:
    """Who is connected to ``sock``."""
    return Peer(*struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)))


class Guard(asyncio.Protocol):
    """Stands between a transport and aiohttp's protocol: counts the connection and bounds its idle time."""

    def __init__(self, inner: asyncio.Protocol, gate: Gate) -> None:
        self._inner = inner
        self._gate = gate
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._let_in = False
        self.peer = Peer(0, -1, -1)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.peer = peer_of(transport.get_extra_info("socket"))
        self._let_in = self._gate.enter(self.peer.uid)
        if self._let_in:
            self._inner.connection_made(transport)
            self.idle()
        else:
            transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.busy()
        if self._let_in:
            self._gate.leave(self.peer.uid)
            self._inner.connection_lost(error)

    def data_received(self, data: bytes) -> None:
        if self._let_in:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._let_in else None

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def idle(self) -> None:
        """No request is being served: the next one has to be here in time."""
        self.busy()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(REQUEST_SECONDS, self._expire)

    def busy(self) -> None:
        """A request is being served: its handler has time limits of its own."""
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        if self._transport:
            self._transport.abort()


class Gate:
    """How many connections there are, of whom."""

    def __init__(self) -> None:
        self._users: Counter[int] = Counter()
        self.refused = 0

    def enter(self, uid: int) -> bool:
        """Count one more connection of ``uid``; False if that is too many."""
        full = self._users.total() >= MAX_CONNECTIONS or self._users[uid] >= MAX_PER_USER
        if full and uid:
            self.refused += 1
            return False
        self._users[uid] += 1
        return True

    def connections(self) -> int:
        """How many there are."""
        return self._users.total()

    def leave(self, uid: int) -> None:
        """Count one less."""
        self._users[uid] -= 1
        if not self._users[uid]:
            del self._users[uid]


class ApiError(Exception):
    """A request that is refused: an HTTP status and one sentence."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def caller(request: web.Request) -> Peer:
    """Who sent ``request``. Raises ConnectionResetError when the connection is gone."""
    return _guard(request).peer


def answer(value: object, status: int = 200) -> web.Response:
    """``value`` as JSON."""
    return web.Response(
        body=json.dumps(value).encode() + b"\n", status=status, content_type="application/json"
    )


@web.middleware
async def bounded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Time limits and JSON errors around every handler."""
    guard = _guard(request)
    guard.busy()
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await handler(request)
    except ApiError as e:
        return answer({"error": e.text}, e.status)
    except web.HTTPException as e:
        return answer({"error": f"{e.reason}: {request.method} {request.path[:200]}"}, e.status)
    except TimeoutError:
        return answer({"error": "The request took too long."}, 503)
    finally:
        guard.idle()


def _guard(request: web.Request) -> Guard:
    guard = request.transport.get_protocol() if request.transport else None
    if not isinstance(guard, Guard):
        raise ConnectionResetError("the client is gone")
    return guard


class HttpServer:
    """aiohttp behind guards, on a listening unix socket."""

    def __init__(self, routes: list[web.RouteDef]) -> None:
        self._app = web.Application(middlewares=[bounded], client_max_size=MAX_BODY)
        self._app.add_routes(routes)
        self._runner = web.AppRunner(
            self._app, access_log=None, keepalive_timeout=REQUEST_SECONDS, handler_cancellation=True
        )
        self._server: asyncio.Server | None = None
        self.gate = Gate()

    async def start(self, listener: socket.socket) -> None:
        """Serve connections to ``listener``."""
        await self._runner.setup()
        make = self._runner.server
        assert make is not None
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(
            lambda: Guard(make(), self.gate), sock=listener, backlog=128
        )

    async def stop(self) -> None:
        """Accept nothing any more and let go of the connections."""
        if self._server:
            self._server.close()
        await self._runner.cleanup()
