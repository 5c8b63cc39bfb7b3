"""The daemon's two doors against hostile clients, in process: HTTP limits, and what a thin client sends."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from condor_starter.cli import thin
from condor_starter.daemon import httpd, intake, sockets
from condor_starter.daemon.intake import Client, Intake, parse
from condor_starter.log import StarterLog

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def serve(tmp_path: Path, talk: Talk) -> None:
    """Run ``talk`` against a server with handlers that echo, sleep and send much."""

    async def echo(request: web.Request) -> web.Response:
        return httpd.answer({"length": len(await request.read()), "uid": httpd.caller(request).uid})

    async def slow(request: web.Request) -> web.Response:
        await asyncio.sleep(0.6)
        return httpd.answer({})

    async def large(request: web.Request) -> web.Response:
        return web.Response(body=bytes(1 << 22))

    async def main() -> None:
        server = httpd.HttpServer([web.post("/echo", echo), web.get("/slow", slow), web.get("/large", large)])
        await server.start(sockets.listen(str(tmp_path / "sock"), 0o600, (os.getuid(), os.getgid())))
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "sock"))
        try:
            async with asyncio.timeout(20):
                await talk(reader, writer)
            assert await until(lambda: server.gate.connections() <= 1)
        finally:
            writer.close()
            await server.stop()

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> bool:
    for _ in range(500):
        if condition():
            return True
        await asyncio.sleep(0.01)
    return False


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpd, "REQUEST_SECONDS", 0.3)


async def closed(reader: asyncio.StreamReader) -> bool:
    """True if the server hangs up, within a second."""
    try:
        async with asyncio.timeout(1.5):
            return await reader.read() == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


@pytest.mark.req("P6")
def test_a_client_that_says_nothing_is_let_go(tmp_path: Path) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await closed(reader)

    serve(tmp_path, talk)


@pytest.mark.req("P6")
def test_a_head_that_trickles_in_is_cut_off(tmp_path: Path) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def trickle() -> None:
            for byte in b"GET /slow HTTP/1.1\r\nHost: x\r\nX-Pad: " + b"y" * 200:
                writer.write(bytes((byte,)))
                await writer.drain()
                await asyncio.sleep(0.02)

        task = asyncio.create_task(trickle())
        assert await closed(reader)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    serve(tmp_path, talk)


@pytest.mark.req("P6")
def test_a_request_in_service_is_not_cut_off_and_a_kept_connection_is_let_go_after_it(tmp_path: Path) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            writer.write(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            await reader.readexactly(3)
        assert await closed(reader)

    serve(tmp_path, talk)


@pytest.mark.req("P6")
def test_a_client_that_does_not_read_its_answer_is_let_go(tmp_path: Path) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport = writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(1.0)
        transport.resume_reading()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await reader.readexactly(1 << 22)

    serve(tmp_path, talk)


@pytest.mark.req("P6")
def test_a_body_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n" + bytes(2000000))
        assert (await reader.readline()).split()[1] == b"413"

    serve(tmp_path, talk)


@pytest.mark.req("P6", "X2")
def test_who_calls_is_what_the_kernel_says(tmp_path: Path) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"POST /echo HTTP/1.1\r\nHost: x\r\nX-Uid: 0\r\nContent-Length: 3\r\n\r\nabc")
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().split(b"content-length: ")[1].split()[0])
        assert f'"uid": {os.getuid()}}}'.encode() in await reader.readexactly(size)

    serve(tmp_path, talk)


@pytest.mark.req("P6")
def test_nobody_has_more_than_his_share_of_connections() -> None:
    gate = httpd.Gate()
    assert sum(gate.enter(1000) for _ in range(httpd.MAX_PER_USER + 5)) == httpd.MAX_PER_USER
    assert gate.enter(1001)
    assert all(gate.enter(0) for _ in range(httpd.MAX_CONNECTIONS))
    assert not gate.enter(1002), "full for everybody"
    assert gate.enter(0), "but for root"
    for _ in range(httpd.MAX_CONNECTIONS + 1):
        gate.leave(0)
    assert gate.enter(1002)
    assert gate.refused == 6


# -- what a thin client sends ------------------------------------------------------------------------------


@pytest.mark.req("H1")
def test_what_the_thin_client_sends_is_what_starterd_reads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import posix

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["condor_starter", "-f", "-a", "slot1_1", "b\udcffd", ""])
    monkeypatch.setattr(posix, "environ", {b"A": b"1=2", b"EMPTY": b"", b"BYTES": b"\xff"})
    client = parse(thin._request([0, 1, 14]), [7, 8, 9], 4711)
    assert client.argv == ["condor_starter", "-f", "-a", "slot1_1", "b\udcffd", ""]
    assert client.env == {"A": "1=2", "EMPTY": "", "BYTES": "\udcff"}
    assert (client.cwd, client.pid, client.fd_of(14)) == (str(tmp_path), 4711, 9)
    with pytest.raises(KeyError):
        client.fd_of(3)


@pytest.mark.req("H1")
def test_the_descriptors_of_condor_inherit_are_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    import posix

    reader, writer = os.pipe()
    inherit = (
        f"18 <127.0.0.1:9618?addrs=x&sock=y> 1 {reader}*3*0*0*0***0*<127.0.0.1:1>*0* "
        f"1 99999*3*20*1 0 SharedPort:/daemon_sock/slot1_1*{writer}*6*0*0* 0"
    )
    monkeypatch.setattr(posix, "environ", {b"CONDOR_INHERIT": inherit.encode()})
    assert [fd for fd in thin._descriptors() if fd > 2] == [reader, writer]
    os.close(reader)
    os.close(writer)


@pytest.mark.req("H1")
def test_the_thin_client_imports_nothing_that_is_not_part_of_the_interpreter() -> None:
    here = str(Path(thin.__file__).parent)
    code = f"import sys; sys.path.insert(0, {here!r}); import thin; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert not {"os", "enum", "socket", "signal", "re", "typing", "json"} & set(out.stdout.split())


@pytest.mark.req("P6")
@settings(deadline=None)  # a busy machine is no failure
@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_a_value_error(data: bytes) -> None:
    try:
        client = parse(data, [], 1)
    except ValueError:
        return
    assert client.argv


@pytest.mark.req("P6")
@settings(deadline=None)  # a busy machine is no failure
@given(
    st.integers(0, 20), st.lists(st.sampled_from([b"1", b"0", b"", b"/", b"2", b"99999999999"]), max_size=12)
)
def test_counts_that_lie_are_refused(count: int, words: list[bytes]) -> None:
    try:
        client = parse(b"\0".join([b"1", b"/", b"%d" % count, *words]) + b"\0", [], 1)
    except ValueError:
        return
    assert len(client.argv) == count


async def abandon(client: Client) -> None:
    raise AssertionError("the job ends by itself")


@pytest.mark.req("H1", "X9")
@pytest.mark.parametrize("hangs", [False, True])
def test_a_starter_that_fails_is_1_for_its_thin_client_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    monkeypatch.setattr(intake, "KILL_SECONDS", 0.2)
    removed: list[int] = []

    async def job(client: Client) -> int:
        if hangs:
            await asyncio.sleep(60)
        raise RuntimeError("a bug")

    async def remove(client: Client) -> None:
        removed.append(client.pid)

    async def main() -> None:
        door = Intake(job, remove, StarterLog(None))
        door.start(sockets.listen(str(tmp_path / "intake.sock"), 0o600, (os.getuid(), os.getgid())))
        path = tmp_path / "script"
        source = Path(thin.__file__).read_text()
        path.write_text(f"{source}\nmain({str(tmp_path)!r}, (), (b'/bin/false',))\n")
        process = await asyncio.create_subprocess_exec(sys.executable, "-IS", str(path))
        if hangs:
            assert await until(lambda: bool(door.clients))
            process.kill()
        assert await process.wait() == (-9 if hangs else 1)
        await door.idle()
        assert removed == [process.pid]
        await door.stop(1.0)

    asyncio.run(main())


@pytest.mark.req("H1", "X3")
def test_a_thin_client_that_dies_has_its_job_ended_and_its_descriptors_closed(tmp_path: Path) -> None:
    seen: list[int] = []
    taken: list[Client] = []

    async def job(client: Client) -> int:
        taken.append(client)
        seen.append(await client.signals.get())
        return 5

    async def main() -> None:
        door = Intake(job, abandon, StarterLog(None))
        door.start(sockets.listen(str(tmp_path / "intake.sock"), 0o600, (os.getuid(), os.getgid())))
        path = tmp_path / "script"
        source = Path(thin.__file__).read_text()
        path.write_text(f"{source}\nmain({str(tmp_path)!r}, (), (b'/bin/false',))\n")
        process = await asyncio.create_subprocess_exec(sys.executable, "-IS", str(path))
        assert await until(lambda: bool(taken))
        fds = [taken[0].fd_of(n) for n in (0, 1, 2)]
        process.kill()
        await process.wait()
        async with asyncio.timeout(10):
            await door.idle()
        assert seen == [3]
        for fd in fds:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)
        await door.stop(1.0)

    asyncio.run(main())


@pytest.mark.req("H1")
def test_the_thin_client_forwards_signals_and_exits_as_it_is_told(tmp_path: Path) -> None:
    async def job(client: Client) -> int:
        return 100 + await client.signals.get()

    async def main() -> None:
        door = Intake(job, abandon, StarterLog(None))
        door.start(sockets.listen(str(tmp_path / "intake.sock"), 0o600, (os.getuid(), os.getgid())))
        path = tmp_path / "script"
        source = Path(thin.__file__).read_text()
        path.write_text(f"{source}\nmain({str(tmp_path)!r}, (), (b'/bin/false',))\n")
        for number in thin.FORWARDED:
            process = await asyncio.create_subprocess_exec(sys.executable, "-IS", str(path))
            assert await until(lambda: bool(door.clients))
            process.send_signal(number)
            async with asyncio.timeout(10):
                assert await process.wait() == 100 + number
                await door.idle()
        await door.stop(1.0)

    asyncio.run(main())
