"""The daemon's pure decisions and its journals: no root, no procd."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from condor_starter.communicators.base import Ask, Outcome, Request
from condor_starter.daemon import admission, report
from condor_starter.daemon.account import Account, AccountError, become, unprivileged
from condor_starter.daemon.adopt import Fate, fate
from condor_starter.daemon.httpd import ApiError, Peer
from condor_starter.daemon.jobs import Jobs
from condor_starter.daemon.sdnotify import notify
from condor_starter.daemon.store import StateError, Store, Submission
from condor_starter.daemon.way import stillborn
from condor_starter.job import BadAd, Blame, Hold, JobError
from condor_starter.log import StarterLog
from condor_starter.record import STAGES, JobRecord

SUBMISSION = Submission(
    uid=1000, user="u", cmd="/bin/x", streams={"stdout": "", "stderr": ""}, submitted_at=1.5
)
EXIT = {"status": 0, "killed": False, "begun": True}
STILLBORN = {"status": -1, "killed": False, "begun": False}

# -- how a job ended ---------------------------------------------------------------------------------


@pytest.mark.req("X9", "H6")
@pytest.mark.parametrize(
    ("outcome", "how", "status"),
    [
        (Outcome(status=0), "exited", 0),
        (Outcome(status=7 << 8), "exited", 7),
        (Outcome(status=9), "signalled", 137),
        (Outcome(status=15, ended_by=Request(Ask.REMOVE)), "ended", 143),
        (Outcome(ended_by=Request(Ask.REMOVE)), "ended", 231),
        (Outcome(status=9, error=JobError(Hold.JOB_OUT_OF_RESOURCES, 102, "memory")), "held", 230),
        (Outcome(error=JobError(Hold.STARTER_ERROR, 0, "x", Blame.SYSTEM)), "failed", 231),
        (Outcome(error=BadAd("x")), "failed", 2),
        (Outcome(), "failed", 231),
    ],
)
def test_every_end_has_its_word_and_its_exit_status(outcome: Outcome, how: str, status: int) -> None:
    record = report.terminal(outcome)
    assert (record["how"], record["exit_status"]) == (how, status)
    assert json.loads(json.dumps(record)) == record


# -- what becomes of what an earlier starterd left ------------------------------------------------------


@pytest.mark.req("X3")
@pytest.mark.parametrize(
    ("stage", "begun", "box", "known", "expected"),
    [
        ("accepted", False, None, False, Fate.RUN),
        ("accepted", False, "made", False, Fate.RUN),
        ("prepared", False, "made", False, Fate.RUN),
        ("prepared", True, "made", False, Fate.RUN),
        ("prepared", True, "running", False, Fate.ADOPT),
        ("prepared", True, "starting", False, Fate.ADOPT),
        ("prepared", False, None, False, Fate.RUN),
        ("prepared", True, None, False, Fate.GIVE_UP),
        ("running", True, "running", False, Fate.ADOPT),
        ("running", True, "draining", False, Fate.ADOPT),
        ("running", True, "exited", False, Fate.ADOPT),
        ("running", True, None, False, Fate.GIVE_UP),
        ("ended", True, "exited", True, Fate.ADOPT),
        ("ended", True, "removing", True, Fate.ADOPT),
        ("ended", True, None, True, Fate.ADOPT),
        ("reported", True, None, True, Fate.ADOPT),
    ],
)
def test_fate_of_a_job(stage: str, begun: bool, box: str | None, known: bool, expected: Fate) -> None:
    record = JobRecord(id="1", box="b", stage=stage, exit=EXIT if known else None)
    assert fate(record, begun, False, box) is expected
    assert fate(record, begun, True, box) is Fate.SHOW


@pytest.mark.req("X3")
@settings(deadline=None)  # a busy machine is no failure
@given(
    st.sampled_from(STAGES),
    st.sampled_from([None, "made", "starting", "running", "draining", "exited", "removing"]),
    st.booleans(),
    st.sampled_from([None, EXIT, STILLBORN]),
)
def test_no_job_that_may_have_run_is_run_again(
    stage: str, box: str | None, begun: bool, known: dict[str, Any] | None
) -> None:
    record = JobRecord(id="1", stage=stage, exit=known)
    if known is STILLBORN:
        assert fate(record, begun, False, box) is Fate.RUN
    elif fate(record, begun, False, box) is Fate.RUN:
        assert stage in ("accepted", "prepared")
        assert box == "made" or (box in (None, "removing") and not begun)
        assert not known


@pytest.mark.req("X3")
def test_a_box_without_a_status_that_nobody_killed_never_ran() -> None:
    assert stillborn(STILLBORN)
    assert not stillborn({"status": -1, "killed": True, "begun": False})
    assert not stillborn({"status": -1, "killed": False, "begun": True})
    assert not stillborn(EXIT)
    assert not stillborn(None)


@pytest.mark.req("P3", "P6")
def test_nobody_has_more_than_his_share_of_jobs() -> None:
    class Full:
        def __init__(self, mine: int, everybodys: int) -> None:
            self.mine, self.everybodys = mine, everybodys

        def alive_count(self, uid: int | None = None) -> int:
            return self.everybodys if uid is None else self.mine

    peer = Peer(1, 1000, 1000)
    most, mine = admission.MOST_ALIVE, admission.MOST_ALIVE_PER_USER
    admission.room(cast(Jobs, Full(mine - 1, most - 1)), peer)
    for full in (Full(mine, mine), Full(0, most)):
        with pytest.raises(ApiError) as refused:
            admission.room(cast(Jobs, full), peer)
        assert refused.value.status == 429


# -- journals ----------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.mark.req("X3")
def test_a_journal_tells_the_whole_job(store: Store) -> None:
    journal, record = store.create("Cmd = 1\n", SUBMISSION)
    record.box, record.started_at = "b", 12.5
    record.advance("running")
    journal.note(suspended=True)
    journal.close()
    left = store.journals()[0].read()
    assert (left.ad, left.submission, left.outcome) == ("Cmd = 1\n", SUBMISSION, None)
    assert (left.record.box, left.record.stage, left.record.started_at) == ("b", "running", 12.5)
    assert left.journal.fact("suspended") is True
    left.record.advance("ended")
    assert store.journals()[0].read().record.stage == "ended"
    left.journal.close()


@pytest.mark.req("X3")
def test_there_is_one_terminal_record_and_the_first_one_counts(store: Store) -> None:
    journal, _ = store.create("", SUBMISSION)
    assert journal.finish({"how": "exited"}, "ad")
    assert not journal.finish({"how": "failed"}, "")
    journal.close()
    left = store.journals()[0].read()
    assert left.outcome == {"how": "exited"}
    assert not left.journal.finish({"how": "failed"}, "")
    with left.journal.path.open("a") as file:  # even if two got in
        file.write('{"outcome":{"how":"failed"}}\n')
    assert store.journals()[0].read().outcome == {"how": "exited"}


@pytest.mark.req("X3", "X10")
def test_a_journal_cut_at_any_byte_is_a_shorter_journal(store: Store) -> None:
    journal, record = store.create("A = 1\n", SUBMISSION)
    record.advance("prepared")
    record.advance("running")
    journal.finish({"how": "exited"}, "")
    journal.close()
    whole = journal.path.read_bytes()
    first = whole.index(b"\n")
    stages = []
    for cut in range(len(whole) + 1):
        journal.path.write_bytes(whole[:cut])
        again = store.journals()[0]
        if cut < first:
            with pytest.raises(ValueError, match="not a job's journal"):
                again.read()
            continue
        left = again.read()
        stages.append((STAGES.index(left.record.stage), left.outcome is not None))
        left.record.advance("ended")  # and what is written after the tear is whole
        left.journal.close()
        assert store.journals()[0].read().record.stage == "ended"
    assert stages == sorted(stages)
    assert stages[-1] == (STAGES.index("running"), True)


@pytest.mark.req("X3")
@settings(deadline=None)  # a busy machine is no failure
@given(st.binary(max_size=300))
def test_garbage_in_a_journal_is_told_as_such(
    tmp_path_factory: pytest.TempPathFactory, garbage: bytes
) -> None:
    store = Store(tmp_path_factory.mktemp("state"))
    journal, _ = store.create("", SUBMISSION)
    journal.close()
    journal.path.write_bytes(garbage)
    with pytest.raises(ValueError, match="not a job's journal"):
        journal.read()
    store.close()


@pytest.mark.req("H6")
def test_a_number_is_never_used_twice(store: Store, tmp_path: Path) -> None:
    journal, _ = store.create("", SUBMISSION)
    journal.remove()
    store.close()
    again, _ = Store(tmp_path).create("", SUBMISSION)
    assert again.number == journal.number + 1
    again.close()


@pytest.mark.req("X3")
def test_one_starterd_for_a_state_directory(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StateError, match="another condor_starterd"):
        Store(tmp_path)


@pytest.mark.req("X2")
def test_a_state_directory_that_others_can_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir(mode=0o755)
    with pytest.raises(StateError, match="mode 0700"):
        Store(tmp_path)


@pytest.mark.req("X3")
def test_a_stream_without_a_journal_is_cleared_away(store: Store) -> None:
    journal, _ = store.create("", SUBMISSION)
    journal.stream("stdout").write_text("x")
    journal.path.with_name("99.stdout").write_text("x")
    assert [j.number for j in store.journals()] == [journal.number]
    assert journal.stream("stdout").exists()
    assert not journal.path.with_name("99.stdout").exists()
    journal.close()


@pytest.mark.req("H3")
def test_the_log_of_a_job_is_in_its_journal_line_by_line(store: Store) -> None:
    journal, _ = store.create("", SUBMISSION)

    async def talk() -> None:
        log = StarterLog(journal.log())
        log.say("one")
        log.say("two")
        await asyncio.sleep(0)
        log.say("three")
        journal.close()

    asyncio.run(talk())
    lines = journal.log_text(1000).decode().splitlines()
    assert [line.rsplit(" ", 1)[1] for line in lines] == ["one", "two", "three"]
    assert journal.log_text(5) == b"hree\n"


# -- accounts and the service manager ----------------------------------------------------------------------


@pytest.mark.req("X2")
@pytest.mark.parametrize("ids", ["0.0", "0.5", "5.0", "x.y", "5", "-1.5", "5.5.5"])
def test_condor_ids_that_are_roots_or_none_are_refused(monkeypatch: pytest.MonkeyPatch, ids: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(AccountError, match="CONDOR_IDS"):
        unprivileged({"CONDOR_IDS": ids})


@pytest.mark.req("X2")
def test_condor_ids_of_the_environment_win_over_the_knob(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert unprivileged({"CONDOR_IDS": "12345.54321"}, "5.5")[:3] == (12345, 54321, (54321,))
    assert unprivileged({}, "12345.54321")[:2] == (12345, 54321)


@pytest.mark.req("X2")
def test_root_is_never_what_one_becomes(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        monkeypatch.setattr(os, "setgroups", lambda _: None)
        monkeypatch.setattr(os, "setresgid", lambda *_: None)
        monkeypatch.setattr(os, "setresuid", lambda *_: None)  # a call that does nothing is noticed
    with pytest.raises(AccountError, match="refusing"):
        become(Account(12345, 12345, (12345,), "x", "y"))


@pytest.mark.req("H6")
@pytest.mark.parametrize("abstract", [False, True])
def test_readiness_is_one_datagram(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    name = f"@condor-starter-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name[1:] if abstract else name)
        sock.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        assert notify("READY=1")
        assert sock.recv(100) == b"READY=1"
    assert not notify("READY=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    assert not notify("READY=1")
