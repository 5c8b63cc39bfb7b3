"""Numbers and how they are taken: ways of doing the same thing in turn, and what comes of it as a table.

A machine is never quiet for long, so a comparison of two runs compares two weathers. Here every way of a
table takes its turn again and again within one run, and what is quoted is the median with p10 and p90.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

Way = Callable[[], Sequence[float]]
"""One turn: does the thing some times, returns what each time took."""


class Budget(NamedTuple):
    """What a figure has to be: at most ``bound``, or at least."""

    bound: float
    unit: str
    least: bool = False

    def met(self, value: float) -> bool:
        return value >= self.bound if self.least else value <= self.bound

    def __str__(self) -> str:
        return f"{'≥' if self.least else '≤'} {_number(self.bound)} {self.unit}".rstrip()


class Line(NamedTuple):
    """One way's figures. ``values`` in the table's unit; one value is a figure without a spread."""

    name: str
    values: Sequence[float]
    note: str = ""
    ours: bool = False  # the budget is for these lines
    unit: str = ""  # where it is not the table's

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """p10 and p90."""
        ordered = sorted(self.values)
        return ordered[len(ordered) // 10], ordered[min(len(ordered) - 1, len(ordered) * 9 // 10)]


class Table(NamedTuple):
    """One thing measured. The first line is what the others are compared with."""

    key: str
    title: str
    unit: str
    what: str  # what exactly was done, for whoever wants to doubt it
    lines: list[Line]
    budget: Budget | None = None
    missing: tuple[str, ...] = ()  # peers that are not here, and why
    load: str = ""

    def rows(self) -> list[list[str]]:
        """Header and rows, as text."""
        head = ["", f"median ({self.unit})", "p10", "p90", "ratio", ""]
        return [head, *(self._row(line) for line in self.lines)]

    def _row(self, line: Line) -> list[str]:
        first = self.lines[0]
        comparable = line.unit in ("", self.unit) and first.median and line is not first
        ratio = f"{line.median / first.median:.2f}" if comparable else ""
        low, high = (_number(v) for v in line.spread) if len(line.values) > 1 else ("", "")
        figure = _number(line.median) + (f" {line.unit}" if line.unit else "")
        return [line.name, figure, low, high, ratio, line.note]

    def verdicts(self) -> list[str]:
        """Whether the budget is met, line by line of ours."""
        if self.budget is None:
            return []
        found = []
        for line in self.lines:
            if line.ours:
                met = "met" if self.budget.met(line.median) else "NOT met"
                found.append(f"budget {self.budget}: {met} by {line.name}: {_number(line.median)}")
        return found


def _number(value: float) -> str:
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 100 else f"{value:.0f}"


def in_turn(ways: dict[str, Way], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Each way in turn, ``rounds`` times or until ``seconds`` have passed (twice at least)."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    end = time.monotonic() + seconds
    for number in range(rounds):
        if number > 1 and time.monotonic() > end:
            break
        for name, way in ways.items():
            taken[name] += way()
    return taken


def timed(action: Callable[[], object], times: int = 1, scale: float = 1e3) -> list[float]:
    """How long ``action`` takes, each time, in milliseconds (``scale`` 1e6: microseconds)."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        action()
        found.append((time.perf_counter() - began) * scale)
    return found


@contextlib.contextmanager
def watching_load() -> Iterator[list[str]]:
    """Fills a list with one text: what else the machine was doing. Looks before we begin, and at the end."""
    told: list[str] = []
    before = _others()
    yield told
    told.append(f"others kept the cpus {before:.0%} busy just before, {_others():.0%} just after")


def _others(seconds: float = 0.3) -> float:
    """The busy share of all cpus while we do nothing."""
    began = _ticks()
    time.sleep(seconds)
    busy, idle = (b - a for a, b in zip(began, _ticks(), strict=True))
    return busy / max(1, busy + idle)


def _ticks() -> tuple[int, int]:
    """Clock ticks of all cpus so far, busy and idle (proc(5), /proc/stat)."""
    with open("/proc/stat") as f:
        user, nice, system, idle, wait, *rest = map(int, f.readline().split()[1:9])
    return user + nice + system + sum(rest), idle + wait
