"""The scratch directory's contents, the job's environment and account, its record on disk."""

from __future__ import annotations

import json
import os
import pwd
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import classad2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from condor_starter.job import BadAd, Blame, JobError
from condor_starter.record import JobRecord
from condor_starter.sandbox import accounts, trust
from condor_starter.sandbox.accounts import NoAccount
from condor_starter.sandbox.ads import parse_ad
from condor_starter.sandbox.contents import OURS, Catalog, write_ads
from condor_starter.sandbox.environment import Place, job_environment
from condor_starter.sandbox.machine import machine_ad
from condor_starter.sandbox.worker import Entry
from unit.plan_help import knobs, spec

PLACE = Place("/scratch/dir_7", "/scratch/dir_7", "/tmp", "slot1_2", "/home/alice", 7)


def environment(
    job: str = "",
    inherited: dict[str, str] | None = None,
    place: Place = PLACE,
    machine: dict[str, Any] | None = None,
    **values: str,
) -> dict[str, str]:
    ad = classad2.ClassAd()
    ad.update({"Cpus": 4} | (machine or {}))
    return job_environment(spec(job), knobs(**values), place, ad, inherited or {}, {})


@pytest.mark.req("P2", "H2")
class TestEnvironment:
    def test_what_every_job_finds(self) -> None:
        env = environment()
        assert env["_CONDOR_SCRATCH_DIR"] == env["_CONDOR_JOB_IWD"] == "/scratch/dir_7"
        assert env["_CONDOR_JOB_AD"] == "/scratch/dir_7/.job.ad"
        assert env["_CONDOR_MACHINE_AD"] == "/scratch/dir_7/.machine.ad"
        assert env["_CONDOR_SLOT"] == "slot1_2" and env["BATCH_SYSTEM"] == "HTCondor"
        assert env["TMPDIR"] == env["TMP"] == env["TEMP"] == "/tmp"
        assert env["HOME"] == "/home/alice" and env["_CONDOR_JOB_PIDS"] == ""

    def test_nothing_of_ours_gets_in(self) -> None:
        ours = {"PATH": "/x", "CONDOR_INHERIT": "1", "SECRET": "2"}
        assert not set(ours) & set(environment(inherited=ours))

    def test_the_admin_may_let_some_of_it_in_but_never_the_daemons_own(self) -> None:
        ours = {
            "PATH": "/x",
            "LC_ALL": "C",
            "LC_CTYPE": "D",
            "CONDOR_PRIVATE_INHERIT": "s",
            "_CONDOR_ANCESTOR_1": "a",
        }
        some = environment(inherited=ours, JOB_INHERITS_STARTER_ENVIRONMENT="LC_*, !LC_CTYPE, PATH")
        assert (some["PATH"], some["LC_ALL"], "LC_CTYPE" in some) == ("/x", "C", False)
        everything = environment(inherited=ours, JOB_INHERITS_STARTER_ENVIRONMENT="true")
        assert everything["LC_CTYPE"] == "D"
        assert not {"CONDOR_PRIVATE_INHERIT", "_CONDOR_ANCESTOR_1"} & set(everything)

    def test_the_job_wins_over_the_admin_and_the_starter_over_the_job(self) -> None:
        env = environment(
            'Environment = "A=job _CONDOR_SLOT=forged HOME=/root"',
            STARTER_JOB_ENVIRONMENT="\"A=admin B='b b'\"",
        )
        assert (env["A"], env["B"], env["_CONDOR_SLOT"], env["HOME"]) == (
            "job",
            "b b",
            "slot1_2",
            "/home/alice",
        )

    def test_home_is_the_jobs_where_the_admin_or_the_account_has_none(self) -> None:
        job = 'Environment = "HOME=/mine"'
        assert environment(job, STARTER_SETS_HOME_ENV="false")["HOME"] == "/mine"
        assert environment(job, place=PLACE._replace(home=""))["HOME"] == "/mine"

    @pytest.mark.req("G6")
    def test_thread_counts_are_the_slots_cpus_unless_the_job_says_otherwise(self) -> None:
        env = environment('Environment = "OMP_NUM_THREADS=9"')
        assert env["OMP_NUM_THREADS"] == "9" and env["MKL_NUM_THREADS"] == "4"

    def test_assigned_resources_are_told(self) -> None:
        assert environment(machine={"AssignedGPUs": "GPU-1,GPU-2"})["_CONDOR_AssignedGPUs"] == "GPU-1,GPU-2"

    def test_condor_submits_word_for_the_scratch_directory_is_replaced(self) -> None:
        assert environment('Environment = "A=#CoNdOrScRaTcHdIr#/x"')["A"] == "/scratch/dir_7/x"


class TestAccounts:
    def choose(self, job: str = "", slot: str = "slot1_2", as_owner: bool = True, **values: str) -> str:
        found = accounts.choose(spec(job), knobs(**values), root=True, uid=0, slot=slot, as_owner=as_owner)
        assert found.identity.uid > 0 and found.identity.gid > 0 and 0 not in found.identity.groups
        return found.identity.name

    def test_the_owner_if_his_accounts_are_ours(self) -> None:
        assert self.choose('OsUser = "daemon"') == "daemon"
        assert self.choose('OsUser = "daemon"', as_owner=False) == "nobody"
        assert self.choose('OsUser = "daemon"', STARTER_ALLOW_RUNAS_OWNER="false") == "nobody"

    def test_else_the_slots_account_the_dynamic_slots_own_first(self) -> None:
        both = {"SLOT1_USER": "daemon", "SLOT1_2_USER": "bin"}
        assert self.choose(as_owner=False, **both) == "bin"
        assert self.choose(as_owner=False, slot="slot1_3@host", **both) == "daemon"
        assert self.choose(as_owner=False, slot="slot2", **both) == "nobody"
        assert self.choose(as_owner=False, NOBODY_SLOT_USER="daemon") == "daemon"

    @pytest.mark.req("P6")
    @pytest.mark.parametrize("name", ["root", "no-such-account", "x\\u0000", "../root"])
    def test_never_root_and_never_nobody_knows_whom(self, name: str) -> None:
        with pytest.raises(NoAccount) as e:
            accounts.choose(replace(spec(), owner=name), knobs(), root=True, uid=0, slot="slot1")
        assert e.value.code == 23 and e.value.blame is Blame.USER

    def test_an_account_of_the_admins_that_is_not_there_is_the_sites_fault(self) -> None:
        with pytest.raises(NoAccount) as e:
            self.choose(as_owner=False, NOBODY_SLOT_USER="no-such-account")
        assert e.value.blame is Blame.SITE

    @pytest.mark.req("P5")
    def test_without_root_everything_runs_as_procds_own_account(self) -> None:
        entry = pwd.getpwnam("daemon")
        found = accounts.choose(spec(), knobs(), root=False, uid=entry.pw_uid, slot="slot1")
        assert found.identity.uid == entry.pw_uid

    @pytest.mark.parametrize(
        ("domain", "host", "values", "ours"),
        [
            ("site.org", "submit.site.org", {}, True),
            ("site.org", "elsewhere.org", {}, False),
            ("site.org", "elsewhere.org", {"TRUST_UID_DOMAIN": "true"}, True),
            ("other.org", "submit.other.org", {"TRUST_UID_DOMAIN": "true"}, False),
            ("site.org", "127.0.0.1", {}, True),
            ("site.org", "127.0.0.1", {"TRUST_LOCAL_UID_DOMAIN": "false"}, False),
            ("site.org", "evilsite.org", {}, False),
        ],
    )
    def test_a_shadows_accounts_are_ours_only_in_our_uid_domain(
        self, domain: str, host: str, values: dict[str, str], ours: bool
    ) -> None:
        ad = parse_ad(f'UidDomain = "{domain}"\n')
        assert trust.own_accounts(ad, knobs(UID_DOMAIN="site.org", **values), host) is ours

    def test_how_long_a_job_may_take_to_leave(self) -> None:
        def seconds(text: str) -> float:
            return trust.vacate_seconds(parse_ad("A = 1\n" + text), knobs())

        assert [seconds(t) for t in ("", "JobMaxVacateTime = 5", "JobMaxVacateTime = 99999")] == [600, 5, 600]
        assert seconds('JobMaxVacateTime = "x"\nKillSigTimeout = 7') == 7

    def test_a_malformed_domain_is_the_users_mistake(self) -> None:
        with pytest.raises(BadAd):
            trust.own_accounts(parse_ad("UidDomain = 5\n"), knobs(), "h")


@pytest.mark.req("S1")
class TestContents:
    def test_both_ads_are_there_for_the_job_to_read(self, tmp_path: Path) -> None:
        machine = machine_ad("slot1", str(tmp_path), spec("RequestMemory = 64\nRequestCpus = 1.5"))
        write_ads(str(tmp_path), parse_ad('Cmd = "/bin/true"\nClaimId = "s"\n'), machine)
        job = parse_ad((tmp_path / ".job.ad").read_text())
        again = parse_ad((tmp_path / ".machine.ad").read_text())
        assert job["Cmd"] == "/bin/true" and "ClaimId" not in job
        assert (again["Cpus"], again["Memory"], again["Name"]) == (2, 64, f"slot1@{os.uname().nodename}")
        assert stat.S_IMODE((tmp_path / ".job.ad").stat().st_mode) == 0o644

    @pytest.mark.req("X9")
    def test_a_directory_that_cannot_be_written_is_the_sites_fault(self, tmp_path: Path) -> None:
        (tmp_path / ".job.ad").symlink_to("/etc/passwd")
        with pytest.raises(JobError) as e:
            write_ads(str(tmp_path), parse_ad("A = 1"), classad2.ClassAd())
        assert e.value.code == 1024 and e.value.blame is Blame.SITE and not e.value.holds

    def test_the_catalog_tells_new_and_changed_files_from_the_others(self, tmp_path: Path) -> None:
        for name in ("same", "longer", "touched", "replaced", "gone", ".job.ad"):
            (tmp_path / name).write_text("x")
            os.utime(tmp_path / name, ns=(0, 0))
        (tmp_path / "dir").mkdir()
        catalog = Catalog.of_fresh(str(tmp_path))
        (tmp_path / "longer").write_text("xx")
        (tmp_path / "touched").write_text("y")
        (tmp_path / "gone").unlink()
        (tmp_path / "other").write_text("x")
        os.utime(tmp_path / "other", ns=(0, 0))
        (tmp_path / "other").rename(tmp_path / "replaced")
        (tmp_path / "new").write_text("")
        (tmp_path / ".machine.ad").write_text("")
        (tmp_path / "link").symlink_to("/etc/passwd")
        entries = [_entry(tmp_path / n) for n in os.listdir(tmp_path)]
        assert catalog.changed(entries) == ["longer", "new", "replaced", "touched"]
        assert {".job.ad", ".machine.ad", ".update.ad"} <= OURS


def _entry(path: Path) -> Entry:
    st_ = path.lstat()
    kind = "dir" if path.is_dir() else "link" if path.is_symlink() else "file"
    return Entry(
        path.name, kind, st_.st_size, st_.st_mode & 0o7777, st_.st_mtime_ns, st_.st_ctime_ns, st_.st_ino
    )


@pytest.mark.req("X3")
class TestRecord:
    @given(st.text(max_size=50), st.sampled_from(["accepted", "running"]), st.none() | st.floats(0, 1e10))
    def test_what_is_saved_is_what_is_loaded(self, ad: str, stage: str, started: float | None) -> None:
        path = Path(f"/tmp/record-{os.getpid()}.json")
        record = JobRecord("7.0", "box", stage, ad, started, {"pid": 5}, None, path)
        try:
            record.save()
            assert JobRecord.load(path) == record
        finally:
            path.unlink()

    def test_a_save_that_fails_leaves_the_old_state_whole(self, tmp_path: Path) -> None:
        path = tmp_path / "r.json"
        record = JobRecord("1", path=path)
        record.advance("prepared")
        record.plan["bad"] = object()
        with pytest.raises(TypeError):
            record.advance("running")
        assert json.loads(path.read_text())["stage"] == "prepared"

    def test_a_record_without_a_path_is_nowhere(self) -> None:
        JobRecord("1").advance("running")
