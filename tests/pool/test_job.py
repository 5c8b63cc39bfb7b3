"""An ordinary vanilla job with files, submitted by condor_submit, under a real startd and shadow."""

from __future__ import annotations

import pytest

from pool.harness import Kind, Pool

COPY = """#!/bin/sh
cat data.txt more.txt >result.txt
echo "$@"; echo to-stderr >&2
id -un; pwd; printenv GREETING
exit 3
"""


@pytest.mark.req("H1", "H4")
@pytest.mark.direct
def test_files_go_in_and_come_out_and_the_exit_code_is_true(pool: Pool) -> None:
    pool.put("data.txt", "one\n")
    pool.put("more.txt", "two\n")
    job = pool.submit(
        "copy",
        COPY,
        "arguments = \"first 'second word'\"",
        'environment = "GREETING=hello"',
        "transfer_input_files = data.txt, more.txt",
        "transfer_output_files = result.txt",
    )
    assert "(1) Normal termination (return value 3)" in job.ended().text
    assert (pool.home("alice") / "result.txt").read_text() == "one\ntwo\n"
    lines = job.output().splitlines()
    assert lines[0] == "first second word"
    assert lines[1] == "alice"
    assert lines[2].startswith("/var/lib/condor/execute/dir_")
    assert lines[3] == "hello"
    assert job.output("err") == "to-stderr\n"
    ad = job.ad()
    assert (ad["ExitCode"], ad["ExitBySignal"], ad["NumJobStarts"]) == (3, False, 1)


@pytest.mark.req("H4")
def test_condor_wait_sees_the_whole_story_in_the_event_log(pool: Pool) -> None:
    job = pool.submit("story", "#!/bin/sh\nexit 0\n")
    assert "All jobs done" in pool.as_user("alice", "condor_wait", "-wait", "60", job.log.name)
    kinds = [e.kind for e in job.events() if e.kind != Kind.IMAGE_SIZE]
    moved = [e.text.split("Z ")[-1] for e in job.events(Kind.TRANSFER)]
    assert kinds[0] == Kind.SUBMIT
    assert kinds[-1] == Kind.TERMINATED
    assert kinds.index(Kind.EXECUTE) > kinds.index(Kind.TRANSFER)
    assert len(moved) == 4, moved  # inputs started and finished, outputs started and finished
    assert "Run Bytes Received By Job" in job.events(Kind.TERMINATED)[0].text


@pytest.mark.req("H4")
def test_outputs_are_remapped_where_the_submit_file_says(pool: Pool) -> None:
    (pool.home("alice") / "kept").mkdir()
    pool.as_root("chown", "alice:alice", "/home/alice/kept")
    job = pool.submit(
        "remap",
        "#!/bin/sh\necho body >inner.txt\necho printed\n",
        "transfer_output_files = inner.txt",
        'transfer_output_remaps = "inner.txt = kept/outer.txt"',
    )
    assert "return value 0" in job.ended().text
    assert (pool.home("alice") / "kept/outer.txt").read_text() == "body\n"
    assert not (pool.home("alice") / "inner.txt").exists()
    assert job.output() == "printed\n"


@pytest.mark.req("H4")
@pytest.mark.direct
def test_a_changed_input_comes_back_even_when_changed_at_once_and_an_unchanged_one_does_not(
    pool: Pool,
) -> None:
    pool.put("changed.txt", "before\n")
    same = pool.put("same.txt", "same\n")
    job = pool.submit(
        "changed",
        "#!/bin/sh\necho after >changed.txt\necho new >fresh.txt\n"
        "while [ -e /home/alice/same.txt ]; do sleep 0.1; done\n",
        "transfer_input_files = changed.txt, same.txt",
    )
    job.wait(Kind.EXECUTE)
    same.unlink()  # so that it would be seen, were it sent back
    assert "return value 0" in job.ended().text
    assert (pool.home("alice") / "changed.txt").read_text() == "after\n"
    assert (pool.home("alice") / "fresh.txt").read_text() == "new\n"
    assert not same.exists()


@pytest.mark.req("H4")
def test_empty_and_large_and_executable_files_arrive_as_they_were(pool: Pool) -> None:
    pool.put("empty.bin", "")
    pool.put("tool.sh", "#!/bin/sh\necho tool ran\n", mode=0o755)
    big = pool.home("alice") / "big.bin"
    big.write_bytes(bytes(range(256)) * 12345)  # over several 256 KiB pieces, and not a multiple of one
    big.chmod(0o644)
    job = pool.submit(
        "bytes",
        "#!/bin/sh\nset -e\ntest ! -s empty.bin\n./tool.sh\ncp big.bin big2.bin; : >void.bin\n",
        "transfer_input_files = empty.bin, tool.sh, big.bin",
        "transfer_output_files = big2.bin, void.bin",
    )
    assert "return value 0" in job.ended().text
    assert job.output().splitlines()[0] == "tool ran"
    assert (pool.home("alice") / "big2.bin").read_bytes() == big.read_bytes()
    assert (pool.home("alice") / "void.bin").read_bytes() == b""


@pytest.mark.req("H1")
@pytest.mark.direct
def test_without_file_transfer_the_job_works_in_its_own_directory(pool: Pool) -> None:
    job = pool.submit("shared", "#!/bin/sh\npwd; echo here >shared.txt; exit 4\n", files=False)
    assert "return value 4" in job.ended().text
    assert job.output() == "/home/alice\n"
    assert (pool.home("alice") / "shared.txt").read_text() == "here\n"


@pytest.mark.req("H1")
def test_death_by_signal_is_told_as_such(pool: Pool) -> None:
    job = pool.submit("signal", "#!/bin/sh\nkill -SEGV $$\n")
    assert "(0) Abnormal termination (signal 11)" in job.ended().text
    assert (job.ad()["ExitBySignal"], job.ad()["ExitSignal"]) == (True, 11)


@pytest.mark.req("H1", "P3")
@pytest.mark.direct
def test_a_daemon_that_a_job_leaves_behind_dies_with_it(pool: Pool) -> None:
    mark = f"1{pool.jobs:04d}77"
    daemon = f"(setsid env -i /bin/sleep {mark} >/dev/null 2>&1 </dev/null &) &"
    job = pool.submit("leaves", f"#!/bin/sh\n{daemon}\nsleep 0.5; exit 0\n")
    assert "return value 0" in job.ended().text
    pool.assert_clean()
    assert pool.job_processes(mark) == []


@pytest.mark.req("H1", "P3")
def test_two_users_run_at_the_same_time_each_as_themselves(pool: Pool) -> None:
    script = "#!/bin/sh\nid -u; sleep 2\n"
    jobs = [pool.submit("user", script, user=user) for user in ("alice", "bob")]
    ends = [job.ended() for job in jobs]
    assert all("return value 0" in end.text for end in ends)
    assert [job.output() for job in jobs] == ["2001\n", "2002\n"]
