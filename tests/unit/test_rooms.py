"""The rooms of the house: who may import whom, and who may touch the world. Read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import condor_starter

ROOT = Path(condor_starter.__file__).parent
PACKAGE = "condor_starter"

# From the plainest to the most knowing: a room imports from rooms before it, never from one after it.
ORDER = (
    ("arguments", "attributes"),
    ("job", "log"),
    ("knobs",),
    ("isolation",),
    ("procd",),
    ("sandbox", "cedar", "runner"),
    ("transfer", "engines"),
    ("communicators",),
    ("record", "draft", "report", "removal", "house"),
    ("monitor",),
    ("starter",),
    ("calls",),
    ("daemon",),
    ("cli",),
)
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}

# What the privileged processes may use: the standard library's small modules and nothing else.
PROCD_STDLIB = set(
    "__future__ _signal _socket collections ctypes enum errno fcntl gc heapq itertools json marshal os pwd re"
    " resource select signal socket stat struct sys time typing".split()
)
UNPRIVILEGED_IN_PROCD = {"procd/client.py", "procd/worker_client.py"}

PURE = ("job.py", "arguments.py", "attributes.py", "isolation/*.py", "cedar/codec.py", "cedar/sinful.py")
TOUCHES_THE_WORLD = set("socket subprocess shutil pathlib asyncio select time logging tempfile".split())
ONLY_WORDS = {"basename", "dirname", "isabs", "join", "normpath", "split", "splitext"}  # of os.path


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(ROOT.rglob("*.py")):
        yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == PACKAGE:
            yield from (f"{PACKAGE}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def room_of(name: str) -> str:
    return name.split("/", maxsplit=1)[0].removesuffix(".py")


@pytest.mark.req("X2")
def test_imports_point_one_way() -> None:
    wrong = []
    for name, tree in modules():
        for module in imported(tree):
            if not module.startswith(f"{PACKAGE}.") or room_of(name) == "__init__":
                continue
            target = module.split(".")[1]
            if target == "__version__" or target == room_of(name):
                continue
            if LEVEL[target] >= LEVEL[room_of(name)]:
                wrong.append(f"{name} imports {module}")
    assert wrong == []


@pytest.mark.req("X2")
def test_the_privileged_side_imports_nothing_but_itself_and_plan_data() -> None:
    wrong = []
    for name, tree in modules():
        if not name.startswith("procd/") or name in UNPRIVILEGED_IN_PROCD:
            continue
        for module in imported(tree):
            ours = module.startswith(
                (f"{PACKAGE}.procd", f"{PACKAGE}.isolation.boxplan", f"{PACKAGE}.__version__")
            )
            client = module.removeprefix(f"{PACKAGE}.").replace(".", "/") + ".py" in UNPRIVILEGED_IN_PROCD
            if client or not (ours or module.partition(".")[0] in PROCD_STDLIB):
                wrong.append(f"{name} imports {module}")
    assert wrong == []


def test_pure_rooms_do_no_io() -> None:
    wrong = []
    for pattern in PURE:
        for path in sorted(ROOT.glob(pattern)):
            tree = ast.parse(path.read_text())
            name = str(path.relative_to(ROOT))
            wrong += [
                f"{name} imports {m}" for m in imported(tree) if m.partition(".")[0] in TOUCHES_THE_WORLD
            ]
            wrong += [
                f"{name} calls {c}" for c in calls(tree) if c in ("open", "print", "input", "exec", "eval")
            ]
            wrong += [f"{name} uses {use}" for use in worldly_uses(tree)]
    assert wrong == []


def worldly_uses(tree: ast.Module) -> Iterator[str]:
    """What is used of os and signal beyond the words and numbers in them."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        use = ast.unparse(node)
        if use.startswith("os.path."):
            if node.attr not in ONLY_WORDS:
                yield use
        elif (use.startswith("os.") and use != "os.path") or (
            use.startswith("signal.") and not node.attr[0].isupper()
        ):
            yield use


def calls(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id


def test_every_room_has_its_place_in_the_order() -> None:
    assert {room_of(name) for name, _ in modules()} - {"__init__"} <= set(LEVEL)
