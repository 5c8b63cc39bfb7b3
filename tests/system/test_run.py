"""`starterctl run`, as root and as an ordinary user: real jobs on this kernel, and nothing left of them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from system.run_help import ROOT, STRANGER, Hand, sh

needs_root = pytest.mark.skipif(not ROOT, reason="needs root: namespaces and cgroups")
EXAMPLES = Path(__file__).parents[2] / "etc" / "examples"
WHO = ["root", "user"] if ROOT else ["user"]


@pytest.fixture(params=WHO)
def hand(request: pytest.FixtureRequest, open_dir: Path, unique: str) -> Iterator[Hand]:
    """Root, and somebody without any privilege; an ordinary user tests as himself."""
    user = STRANGER if ROOT and request.param == "user" else None
    found = Hand(open_dir, unique, user)
    yield found
    assert found.left() == []


@pytest.fixture
def root(open_dir: Path, unique: str) -> Iterator[Hand]:
    found = Hand(open_dir, unique)
    yield found
    assert found.left() == []


def until(what: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


class TestByHand:
    @pytest.mark.req("P9", "S1", "X2")
    @pytest.mark.parametrize("name", ["hello.ad", "hello-new.ad"])
    def test_the_examples_run_and_say_hello(self, hand: Hand, name: str, open_dir: Path) -> None:
        copy = open_dir / name  # an ordinary user may not be able to read the checkout
        copy.write_text((EXAMPLES / name).read_text())
        ran = hand.run(str(copy))
        assert "Hello" in ran.out, ran
        assert ran.status == (3 if name == "hello-new.ad" else 0)

    @pytest.mark.parametrize(
        ("script", "status"), [("exit 0", 0), ("exit 42", 42), ("kill -SEGV $$", 128 + 11)]
    )
    def test_the_exit_status_is_the_jobs(self, hand: Hand, script: str, status: int) -> None:
        assert hand.run(sh(script)).status == status

    @pytest.mark.req("X9")
    @pytest.mark.parametrize(
        ("ad", "status", "words"),
        [
            ('Cmd = "/no/such/program"\nOsUser = "nobody"', 230, "code 6, subcode 2"),
            ("Args = 5", 2, "Cmd is missing"),
            ("this is = = no ad", 2, "line 1"),
            (sh("true", RequestedChroot="nowhere"), 230, "chroot"),
            ('Cmd = "/bin/true"\nWantDocker = true\nDockerImage = "x"\n', 231, "docker"),
        ],
    )
    def test_what_is_held_what_is_the_sites_and_what_is_no_ad(
        self, hand: Hand, ad: str, status: int, words: str
    ) -> None:
        ran = hand.run(ad, env={"DOCKER_HOST": "unix:///nonexistent/docker.sock"})
        if words == "chroot" and (hand.user is not None or not ROOT):
            status = 231  # without root it is not the name that is wrong
        assert (ran.status, words in ran.err) == (status, True), ran

    def test_bad_usage_is_two(self, hand: Hand) -> None:
        for words in (
            ["--no-such-option"],
            [],
            ["/no/such/file.ad"],
            ["--knob", "NONSENSE", str(EXAMPLES / "hello.ad")],
        ):
            assert hand.run(*words).status == 2

    @pytest.mark.req("D7", "S1")
    def test_the_job_finds_its_ads_and_itself(self, hand: Hand) -> None:
        script = (
            "pwd; cat $_CONDOR_JOB_AD $_CONDOR_MACHINE_AD; echo $_CONDOR_SLOT; ls -a $_CONDOR_SCRATCH_DIR"
        )
        ran = hand.run(sh(script, "Mine = 7", RequestMemory=64, RequestCpus=2), "--slot", "slot1_7")
        assert ran.status == 0, ran
        scratch = ran.out.splitlines()[0]
        assert scratch.startswith(f"{hand.execute}/dir_") and not os.path.exists(scratch)
        for words in ("Mine = 7", "Memory = 64", "Cpus = 2", "slot1_7", ".job.ad", ".machine.ad"):
            assert words in ran.out

    def test_files_are_opened_in_the_working_directory_as_the_jobs_user(self, hand: Hand) -> None:
        hand.write("in.txt", "from the file\n")
        ran = hand.run(sh("cat; echo oops >&2", In="in.txt", Out="out.txt", Err="err.txt", Iwd=hand.home))
        assert ran == (0, "", "")
        out, err = hand.home / "out.txt", hand.home / "err.txt"
        assert out.read_text() == "from the file\n" and err.read_text() == "oops\n"
        assert out.stat().st_uid == (65534 if hand.user is None and ROOT else hand.user or os.getuid())

    def test_one_file_for_both_streams_loses_nothing(self, hand: Hand) -> None:
        hand.run(sh("echo a; echo b >&2; echo c", Out="both", Err="both", Iwd=hand.home))
        assert (hand.home / "both").read_text() == "a\nb\nc\n"

    def test_streams_that_nothing_names_are_ours_and_stdin_is_empty(self, hand: Hand) -> None:
        ran = hand.run(sh("cat; echo out; echo err >&2"))
        assert ran == (0, "out\n", "err\n")

    @pytest.mark.req("X9")
    @pytest.mark.parametrize(
        ("attributes", "words"),
        [
            (
                {"In": "missing"},
                "code 8, subcode 2): Failed to open '{home}/missing' as standard input: No such file",
            ),
            ({"Out": "no/dir"}, "code 7, subcode 2): Failed to open '{home}/no/dir' as standard output"),
            ({"Err": "/proc/nope"}, "code 7, subcode"),
            (
                {"Iwd": "/no/such/dir"},
                "code 14, subcode 2): Cannot access initial working directory /no/such/dir",
            ),
            ({"Iwd": "relative"}, "code 14, subcode 2): Iwd = relative is not an absolute path"),
        ],
    )
    def test_what_cannot_be_opened_holds_the_job_and_is_named(
        self, hand: Hand, attributes: dict[str, str], words: str
    ) -> None:
        ran = hand.run(sh("true", **({"Iwd": str(hand.home)} | attributes)))
        assert ran.status == 230 and words.format(home=hand.home) in ran.err, ran

    @pytest.mark.req("X9")
    def test_a_script_without_its_interpreter_is_explained(self, hand: Hand) -> None:
        hand.write("script", "#!/no/such/interpreter -x\n").chmod(0o755)
        ran = hand.run(f'Cmd = "script"\nIwd = "{hand.home}"\nArguments = "a b"\nOsUser = "nobody"\n')
        expected = (
            f"Failed to execute '{hand.home}/script' with arguments a b: invalid interpreter "
            "(/no/such/interpreter) specified on first line of script (errno=2: 'No such file or directory')"
        )
        assert ran.status == 230 and expected in ran.err, ran

    def test_a_program_that_is_none_is_explained(self, hand: Hand) -> None:
        hand.write("data", "no program").chmod(0o755)
        ran = hand.run(f'Cmd = "{hand.home}/data"\nOsUser = "nobody"\n')
        assert ran.status == 230 and "(errno=8: 'Exec format error')" in ran.err

    def test_arguments_and_environment_arrive_unchanged(self, hand: Hand) -> None:
        ad = (
            'Cmd = "/usr/bin/env"\nOsUser = "nobody"\n'
            "Arguments = \"printf '%s|' 'a b' '' 'it''s' '\\n'\"\n"
            "Environment = \"X=1 'Y=two words'\"\n"
        )
        assert hand.run(ad).out == "a b||it's|\\n|"
        out = hand.run(sh('echo "$X/$Y"', "Environment = \"X=1 'Y=two words'\"")).out
        assert out == "1/two words\n"

    @pytest.mark.req("G8", "H5")
    def test_the_output_ad_has_the_genuine_starters_attributes(self, hand: Hand) -> None:
        path = hand.home / "out.ad"
        busy = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; exit 5"
        ran = hand.run(sh(busy), "--output-ad", str(path))
        assert ran.status == 5
        ad = hand.output_ad(path)
        genuine = {
            *("BlockReadKbytes", "BlockReads", "BlockWriteKbytes", "BlockWrites", "ExitBySignal", "ExitCode"),
            *("ImageSize", "JobDuration", "JobPid", "JobStartDate", "JobState", "MemoryUsage", "NumPids"),
            *("RecentBlockReadKbytes", "RecentBlockReads", "RecentBlockWriteKbytes", "RecentBlockWrites"),
            *("RecentStatsLifetime", "RemoteSysCpu", "RemoteUserCpu", "ResidentSetSize", "StatsLifetime"),
        }
        assert set(ad) - {"CgroupEnforced"} == genuine
        assert (ad["ExitCode"], ad["ExitBySignal"], ad["JobState"]) == (5, False, "Exited")
        assert float(str(ad["RemoteUserCpu"])) + float(str(ad["RemoteSysCpu"])) > 0
        assert int(str(ad["ResidentSetSize"])) > 100 and float(str(ad["JobDuration"])) > 0
        assert abs(int(str(ad["JobStartDate"])) - time.time()) < 60

    def test_a_failure_is_in_the_output_ad(self, hand: Hand) -> None:
        path = hand.home / "out.ad"
        hand.run('Cmd = "/no/such"\nOsUser = "nobody"', "--output-ad", str(path))
        ad = hand.output_ad(path)
        assert (ad["HoldReasonCode"], ad["HoldReasonSubCode"]) == (6, 2) and "JobState" not in ad

    @pytest.mark.req("G8")
    def test_updates_come_while_the_job_runs(self, hand: Hand) -> None:
        path = hand.home / "update.ad"
        process = hand.start(
            *("starterctl", "run", "--update-ad", str(path), "--knob", "STARTER_INITIAL_UPDATE_INTERVAL=0.2"),
            *("--knob", "STARTER_UPDATE_INTERVAL=1", "-"),
        )
        assert process.stdin
        process.stdin.write(sh("sleep 60"))
        process.stdin.close()
        until(path.exists)
        states = {str(hand.output_ad(path)["JobState"])}
        process.send_signal(signal.SIGTERM)
        process.stdin = None
        process.communicate(timeout=60)
        assert states == {"Running"} and hand.output_ad(path)["JobState"] == "Exited"


class TestEnds:
    def begin(self, hand: Hand, ad: str, ready: Path) -> subprocess.Popen[str]:
        process = hand.start("starterctl", "run", "-")
        assert process.stdin
        process.stdin.write(ad)
        process.stdin.close()
        process.stdin = None
        until(ready.exists)
        return process

    @pytest.mark.req("P8")
    def test_ctrl_c_asks_the_job_to_end_and_its_answer_counts(self, hand: Hand) -> None:
        script = f"trap 'echo asked; exit 7' TERM; touch {hand.home}/up; while :; do sleep 0.1; done"
        process = self.begin(hand, sh(script), hand.home / "up")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
        assert (process.returncode, out) == (7, "asked\n")

    @pytest.mark.req("P8")
    def test_a_second_ctrl_c_ends_it_at_once(self, hand: Hand) -> None:
        script = f"trap 'touch {hand.home}/asked' TERM; touch {hand.home}/up; while :; do sleep 0.1; done"
        process = self.begin(hand, sh(script), hand.home / "up")
        process.send_signal(signal.SIGINT)
        until((hand.home / "asked").exists)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 128 + 9

    def test_a_job_that_does_not_listen_has_the_time_that_it_asked_for(self, hand: Hand) -> None:
        script = f"trap '' TERM; touch {hand.home}/up; while :; do sleep 0.1; done"
        process = self.begin(hand, sh(script, JobMaxVacateTime=1), hand.home / "up")
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 128 + 9 and 1 <= time.monotonic() - began < 10

    def test_the_jobs_own_kill_signal_is_sent(self, hand: Hand) -> None:
        script = f"trap 'exit 9' INT; trap 'exit 1' TERM; touch {hand.home}/up; while :; do sleep 0.1; done"
        process = self.begin(hand, sh(script, KillSig="INT"), hand.home / "up")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 9

    @pytest.mark.req("G2", "R6", "P1")
    def test_a_double_forked_daemon_with_a_session_and_no_environment_dies_with_its_job(
        self, hand: Hand
    ) -> None:
        mark = f"7{os.getpid()}"
        script = f"(setsid env -i /bin/sleep {mark} &) & sleep 0.3; exit 4"
        assert hand.run(sh(script)).status == 4
        assert not [p for p in processes() if f"sleep\0{mark}" in p]

    @pytest.mark.req("P8", "X3")
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
    def test_when_starterctl_dies_its_job_dies_and_nothing_stays(self, hand: Hand, number: int) -> None:
        mark = f"8{os.getpid()}"
        process = self.begin(hand, sh(f"touch {hand.home}/up; exec sleep {mark}"), hand.home / "up")
        process.send_signal(number)
        process.communicate(timeout=60)
        until(lambda: not [p for p in processes() if f"sleep\0{mark}" in p] and hand.left() == [])

    @pytest.mark.req("P8", "X3", "X9")
    def test_when_its_procd_is_killed_the_job_dies_and_that_is_the_systems_failure(self, hand: Hand) -> None:
        mark = f"5{os.getpid()}"
        process = self.begin(hand, sh(f"touch {hand.home}/up; exec sleep {mark}"), hand.home / "up")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 1
        os.kill(int(children[0]), signal.SIGKILL)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 231 and "(system)" in err and "procd is gone" in err
        until(lambda: not [p for p in processes() if f"sleep\0{mark}" in p])
        assert hand.call("starterctl", "sweep").status == 0


def processes() -> list[str]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            found.append(Path(f"/proc/{pid}/cmdline").read_text())
        except OSError:
            continue
    return found


@needs_root
class TestIsolation:
    @pytest.mark.req("N1", "P3")
    def test_a_job_sees_and_can_signal_nothing_but_itself(self, root: Hand) -> None:
        ran = root.run(sh(f"echo $$; ls -d /proc/[0-9]* | wc -l; kill -0 {os.getpid()} || echo none"))
        pid, count, signalled = ran.out.split()
        assert int(pid) < 10 and int(count) < 10 and signalled == "none"

    @pytest.mark.req("N3", "P3")
    def test_tmp_is_the_jobs_own_and_gone_with_it(self, root: Hand) -> None:
        mark = f"{root.name}-private"
        ran = root.run(sh(f"echo $TMPDIR; echo x > /tmp/{mark}; echo x > /dev/shm/{mark}; ls /tmp /dev/shm"))
        assert ran.out.split() == ["/tmp", "/dev/shm:", mark, "/tmp:", mark]
        assert not Path(f"/tmp/{mark}").exists() and not Path(f"/dev/shm/{mark}").exists()

    @pytest.mark.req("N3")
    def test_a_stream_named_beneath_tmp_is_the_hosts_file(self, root: Hand, unique: str) -> None:
        directory = Path("/tmp") / unique
        directory.mkdir(mode=0o777)
        directory.chmod(0o777)
        try:
            ran = root.run(sh("echo kept; ls /tmp", Out=f"{directory}/out"))
            assert ran.status == 0 and (directory / "out").read_text() == "kept\n"
            assert (directory / "out").stat().st_uid == 65534
        finally:
            for path in directory.iterdir():
                path.unlink()
            directory.rmdir()

    @pytest.mark.req("N3", "X9")
    def test_a_working_directory_that_the_private_tmp_hides_is_explained(self, root: Hand) -> None:
        ran = root.run(sh("true", Iwd="/tmp"))
        assert ran.status == 230 and "code 14" in ran.err and "MOUNT_UNDER_SCRATCH" in ran.err

    @pytest.mark.req("N6")
    @pytest.mark.parametrize("how", ["job", "knob"])
    def test_without_a_network_there_is_only_loopback_and_it_works(self, root: Hand, how: str) -> None:
        loopback = (
            'python3 -c \'import socket; a = socket.create_server(("127.0.0.1", 0)); '
            'socket.create_connection(a.getsockname()); print("works")\''
        )
        ad = sh(f"PATH=/usr/bin:/bin; grep -c : /proc/net/dev; {loopback}")
        ad += "WantJobNetworking = false\n" if how == "job" else ""
        ran = root.run(ad, *(["--knob", "NO_JOB_NETWORKING=true"] if how == "knob" else []))
        assert ran.out.split() == ["1", "works"], ran

    @pytest.mark.req("N10")
    def test_ipc_and_uts_namespaces_are_its_own(self, root: Hand) -> None:
        ran = root.run(sh("for n in pid mnt ipc uts cgroup; do readlink /proc/self/ns/$n; done"))
        ours = {os.readlink(f"/proc/self/ns/{n}") for n in ("pid", "mnt", "ipc", "uts", "cgroup")}
        assert len(ran.out.split()) == 5 and not ours & set(ran.out.split())

    @pytest.mark.req("P6", "X7", "R2")
    def test_a_job_has_no_privilege_and_cannot_get_any(self, root: Hand) -> None:
        ran = root.run(
            sh("id -u; id -g; grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status; ulimit -c; umask")
        )
        assert ran.out.split() == [
            *("65534", "65534", "CapEff:", "0" * 16, "CapBnd:", "0" * 16, "NoNewPrivs:", "1", "0", "0022")
        ]

    @pytest.mark.req("G3", "G4", "X9")
    def test_over_its_memory_it_is_held_in_htcondors_words(self, root: Hand) -> None:
        path = root.home / "out.ad"
        ran = root.run(str(EXAMPLES / "memory-hog.ad"), "--output-ad", str(path))
        assert ran.status == 230, ran
        ad = root.output_ad(path)
        assert (ad["HoldReasonCode"], ad["HoldReasonSubCode"]) == (34, 102)
        assert ad["HoldReason"] == (
            "Job has gone over cgroup memory limit of 64 megabytes. Last measured usage: 64 megabytes.  "
            "Consider resubmitting with a higher request_memory."
        )
        assert "Job was held due to OOM event: Job has gone over" in root.log_text()

    @pytest.mark.req("G4")
    def test_a_job_within_its_memory_is_not(self, root: Hand) -> None:
        script = "head -c 30000000 /dev/zero | tail -c 1 | wc -c"
        assert root.run(sh(script, RequestMemory=64)).out == "1\n"

    @pytest.mark.req("X6", "P1")
    def test_a_fork_bomb_meets_its_limit_and_is_gone_with_its_job(self, root: Hand) -> None:
        script = "i=0; while [ $i -lt 60 ]; do sleep 100 & i=$((i+1)); done; echo never"
        ran = root.run(sh(script), "--knob", "STARTER_JOB_PIDS=20")
        assert ran.status == 2 and "never" not in ran.out and "fork" in ran.err

    @pytest.mark.req("H2")
    def test_knobs_reach_the_job(self, root: Hand) -> None:
        knobs = ["JOB_RENICE_INCREMENT=5", "STARTER_RLIMIT_AS=512", "USE_PID_NAMESPACES=false"]
        knobs += ["STARTER_JOB_ENVIRONMENT=SITE=here", "MOUNT_UNDER_SCRATCH="]
        options = [w for k in knobs for w in ("--knob", k)]
        ran = root.run(sh("nice; ulimit -v; echo $SITE; readlink /proc/self/ns/pid; echo $TMPDIR"), *options)
        nice, space, where, pid, tmp = ran.out.split()
        assert (nice, space, where) == ("5", str(512 * 1024), "here")
        assert pid == os.readlink("/proc/self/ns/pid") and tmp.startswith(str(root.execute))

    @pytest.mark.req("G1", "G3", "G6")
    def test_the_cgroup_is_the_slots_and_its_limits_the_requests(self, root: Hand) -> None:
        ran = root.run(sh("cat /proc/self/cgroup"), "--knob", "PER_JOB_NAMESPACES=false")
        assert ran.status == 0
        plan = root.call("starterctl", "explain", "-", stdin=sh("true", RequestMemory=64, RequestCpus=2)).out
        assert "memory=64 MiB, swap=0, cpu_shares=200" in plan
        assert re.search(r"Cgroup: +_\S+_slot1@\S+_dir_\d+\n", plan)

    @pytest.mark.req("P2", "P6")
    @pytest.mark.parametrize("owner", ["root", "no-such-account"])
    def test_jobs_never_run_as_root_nor_as_nobody_knows_whom(self, root: Hand, owner: str) -> None:
        ran = root.run(f'Cmd = "/usr/bin/id"\nOsUser = "{owner}"\n')
        assert ran.status == 2 and owner in ran.err and ran.out == ""

    def test_an_ad_without_an_account_is_told_what_to_write(self, root: Hand) -> None:
        ran = root.run('Cmd = "/bin/true"\n')
        assert ran.status == 2 and 'OsUser = "account"' in ran.err

    @pytest.mark.req("X2")
    def test_what_reads_the_ad_runs_without_privilege(self, root: Hand) -> None:
        process = root.start("starterctl", "run", "-")
        assert process.stdin
        process.stdin.write(sh(f"touch {root.home}/up; sleep 60"))
        process.stdin.close()
        process.stdin = None
        until((root.home / "up").exists)
        status = Path(f"/proc/{process.pid}/status").read_text()
        process.send_signal(signal.SIGQUIT)
        process.communicate(timeout=60)
        assert (root.log / "StarterLog.slot1").stat().st_uid != 0
        ids = re.search(r"Uid:\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)", status)
        assert ids and "0" not in ids.groups() and re.search(r"CapEff:\s+0{16}", status)


@pytest.mark.req("X4")
class TestExplain:
    def test_selection_and_every_step_are_printed_and_nothing_is_run(self, hand: Hand) -> None:
        ran = hand.call("starterctl", "explain", "-", stdin=sh(f"touch {hand.home}/ran", RequestMemory=64))
        assert ran.status == 0 and not (hand.home / "ran").exists()
        backend = "namespaces" if hand.user is None and ROOT else "rlimit"
        assert f"Backend {backend}: " in ran.out
        numbers = [int(n) for n in re.findall(r"^ +(\d+) \w+ ", ran.out, re.MULTILINE)]
        assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) >= 10
        assert "  _CONDOR_SLOT=slot1\n" in ran.out and "EXECUTE = " in ran.out

    def test_a_job_that_would_be_held_is_told_so(self, hand: Hand) -> None:
        ran = hand.call("starterctl", "explain", "-", stdin=sh("true", RequestedChroot="nowhere"))
        assert ran.status in (230, 231) and "chroot" in ran.err

    def test_an_ad_cannot_write_lines_of_its_own(self, hand: Hand) -> None:
        ad = '[Cmd = "/bin/true"; OsUser = "nobody"; Environment = "\'A=x\nSteps: forged\'"]'.replace(
            "\n", "\\n"
        )
        ran = hand.call("starterctl", "explain", "-", stdin=ad)
        assert ran.status == 0 and "\nSteps: forged" not in ran.out


@pytest.mark.req("X5")
def test_doctor_says_what_there_is_and_what_to_do_about_the_rest(hand: Hand) -> None:
    ran = hand.call("starterctl", "doctor", env={"DOCKER_HOST": "unix:///nonexistent/docker.sock"})
    assert ran.status == 0, ran
    lines = {line[3:25].strip(): line for line in ran.out.splitlines() if line[:2] in ("ok", "--", "!!")}
    assert {"privilege", "pid namespace", "cgroups", "memory limit", "EXECUTE", "container engine"} <= set(
        lines
    )
    assert lines["container engine"].startswith("--") and "/nonexistent/docker.sock" in ran.out
    if hand.user is None and ROOT:
        assert lines["privilege"].startswith("ok") and lines["pid namespace"].startswith("ok")
    else:
        assert lines["privilege"].startswith("--") and "-> start as root" in ran.out


def test_a_log_that_cannot_be_written_is_said_and_stops_no_job(hand: Hand) -> None:
    ran = hand.run(sh("exit 3"), "--log", "/proc/nowhere/log")
    assert ran.status == 3 and "no StarterLog" in ran.err and "/proc/nowhere/log" in ran.err


@pytest.mark.req("H3")
def test_the_log_reads_as_operators_know_it(hand: Hand) -> None:
    hand.run(sh("exit 3", Out="out", Iwd=hand.home), "--slot", "slot1_4")
    lines = hand.log_text("slot1_4").splitlines()
    assert all(re.fullmatch(r"\d\d/\d\d/\d\d \d\d:\d\d:\d\d \(pid:\d+\) .*", line) for line in lines)
    texts = [line.partition(") ")[2] for line in lines]
    wanted = [
        r"\*\* condor_starter \(CONDOR_STARTER\) STARTING UP",
        r"Job 1\.0 set to execute immediately",
        r"Starting a VANILLA universe job with ID: 1\.0",
        rf"IWD: {hand.home}",
        rf"Output file: {hand.home}/out",
        r"Running job as user \S+",
        r"About to exec /bin/sh -c exit 3",
        r"Create_Process succeeded, pid=\d+",
        r"Process exited, pid=\d+, status=3",
        r"All jobs have exited... starter exiting",
        r"\*\*\*\* condor_starter \(condor_STARTER\) pid \d+ EXITING WITH STATUS 3",
    ]
    found = [next((i for i, t in enumerate(texts) if re.fullmatch(w, t)), None) for w in wanted]
    assert None not in found, (found, texts)
    assert found == sorted(f for f in found if f is not None)


@pytest.mark.req("P6", "H3")
def test_a_job_cannot_write_lines_into_the_log(hand: Hand) -> None:
    ad = '[Cmd = "/bin/sh"; OsUser = "nobody"; Arguments = "-c \'exit 0 # \n**** forged\'"]'.replace(
        "\n", "\\n"
    )
    assert hand.run(ad).status == 0
    assert "\\n**** forged" in hand.log_text() and "\n**** forged" not in hand.log_text()
