"""The client's side of a command: connect, through a shared port if need be, and resume a session."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
from dataclasses import dataclass

from condor_starter.cedar.commands import Command
from condor_starter.cedar.errors import CedarError, ProtocolError, Refused
from condor_starter.cedar.literals import Literal, LiteralAd, lines
from condor_starter.cedar.sessions import Session
from condor_starter.cedar.sinful import Sinful
from condor_starter.cedar.stream import Stream
from condor_starter.cedar.version import CONDOR_VERSION

CONNECT_TIMEOUT = 30.0  # seconds for each address


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to call, with which command, as whom."""

    address: Sinful
    command: int
    session: Session
    ours: str  # our own command port's sinful, for the peer's log
    timeout: float = 300.0  # seconds for each message once the command is accepted


async def open_command(target: Target) -> Stream:
    """A connection on which the command has been accepted: encrypted, and waiting for the command's payload.

    ``timeout`` is for each message later on. Raises CedarError; Refused when the peer does not know the
    session.
    """
    if target.address.param("CCBID") is not None:
        raise CedarError(f"{target.address} is reached through CCB only, which is not supported here")
    stream = Stream(await _connect(target.address), timeout=target.timeout)
    try:
        await _greet(stream, target)
        await _resume(stream, target)
    except BaseException:
        stream.close()
        raise
    return stream


async def _connect(address: Sinful) -> socket.socket:
    problem = "no address"
    for host, port in address.addresses():
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await asyncio.get_running_loop().sock_connect(sock, (host, port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        except (TimeoutError, OSError) as e:
            sock.close()
            problem = getattr(e, "strerror", None) or f"no answer within {CONNECT_TIMEOUT:.0f} s"
        except BaseException:
            sock.close()
            raise
    raise CedarError(f"cannot connect to {address}: {problem}")


async def _greet(stream: Stream, target: Target) -> None:
    """Tell the shared port which of its daemons we want. It does not answer, and hands our socket over."""
    endpoint = target.address.param("sock")
    if endpoint is None:
        return
    hello = stream.writer().integer(Command.SHARED_PORT_CONNECT).text(endpoint).text(f"STARTER {target.ours}")
    await stream.send(hello.integer(int(CONNECT_TIMEOUT)).integer(0))
    stream.forget_clear()


async def _resume(stream: Stream, target: Target) -> None:
    request: dict[str, Literal] = {
        "Command": int(target.command),
        "ConnectSinful": str(target.address),
        "CryptoMethods": "AES",
        "Nonce": base64.b64encode(os.urandom(33)).decode(),
        "RemoteVersion": CONDOR_VERSION,
        "ResumeResponse": True,
        "ServerCommandSock": target.ours,
        "Sid": target.session.id,
        "UseSession": "YES",
    }
    await stream.send(stream.writer().integer(Command.DC_AUTHENTICATE).ad(lines(request)))
    reply = await stream.receive()
    answer = LiteralAd(reply.ad())
    reply.end()
    said = answer.text("ReturnCode")
    if said == "SID_NOT_FOUND":
        raise Refused(f"{target.address} does not know the session any more")
    if said != "AUTHORIZED":
        raise ProtocolError(f"{target.address} answered {said[:40]!r} to a session")
    stream.set_key(target.session.key)
