"""docs/promises.md: which tests show which requirement, and how far each requirement is met.

    python tests/promises.py            list of tests in the page, anew from the marks in the tests
    python tests/promises.py --check    say what is wrong with the page, and exit with 1 if anything is

Requirement, state and what is missing are written by people; the lists of tests come from the marks
``@pytest.mark.req("N3", "P3")``. They are read from the source, so that no suite's environment is needed.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TOP = Path(__file__).resolve().parent.parent
PAGE = TOP / "docs" / "promises.md"
STATES = ("works", "partly", "not yet")
ROW = re.compile(r"^\| *([PRNCGSKDHX]\d+) *\| *(.*?) *\| *(.*?) *\| *(.*?) *\|$")
TESTS = re.compile(r"^\* \*\*([PRNCGSKDHX]\d+)\*\* (.*)$")


class Promise(NamedTuple):
    """One requirement as the page has it."""

    id: str
    requirement: str
    state: str
    missing: str
    tests: tuple[str, ...]  # "tests/unit/test_x.py::test_y"


def read(page: Path) -> dict[str, Promise]:
    """The page, by requirement id. Raises ValueError for an id that stands there twice."""
    rows: dict[str, Promise] = {}
    tests: dict[str, tuple[str, ...]] = {}
    for line in page.read_text(encoding="utf-8").splitlines():
        if row := ROW.match(line):
            if row[1] in rows:
                raise ValueError(f"{page.name}: {row[1]} stands there twice")
            rows[row[1]] = Promise(row[1], row[2], row[3], row[4], ())
        elif listed := TESTS.match(line):
            tests[listed[1]] = tuple(_unfold(listed[2]))
    return {i: p._replace(tests=tests.pop(i, ())) for i, p in rows.items()}


def marked(top: Path = TOP) -> dict[str, list[str]]:
    """Requirement id to the tests that are marked with it, in the order of files and lines."""
    found: dict[str, list[str]] = {}
    for path in sorted((top / "tests").rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for name, ids in _tests(tree.body, _module_marks(tree)):
            for i in ids:
                found.setdefault(i, []).append(f"{path.relative_to(top)}::{name}")
    return found


def check(page: dict[str, Promise], marks: dict[str, list[str]]) -> list[str]:
    """What is wrong, one sentence each."""
    wrong = [
        f"{i}: is no requirement, but {t} is marked with it" for i in marks.keys() - page for t in marks[i]
    ]
    for p in page.values():
        shown = marks.get(p.id, [])
        wrong += [f"{p.id}: {t} does not exist or is not marked with it" for t in p.tests if t not in shown]
        wrong += [f"{p.id}: {t} is marked with it, but not listed" for t in shown if t not in p.tests]
        match p.state, bool(p.missing), bool(shown):
            case "works", False, True:
                pass
            case "works", _, False:
                wrong.append(f"{p.id}: works, but no test shows it")
            case "works", True, _:
                wrong.append(f"{p.id}: works, but something is missing: then it is partly")
            case (("partly" | "not yet"), False, _):
                wrong.append(f"{p.id}: {p.state}, but the page does not say what is missing")
            case "partly", _, False:
                wrong.append(f"{p.id}: partly, but no test shows any of it")
            case "not yet", _, True:
                wrong.append(f"{p.id}: not yet, but tests show some of it: then it is partly")
            case state, _, _ if state not in STATES:
                wrong.append(f"{p.id}: {state!r} is none of {', '.join(STATES)}")
    return wrong


def update(text: str, marks: dict[str, list[str]]) -> str:
    """The page's text with the lists of tests made anew below each table."""
    out: list[str] = []
    section: list[str] = []
    for line in [*text.splitlines(), "## end"]:
        if TESTS.match(line):
            continue
        if line.startswith("## "):
            lists = [f"* **{i}** {_fold(marks[i])}" for i in section if i in marks]
            if lists:
                while out and not out[-1]:
                    out.pop()
                out += ["", *lists, ""]
            section = []
        elif row := ROW.match(line):
            section.append(row[1])
        out.append(line)
    return "\n".join(out[:-1]).rstrip("\n") + "\n"


def _fold(tests: list[str]) -> str:
    """``file: test, test; file: test``"""
    files: dict[str, list[str]] = {}
    for test in dict.fromkeys(tests):
        path, _, name = test.partition("::")
        files.setdefault(path, []).append(name)
    return "; ".join(f"{path}: {', '.join(names)}" for path, names in files.items())


def _unfold(text: str) -> Iterator[str]:
    for part in text.split("; "):
        path, _, names = part.partition(": ")
        for name in names.split(", "):
            yield f"{path}::{name}"


def _tests(body: list[ast.stmt], inherited: list[str], prefix: str = "") -> Iterator[tuple[str, list[str]]]:
    for node in body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if name.startswith("test"):
                yield prefix + name, list(dict.fromkeys(inherited + _marks(node.decorator_list)))
            case ast.ClassDef(name=name) if name.startswith("Test"):
                yield from _tests(node.body, inherited + _marks(node.decorator_list), f"{prefix}{name}::")


def _module_marks(tree: ast.Module) -> list[str]:
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id="pytestmark")], value=ast.List(elts=marks)):
                return _marks(marks)
            case ast.Assign(targets=[ast.Name(id="pytestmark")], value=mark):
                return _marks([mark])
    return []


def _marks(nodes: list[ast.expr]) -> list[str]:
    ids: list[str] = []
    for node in nodes:
        match node:
            case ast.Call(func=ast.Attribute(attr="req"), args=args):
                ids += [a.value for a in args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    return ids


def main(arguments: list[str]) -> int:
    """Update or check the page."""
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    marks = marked()
    if not arguments:
        PAGE.write_text(update(PAGE.read_text(encoding="utf-8"), marks), encoding="utf-8")
    wrong = check(read(PAGE), marks)
    print(*wrong, sep="\n", end="\n" if wrong else "")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
