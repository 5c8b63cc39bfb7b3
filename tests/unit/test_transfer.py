"""File transfer: what our sender sends, our receiver takes, through real sockets and the real sandbox worker.

Both are clients of a shadow, so a relay stands between them that takes each one's key and passes the
messages on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from condor_starter.cedar.codec import Reader, Writer
from condor_starter.cedar.errors import CedarError, ProtocolError
from condor_starter.cedar.literals import LiteralAd, line
from condor_starter.cedar.stream import Stream
from condor_starter.job import JobError
from condor_starter.sandbox.contents import Catalog
from condor_starter.transfer.download import Downloaded, download
from condor_starter.transfer.incoming import Scratch, components, parse_remaps
from condor_starter.transfer.outgoing import STDERR, STDOUT, Outgoing, Wanted, choose
from condor_starter.transfer.protocol import BUFFER, UNREADABLE, Ack, GoAhead
from condor_starter.transfer.upload import Uploaded, upload
from unit.sandbox_help import sandbox_worker

KEY = "1#6b002b7c698824d8bcd4a72"


class Relay:
    """Passes messages between the two clients once each has shown its key."""

    def __init__(self) -> None:
        (a, self._left), (b, self._right) = _pair(), _pair()
        self.sender, self.receiver = a, b
        self.keys: list[str] = []

    async def run(self) -> None:
        for side in (self._left, self._right):
            message = await side.receive()
            self.keys.append(message.text())
            message.end()
        await asyncio.gather(self._pass(self._left, self._right), self._pass(self._right, self._left))

    async def _pass(self, one: Stream, other: Stream) -> None:
        with contextlib.suppress(CedarError):
            while True:
                message = await one.receive()
                await other.send(Writer(False).raw(message.raw(message.left)))

    def close(self) -> None:
        for stream in (self.sender, self.receiver, self._left, self._right):
            stream.close()


def _pair() -> tuple[Stream, Stream]:
    a, b = socket.socketpair()
    return Stream(a, timeout=10), Stream(b, timeout=10)


async def _across(
    items: Sequence[Outgoing], source: Path, target: Path, executable: str, remaps: dict[str, str]
) -> tuple[Uploaded | BaseException, Downloaded | BaseException]:
    relay = Relay()
    passing = asyncio.create_task(relay.run())
    try:
        with sandbox_worker(source) as worker:
            sent, came = await asyncio.gather(
                upload(relay.sender, KEY, items, worker, str(source)),
                download(relay.receiver, KEY, str(target), executable, remaps),
                return_exceptions=True,
            )
        assert relay.keys == [KEY, KEY]
        return sent, came
    finally:
        passing.cancel()
        await asyncio.gather(passing, return_exceptions=True)
        relay.close()


def across(
    items: Sequence[Outgoing],
    source: Path,
    target: Path,
    executable: str = "",
    remaps: dict[str, str] | None = None,
) -> tuple[Uploaded | BaseException, Downloaded | BaseException]:
    """Send ``items`` of ``source`` to ``target``; what each side came to."""
    target.mkdir(exist_ok=True)
    return asyncio.run(asyncio.wait_for(_across(items, source, target, executable, remaps or {}), 30))


def chosen(source: Path, wanted: Wanted, catalog: Catalog | None = None) -> list[Outgoing]:
    """What :func:`choose` finds in ``source``."""

    async def main() -> list[Outgoing]:
        with sandbox_worker(source) as worker:
            return await choose(wanted, worker, catalog or Catalog({}))

    return asyncio.run(main())


def everything(source: Path, *names: str, streams: tuple[str, ...] = ()) -> Wanted:
    return Wanted(names or None, streams, "", str(source))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.mkdir()
    return path


sizes = st.one_of(st.integers(0, 2000), st.sampled_from([BUFFER - 1, BUFFER, BUFFER + 1, 2 * BUFFER + 5]))


@pytest.mark.req("H4")
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.from_regex(r"\A[a-z][a-z0-9._-]{0,12}\Z"), sizes, max_size=5))
def test_files_of_every_size_arrive_byte_for_byte(tmp_path: Path, files: dict[str, int]) -> None:
    base = tmp_path / str(time.monotonic_ns())
    (base / "a").mkdir(parents=True)
    for name, size in files.items():
        (base / "a" / name).write_bytes(os.urandom(size))
    sent, came = across(chosen(base / "a", everything(base / "a")), base / "a", base / "b")
    assert isinstance(sent, Uploaded), sent
    assert isinstance(came, Downloaded), came
    assert (sent.files, sent.size) == (came.files, came.size) == (len(files), sum(files.values()))
    for name in files:
        assert (base / "b" / name).read_bytes() == (base / "a" / name).read_bytes()
    assert sorted(os.listdir(base / "b")) == sorted(files)


@pytest.mark.req("H4", "D9")
def test_directories_travel_with_their_name_or_only_what_is_in_them(source: Path, tmp_path: Path) -> None:
    (source / "out/deep/er").mkdir(parents=True)
    (source / "out/empty").mkdir()
    (source / "out/deep/er/file").write_text("x")
    (source / "bare/in").mkdir(parents=True)
    (source / "bare/in/side").write_text("y")
    sent, came = across(chosen(source, everything(source, "out", "bare/")), source, tmp_path / "t")
    assert isinstance(sent, Uploaded), sent
    assert isinstance(came, Downloaded), came
    target = tmp_path / "t"
    assert (target / "out/deep/er/file").read_text() == "x"
    assert (target / "out/empty").is_dir()
    assert (target / "in/side").read_text() == "y"
    assert not (target / "bare").exists()


@pytest.mark.req("H4")
def test_modes_travel_the_executable_is_one_and_write_rights_of_others_do_not(
    source: Path, tmp_path: Path
) -> None:
    for name, mode in (("private", 0o600), ("open", 0o666), ("tool", 0o755), ("job.sh", 0o644)):
        (source / name).write_text(name)
        (source / name).chmod(mode)
    across(chosen(source, everything(source)), source, tmp_path / "t", executable="job.sh")
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "t").iterdir()}
    assert modes == {"private": 0o600, "open": 0o644, "tool": 0o755, "job.sh": 0o755}


@pytest.mark.req("H4")
def test_a_file_that_the_job_touches_at_once_shows_and_one_that_it_only_reads_does_not(
    source: Path, tmp_path: Path
) -> None:
    """Design: no second's wait. The job writes within the same tick of the kernel's file clock, to the same
    size.
    """
    for name in ("written", "read", "replaced", "appended"):
        (source / name).write_text("before")
    target = tmp_path / "t"
    _, came = across(chosen(source, everything(source)), source, target)
    assert isinstance(came, Downloaded), came
    with open(target / "written", "r+") as f:
        f.write("after!")
    (target / "read").read_text()
    (target / "other").write_text("before")
    os.rename(target / "other", target / "replaced")
    with open(target / "appended", "a") as f:
        f.write("x")
    (target / "new").write_text("new")
    names = [item.name for item in chosen(target, everything(target), came.catalog)]
    assert names == ["appended", "new", "replaced", "written"]


@pytest.mark.req("H4")
def test_without_a_list_only_new_files_at_the_top_go_back(source: Path) -> None:
    (source / "dir").mkdir()
    (source / "dir/inner").write_text("x")
    os.symlink("/etc/passwd", source / "link")
    os.mkfifo(source / "fifo")
    for name in (".job.ad", ".machine.ad", "job.sh", "result", STDOUT, STDERR):
        (source / name).write_text("x")
    wanted = Wanted(None, (STDOUT, STDERR), "job.sh", str(source))
    assert [item.name for item in chosen(source, wanted)] == ["result", STDOUT, STDERR]


@pytest.mark.req("H4")
def test_paths_are_kept_only_when_the_job_says_so(source: Path) -> None:
    (source / "a/b").mkdir(parents=True)
    (source / "a/b/c").write_text("x")
    flat = chosen(source, everything(source, "a/b/c"))
    assert [(i.name, i.source) for i in flat] == [("c", "a/b/c")]
    kept = chosen(source, Wanted(("a/b/c",), (), "", str(source), keep_paths=True))
    assert [(i.name, i.directory) for i in kept] == [("a", True), ("a/b", True), ("a/b/c", False)]
    full = chosen(source, everything(source, f"{source}/a/b/c"))
    assert [(i.name, i.source) for i in full] == [("c", "a/b/c")]


@pytest.mark.req("H4", "P6")
@pytest.mark.parametrize("name", ["../secret", "link", "linkdir/secret", "/etc/hostname", "fifo", "missing"])
def test_what_lies_outside_the_sandbox_is_never_read(source: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("secret")
    os.symlink("../secret", source / "link")
    os.symlink("..", source / "linkdir")
    os.mkfifo(source / "fifo")
    items = chosen(source, everything(source, name))
    sent, came = across(items, source, tmp_path / "t")
    assert isinstance(sent, JobError)
    assert sent.code == 13
    assert sent.subcode > 0
    assert "STARTER at" in sent.text
    assert f"failed to send file(s) to {'':s}" in sent.text
    assert "|Error: reading from file" in sent.text
    assert isinstance(came, JobError)
    assert [p.read_text() for p in (tmp_path / "t").rglob("*") if p.is_file()] in ([], [""])


@pytest.mark.req("H4", "X9")
def test_one_missing_file_does_not_keep_the_others_back_and_is_told_in_htcondors_words(
    source: Path, tmp_path: Path
) -> None:
    (source / "there").write_text("x")
    (source / "also").write_text("y")
    items = chosen(source, everything(source, "there", "nosuch.txt", "also"))
    sent, came = across(items, source, tmp_path / "t")
    assert isinstance(sent, JobError)
    assert (sent.code, sent.subcode) == (13, 2)
    told = f"|Error: reading from file {source}/nosuch.txt: (errno 2) No such file or directory; SHADOW"
    assert told in sent.text or told.replace("SHADOW", "STARTER") in sent.text
    assert isinstance(came, JobError)
    assert (came.code, came.subcode) == (13, 2)
    assert came.text.startswith("Failed to transfer files: STARTER at")
    assert (tmp_path / "t/there").read_text() == "x"
    assert (tmp_path / "t/also").read_text() == "y"


@pytest.mark.req("H4")
def test_inputs_are_renamed_as_the_job_asks(source: Path, tmp_path: Path) -> None:
    (source / "old").write_text("x")
    across(chosen(source, everything(source)), source, tmp_path / "t", remaps={"old": "new"})
    assert os.listdir(tmp_path / "t") == ["new"]
    assert parse_remaps(r"a = b; c=d/e ; f\;x = g\=h;;bad; q=") == {"a": "b", "c": "d/e", "f;x": "g=h"}


@pytest.mark.req("P6")
@pytest.mark.parametrize(
    "name", ["../up", "/etc/passwd", "a/../../b", "..", ".", "", "x/" * 100 + "y", "a\0b"]
)
def test_a_hostile_name_is_refused_with_eperm(tmp_path: Path, name: str) -> None:
    with Scratch(str(tmp_path), "", {}) as scratch, pytest.raises(PermissionError):
        scratch.create(name)
    assert os.listdir(tmp_path) == []


@pytest.mark.req("P6")
@given(st.text(max_size=40))
def test_a_name_that_is_taken_leads_down_only(name: str) -> None:
    try:
        parts = components(name)
    except OSError:
        return
    assert parts
    assert not {"", ".", ".."} & set(parts)
    assert not any("/" in p for p in parts)


@pytest.mark.req("P6")
def test_links_in_the_way_are_not_followed_and_our_own_files_are_not_replaced(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    os.symlink(outside, inside / "dir")
    os.symlink(outside / "file", inside / "file")
    (inside / ".job.ad").write_text("ours")
    with Scratch(str(inside), "", {}) as scratch:
        for name in ("dir/x", "file", ".job.ad"):
            with pytest.raises(OSError):
                scratch.create(name)
        with pytest.raises(OSError):
            scratch.mkdir("dir", 0o755)
    assert os.listdir(outside) == []
    assert (inside / ".job.ad").read_text() == "ours"


@pytest.mark.req("H4", "P6")
def test_a_bad_name_fails_the_transfer_with_12_and_the_rest_still_arrives(
    source: Path, tmp_path: Path
) -> None:
    (source / "good").write_text("good")
    (source / "bad").write_bytes(b"x" * (2 * BUFFER))
    items = [Outgoing("../evil", "bad"), Outgoing("good", "good")]
    sent, came = across(items, source, tmp_path / "t")
    assert isinstance(came, JobError)
    assert (came.code, came.subcode) == (12, 1)
    assert "STARTER at" in came.text
    assert "|Error: writing to file ../evil: (errno 1) Operation not permitted" in came.text
    assert isinstance(sent, JobError)
    assert (sent.code, sent.subcode) == (12, 1)
    assert not (tmp_path / "evil").exists()
    assert (tmp_path / "t/good").read_text() == "good"


@pytest.mark.req("H4", "S4")
def test_a_full_disk_fails_the_transfer_with_12_and_reads_on(source: Path, tmp_path: Path) -> None:
    import resource

    (source / "large").write_bytes(b"x" * (2 * BUFFER))
    (source / "small").write_text("s")
    items = [Outgoing("large", "large"), Outgoing("small", "small")]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (BUFFER + 100, hard))
    try:
        _, came = across(items, source, tmp_path / "t")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert isinstance(came, JobError)
    assert came.code == 12
    assert "|Error: writing to file large: (errno 27) File too large" in came.text


# -- one side against bytes that are written here ------------------------------------------------


def against(client: str, script: list[Writer], where: Path) -> tuple[BaseException | None, list[Reader]]:
    """Run our ``client`` against a peer that says ``script`` and hangs up; what it came to, and what it
    said.
    """

    async def main() -> tuple[BaseException | None, list[Reader]]:
        ours, peer = _pair()
        await peer.send(*script)
        peer._sock.shutdown(socket.SHUT_WR)
        hearing = asyncio.create_task(_hear(peer))
        work = download(ours, KEY, str(where), "") if client == "download" else _upload(ours, where)
        (result,) = await asyncio.gather(work, return_exceptions=True)
        ours.close()
        said = await hearing
        peer.close()
        return (result if isinstance(result, BaseException) else None), said

    return asyncio.run(asyncio.wait_for(main(), 20))


async def _hear(peer: Stream) -> list[Reader]:
    said = []
    with contextlib.suppress(CedarError):
        while True:
            said.append(await peer.receive())
    return said


async def _upload(stream: Stream, where: Path) -> object:
    with sandbox_worker(where) as worker:
        items = [Outgoing("file", "file", size=4)]
        return await upload(stream, KEY, items, worker, str(where))


def message() -> Writer:
    return Writer(False)


HELLO = message().integer(0).ad([line("SandboxSize", 1)])
ALWAYS = message().ad([line("Result", 2)])


@pytest.mark.req("H4")
def test_a_job_without_inputs_needs_no_go_ahead(tmp_path: Path) -> None:
    script = [HELLO, message().integer(0), message().ad([line("Result", 0)])]
    error, said = against("download", script, tmp_path)
    assert error is None
    assert said[0].text() == KEY
    assert LiteralAd(said[1].ad()).integer("Result", -9) == 0
    assert len(said) == 2


@pytest.mark.req("H4")
def test_the_downloading_side_gives_leave_first_and_then_asks(tmp_path: Path) -> None:
    file = [message().integer(0o644), message().integer(3).integer(BUFFER), message().raw(b"abc")]
    script = [HELLO, message().integer(1), message().text("f"), message().integer(10), ALWAYS, *file]
    second = [
        message().integer(1),
        message().text("g"),
        message().integer(0),
        message().integer(0).integer(1),
    ]
    end = [message().integer(666), message().integer(0), message().ad([line("Result", 0)])]
    error, said = against("download", [*script, *second, *end], tmp_path)
    assert error is None
    assert said[0].text() == KEY
    waits, gives = LiteralAd(said[1].ad()), LiteralAd(said[2].ad())
    assert (waits.integer("Timeout"), waits.integer("Result", -9)) == (300, 0)  # they wanted a sign each 10 s
    assert (gives.integer("Result"), gives.integer("MaxTransferBytes")) == (2, -1)
    assert said[3].integer() == 300
    assert len(said) == 5  # no go-ahead for the second file
    assert (tmp_path / "f").read_bytes() == b"abc"
    assert stat.S_IMODE((tmp_path / "g").stat().st_mode) == 0o644  # mode 0: the usual one


@pytest.mark.req("H4")
def test_waiting_in_the_transfer_queue_is_not_a_failure(tmp_path: Path) -> None:
    waiting = message().ad([line("Result", 0), line("Timeout", 600)])
    script = [
        HELLO,
        message().integer(6),
        message().text("d"),
        message().integer(300),
        waiting,
        waiting,
        ALWAYS,
    ]
    script += [message().integer(0o755), message().integer(0), message().ad([line("Result", 0)])]
    error, _ = against("download", script, tmp_path)
    assert error is None
    assert (tmp_path / "d").is_dir()


@pytest.mark.req("H4", "X9")
@pytest.mark.parametrize(
    ("answer", "code", "holds"),
    [
        ([line("Result", -1), line("TryAgain", True), line("HoldReason", "busy")], 1007, False),
        ([line("Result", -1), line("TryAgain", False), line("HoldReasonCode", 32)], 32, True),
        ([line("Result", -1), line("TryAgain", False)], 18, True),
    ],
)
def test_a_refused_go_ahead_holds_or_requeues(
    tmp_path: Path, answer: list[str], code: int, holds: bool
) -> None:
    script = [HELLO, message().integer(1), message().text("f"), message().integer(300), message().ad(answer)]
    error, _ = against("download", script, tmp_path)
    assert isinstance(error, JobError)
    assert (error.code, error.holds) == (code, holds)


@pytest.mark.req("H4", "X9")
def test_what_the_shadow_could_not_read_is_told_in_its_words(tmp_path: Path) -> None:
    told = (
        "SHADOW at 127.0.0.1 failed to send file(s) to <127.0.0.1:1>: |Error: reading from file /x: (errno 2)"
    )
    ack = [
        line("Result", -1),
        line("HoldReasonCode", 13),
        line("HoldReasonSubCode", 2),
        line("HoldReason", told),
    ]
    nothing = [message().integer(UNREADABLE), message().integer(0).integer(BUFFER), message().integer(666)]
    script = [HELLO, message().integer(1), message().text("x"), message().integer(300), ALWAYS, *nothing]
    error, said = against("download", [*script, message().integer(0), message().ad(ack)], tmp_path)
    assert isinstance(error, JobError)
    assert (error.code, error.subcode) == (13, 2)
    assert error.text.startswith(f"Failed to transfer files: {told}; STARTER failed to receive file(s) from")
    ours = LiteralAd(said[-1].ad())
    assert (ours.integer("Result"), ours.integer("HoldReasonCode")) == (-1, 13)
    assert os.listdir(tmp_path) == []


@pytest.mark.req("X2")
@pytest.mark.parametrize(
    "script",
    [
        [message().integer(0)],  # what a shadow says to a wrong key
        [HELLO, message().integer(77), message().text("x"), message().integer(300), ALWAYS],
        [HELLO, message().integer(4), message().text("x"), message().integer(300), ALWAYS],
        [HELLO, message().integer(1).integer(2)],
        [HELLO, message().integer(1), message().text("x"), message().integer(300), message().ad([])],
        [HELLO, message().integer(0), message().integer(1)],
        [HELLO, message().integer(1)],
    ],
)
def test_a_peer_that_speaks_out_of_turn_is_left(tmp_path: Path, script: list[Writer]) -> None:
    error, _ = against("download", script, tmp_path)
    assert isinstance(error, CedarError)


@pytest.mark.req("X2")
@pytest.mark.parametrize(("size", "piece"), [(-1, BUFFER), (10, 0), (10, 1 << 40), (10, -5)])
def test_sizes_that_make_no_sense_are_refused(tmp_path: Path, size: int, piece: int) -> None:
    script = [HELLO, message().integer(1), message().text("x"), message().integer(300), ALWAYS]
    script += [message().integer(0o644), message().integer(size).integer(piece)]
    error, _ = against("download", script, tmp_path)
    assert isinstance(error, ProtocolError)


@pytest.mark.req("X2")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(min_size=1, max_size=30), max_size=5))
def test_any_messages_end_in_an_error_and_in_nothing_outside_the_directory(
    tmp_path: Path, payloads: list[bytes]
) -> None:
    async def main() -> None:
        ours, peer = _pair()
        try:
            await peer.send(HELLO, *(message().raw(p) for p in payloads))
            peer._sock.shutdown(socket.SHUT_WR)
            with pytest.raises((CedarError, JobError)):
                await download(ours, KEY, str(tmp_path), "")
        finally:
            ours.close()
            peer.close()

    asyncio.run(asyncio.wait_for(main(), 10))


@pytest.mark.req("H4", "X9")
def test_an_ad_without_a_result_is_a_bad_acknowledgement() -> None:
    ack = Ack.read(Reader(message().ad(["A = 1"]).payload(), False))
    error = ack.error("x")
    assert (error.code, error.holds) == (11, True)
    again = Ack.read(Reader(message().ad([line("Result", 1)]).payload(), False)).error("x")
    assert not again.holds


@pytest.mark.req("H4")
def test_the_submit_sides_limit_on_output_is_kept(source: Path) -> None:
    (source / "file").write_bytes(b"1234")
    limit = message().ad([line("Result", 2), line("MaxTransferBytes", 3)])
    script = [
        limit,
        message().integer(300),
        message().ad([line("Result", -1), line("HoldReason", "too much")]),
    ]
    error, said = against("upload", script, source)
    assert isinstance(error, JobError)
    assert (error.code, error.holds) == (33, True)
    assert all(b"1234" not in m.raw(m.left) for m in said)


@pytest.mark.req("H4")
def test_a_go_ahead_once_is_asked_for_again() -> None:
    async def main() -> None:
        ours, peer = _pair()
        try:
            await peer.send(message().integer(300), message().ad([line("Result", 1)]), ALWAYS)
            go_ahead = GoAhead(ours, downloading=True)
            for _ in range(3):
                await go_ahead.before_item()
            (await peer.receive()).ad()  # our leave, once
            assert (await peer.receive()).integer() == 300
            assert (await peer.receive()).integer() == 300
        finally:
            ours.close()
            peer.close()

    asyncio.run(asyncio.wait_for(main(), 10))
