"""condor_starter by the genuine flags: the cases that the genuine one was watched with, and `-classad`."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from condor_starter.sandbox.ads import parse_ad
from system.run_help import ROOT, STRANGER, Hand, sh

GENUINE = {
    *("BlockReadKbytes", "BlockReads", "BlockWriteKbytes", "BlockWrites", "ExitBySignal", "ExitCode"),
    *("ImageSize", "JobDuration", "JobPid", "JobStartDate", "JobState", "MemoryUsage", "NumPids"),
    *("RecentBlockReadKbytes", "RecentBlockReads", "RecentBlockWriteKbytes", "RecentBlockWrites"),
    *("RecentStatsLifetime", "RemoteSysCpu", "RemoteUserCpu", "ResidentSetSize", "StatsLifetime"),
}
"""Attributes of the output ad that HTCondor 25.14.1 writes alone, for a job that ended with a status."""


@pytest.fixture(params=["root", "user"] if ROOT else ["user"])
def hand(request: pytest.FixtureRequest, open_dir: Path, unique: str) -> Iterator[Hand]:
    found = Hand(open_dir, unique, STRANGER if ROOT and request.param == "user" else None)
    yield found
    assert found.left() == []


def files(hand: Hand, ad: str) -> tuple[list[str], Path]:
    """-job-input-ad and -job-output-ad, and the output ad's path."""
    out = hand.home / "out.ad"
    return [
        "-f",
        "-a",
        "slot1",
        "-job-input-ad",
        str(hand.write("job.ad", ad)),
        "-job-output-ad",
        str(out),
    ], out


@pytest.mark.req("H5")
class TestLocalMode:
    @pytest.mark.parametrize(
        ("script", "wanted"),
        [
            ("exit 0", {"ExitBySignal": False, "ExitCode": 0}),
            ("exit 42", {"ExitBySignal": False, "ExitCode": 42}),
            (
                "kill -SEGV $$",
                {
                    "ExitBySignal": True,
                    "ExitSignal": 11,
                    "ExitReason": "died on signal 11 (Segmentation fault)",
                },
            ),
        ],
    )
    def test_it_exits_with_0_and_the_ad_tells_how_the_job_ended(
        self, hand: Hand, script: str, wanted: dict[str, object]
    ) -> None:
        words, out = files(hand, sh(script))
        ran = hand.starter(*words)
        assert ran == (0, "", "")
        ad = hand.output_ad(out)
        assert {n: ad[n] for n in wanted} == wanted and ad["JobState"] == "Exited"
        names = GENUINE if "ExitCode" in wanted else GENUINE - {"ExitCode"} | {"ExitSignal", "ExitReason"}
        assert set(ad) - {"CgroupEnforced"} == names

    def test_streams_by_flag_take_the_place_of_the_ads(self, hand: Hand) -> None:
        words, _ = files(
            hand, sh("cat; echo e >&2", In="/dev/null", Out="nowhere", Err="nowhere", Iwd=hand.home)
        )
        given = hand.write("given", "from the flag\n")
        ran = hand.starter(
            *words, "-job-stdin", str(given), "-job-stdout", f"{hand.home}/o", "-job-stderr", f"{hand.home}/e"
        )
        assert ran == (0, "", "")
        assert (hand.home / "o").read_text() == "from the flag\n" and (hand.home / "e").read_text() == "e\n"
        assert not (hand.home / "nowhere").exists()

    def test_a_dash_is_our_own_stream(self, hand: Hand) -> None:
        words, _ = files(hand, sh("cat; echo e >&2"))
        ran = hand.starter(
            *words, "-job-stdin", "-", "-job-stdout", "-", "-job-stderr", "-", stdin="hello in\n"
        )
        assert ran == (0, "hello in\n", "e\n")

    def test_the_ad_may_come_from_stdin_and_the_output_ad_go_to_stdout(self, hand: Hand) -> None:
        ran = hand.starter("-f", "-job-input-ad", "-", "-job-output-ad", "-", stdin=sh("exit 3"))
        assert ran.status == 0 and parse_ad(ran.out)["ExitCode"] == 3

    def test_without_flags_the_streams_are_the_ads_or_nothing(self, hand: Hand) -> None:
        words, _ = files(hand, sh("echo out; echo err >&2"))
        assert hand.starter(*words) == (0, "", "")

    def test_the_output_ad_is_appended(self, hand: Hand) -> None:
        words, out = files(hand, sh("exit 1"))
        out.write_text("Before = 1\n")
        out.chmod(0o666)
        hand.starter(*words)
        assert hand.output_ad(out)["Before"] == 1

    def test_an_output_ad_that_cannot_be_written_is_said_with_who_and_what_to_do(self, hand: Hand) -> None:
        words, out = files(hand, sh("exit 0"))
        out.mkdir()
        ran = hand.starter(*words)
        assert ran.status == 1
        said = f"the output ad {out} cannot be written as uid "
        assert said in ran.err and "Is a directory; name a file that this account may write" in ran.err

    @pytest.mark.parametrize(
        "line", ['Cmd = "/nonexistent/x"', 'Out = "/no/such/dir/out"', 'Iwd = "/no/such"']
    )
    def test_a_job_that_cannot_be_started_is_no_error_of_ours_and_has_no_output_ad(
        self, hand: Hand, line: str
    ) -> None:
        words, out = files(hand, 'Cmd = "/bin/true"\nOsUser = "nobody"\n' + line + "\n")
        ran = hand.starter(*words)
        assert ran.status == 0 and out.read_text() == ""
        assert re.search("Failed to execute|Failed to open|Cannot access", hand.log_text())

    @pytest.mark.parametrize(
        ("ad", "words"),
        [
            ("Iwd = 5", "Cmd is missing"),
            ("nonsense", "line 1"),
            ('Cmd = "/bin/true"\nJobUniverse = 13', "13 (vm) is not supported"),
        ],
    )
    def test_an_ad_that_is_none_is_1(self, hand: Hand, ad: str, words: str) -> None:
        arguments, _ = files(hand, ad)
        ran = hand.starter(*arguments)
        assert ran.status == 1 and words in ran.err and words in hand.log_text()

    def test_usage_errors_are_1(self, hand: Hand) -> None:
        for words in (
            [],
            ["-job-input-ad"],
            ["-job-nonsense", "x"],
            ["-job-input-ad", "/no/such/file"],
            ["-job-keyword", "K"],
        ):
            ran = hand.starter(*words)
            assert ran.status == 1 and "condor_starter: " in ran.err

    def test_ids_and_header_are_in_the_log(self, hand: Hand) -> None:
        words, _ = files(hand, sh("true"))
        hand.starter(*words, "-job-cluster", "7", "-job-proc", "2", "-header", "(7.2) ")
        assert "(7.2) Starting a VANILLA universe job with ID: 7.2" in hand.log_text()

    def test_the_log_goes_to_stderr_when_asked(self, hand: Hand) -> None:
        words, _ = files(hand, sh("true"))
        ran = hand.starter("-t", *words)
        assert "Starter running a local job with no shadow" in ran.err and "EXITING WITH STATUS 0" in ran.err

    def test_updates_are_written(self, hand: Hand) -> None:
        words, _ = files(hand, sh("exit 6"))
        hand.starter(*words, "-job-update-ad", f"{hand.home}/update.ad")
        assert hand.output_ad(hand.home / "update.ad")["ExitCode"] == 6

    @pytest.mark.req("P8")
    @pytest.mark.parametrize(
        ("number", "seen"),
        [(signal.SIGTERM, "asked"), (signal.SIGUSR1, "asked"), (signal.SIGQUIT, ""), (signal.SIGINT, "")],
    )
    def test_signals_end_the_job_gently_or_at_once(self, hand: Hand, number: int, seen: str) -> None:
        script = f"trap 'echo asked; exit 5' TERM; touch {hand.home}/up; while :; do sleep 0.05; done"
        words, out = files(hand, sh(script))
        process = hand.start("condor_starter", *words, "-job-stdout", "-")
        end = time.monotonic() + 30
        while not (hand.home / "up").exists():
            assert time.monotonic() < end
            time.sleep(0.02)
        process.send_signal(number)
        said, _ = process.communicate(timeout=60)
        assert (process.returncode, said.strip()) == (0, seen)
        ad = hand.output_ad(out)
        assert ad.get("ExitCode") == 5 if seen else ad["ExitSignal"] == 9

    @pytest.mark.req("H1")
    def test_signals_that_a_startd_leaves_blocked_are_heard(self, hand: Hand) -> None:
        words, _ = files(hand, sh(f"touch {hand.home}/up; exec sleep 60"))
        old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGQUIT, signal.SIGCHLD})
        try:
            process = hand.start("condor_starter", *words)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, old)
        end = time.monotonic() + 30
        while not (hand.home / "up").exists():
            assert time.monotonic() < end
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 0

    def test_the_scratch_directory_has_the_starters_pid(self, hand: Hand) -> None:
        words, _ = files(hand, sh("basename $_CONDOR_SCRATCH_DIR; echo $CONDOR_STARTER_PID"))
        process = hand.start("condor_starter", *words, "-job-stdout", "-")
        out, _ = process.communicate(timeout=60)
        assert out.split() == [f"dir_{process.pid}", str(process.pid)]


@pytest.mark.req("H1", "D2")
def test_the_probe_answers_in_lines_that_a_startd_can_read(hand: Hand) -> None:
    ran = hand.starter("-classad", env={"DOCKER_HOST": "unix:///nonexistent/docker.sock"})
    assert ran.status == 0
    lines = ran.out.splitlines()
    assert lines and all(len(line) < 1023 and line.strip() for line in lines)
    ad = parse_ad(ran.out)
    assert len(ad) == len(lines)
    assert ad["IsDaemonCore"] is True and ad["HasFileTransfer"] is True and ad["HasJobNetworking"] is True
    assert str(ad["CondorVersion"]).startswith("$CondorVersion: ")
    assert "HasDocker" not in ad and "/nonexistent/docker.sock" in ran.err


@pytest.mark.req("C1")
def test_the_probe_advertises_named_chroots(hand: Hand) -> None:
    ran = hand.starter("-cla", env={"_CONDOR_NAMED_CHROOT": "a=/srv/a, b=/srv/b"})
    ad = parse_ad(ran.out)
    assert ad["NamedChroot"] == "a,b"


def test_the_version_is_htcondors_line(hand: Hand) -> None:
    ran = hand.starter("-version")
    assert ran.status == 0 and ran.out.startswith("$CondorVersion: ")


@pytest.mark.req("P5")
@pytest.mark.skipif(not ROOT, reason="needs root to be somebody else")
def test_started_as_root_it_becomes_the_account_that_condor_ids_name(open_dir: Path, unique: str) -> None:
    hand = Hand(open_dir, unique)
    words, _ = files(hand, sh(f"touch {hand.home}/up; exec sleep 60"))
    process = hand.start("condor_starter", *words, env={"CONDOR_IDS": "4711.4712"})
    end = time.monotonic() + 30
    while not (hand.home / "up").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    status = Path(f"/proc/{process.pid}/status").read_text()
    process.send_signal(signal.SIGQUIT)
    process.communicate(timeout=60)
    assert re.search(r"Uid:\s+4711\s+4711\s+4711\s+4711", status)
    assert re.search(r"Gid:\s+4712\s+4712\s+4712\s+4712", status)
    assert hand.left() == [] and os.geteuid() == 0
