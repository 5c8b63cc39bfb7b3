"""The docker planner: pure, so nothing here needs an engine."""

from __future__ import annotations

import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from condor_starter.isolation import docker
from condor_starter.isolation.boxplan import Identity, Limits
from condor_starter.job import Blame, DockerSpec, Hold, JobError, JobSpec, Streams, Universe
from condor_starter.knobs import Knobs, load

KNOBS = load(environ={})
SCRATCH = "/var/lib/condor/execute/dir_17"
MiB = 1 << 20


def spec(image: str = "busybox:1", **fields: object) -> JobSpec:
    defaults: dict[str, object] = {
        "cluster": 12,
        "proc": 3,
        "universe": Universe.VANILLA,
        "owner": "alice",
        "cmd": "/bin/sh",
        "args": ("-c", "true"),
        "environment": {},
        "iwd": "/home/alice",
        "streams": Streams(),
        "transfer_files": True,
        "transfer_executable": False,
        "transfer_input": (),
        "transfer_output": None,
        "kill_sig": 15,
        "remove_kill_sig": 15,
        "hold_kill_sig": 15,
        "request_cpus": 1.0,
        "request_memory_mb": None,
        "core_size": 0,
        "nice": 0,
        "requested_chroot": "",
        "want_network": None,
        "docker": DockerSpec(image),
    }
    return JobSpec(**(defaults | fields))  # type: ignore[arg-type]


def plan(job: JobSpec, knobs: Knobs = KNOBS, **fields: object) -> docker.ContainerSpec:
    defaults: dict[str, object] = {
        "box": "b17",
        "slot": "slot1_1",
        "machine": "host.example.org",
        "scratch": SCRATCH,
        "identity": Identity(1234, 1235, (1235, 44), "alice"),
        "limits": Limits(memory=128 * MiB, swap=0, cpu_shares=200, pids=100),
        "environment": {"A": "b=c", "N": "x\ny"},
    }
    return docker.plan(job, knobs, **(defaults | fields))  # type: ignore[arg-type]


@pytest.mark.req("D10", "D11", "D12", "D15", "D16", "X7")
def test_a_plain_job_becomes_a_closed_container() -> None:
    got = plan(spec())
    assert got.name == "HTCJob12_3_slot1_1_PIDb17"
    assert got.image == "busybox:1"
    assert (got.entrypoint, got.command) == (None, ("/bin/sh", "-c", "true"))
    assert got.environment == ("A=b=c", "N=x\ny")
    assert (got.user, got.groups) == ("1234:1235", (44,))
    assert got.volumes == (docker.Volume(SCRATCH, SCRATCH),)
    assert got.workdir == SCRATCH
    assert (got.memory, got.memory_swap, got.cpu_shares, got.pids) == (128 * MiB, 128 * MiB, 200, 100)
    assert (got.cap_drop, got.cap_add) == (("ALL",), ("SYS_PTRACE",))
    assert got.security_opt == ("no-new-privileges",)
    assert (got.init, got.log_driver, got.network, got.stdin) == (True, "none", "", False)
    assert got.hostname == "alice-12.3-host.example.org"
    assert dict(got.labels) == {"org.htcondorproject": "True", "org.htcondorproject.box": "b17"}
    assert got.cgroup_parent == ""


@pytest.mark.req("D6", "D7", "D8")
@pytest.mark.parametrize(
    ("fields", "entrypoint", "command"),
    [
        ({"cmd": "", "args": ()}, None, None),
        ({"cmd": "", "args": ("a",)}, None, ("a",)),
        ({"cmd": "/home/alice/run.sh", "args": (), "transfer_executable": True}, None, ("./run.sh",)),
        ({"cmd": "run.sh", "args": ("x",), "transfer_executable": True}, None, ("./run.sh", "x")),
        ({"cmd": "/usr/bin/env", "args": ("x",)}, None, ("/usr/bin/env", "x")),
        ({"cmd": "/x", "args": (), "transfer_executable": True, "transfer_files": False}, None, ("/x",)),
        ({"docker": DockerSpec("i", override_entrypoint=True)}, ("/bin/sh",), ("-c", "true")),
    ],
)
def test_the_program_is_transferred_or_the_images_never_the_machines(
    fields: dict[str, object], entrypoint: tuple[str, ...] | None, command: tuple[str, ...] | None
) -> None:
    got = plan(spec(**fields))
    assert (got.entrypoint, got.command) == (entrypoint, command)


@pytest.mark.req("D5")
@pytest.mark.parametrize(
    ("image", "full"),
    [
        ("busybox", "busybox:latest"),
        ("docker://busybox", "busybox:latest"),
        ("busybox:1.36", "busybox:1.36"),
        ("user/image:tag_1.2-x", "user/image:tag_1.2-x"),
        ("localhost:5000/a/b__c/d-e.f", "localhost:5000/a/b__c/d-e.f:latest"),
        ("Registry.Example.org:443/user/image", "Registry.Example.org:443/user/image:latest"),
        ("[::1]:5000/x:1", "[::1]:5000/x:1"),
        ("a@sha256:" + "0" * 64, "a@sha256:" + "0" * 64),
        ("a:1@sha256:" + "0" * 64, "a:1@sha256:" + "0" * 64),
    ],
)
def test_image_names_in_full(image: str, full: str) -> None:
    assert docker.image_reference(image) == full


HOSTILE = [
    *("--privileged", "-v", "--privileged busybox", "a b", "busybox\n", "\nbusybox", "busybox\n--privileged"),
    *("", ":", "@", "/", "//", "a//b", "a/", "/a", "../a", "a/../b", "./a", "a:", "a:b:c", "a@sha256:zz"),
    *("BusyBox", "a;b", "a|b", "$(id)", "`id`", "a'b", 'a"b', "a\0b", "ä", "a\u2028b", "a%0ab", "a?b", "a#b"),
    *(
        "http://a/b",
        "unix:///var/run/docker.sock",
        "a" * 256,
        "a" * 100_000,
        "a/" * 5000,
        "a-" * 50_000 + "!",
    ),
    *("a:" + "t" * 129, "a:-t", "a:.t", "-a", "a--", "a___b", "_a", ".a", "docker://docker://a", "a@b"),
]


@pytest.mark.req("D18", "P6")
@pytest.mark.parametrize("image", HOSTILE, ids=lambda i: ascii(i[:30]))
@pytest.mark.timeout(5)
def test_hostile_image_names_are_refused_before_any_engine_sees_them(image: str) -> None:
    with pytest.raises(JobError) as caught:
        plan(spec(image))
    error = caught.value
    assert (error.code, error.holds, error.blame) == (Hold.INVALID_DOCKER_IMAGE, True, Blame.USER)
    assert error.text.isprintable()
    assert len(error.text) < 1000


@pytest.mark.req("D18", "P6")
@given(st.text(max_size=60))
def test_whatever_passes_as_an_image_name_is_harmless(image: str) -> None:
    try:
        full = docker.image_reference(image)
    except JobError:
        return
    assert re.fullmatch(r"[A-Za-z0-9\[][A-Za-z0-9._:/@\[\]+-]*", full)
    assert docker.image_reference(full) == full


@pytest.mark.req("D11", "P6")
@pytest.mark.parametrize(
    "ids", [(0, 0), (0, 100), (100, 0), (-1, 100), (2**31, 100), (100, 2**31), (2**32, 5)]
)
def test_no_container_runs_as_root_or_as_an_id_that_becomes_root(ids: tuple[int, int]) -> None:
    with pytest.raises(JobError) as caught:
        plan(spec(), identity=Identity(*ids))
    assert (caught.value.holds, caught.value.blame) == (False, Blame.SITE)


@pytest.mark.req("D11")
def test_the_group_0_is_never_added() -> None:
    assert plan(spec(), identity=Identity(5, 6, (0, 6, 7))).groups == (7,)


@pytest.mark.req("D25")
@pytest.mark.parametrize(
    ("asked", "want", "network"),
    [
        *[("", None, ""), ("nat", None, ""), ("none", None, "none"), ("HOST", None, "host")],
        *[("lab", None, "lab"), ("", False, "none"), ("host", False, "none"), ("", True, "")],
    ],
)
def test_networks(asked: str, want: bool | None, network: str) -> None:
    job = spec(docker=DockerSpec("i", network=asked), want_network=want)
    got = plan(job, KNOBS.with_({"DOCKER_NETWORKS": "lab, other"}))
    assert got.network == network
    assert bool(got.hostname) == (network != "host")


@pytest.mark.req("D25", "P6")
@pytest.mark.parametrize(
    "asked", ["container:abc", "lab", "bridge --privileged", "ns:/proc/1/ns/net", "a\nb"]
)
def test_a_network_that_the_admin_does_not_allow_is_refused(asked: str) -> None:
    with pytest.raises(JobError) as caught:
        plan(spec(docker=DockerSpec("i", network=asked)))
    assert caught.value.text.isprintable()


@pytest.mark.req("D12")
def test_names_fit_whatever_the_ad_says() -> None:
    job = spec(owner="a b;c" * 40)
    got = plan(job, slot="slot1_1@host/..", machine="m" * 300)
    assert re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+", got.name)
    assert len(got.name) <= 128
    assert re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?", got.hostname)


@pytest.mark.req("H2")
def test_the_admins_knobs_are_obeyed() -> None:
    knobs = KNOBS.with_(
        {
            "DOCKER_DROP_ALL_CAPABILITIES": "false",
            "DOCKER_RUN_UNDER_INIT": "false",
            "DOCKER_LOG_DRIVER_NONE": "false",
            "DOCKER_SHM_SIZE": "1048576",
        }
    )
    got = plan(spec(), knobs)
    assert (got.cap_drop, got.cap_add, got.security_opt) == ((), (), ())
    assert (got.init, got.log_driver, got.shm_size) == (False, "", MiB)


def test_the_box_around_the_container_has_the_limits_and_no_process() -> None:
    container = plan(spec())
    limits = Limits(memory=MiB)
    got = docker.box_plan(
        container,
        box="b17",
        cgroup="c",
        execute="/var/lib/condor/execute",
        scratch="dir_17",
        identity=Identity(5, 6),
        limits=limits,
    )
    assert (got.kind, got.limits, got.namespaces, got.cwd) == ("container", limits, (), SCRATCH)


@pytest.mark.req("D4")
@pytest.mark.parametrize("code", range(256))
def test_every_exit_code_is_a_wait_status(code: int) -> None:
    got = os.waitstatus_to_exitcode(docker.wait_status(code))
    assert got == (128 - code if 128 < code <= 192 else code)


@pytest.mark.req("D16", "D18")
def test_the_words_that_users_know() -> None:
    error = docker.out_of_memory(128 * MiB)
    assert (error.code, error.subcode) == (34, 102)
    assert error.text == "Docker job has gone over memory limit of 128 Mb"
    error = docker.cannot_pull("a:b", "no\nsuch \x1b[31m" + "x" * 5000)
    assert error.text.startswith("Cannot pull image a:b: no such ")
    assert error.text.isprintable()
    assert len(error.text) < 600
    assert docker.cannot_run("x").text == "Error running docker job: x"


@pytest.mark.req("D2")
def test_the_machine_ad_tells_of_a_usable_engine_only() -> None:
    facts = docker.EngineFacts(version="20.10.24", build="5d6db84", cgroup_driver="cgroupfs")
    assert docker.attributes(facts) == {
        "HasDocker": True,
        "HasDockerURL": True,
        "HasContainer": True,
        "DockerVersion": "Docker version 20.10.24, build 5d6db84",
    }
    assert docker.attributes(docker.EngineFacts(reason="no engine")) == {}


def test_where_a_container_can_lie_in_our_cgroup() -> None:
    assert docker.EngineFacts("1", cgroup_driver="cgroupfs").takes_our_cgroup
    assert not docker.EngineFacts("1", cgroup_driver="systemd").takes_our_cgroup
    assert not docker.EngineFacts("1", cgroup_driver="cgroupfs", rootless=True).takes_our_cgroup


@pytest.mark.req("D24")
def test_the_engines_statistics_as_usage() -> None:
    v1 = {
        "cpu_stats": {"cpu_usage": {"usage_in_usermode": 5_000_000, "usage_in_kernelmode": 2_000_000}},
        "memory_stats": {"usage": 999, "max_usage": 1000, "stats": {"rss": 500, "cache": 499}},
        "pids_stats": {"current": 3},
    }
    got = docker.usage_of(v1)
    assert (got.user_usec, got.system_usec, got.memory_bytes, got.memory_peak_bytes) == (
        5000,
        2000,
        500,
        1000,
    )
    assert got.processes == 3
    v2 = {"memory_stats": {"usage": 999, "stats": {"anon": 100, "shmem": 20, "file": 800}}}
    assert docker.usage_of(v2).memory_bytes == 120
    assert docker.usage_of({"memory_stats": {"usage": 7}}).memory_bytes == 7
    assert docker.usage_of({}).memory_bytes is None


@pytest.mark.req("X4")
def test_explain_shows_the_whole_container() -> None:
    text = "\n".join(docker.describe(plan(spec())))
    for word in ("HTCJob12_3", "busybox:1", "/bin/sh -c true", SCRATCH, "1234:1235", "no-new-privileges"):
        assert word in text
