"""Selection and plans: the right backend with its reasons, plans that procd accepts, no wish lost quietly."""

from __future__ import annotations

import os
from dataclasses import replace
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from condor_starter.isolation import boxes, chroot, namespaces, rlimit
from condor_starter.isolation.boxplan import BoxPlan, Limits, from_wire, steps, to_wire
from condor_starter.isolation.facts import capabilities
from condor_starter.isolation.select import Backend, select
from condor_starter.job import Blame, JobError
from condor_starter.procd import check
from condor_starter.procd.settings import Settings
from unit.plan_help import EVERYTHING, NOTHING, knobs, launch, site, spec

SETTINGS = Settings(
    execute=("/scratch", "/home/u/execute"), named_chroot=("trixie=/srv/trixie",), bind_allow=("/cvmfs",)
)


@pytest.mark.req("X4")
class TestSelection:
    def test_a_plain_job_gets_namespaces_where_they_can_be_had(self) -> None:
        choice = select(spec(), EVERYTHING, knobs())
        assert choice.backend is Backend.NAMESPACES
        assert choice.lines()[0].startswith(
            "Backend namespaces: namespaces cgroup,ipc,mnt,net,pid,uts; cgroup v2"
        )

    @pytest.mark.req("P5")
    def test_without_root_it_gets_rlimits_and_is_told_why(self) -> None:
        choice = select(spec(), NOTHING, knobs())
        assert choice.backend is Backend.RLIMIT
        assert any("not namespaces" in line and "needs root" in line for line in choice.lines())

    def test_every_backend_has_a_reason(self) -> None:
        choice = select(spec(), EVERYTHING, knobs())
        assert {r.backend for r in choice.reasons} == set(Backend) and all(r.text for r in choice.reasons)

    def test_the_admin_may_choose(self) -> None:
        assert select(spec(), EVERYTHING, knobs(STARTER_BACKEND="rlimit")).backend is Backend.RLIMIT
        with pytest.raises(JobError) as e:
            select(spec(), NOTHING, knobs(STARTER_BACKEND="namespaces"))
        assert e.value.blame is Blame.SITE and not e.value.holds
        with pytest.raises(JobError, match="auto, namespaces or rlimit"):
            select(spec(), EVERYTHING, knobs(STARTER_BACKEND="magic"))

    @pytest.mark.req("D1", "X9")
    def test_a_docker_job_needs_an_engine_and_its_lack_is_the_sites_fault(self) -> None:
        job = spec('WantDocker = true\nDockerImage = "debian"')
        with pytest.raises(JobError, match="none was installed") as e:
            select(job, EVERYTHING, knobs())
        assert e.value.blame is Blame.SITE and not e.value.holds
        assert select(job, replace(EVERYTHING, engine="25.0"), knobs()).backend is Backend.DOCKER

    @pytest.mark.req("C1", "X9")
    def test_an_unknown_chroot_holds_the_job_and_names_those_that_there_are(self) -> None:
        assert select(spec('RequestedChroot = "trixie"'), EVERYTHING, knobs()).backend is Backend.CHROOT
        with pytest.raises(JobError, match=r"'sid' is no named chroot of this machine \(trixie\)") as e:
            select(spec('RequestedChroot = "sid"'), EVERYTHING, knobs())
        assert e.value.holds

    def test_facts_of_procd_become_capabilities(self) -> None:
        can = capabilities(
            {
                "root": True,
                "uid": 0,
                "cgroup": {"kind": "hybrid", "controllers": ["memory"], "tracker": "v2"},
                "namespaces": ["pid"],
                "missing": {"net": "no net namespaces"},
            }
        )
        assert (can.cgroup, can.tracker, can.limits) == ("hybrid", True, {"memory"})
        assert can.why_not("net") == "no net namespaces"
        assert capabilities({}).cgroup == "none"


class TestNamespaces:
    @pytest.mark.req("N1", "N3", "N10", "G3")
    def test_a_plain_job_sees_only_itself(self) -> None:
        plan = namespaces.plan(spec(), site(), launch())
        assert plan.namespaces == ("pid", "mnt", "ipc", "uts", "cgroup")
        assert plan.private_dirs == ("/tmp", "/var/tmp") and plan.private_dev_shm
        assert plan.limits == Limits(memory=128 << 20, swap=0, cpu_shares=100, pids=32768)
        assert plan.no_new_privs and plan.oom_score_adj == 800

    @pytest.mark.req("G1")
    def test_the_cgroup_is_named_after_execute_directory_slot_and_job(self) -> None:
        assert namespaces.plan(spec(), site(), launch()).cgroup == "_scratch_slot1_1_host_dir_7".replace(
            "_host", "@host"
        )

    @pytest.mark.req("N6")
    @pytest.mark.parametrize(
        ("job", "values"), [("WantJobNetworking = false", {}), ("", {"NO_JOB_NETWORKING": "true"})]
    )
    def test_no_network_when_the_job_or_the_admin_says_so(self, job: str, values: dict[str, str]) -> None:
        assert "net" in namespaces.plan(spec(job), site(**values), launch()).namespaces

    @pytest.mark.req("N6")
    def test_a_network_that_cannot_be_taken_away_stops_the_job(self) -> None:
        can = replace(
            EVERYTHING, namespaces=EVERYTHING.namespaces - {"net"}, missing={"net": "an old kernel"}
        )
        with pytest.raises(JobError, match="an old kernel"):
            namespaces.plan(spec("WantJobNetworking = false"), site(can), launch())
        with pytest.raises(JobError, match="rlimit backend"):
            rlimit.plan(spec("WantJobNetworking = false"), site(NOTHING), launch(cwd="/home/u"))

    @pytest.mark.req("H2")
    def test_knobs_take_parts_away(self) -> None:
        assert "pid" not in namespaces.plan(spec(), site(USE_PID_NAMESPACES="false"), launch()).namespaces
        bare = namespaces.plan(spec(), site(PER_JOB_NAMESPACES="false"), launch())
        assert {"mnt", "pid"}.isdisjoint(bare.namespaces) and bare.private_dirs == ()
        assert not namespaces.plan(spec(), site(MOUNT_PRIVATE_DEV_SHM="false"), launch()).private_dev_shm

    def test_what_cannot_be_had_is_said(self) -> None:
        can = replace(
            EVERYTHING, namespaces=frozenset({"mnt"}), limits=frozenset({"cpu"}), missing={"ipc": "why"}
        )
        notes = namespaces.left_out(spec(), site(can))
        assert "no ipc namespace: why" in notes and any("limit of memory" in n for n in notes)

    @pytest.mark.req("N3", "H2")
    @pytest.mark.parametrize(
        ("knob", "dirs"),
        [
            ('"/tmp,/var/tmp"', ("/tmp", "/var/tmp")),
            ("/tmp, /data", ("/tmp", "/data")),
            ('ifThenElse(TARGET.WantTmp, "/tmp", "")', ("/tmp",)),
            ("", ()),
            ('"/tmp/../var/x,relative,/"', ("/var/x",)),
            ('"/scratch,/tmp"', ("/tmp",)),
        ],
    )
    def test_mount_under_scratch_is_a_list_or_an_expression(self, knob: str, dirs: tuple[str, ...]) -> None:
        where = site(job="WantTmp = true", MOUNT_UNDER_SCRATCH=knob)
        assert boxes.private_dirs(where) == dirs

    def test_a_mount_under_scratch_that_is_no_string_is_the_sites_mistake(self) -> None:
        with pytest.raises(JobError, match="MOUNT_UNDER_SCRATCH") as e:
            boxes.private_dirs(site(MOUNT_UNDER_SCRATCH="17"))
        assert e.value.blame is Blame.SITE

    @pytest.mark.req("X9")
    @pytest.mark.parametrize(
        ("what", "words", "code"),
        [
            (launch(cwd="/tmp/work"), "The working directory (Iwd) is /tmp/work", 14),
            (launch(("/tmp/prog",)), "The program (Cmd) is /tmp/prog", 6),
        ],
    )
    def test_what_a_private_directory_hides_is_said_with_the_remedy(
        self, what: boxes.Launch, words: str, code: int
    ) -> None:
        with pytest.raises(JobError) as e:
            namespaces.plan(spec(), site(), what)
        assert (
            e.value.text.startswith(words)
            and "use another directory" in e.value.text
            and e.value.code == code
        )

    @pytest.mark.req("N4")
    def test_the_admins_binds_are_shown_read_only_unless_he_says_otherwise(self) -> None:
        plan = namespaces.plan(spec(), site(STARTER_BIND="/cvmfs, /cvmfs/x:/data:rw"), launch())
        assert [(b.source, b.target, b.read_only) for b in plan.binds] == [
            ("/cvmfs", "/cvmfs", True),
            ("/cvmfs/x", "/data", False),
        ]


@pytest.mark.req("G3", "H2")
class TestLimits:
    @pytest.mark.parametrize(
        ("values", "memory", "swap"),
        [
            ({}, 128 << 20, 0),
            ({"DISABLE_SWAP_FOR_JOB": "false"}, 128 << 20, None),
            ({"CGROUP_MEMORY_LIMIT_POLICY": "none"}, None, None),
            ({"CGROUP_MEMORY_LIMIT_POLICY": "soft"}, None, None),
            (
                {
                    "CGROUP_MEMORY_LIMIT_POLICY": "custom",
                    "CGROUP_HARD_MEMORY_LIMIT_EXPR": "2 * TARGET.RequestMemory",
                },
                200 << 20,
                0,
            ),
            (
                {"CGROUP_MEMORY_LIMIT_POLICY": "custom", "CGROUP_HARD_MEMORY_LIMIT_EXPR": "Memory / 2"},
                64 << 20,
                0,
            ),
            ({"CGROUP_MEMORY_LIMIT_POLICY": "custom"}, None, None),
        ],
    )
    def test_memory_and_swap(self, values: dict[str, str], memory: int | None, swap: int | None) -> None:
        found = boxes.limits(site(job="RequestMemory = 100", **values))
        assert (found.memory, found.swap) == (memory, swap)

    @pytest.mark.req("G6")
    def test_cpu_shares_are_a_hundred_a_cpu(self) -> None:
        assert [boxes.limits(site(machine={"Cpus": c})).cpu_shares for c in (1, 8, 0.5)] == [100, 800, 50]

    @pytest.mark.req("R2")
    def test_rlimits_are_the_jobs_core_size_and_the_admins_address_space(self) -> None:
        found = {
            r.name: r.soft for r in boxes.rlimits(spec("CoreSize = -1"), site(STARTER_RLIMIT_AS="Memory * 2"))
        }
        assert found == {"CORE": -1, "STACK": -1, "AS": 256 << 20}
        assert {r.name for r in boxes.rlimits(spec(), site())} == {"CORE", "STACK"}

    @pytest.mark.parametrize(
        ("knob", "nice"), [("0", 0), ("10", 10), ("99", 19), ("-5", 0), ("TARGET.Nice", 7)]
    )
    def test_renice_is_a_number_or_an_expression_within_bounds(self, knob: str, nice: int) -> None:
        assert boxes.nice(site(job="Nice = 7", JOB_RENICE_INCREMENT=knob)) == nice

    @pytest.mark.req("P6")
    def test_an_admins_expression_does_not_make_a_hostile_attribute_expensive(self) -> None:
        links = "\n".join(f"a{i} = a{i + 1} + a{i + 1}" for i in range(60))
        with pytest.raises(JobError, match="JOB_RENICE_INCREMENT"):
            boxes.nice(site(job=links, JOB_RENICE_INCREMENT="TARGET.a0"))


class TestChroot:
    @pytest.mark.req("C1", "C3")
    def test_the_tree_is_a_name_and_the_box_is_as_tight_as_any(self) -> None:
        plan = chroot.plan(spec('RequestedChroot = "trixie"'), site(), launch())
        assert plan.chroot == "trixie" and {"pid", "mnt", "ipc"} <= set(plan.namespaces)
        must_pass(plan)

    def test_a_mount_namespace_is_there_whatever_the_knobs_say(self) -> None:
        plan = chroot.plan(spec('RequestedChroot = "trixie"'), site(PER_JOB_NAMESPACES="false"), launch())
        assert "mnt" in plan.namespaces


@pytest.mark.req("R6", "P5")
def test_the_rlimit_backend_keeps_its_limits_in_the_plan_so_that_procd_says_what_is_missing() -> None:
    plan = rlimit.plan(spec(), site(NOTHING), launch(cwd="/home/u"))
    assert plan.kind == "tree" and plan.namespaces == () and plan.private_dirs == ()
    assert plan.limits.memory == 128 << 20 and len(rlimit.left_out(site(NOTHING))) == 2


def must_pass(plan: BoxPlan) -> None:
    """procd takes the plan: one that runs as root, whoever runs the tests."""
    with mock.patch.object(os, "geteuid", return_value=0):
        check.plan(plan, 0, SETTINGS)


WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
SITES = st.builds(
    site,
    st.builds(
        lambda names, limits, tracker: replace(EVERYTHING, namespaces=names, limits=limits, tracker=tracker),
        st.frozensets(st.sampled_from(sorted(EVERYTHING.namespaces))),
        st.frozensets(st.sampled_from(["memory", "cpu", "pids"])),
        st.booleans(),
    ),
    machine=st.fixed_dictionaries(
        {"Memory": st.integers(1, 10**6), "Cpus": st.integers(1, 512), "Name": WORDS}
    ),
    USE_PID_NAMESPACES=st.sampled_from(["true", "false"]),
    PER_JOB_NAMESPACES=st.sampled_from(["true", "false"]),
    MOUNT_UNDER_SCRATCH=st.sampled_from(["/tmp", '"/tmp,/var/tmp"', "", "/scratch", "/a/../tmp"]),
)


@pytest.mark.req("X2", "P6")
@given(
    SITES,
    st.lists(WORDS),
    st.dictionaries(WORDS.filter(lambda w: "=" not in w), WORDS),
    st.integers(-5, 2**40),
)
def test_every_plan_that_is_made_is_one_that_procd_accepts(
    where: boxes.Site, args: list[str], env: dict[str, str], core: int
) -> None:
    job = replace(spec(), core_size=core)
    what = replace(launch(("/bin/true", *args), stdout="out", stderr="err"), env=env)
    for planner in (namespaces.plan, rlimit.plan):
        plan = planner(job, where, what)
        must_pass(plan)
        assert from_wire(BoxPlan, to_wire(plan)) == plan
        assert set(plan.namespaces) <= where.can.namespaces
        assert plan.identity.uid != 0 and plan.no_new_privs
        assert [s.number for s in steps(plan)] == list(range(1, len(steps(plan)) + 1))
        assert all(os.path.isabs(d) for d in plan.private_dirs)
