"""Where the control groups are, read from the mount tables of machines of every kind."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from condor_starter.procd.cgroups.detect import (
    Mount,
    detect,
    own_directory,
    parse_mounts,
    parse_self_cgroup,
    unescape,
    visible,
)

ROOT = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard"
SEPARATE = f"""\
22 27 0:21 / /proc rw,relatime - proc proc rw
23 27 0:22 / /sys rw,relatime - sysfs sysfs rw
{ROOT}
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
"""
UNIFIED = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
SEPARATE_SELF = "9:name=systemd:/\n4:memory:/process_api/14d4\n2:cpuacct:/\n1:cpu:/\n"

EL7 = f"""\
17 {ROOT[3:]}
20 17 0:19 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:8 - tmpfs tmpfs ro,mode=755
21 20 0:20 / /sys/fs/cgroup/systemd rw,nosuid shared:9 - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
25 20 0:24 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid,nodev shared:13 - cgroup cgroup rw,cpuacct,cpu
26 20 0:25 / /sys/fs/cgroup/memory rw,nosuid,nodev,noexec shared:14 - cgroup cgroup rw,memory
27 20 0:26 / /sys/fs/cgroup/net_cls,net_prio rw shared:15 - cgroup cgroup rw,net_prio,net_cls
28 20 0:27 / /sys/fs/cgroup/freezer rw,nosuid,nodev,noexec shared:16 - cgroup cgroup rw,freezer
"""
EL7_SELF = """\
11:net_prio,net_cls:/
7:cpuacct,cpu:/system.slice/condor.service
5:memory:/system.slice/condor.service
4:freezer:/
1:name=systemd:/system.slice/condor.service
"""

PURE = f"""\
{ROOT}
24 27 0:22 / /sys rw,nosuid - sysfs sysfs rw
30 24 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec shared:4 - cgroup2 cgroup2 rw,nsdelegate
"""
PURE_SELF = "0::/system.slice/condor_starter_procd.service\n"

DOCKER_V1 = """\
1069 932 0:55 / / rw - overlay overlay rw,lowerdir=/l
1075 1069 0:60 / /sys ro,nosuid - sysfs sysfs ro
1076 1075 0:61 / /sys/fs/cgroup rw,nosuid - tmpfs tmpfs rw,mode=755
1077 1076 0:26 /docker/c0ffee /sys/fs/cgroup/memory ro,nosuid master:11 - cgroup cgroup rw,memory
1078 1076 0:27 /docker/c0ffee /sys/fs/cgroup/pids ro,nosuid master:12 - cgroup cgroup rw,pids
"""
DOCKER_V1_SELF = "5:memory:/docker/c0ffee\n4:pids:/docker/c0ffee\n"

CGROUPNS = """\
1069 932 0:55 / / rw - overlay overlay rw,lowerdir=/l
1075 1069 0:60 / /sys ro,nosuid - sysfs sysfs ro
1080 1075 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw
"""
NESTED = """\
1069 932 0:55 / / rw - overlay overlay rw,lowerdir=/l
1080 1069 0:26 /docker/c0ffee /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw
"""
CGROUP = "/sys/fs/cgroup"


@pytest.mark.req("X1", "P7")
def test_v1_with_each_controller_mounted_alone() -> None:
    layout = detect(SEPARATE, SEPARATE_SELF)
    assert layout.kind == "v1"
    assert layout.v1 == {name: f"{CGROUP}/{name}" for name in ("cpu", "cpuacct", "memory")}
    assert (layout.v2, layout.own) == ("", "")


@pytest.mark.req("X1", "P7")
def test_hybrid_is_v1_controllers_with_a_v2_tree() -> None:
    layout = detect(SEPARATE + UNIFIED, SEPARATE_SELF + "0::/\n")
    assert layout.kind == "hybrid"
    assert set(layout.v1) == {"cpu", "cpuacct", "memory"}
    assert (layout.v2, layout.own) == (f"{CGROUP}/unified", f"{CGROUP}/unified")


@pytest.mark.req("X1", "P7")
def test_v1_with_cpu_and_cpuacct_mounted_together() -> None:
    layout = detect(EL7, EL7_SELF)
    assert layout.kind == "v1"
    assert layout.v1["cpu"] == layout.v1["cpuacct"] == f"{CGROUP}/cpu,cpuacct"
    assert set(layout.v1) == {"cpu", "cpuacct", "memory", "freezer", "net_cls", "net_prio"}


@pytest.mark.req("X1", "P7")
def test_pure_v2_with_our_own_service() -> None:
    layout = detect(PURE, PURE_SELF)
    assert layout == ("v2", {}, CGROUP, (), f"{CGROUP}/system.slice/condor_starter_procd.service")


@pytest.mark.req("X1", "P7")
def test_a_named_hierarchy_is_no_controller_and_alone_makes_no_hybrid() -> None:
    systemd = "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n"
    assert detect(PURE + systemd, PURE_SELF + "1:name=systemd:/\n").kind == "v2"


@pytest.mark.req("P4", "P7")
def test_in_a_container_with_read_only_v1_mounts_of_its_own_part() -> None:
    layout = detect(DOCKER_V1, DOCKER_V1_SELF)
    assert layout.kind == "v1"
    assert layout.v1 == {"memory": f"{CGROUP}/memory", "pids": f"{CGROUP}/pids"}


@pytest.mark.req("P4", "P7")
@pytest.mark.parametrize(
    ("mountinfo", "own", "directory"),
    [
        (CGROUPNS, "/", CGROUP),
        (CGROUPNS, "/init.scope", f"{CGROUP}/init.scope"),
        (NESTED, "/docker/c0ffee/x", f"{CGROUP}/x"),
        (NESTED, "/docker/c0ffee", CGROUP),
        (NESTED, "/docker/c0ffee2", ""),
        (NESTED, "/elsewhere", ""),
        (CGROUPNS, "/gone (deleted)", ""),
    ],
)
def test_our_own_directory_is_found_beneath_what_is_mounted(mountinfo: str, own: str, directory: str) -> None:
    assert detect(mountinfo, f"0::{own}\n").own == directory


@pytest.mark.req("P7")
def test_a_machine_without_cgroups() -> None:
    assert detect(ROOT + "\n", "").kind == "none"
    assert detect("", "").kind == "none"


def test_a_mount_that_another_lies_over_is_not_used() -> None:
    over = "50 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"  # all the v1 mounts are beneath it
    layout = detect(SEPARATE + over, SEPARATE_SELF + "0::/\n")
    assert (layout.kind, layout.v2) == ("v2", CGROUP)
    hidden = "50 41 0:90 / /sys/fs/cgroup/unified rw - tmpfs tmpfs rw\n"
    assert detect(SEPARATE + UNIFIED + hidden, SEPARATE_SELF).kind == "v1"


def test_in_a_chroot_whose_root_is_no_mount_the_mounts_are_still_seen() -> None:
    assert detect(SEPARATE.replace(ROOT + "\n", ""), SEPARATE_SELF).kind == "v1"


def test_a_mount_of_the_whole_hierarchy_is_taken_before_one_of_a_part() -> None:
    part = "90 27 0:32 /docker/x /mnt/part rw - cgroup cgroup rw,memory\n"
    whole = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
    for text in (SEPARATE + part, SEPARATE.replace(whole, part) + whole):
        assert detect(text, SEPARATE_SELF).v1["memory"] == f"{CGROUP}/memory"


def test_spaces_and_backslashes_in_a_mount_point() -> None:
    odd = f"{ROOT}\n" + r"35 27 0:32 / /a\040b\134c/m rw - cgroup cgroup rw,memory" + "\n"
    assert detect(odd, "4:memory:/\n").v1 == {"memory": r"/a b\c/m"}


def test_a_colon_in_a_cgroups_name() -> None:
    assert parse_self_cgroup("3:cpu,cpuacct:/a:b\n0::/c:d\n") == {
        "cpu": "/a:b",
        "cpuacct": "/a:b",
        "": "/c:d",
    }


def escape(text: str) -> str:
    """As the kernel's mangle(): fs/proc_namespace.c escapes these."""
    return "".join(f"\\{ord(c):03o}" if c in " \t\n\\#" else c for c in text)


@given(st.text(st.characters(codec="latin-1", exclude_characters="\0")))
def test_unescape_undoes_what_the_kernel_does(text: str) -> None:
    assert unescape(escape(text)) == text


NAMES = st.text(st.characters(codec="ascii", exclude_characters="/\0"), min_size=1, max_size=8)
POINTS = st.lists(NAMES.filter(lambda n: n not in (".", "..")), max_size=4).map(
    lambda parts: "/" + "/".join(parts)
)


@given(st.lists(POINTS, max_size=8))
def test_any_mount_table_is_read_back_as_it_was(points: list[str]) -> None:
    mounts = [Mount(i + 2, 1, "/", point, ("rw", "rw", "x"), "cgroup") for i, point in enumerate(points)]
    lines = [f"{m.number} {m.parent} 0:1 / {escape(m.point)} rw - cgroup x rw,x" for m in mounts]
    assert parse_mounts("\n".join(lines) + "\n") == mounts


@given(st.text())
def test_no_text_makes_the_parsers_raise(text: str) -> None:
    detect(text, text)
    detect(SEPARATE + text, SEPARATE_SELF + text)


@given(st.text(alphabet="0123456789 -/:,\\cgroup2rw\n", max_size=200))
def test_no_text_that_is_nearly_a_table_makes_the_parsers_raise(text: str) -> None:
    detect(text, text)


@given(POINTS, POINTS)
def test_our_own_directory_never_leaves_the_mount(root: str, path: str) -> None:
    found = own_directory(Mount(2, 1, root, "/sys/fs/cgroup", (), "cgroup2"), path)
    assert found == "" or found == "/sys/fs/cgroup" or found.startswith("/sys/fs/cgroup/")


def test_of_mounts_stacked_on_one_point_only_the_top_is_visible() -> None:
    stack = [
        Mount(2, 1, "/", "/a", (), "x"),
        Mount(3, 2, "/", "/a", (), "y"),
        Mount(4, 3, "/", "/a", (), "z"),
    ]
    assert visible(stack) == stack[2:]
