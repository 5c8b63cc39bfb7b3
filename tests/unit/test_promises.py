"""docs/promises.md is true: every test that it names exists and is marked so, and every mark is there."""

from __future__ import annotations

from pathlib import Path

import pytest

import promises
from promises import Promise


def test_the_page_is_true() -> None:
    wrong = promises.check(promises.read(promises.PAGE), promises.marked())
    assert not wrong, "\n".join([*wrong, "python tests/promises.py makes the lists of tests anew"])


def test_the_page_is_as_the_program_would_write_it() -> None:
    text = promises.PAGE.read_text(encoding="utf-8")
    assert promises.update(text, promises.marked()) == text


@pytest.mark.parametrize(
    ("state", "missing", "listed", "marked", "complaint"),
    [
        ("works", "", ("t::a",), ["t::a"], ""),
        ("works", "", (), [], "works, but no test shows it"),
        ("works", "a part", ("t::a",), ["t::a"], "something is missing"),
        ("partly", "a part", ("t::a",), ["t::a"], ""),
        ("partly", "", ("t::a",), ["t::a"], "does not say what is missing"),
        ("partly", "a part", (), [], "no test shows any of it"),
        ("not yet", "all", (), [], ""),
        ("not yet", "all", ("t::a",), ["t::a"], "then it is partly"),
        ("done", "", ("t::a",), ["t::a"], "'done' is none of"),
        ("works", "", ("t::a", "t::gone"), ["t::a"], "t::gone does not exist"),
        ("works", "", ("t::a",), ["t::a", "t::new"], "t::new is marked with it, but not listed"),
    ],
)
def test_a_page_that_is_not_true_is_found(
    state: str, missing: str, listed: tuple[str, ...], marked: list[str], complaint: str
) -> None:
    page = {"P1": Promise("P1", "something", state, missing, listed)}
    wrong = promises.check(page, {"P1": marked} if marked else {})
    assert [complaint in w for w in wrong] == ([True] if complaint else [])


def test_marks_are_found_on_modules_classes_and_functions(tmp_path: Path) -> None:
    (tmp_path / "tests" / "unit").mkdir(parents=True)
    (tmp_path / "tests" / "unit" / "test_it.py").write_text(
        "import pytest\n"
        "pytestmark = [pytest.mark.req('P1'), pytest.mark.skipif(False, reason='')]\n"
        "@pytest.mark.req('N1', 'N2')\n"
        "async def test_one(): ...\n"
        "@pytest.mark.req('G1')\n"
        "class TestMore:\n"
        "    @pytest.mark.req('G2')\n"
        "    def test_two(self): ...\n"
        "def helper(): ...\n"
    )
    one, two = "tests/unit/test_it.py::test_one", "tests/unit/test_it.py::TestMore::test_two"
    assert promises.marked(tmp_path) == {"P1": [one, two], "N1": [one], "N2": [one], "G1": [two], "G2": [two]}


def test_lists_of_tests_are_made_anew_and_all_else_stays() -> None:
    text = "# T\n\n## P\n\n| P1 | a | partly | b |\n\n* **P1** old: one\n\n## N\n\n| N1 | c | not yet | d |\n"
    marks = {"P1": ["a::t", "b::u", "a::v"]}
    assert promises.update(text, marks) == text.replace("old: one", "a: t, v; b: u")
    assert promises.update(promises.update(text, marks), marks) == promises.update(text, marks)
