"""What is told about a job: HTCondor's attributes and sentences, byte for byte where scripts read them."""

from __future__ import annotations

from typing import Any

import pytest

from condor_starter import report
from condor_starter.isolation import namespaces
from condor_starter.isolation.boxplan import BoxExit, Stdio, Usage
from condor_starter.job import Blame, JobError
from condor_starter.report import Tally, error_ad, exit_ad, out_of_memory, running_ad, start_failed, usage_ad
from condor_starter.sandbox.ads import print_ad
from unit.plan_help import launch, site, spec

MIB = 1 << 20

GENUINE = {  # the names in the output ad of HTCondor 25.14.1 run alone, for a job that ended with a status
    *("BlockReadKbytes", "BlockReads", "BlockWriteKbytes", "BlockWrites", "ExitBySignal", "ExitCode"),
    *("ImageSize", "JobDuration", "JobPid", "JobStartDate", "JobState", "MemoryUsage", "NumPids"),
    *("RecentBlockReadKbytes", "RecentBlockReads", "RecentBlockWriteKbytes", "RecentBlockWrites"),
    *("RecentStatsLifetime", "RemoteSysCpu", "RemoteUserCpu", "ResidentSetSize", "StatsLifetime"),
}


def ended(oom: bool = True, **usage: int) -> BoxExit:
    return BoxExit("b", 9, Usage(**usage), 10, oom)


def final(status: int) -> Any:
    tally = Tally()
    tally.add(Usage(2_500_000, 500_000, 3 * MIB, 6 * MIB, 2, 0, 4096, 8192, 1, 2), 0.0)
    return exit_ad(
        running_ad(usage_ad(tally, 2.0, 2.0), pid=5, started_at=9.5, suspended=False, cgroup=False),
        status,
        2.0,
    )


@pytest.mark.req("H5", "G8")
def test_the_final_ad_has_the_genuine_starters_attributes() -> None:
    ad = final(42 << 8)
    assert set(ad.keys()) == GENUINE
    expected = {
        "ExitBySignal": False,
        "ExitCode": 42,
        "JobState": "Exited",
        "RemoteUserCpu": 2.5,
        "RemoteSysCpu": 0.5,
        "ResidentSetSize": 6144,
        "BlockReadKbytes": 4,
        "BlockWrites": 2,
        "JobStartDate": 9,
        "JobDuration": 2.0,
        "NumPids": 0,
    }
    assert {n: ad[n] for n in expected} == expected
    assert ad.eval("MemoryUsage") == 6
    assert "MemoryUsage = ((ResidentSetSize + 1023) / 1024)\n" in print_ad(ad)


@pytest.mark.req("H5")
def test_an_end_by_signal_is_told_as_htcondor_does() -> None:
    ad = final(11)
    assert set(ad.keys()) == GENUINE - {"ExitCode"} | {"ExitSignal", "ExitReason"}
    assert (ad["ExitBySignal"], ad["ExitSignal"]) == (True, 11)
    assert ad["ExitReason"] == "died on signal 11 (Segmentation fault)"
    assert "JobCoreDumped" in final(11 | 0x80)


def test_states_while_it_runs() -> None:
    for suspended, state in ((False, "Running"), (True, "Suspended")):
        ad = running_ad(usage_ad(Tally(), 0, 0), pid=1, started_at=1, suspended=suspended, cgroup=True)
        assert ad["JobState"] == state and ad["CgroupEnforced"] is True


def test_sizes_are_the_largest_seen_and_counters_the_last() -> None:
    tally = Tally()
    tally.add(Usage(memory_bytes=10 * MIB, user_usec=1_000_000), 0.0)
    tally.add(Usage(memory_bytes=2 * MIB, user_usec=3_000_000), 1.0)
    ad = usage_ad(tally, 1.0, 1.0)
    assert ad["ResidentSetSize"] == 10240 and ad["RemoteUserCpu"] == 3.0


def test_recent_counters_forget_after_their_window() -> None:
    tally = Tally()
    for now, read in ((0.0, 1 << 20), (1000.0, 2 << 20), (2000.0, 5 << 20)):
        tally.add(Usage(read_bytes=read), now)
    ad = usage_ad(tally, 2000.0, 2000.0)
    assert ad["BlockReadKbytes"] == 5120 and ad["RecentStatsLifetime"] == 1200
    tally.add(Usage(read_bytes=6 << 20), 2300.0)
    assert usage_ad(tally, 2300.0, 2300.0)["RecentBlockReadKbytes"] == 4096


@pytest.mark.req("G4")
class TestOutOfMemory:
    def test_the_sentence_is_htcondors(self) -> None:
        error = out_of_memory(ended(memory_peak_bytes=120 * MIB), 128 * MIB, always_hold=True)
        assert (error.code, error.subcode, error.holds) == (34, 102, True)
        assert error.text == (
            "Job has gone over cgroup memory limit of 128 megabytes. Last measured usage: 128 megabytes.  "
            "Consider resubmitting with a higher request_memory."
        )

    def test_with_the_knob_off_a_job_far_from_its_limit_runs_again(self) -> None:
        error = out_of_memory(ended(memory_peak_bytes=20 * MIB), 128 * MIB, always_hold=False)
        assert not error.holds and error.blame is Blame.SITE
        near = out_of_memory(ended(memory_peak_bytes=127 * MIB), 128 * MIB, always_hold=False)
        assert near.holds and "usage: 127 megabytes" in near.text

    def test_without_a_limit_it_was_the_machines_memory(self) -> None:
        assert out_of_memory(ended(), None, True).text == "Job has encountered an out-of-memory event."


@pytest.mark.req("X9")
class TestStartFailed:
    PLAN = namespaces.plan(spec(), site(), launch(("/bin/x", "a", "b c"), stdout="out"))

    def failed(self, step: str, errno: int, interpreter: str = "") -> JobError:
        return start_failed(step, errno, "procd's words", "user", self.PLAN, interpreter)

    @pytest.mark.parametrize(
        ("step", "errno", "code", "text"),
        [
            (
                "exec",
                2,
                6,
                "Failed to execute '/bin/x' with arguments a b c: (errno=2: 'No such file or directory')",
            ),
            ("exec", 8, 6, "Failed to execute '/bin/x' with arguments a b c: (errno=8: 'Exec format error')"),
            (
                "stdout",
                13,
                7,
                "Failed to open '/scratch/dir_7/out' as standard output: Permission denied (errno 13)",
            ),
            (
                "cwd",
                2,
                14,
                "Cannot access initial working directory /scratch/dir_7: No such file or directory (errno=2)",
            ),
        ],
    )
    def test_the_users_mistakes_hold_the_job_with_htcondors_words(
        self, step: str, errno: int, code: int, text: str
    ) -> None:
        error = self.failed(step, errno)
        assert (error.code, error.subcode, error.text, error.holds) == (code, errno, text, True)

    def test_a_missing_interpreter_is_named(self) -> None:
        assert self.failed("exec", 2, "/no/such/interpreter").text == (
            "Failed to execute '/bin/x' with arguments a b c: invalid interpreter (/no/such/interpreter) "
            "specified on first line of script (errno=2: 'No such file or directory')"
        )

    def test_without_arguments_the_sentence_is_the_short_one(self) -> None:
        plan = self.PLAN._replace(argv=("/nonexistent/x",), stdin=Stdio(path="in"))
        text = start_failed("exec", 2, "", "user", plan, "").text
        assert text == "Failed to execute '/nonexistent/x': (errno=2: 'No such file or directory')"
        assert start_failed("stdin", 2, "", "user", plan, "").code == 8

    def test_a_box_that_cannot_be_built_is_not_the_users_fault(self) -> None:
        error = start_failed("mounts", 1, "mount: EPERM", "system", self.PLAN, "")
        assert not error.holds and error.blame is Blame.SYSTEM and "mounts" in error.text


@pytest.mark.req("P6")
def test_a_hostile_reason_stays_one_attribute() -> None:
    ad = error_ad(usage_ad(Tally(), 0, 0), JobError(6, 2, 'x"\nExitCode = 0\nY = "'))
    printed = print_ad(ad)
    assert "\nExitCode" not in printed and ad["HoldReasonCode"] == 6 and ad["HoldReasonSubCode"] == 2
    again = error_ad(usage_ad(Tally(), 0, 0), JobError(1024, 0, "no disk"))
    assert again["VacateReasonCode"] == 1024 and "HoldReason" not in again


def test_what_the_log_says_of_a_status() -> None:
    assert report.describe_status(3 << 8) == "status=3" and report.describe_status(9) == "signal=9"
