"""A container's streams, from frames to descriptors: no engine, but real sockets and files."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from condor_starter.engines.streams import Frames, Pump
from condor_starter.job import Hold, JobError

pieces = st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=300)), max_size=20)


def frame(stream: int, payload: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(payload).to_bytes(4, "big") + payload


@pytest.mark.req("D4")
@given(pieces, st.lists(st.integers(1, 50), min_size=1))
def test_frames_survive_any_cut(sent: list[tuple[int, bytes]], cuts: list[int]) -> None:
    data = b"".join(frame(*f) for f in sent)
    frames, got, at = Frames(), {1: b"", 2: b""}, 0
    while at < len(data):
        size = cuts[at % len(cuts)]
        for stream, payload in frames.feed(data[at : at + size]):
            got[stream] += payload
        at += size
    assert frames.between
    for stream in (1, 2):
        assert got[stream] == b"".join(p for s, p in sent if s == stream)


@pytest.mark.req("D36")
@given(st.binary(min_size=8, max_size=100))
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    frames = Frames()
    if data[0] in (1, 2) and data[1:4] == b"\0\0\0":
        return
    with pytest.raises(ValueError, match="not a frame"):
        list(frames.feed(data))


def pumped(
    data: bytes,
    out: int | None,
    err: int | None = None,
    stdin: int | None = None,
    hear: Callable[[bytes], None] = id,
) -> None:
    """Run a Pump over ``data``; what it sent to the container's stdin goes to ``hear``."""

    async def main() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        pump = Pump(ours, stdin, out, err)
        loop = asyncio.get_running_loop()
        try:
            running = asyncio.create_task(pump.run())
            await loop.sock_sendall(theirs, data)
            if stdin is not None:
                heard = b""
                while got := await loop.sock_recv(theirs, 65536):
                    heard += got
                hear(heard)
            theirs.close()
            await running
        finally:
            theirs.close()
            pump.close()

    asyncio.run(main())


@pytest.mark.req("D4")
def test_the_streams_go_to_their_descriptors(tmp_path: Path) -> None:
    with (tmp_path / "o").open("wb") as out, (tmp_path / "e").open("wb") as err:
        pumped(frame(1, b"one") + frame(2, b"two") + frame(1, b""), out.fileno(), err.fileno())
    assert ((tmp_path / "o").read_bytes(), (tmp_path / "e").read_bytes()) == (b"one", b"two")


@pytest.mark.req("D4")
def test_a_stream_that_nobody_wants_is_dropped(tmp_path: Path) -> None:
    with (tmp_path / "o").open("wb") as out:
        pumped(frame(2, b"x" * 1000) + frame(1, b"y"), out.fileno())
    assert (tmp_path / "o").read_bytes() == b"y"


@pytest.mark.req("D36")
@pytest.mark.parametrize("data", [b"\x01\0\0", frame(1, b"abc")[:-1], b"HTTP/1.1 500 no\r\n\r\n"])
def test_output_that_is_cut_or_garbled_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        pumped(data, None)


@pytest.mark.req("D4")
def test_a_full_disk_is_told_as_one() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(JobError) as caught:
            pumped(frame(1, b"x"), full)
    finally:
        os.close(full)
    assert caught.value.code == Hold.UNABLE_TO_OPEN_OUTPUT
    assert "No space left" in caught.value.text


@pytest.mark.req("D4")
def test_input_from_a_file_is_sent_whole_and_then_closed(tmp_path: Path) -> None:
    data = os.urandom(1_000_000)
    (tmp_path / "in").write_bytes(data)
    heard: list[bytes] = []
    with (tmp_path / "in").open("rb") as stdin:
        pumped(b"", None, stdin=stdin.fileno(), hear=heard.append)
    assert heard == [data]


@pytest.mark.req("D4")
def test_input_from_a_pipe_that_stays_open_does_not_hold_up_the_end() -> None:
    reader, writer = os.pipe()

    async def main() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        pump = Pump(ours, reader, None, None)
        running = asyncio.create_task(pump.run())
        await asyncio.sleep(0.05)
        theirs.close()
        await asyncio.wait_for(running, 5)
        pump.close()

    try:
        asyncio.run(main())
    finally:
        os.close(reader)
        os.close(writer)
