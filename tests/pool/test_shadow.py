"""Between a real shadow and the job: directories, streams, names from outside the sandbox, and a shadow
that dies.
"""

from __future__ import annotations

import os
import signal

import pytest

from pool.harness import Kind, Pool, eventually


@pytest.mark.req("H4", "D9")
def test_directories_go_in_and_come_out_with_what_is_in_them(pool: Pool) -> None:
    pool.put("tree/deep/er/file.txt", "deep\n")
    pool.put("flat/side.txt", "side\n")
    pool.as_root("chown", "-R", "alice:alice", "/home/alice/tree", "/home/alice/flat")
    script = "#!/bin/sh\nset -e\ncat tree/deep/er/file.txt side.txt\nmkdir -p out/a/b out/empty\n"
    script += "echo inner >out/a/b/c; ln -s a/b/c out/link; mkdir bare; echo bare >bare/x\n"
    job = pool.submit(
        "dirs", script, "transfer_input_files = tree, flat/", "transfer_output_files = out, bare/"
    )
    assert "return value 0" in job.ended().text
    home = pool.home("alice")
    assert job.output() == "deep\nside\n"
    assert (home / "out/a/b/c").read_text() == (home / "out/link").read_text() == "inner\n"
    assert (home / "out/empty").is_dir()
    assert (home / "x").read_text() == "bare\n"


@pytest.mark.req("H4")
@pytest.mark.ours
def test_streamed_outputs_are_where_the_user_wants_them_and_whole(pool: Pool) -> None:
    """Whole: HTCondor 23.9.6's own starter loses the last 40 kB of this one, still in the pipe as the job
    exits.
    """
    script = "#!/bin/sh\nhead -c 300000 /dev/zero | tr '\\0' x; echo to-stderr >&2\n"
    job = pool.submit("stream", script, "stream_output = true", "stream_error = true")
    assert "return value 0" in job.ended().text
    assert job.output() == "x" * 300000
    assert job.output("err") == "to-stderr\n"
    assert not (pool.home("alice") / "_condor_stdout").exists()


@pytest.mark.req("H4", "P6")
@pytest.mark.ours
def test_an_output_link_that_leads_out_of_the_sandbox_is_not_followed(pool: Pool) -> None:
    secret = pool.root / "etc/for-root-only"
    secret.write_text("root's\n")
    secret.chmod(0o600)
    job = pool.submit(
        "link", "#!/bin/sh\nln -s /etc/for-root-only out.txt\n", "transfer_output_files = out.txt"
    )
    end = job.ended()
    assert end.kind == Kind.HELD
    assert "Code 12 " in end.text
    assert not (pool.home("alice") / "out.txt").exists() or (pool.home("alice") / "out.txt").read_text() == ""
    job.do("condor_rm")


@pytest.mark.req("H1", "X9")
@pytest.mark.ours
def test_a_job_whose_shadow_dies_is_killed_and_runs_again_and_the_startd_hears_2(pool: Pool) -> None:
    script = "#!/bin/sh\n(setsid env -i /bin/sleep 987123 </dev/null >/dev/null 2>&1 &) &\nsleep 987123\n"
    job = pool.submit("lost", script)
    job.wait(Kind.EXECUTE)
    eventually("job and daemon run", lambda: len(pool.job_processes("987123")) >= 2)
    before = {p.pid for p in pool.job_processes("987123")}
    shadow = next(p for p in pool.processes() if p.command.startswith(f"condor_shadow {job.cluster}.0"))
    os.kill(shadow.pid, signal.SIGKILL)
    eventually(
        "the first run is dead", lambda: not before & {p.pid for p in pool.job_processes("987123")}, 20
    )
    eventually(
        "status 2", lambda: any("EXITING WITH STATUS 2" in t for t in pool.starter_logs().values()), 20
    )
    job.wait(Kind.EXECUTE, count=2)
    job.do("condor_rm")
    job.wait(Kind.ABORTED)
    pool.assert_clean()


@pytest.mark.req("H4")
def test_an_evicted_job_finds_its_files_again_when_it_wants_them_kept(pool: Pool) -> None:
    script = "#!/bin/sh\necho run >>state\ntrap 'exit 9' TERM\n"
    script += 'if [ "$(wc -l <state)" -ge 2 ]; then exit 0; fi\n'
    script += "touch /home/alice/@NAME@; while :; do sleep 0.1; done\n"
    job = pool.submit(
        "evicted", script.replace("@NAME@", "evicted.up"), "when_to_transfer_output = ON_EXIT_OR_EVICT"
    )
    eventually("the job runs", (pool.home("alice") / "evicted.up").exists)
    job.wait(Kind.EXECUTE)
    job.do("condor_vacate_job")
    job.wait(Kind.EVICTED)
    assert not (pool.home("alice") / "state").exists()  # they are no outputs yet
    assert "return value 0" in job.ended().text
    assert (pool.home("alice") / "state").read_text() == "run\nrun\n"
