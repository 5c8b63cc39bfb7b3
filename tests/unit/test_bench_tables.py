"""The benchmarks' tables: medians, ratios and verdicts are what the samples say."""

from __future__ import annotations

import pytest

from bench import page
from bench.measure import Budget, Line, Table, in_turn

FAST, SLOW = (
    Line("peer", [2.0, 1.0, 3.0]),
    Line("ours", [float(n) for n in range(1, 102)], "a | b", ours=True),
)


def table(budget: Budget | None, *lines: Line) -> Table:
    return Table("t", "A table", "ms", "What was done.", list(lines), budget, ("gone: not here",), "load 1")


def test_medians_percentiles_and_ratios_to_the_first_line() -> None:
    rows = table(None, FAST, SLOW).rows()
    assert rows[1][:5] == ["peer", "2", "1", "3", ""]
    assert rows[2][:5] == ["ours", "51", "11", "91", "25.50"]


@pytest.mark.parametrize(
    ("budget", "verdict"),
    [
        (Budget(50, "ms"), "budget ≤ 50 ms: NOT met by ours: 51"),
        (Budget(51, "ms"), "budget ≤ 51 ms: met by ours: 51"),
        (Budget(51, "jobs/s", least=True), "budget ≥ 51 jobs/s: met by ours: 51"),
        (Budget(52, "jobs/s", least=True), "budget ≥ 52 jobs/s: NOT met by ours: 51"),
    ],
)
def test_a_missed_budget_is_said(budget: Budget, verdict: str) -> None:
    assert table(budget, FAST, SLOW).verdicts() == [verdict]
    assert verdict in page.markdown(table(budget, FAST, SLOW))


def test_page_names_what_was_not_measured() -> None:
    text = page.page(["a machine"], "today", [table(None, FAST, SLOW)], page.NO_POOL)
    assert "* not measured: gone: not here" in text
    assert "a \\| b" in text
    assert text.count("| --- | ---: |") == 1


def test_ways_take_turns() -> None:
    order: list[str] = []

    def way(name: str) -> list[float]:
        order.append(name)
        return [1.0]

    taken = in_turn({"a": lambda: way("a"), "b": lambda: way("b")}, rounds=5, seconds=0)
    assert order == ["a", "b", "a", "b"]
    assert taken == {"a": [1.0, 1.0], "b": [1.0, 1.0]}
