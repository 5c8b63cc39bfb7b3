"""Our command port: accepts connections, resumes sessions, and gives each command to a handler.

The port can be reached by whoever can reach the pool, so everything before a known session is hostile: it
is bounded in time, size and number, and answered by closing the connection.
"""

from __future__ import annotations

import asyncio
import base64
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from condor_starter.cedar.commands import Command
from condor_starter.cedar.errors import CedarError, ProtocolError, Refused
from condor_starter.cedar.literals import LiteralAd, lines
from condor_starter.cedar.sessions import Keyring, Session
from condor_starter.cedar.shared_port import receive_connection
from condor_starter.cedar.stream import Stream
from condor_starter.cedar.version import CONDOR_VERSION
from condor_starter.cedar.wire import Wire

COMMAND_TIMEOUT = 20.0
"""Seconds for a whole command, from accept to close."""

MAX_CONNECTIONS = 32
"""At the same time; more are closed at once. A starter is called a few times in its life."""

_MAX_COMMAND = 1 << 20  # bytes of one message
_ACCEPT_PAUSE = 0.5  # seconds, when the process has no descriptor left


@dataclass(frozen=True, slots=True)
class Incoming:
    """One command whose sender is known: ``session.peer``."""

    command: int
    session: Session
    stream: Stream


Handler = Callable[[Incoming], Awaitable[None]]
"""Reads the command's payload and answers; raises CedarError for a bad one. The stream is closed
afterwards.
"""

Allowed = Callable[[int, Session], bool]
"""Whether the session's peer may send this command."""


class CommandPort:
    """Serves ``listener`` until :meth:`close`. ``shared``: it is an endpoint of the shared port."""

    def __init__(
        self,
        listener: socket.socket,
        keyring: Keyring,
        handler: Handler,
        allowed: Allowed,
        say: Callable[[str], None],
        *,
        shared: bool,
    ) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._keyring = keyring
        self._handler = handler
        self._allowed = allowed
        self._say = say
        self._shared = shared
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting = asyncio.create_task(self._accept(), name="command port")

    async def close(self) -> None:
        """Stop, and close every connection."""
        self._stop()
        await asyncio.gather(self._accepting, *self._tasks, return_exceptions=True)

    def retire(self, seconds: float) -> None:
        """Close by itself in a while: until then callers who do not know yet that it is over are heard."""
        self._say = lambda _: None
        asyncio.get_running_loop().call_later(seconds, self._stop)

    def _stop(self) -> None:
        for task in (self._accepting, *self._tasks):
            task.cancel()

    async def _accept(self) -> None:
        with self._listener:
            while True:
                try:
                    sock, _ = await asyncio.get_running_loop().sock_accept(self._listener)
                except OSError as e:
                    self._say(f"Command port: accept failed: {e.strerror}")
                    await asyncio.sleep(_ACCEPT_PAUSE)
                    continue
                self._begin(sock)

    def _begin(self, sock: socket.socket) -> None:
        if len(self._tasks) >= MAX_CONNECTIONS:
            sock.close()
            return
        task = asyncio.create_task(self._serve(sock))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, sock: socket.socket) -> None:
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT):
                with sock:
                    connection = await receive_connection(sock) if self._shared else sock.dup()
                await self._command(
                    Stream(connection, wire=Wire(limit=_MAX_COMMAND), timeout=COMMAND_TIMEOUT)
                )
        except TimeoutError:
            self._say(f"Command port: a connection was not done within {COMMAND_TIMEOUT:.0f} s; closed")
        except (CedarError, ValueError) as e:
            self._say(f"Command port: {e}")

    async def _command(self, stream: Stream) -> None:
        try:
            incoming = await self._resume(stream)
            if incoming is not None:
                await self._handler(incoming)
        finally:
            stream.close()

    async def _resume(self, stream: Stream) -> Incoming | None:
        """The command and who sent it; None for one that needs no session and has no effect."""
        message = await stream.receive()
        number = message.integer()
        if number == Command.DC_NOP:
            return None
        if number != Command.DC_AUTHENTICATE:
            raise Refused(f"command {number} without a session from {stream.peer_address()}")
        ad = LiteralAd(message.ad())
        message.end()
        if ad.text("UseSession") != "YES":
            raise Refused(f"{stream.peer_address()} wants to negotiate a session, which is not done here")
        return await self._known(stream, ad)

    async def _known(self, stream: Stream, ad: LiteralAd) -> Incoming:
        session, command = self._keyring.find(ad.text("Sid")), ad.integer("Command", -1)
        answers = ad.flag("ResumeResponse")
        if session is None:
            if answers:
                await stream.send(stream.writer().ad(lines({"ReturnCode": "SID_NOT_FOUND"})))
            raise Refused(f"{stream.peer_address()} uses a session that is not known")
        methods = ad.text("CryptoMethods", "AES").upper().split(",")
        if "AES" not in methods:
            raise ProtocolError(f"{stream.peer_address()} wants {methods[0][:20]}; only AES is supported")
        if answers:
            await stream.send(stream.writer().ad(lines(_accepted())))
        stream.set_key(session.key)
        if not self._allowed(command, session):
            raise Refused(f"command {command} is not for {session.peer} to send")
        return Incoming(command, session, stream)


def _accepted() -> dict[str, str]:
    nonce = base64.b64encode(os.urandom(33)).decode()
    return {"Nonce": nonce, "ReturnCode": "AUTHORIZED", "RemoteVersion": CONDOR_VERSION}
