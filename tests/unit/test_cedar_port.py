"""Commands over real sockets: our client, our command port, and what a stranger can do to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from condor_starter.cedar.client import Target, open_command
from condor_starter.cedar.codec import Writer
from condor_starter.cedar.commands import Command
from condor_starter.cedar.errors import CedarError, PeerClosed, Refused
from condor_starter.cedar.literals import lines
from condor_starter.cedar.server import MAX_CONNECTIONS, CommandPort, Incoming
from condor_starter.cedar.sessions import PARENT, SUBMIT_SIDE, Keyring, Session
from condor_starter.cedar.shared_port import pass_connection, receive_connection
from condor_starter.cedar.sinful import Sinful
from condor_starter.cedar.stream import Stream
from condor_starter.cedar.wire import Wire

PARENT_SESSION = Session("parent", b"p" * 32, PARENT)
SHADOW_SESSION = Session("claim", b"s" * 32, SUBMIT_SIDE)


class Port:
    """A command port on a TCP listener, and what came in."""

    def __init__(self) -> None:
        self.keyring = Keyring()
        self.keyring.add(PARENT_SESSION)
        self.keyring.add(SHADOW_SESSION)
        self.got: list[tuple[int, int]] = []
        self.said: list[str] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        host, port = self.listener.getsockname()
        self.address = Sinful(host, port)
        self.port = CommandPort(
            self.listener, self.keyring, self._handle, self._allowed, self.said.append, shared=False
        )

    def _allowed(self, command: int, session: Session) -> bool:
        return session.peer == PARENT and command in (Command.DC_RAISESIGNAL, Command.STARTER_VACATE_JOB)

    async def _handle(self, incoming: Incoming) -> None:
        message = await incoming.stream.receive()
        self.got.append((incoming.command, message.integer()))
        await incoming.stream.send(incoming.stream.writer().integer(1))

    async def until(self, check: Callable[[], Any]) -> None:
        async with asyncio.timeout(5):
            while not check():  # noqa: ASYNC110  (what is waited for is not ours to signal)
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def port() -> AsyncIterator[Port]:
    serving = Port()
    try:
        yield serving
    finally:
        await serving.port.close()


async def _exchange(stream: Stream, message: Writer) -> None:
    await stream.send(message)
    await stream.receive()


def run(test: Callable[[Port], Awaitable[None]]) -> None:
    async def main() -> None:
        async with port() as serving:
            await test(serving)

    asyncio.run(asyncio.wait_for(main(), 20))


@pytest.mark.req("H1")
def test_a_command_with_a_known_session_is_carried_out_and_answered() -> None:
    async def test(serving: Port) -> None:
        stream = await open_command(Target(serving.address, 60000, PARENT_SESSION, "<me>"))
        with contextlib.closing(stream):
            assert stream.encrypted
            await stream.send(stream.writer().integer(100))
            assert (await stream.receive()).integer() == 1
        assert serving.got == [(60000, 100)]

    run(test)


@pytest.mark.req("H1", "X2")
def test_a_session_that_is_not_known_is_told_so_and_nothing_is_done() -> None:
    async def test(serving: Port) -> None:
        stranger = Session("stranger", b"x" * 32, PARENT)
        with pytest.raises(Refused, match="does not know the session"):
            await open_command(Target(serving.address, 60000, stranger, "<me>"))
        assert serving.got == []

    run(test)


@pytest.mark.req("H1", "X2")
def test_who_has_not_the_key_cannot_use_a_session_whose_name_he_knows() -> None:
    async def test(serving: Port) -> None:
        forged = Session("parent", b"x" * 32, PARENT)
        stream = await open_command(Target(serving.address, 60000, forged, "<me>"))
        with contextlib.closing(stream), pytest.raises(PeerClosed):
            await _exchange(stream, stream.writer().integer(100))
        assert serving.got == []
        await serving.until(lambda: any("does not authenticate" in s for s in serving.said))

    run(test)


@pytest.mark.req("H1", "X2")
@pytest.mark.parametrize(("session", "command"), [(SHADOW_SESSION, 60000), (PARENT_SESSION, 60004)])
def test_a_command_that_a_peer_may_not_send_is_not_carried_out(session: Session, command: int) -> None:
    async def test(serving: Port) -> None:
        stream = await open_command(Target(serving.address, command, session, "<me>"))
        with contextlib.closing(stream), pytest.raises(PeerClosed):
            await stream.receive()
        assert serving.got == []
        await serving.until(lambda: any(f"command {command} is not for" in s for s in serving.said))

    run(test)


@pytest.mark.req("X2")
@pytest.mark.parametrize(
    "payload",
    [
        Writer(False).integer(60000).integer(100),
        Writer(False).integer(Command.DC_AUTHENTICATE).ad(lines({"NewSession": "YES", "Command": 60000})),
        Writer(False).integer(Command.DC_AUTHENTICATE).ad(["UseSession = YES"]),
        Writer(False).text("GET / HTTP/1.1"),
    ],
)
def test_a_stranger_is_heard_out_and_hung_up_on(payload: Writer) -> None:
    async def test(serving: Port) -> None:
        sock = socket.create_connection((serving.address.host, serving.address.port))
        stream = Stream(sock, timeout=5)
        with contextlib.closing(stream), pytest.raises(PeerClosed):
            await _exchange(stream, payload)
        assert serving.got == []

    run(test)


@pytest.mark.req("X2")
def test_many_silent_connections_do_not_keep_the_startd_out_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("condor_starter.cedar.server.COMMAND_TIMEOUT", 0.3)

    async def test(serving: Port) -> None:
        address = (serving.address.host, serving.address.port)
        silent = [socket.create_connection(address) for _ in range(MAX_CONNECTIONS + 10)]
        try:
            await serving.until(lambda: sum("was not done within" in s for s in serving.said) >= 1)
            stream = await open_command(Target(serving.address, 60000, PARENT_SESSION, "<me>"))
            with contextlib.closing(stream):
                await stream.send(stream.writer().integer(100))
                assert (await stream.receive()).integer() == 1
        finally:
            for sock in silent:
                sock.close()

    run(test)


@pytest.mark.req("H1")
def test_a_retired_port_still_answers_for_a_while_and_then_is_gone() -> None:
    async def test(serving: Port) -> None:
        serving.port.retire(0.3)
        stream = await open_command(Target(serving.address, 60000, PARENT_SESSION, "<me>"))
        stream.close()

        def gone() -> bool:
            return serving.listener.fileno() == -1

        await serving.until(gone)
        with pytest.raises(CedarError, match="cannot connect"):
            await open_command(Target(serving.address, 60000, PARENT_SESSION, "<me>"))

    run(test)


@pytest.mark.req("H1")
def test_an_address_behind_ccb_is_refused_in_words() -> None:
    async def main() -> None:
        address = Sinful.parse("<127.0.0.1:1?CCBID=10.0.0.1:9618%231>")
        with pytest.raises(CedarError, match="through CCB only"):
            await open_command(Target(address, 60000, PARENT_SESSION, "<me>"))

    asyncio.run(main())


def endpoint(path: Path) -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection to an endpoint's named socket: the shared port's, and ours."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path / "endpoint"))
        listener.listen()
        theirs = socket.socket(socket.AF_UNIX)
        theirs.connect(str(path / "endpoint"))
        ours, _ = listener.accept()
    ours.setblocking(False)
    return theirs, ours


@pytest.mark.req("H1")
def test_a_connection_passed_by_the_shared_port_arrives_with_its_first_bytes(tmp_path: Path) -> None:
    """The note and the descriptor lie in the socket together: one byte read too many would lose the
    descriptor.
    """
    theirs, ours = endpoint(tmp_path)
    a, b = socket.socketpair()
    with theirs, ours, a, b:
        a.sendall(Wire().pack(b"first words"))
        pass_connection(theirs, b)
        with asyncio.run(receive_connection(ours)) as received:
            assert received.recv(100)[5:] == b"first words"


@pytest.mark.req("H1")
def test_a_note_that_comes_byte_by_byte_is_waited_for(tmp_path: Path) -> None:
    theirs, ours = endpoint(tmp_path)
    a, b = socket.socketpair()
    note = Wire().pack(Writer(False).integer(Command.SHARED_PORT_PASS_SOCK).payload())

    async def main() -> socket.socket:
        waiting = asyncio.create_task(receive_connection(ours))
        for byte in note:
            theirs.sendall(bytes([byte]))
            await asyncio.sleep(0.002)
        await asyncio.sleep(0.01)
        assert not waiting.done()
        socket.send_fds(theirs, [b"\0"], [b.fileno()])
        return await waiting

    with theirs, ours, a, b, asyncio.run(main()):
        pass


def _passed(theirs: socket.socket, *fds: int) -> None:
    theirs.sendall(Wire().pack(Writer(False).integer(Command.SHARED_PORT_PASS_SOCK).payload()))
    socket.send_fds(theirs, [b"\0"], list(fds))


@pytest.mark.req("X2")
def test_what_is_passed_must_be_one_connection_and_everything_else_is_closed_again(tmp_path: Path) -> None:
    file = os.open(tmp_path, os.O_RDONLY)
    listener = socket.create_server(("127.0.0.1", 0))
    a, b = socket.socketpair()
    datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with listener, a, b, datagram:
        bad = [[file], [listener.fileno()], [datagram.fileno()], [a.fileno(), b.fileno()], []]
        for number, fds in enumerate(bad):
            where = tmp_path / str(number)
            where.mkdir()
            theirs, ours = endpoint(where)
            before = len(os.listdir("/proc/self/fd"))
            with theirs, ours:
                _passed(theirs, *fds)
                with pytest.raises(CedarError, match="passed"):
                    asyncio.run(receive_connection(ours))
                assert len(os.listdir("/proc/self/fd")) == before
    os.close(file)


@pytest.mark.req("X2")
@pytest.mark.parametrize(
    "note", [b"\1\0\0\0\x08" + b"\0" * 7 + b"\x4b", b"\1\0\0\0\x01xyzuvwxyz", b"GET / HTTP/1.1"]
)
def test_another_note_is_refused(tmp_path: Path, note: bytes) -> None:
    theirs, ours = endpoint(tmp_path)
    with theirs, ours:
        theirs.sendall(note)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(CedarError):
            asyncio.run(receive_connection(ours))
