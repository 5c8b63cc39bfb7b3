"""The plan's wire form: procd reads exactly what the planner wrote, or refuses and names the field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from condor_starter.isolation.boxplan import (
    KINDS,
    NAMESPACES,
    Bind,
    BoxExit,
    BoxPlan,
    Identity,
    Limits,
    PlanError,
    Rlimit,
    Stdio,
    Usage,
    from_wire,
    steps,
    to_wire,
)

text = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20)
number = st.integers(0, 2**40)
maybe = st.none() | number
plans = st.builds(
    BoxPlan,
    box=text,
    cgroup=text,
    kind=st.sampled_from(KINDS),
    execute=text,
    scratch=text,
    identity=st.builds(Identity, number, number, st.lists(number, max_size=3).map(tuple), text),
    argv=st.lists(text, max_size=3).map(tuple),
    env=st.lists(text, max_size=3).map(tuple),
    cwd=text,
    stdout=st.builds(Stdio, st.none() | text, maybe, st.booleans()),
    stderr=st.just(Stdio()),
    stdin=st.builds(Stdio, st.none() | text, maybe, st.booleans()),
    namespaces=st.lists(st.sampled_from(NAMESPACES), unique=True).map(tuple),
    binds=st.lists(st.builds(Bind, text, text, st.booleans()), max_size=2).map(tuple),
    limits=st.builds(Limits, maybe, maybe, maybe, maybe),
    rlimits=st.lists(st.builds(Rlimit, text, number, number), max_size=2).map(tuple),
    hostname=text,
    chroot=text,
    private_dirs=st.lists(text, max_size=2).map(tuple),
)


def over_the_wire(value: Any) -> Any:
    return json.loads(json.dumps(to_wire(value)))


@pytest.mark.req("X2")
@given(plans)
def test_a_plan_survives_the_wire(plan: BoxPlan) -> None:
    assert from_wire(BoxPlan, over_the_wire(plan)) == plan


@pytest.mark.req("X4")
@given(plans)
def test_every_plan_has_numbered_steps_with_their_undo(plan: BoxPlan) -> None:
    found = steps(plan)
    assert [s.number for s in found] == list(range(1, len(found) + 1))
    assert found[0].name == "record"
    assert found[-1].name == "close"
    assert all(s.describe and s.undo for s in found)


@given(st.integers(), st.integers(0, 10**12))
def test_an_exit_survives_the_wire(status: int, cpu: int) -> None:
    ended = BoxExit("b", status, Usage(cpu, cpu, None, 5), 7, True, "e", 2, "exec", True, 3)
    assert from_wire(BoxExit, over_the_wire(ended)) == ended


GOOD = BoxPlan("b", "c", "box", "/e", "d", Identity(5, 5), ("/bin/true",), ("A=1",), "/")


@pytest.mark.req("P6", "X2")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"box": 5}, "plan.box: expected str, got int"),
        ({"box": "a\0b"}, "plan.box: has a NUL byte"),
        ({"argv": "/bin/true"}, "plan.argv: expected a list, got str"),
        ({"argv": ["a", None]}, "plan.argv.1: expected str, got NoneType"),
        ({"env": ["A=\0"]}, "plan.env.0: has a NUL byte"),
        ({"nice": True}, "plan.nice: expected int, got bool"),
        ({"nice": 1.0}, "plan.nice: expected int, got float"),
        ({"identity": [5, 5]}, "plan.identity: expected an object, got list"),
        ({"identity": {"uid": 5}}, "plan.identity: .*missing"),
        ({"limits": {"memory": "1"}}, "plan.limits.memory: expected int, got str"),
        ({"root": "/"}, "plan: unknown field 'root'"),
        (
            {"binds": [{"source": "/", "target": "/", "read_only": 1}]},
            "plan.binds.0.read_only: expected bool",
        ),
    ],
)
def test_a_malformed_plan_is_refused_by_the_name_of_the_field(change: dict[str, Any], words: str) -> None:
    wire = over_the_wire(GOOD) | change
    with pytest.raises(PlanError, match=words):
        from_wire(BoxPlan, wire)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda s: st.lists(s) | st.dictionaries(st.text(), s),
    )
)
def test_any_other_json_is_refused_and_nothing_worse(data: Any) -> None:
    with pytest.raises(PlanError):
        from_wire(BoxPlan, data)
