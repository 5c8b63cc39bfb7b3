"""Typed looks at the attributes of a hostile ad: every value is what its reader expects, or one clear error.

Pure. An attribute may be an expression (``RequestMemory = 2 * ImageSize / 1024``), and the ClassAd library
evaluates one without any bound: forty attributes that each name the next one twice take hours. So an
expression is evaluated only if everything it leads to, unfolded, is short, and calls nothing that makes text.
"""

from __future__ import annotations

import re
from typing import Any

import classad2

ClassAd = Any
"""A ``classad2.ClassAd``. The library has no type information."""

MAX_UNFOLDED = 20_000
"""Characters of an expression with every attribute it names put in its place."""

MAX_TEXT = 2 << 20
"""Characters of one string; the kernel takes no longer argument list."""

FUNCTIONS = frozenset(
    {
        *("abs", "bool", "ceiling", "floor", "ifthenelse", "int", "isboolean", "iserror", "isinteger"),
        *(
            "isreal",
            "isstring",
            "isundefined",
            "max",
            "min",
            "pow",
            "quantize",
            "real",
            "round",
            "size",
            "sum",
        ),
    }
)
"""Functions that an evaluated expression may call: none of them makes long text or runs for long."""

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|([A-Za-z_]\w*)\s*(\()?|(\')', re.DOTALL)


class BadAttribute(ValueError):
    """An attribute that is missing or unusable; the text is one sentence: what, where, what to do."""


def value_of(ad: ClassAd, name: str) -> Any:
    """An attribute's value: str, bool, int, float, list, nested ad, or None when missing or undefined.

    Raises :class:`BadAttribute` for an expression that is an error or would cost too much to evaluate.
    """
    try:
        raw = ad.get(name)
    except UnicodeDecodeError:
        raise BadAttribute(f"{name} is not UTF-8 text: convert it.") from None
    if isinstance(raw, classad2.ExprTree):
        check_cost(ad, name)
        try:
            raw = ad.eval(name)
        except (classad2.ClassAdException, ValueError, OverflowError):
            why = "cannot be evaluated: correct the expression."
            raise BadAttribute(f"{name} = {_short(ad, name)} {why}") from None
    if raw is classad2.Value.Undefined:
        return None
    if raw is classad2.Value.Error:
        raise BadAttribute(f"{name} = {_short(ad, name)} evaluates to an error: correct the expression.")
    return raw


def text(ad: ClassAd, name: str, default: str | None = None) -> str | None:
    """A string attribute, without NUL bytes and not longer than :data:`MAX_TEXT`."""
    value = value_of(ad, name)
    if value is None:
        return default
    if not isinstance(value, str):
        raise BadAttribute(
            f'{name} must be a string, but the ad has {name} = {_short(ad, name)}: put it in "".'
        )
    if "\0" in value:
        raise BadAttribute(f"{name} has a NUL byte in it: remove it.")
    if len(value) > MAX_TEXT:
        raise BadAttribute(f"{name} has {len(value)} characters; {MAX_TEXT} is the most that can be used.")
    return value


def number(ad: ClassAd, name: str) -> float | None:
    """A numeric attribute, integer or real; finite."""
    value = value_of(ad, name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**62:
        raise BadAttribute(
            f"{name} must be a number, but the ad has {name} = {_short(ad, name)}: correct it."
        )
    return float(value)


def integer(ad: ClassAd, name: str, default: int | None = None) -> int | None:
    """A whole-number attribute; a real is cut off, as HTCondor does."""
    value = value_of(ad, name)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    cut = number(ad, name)
    return default if cut is None else int(cut)


def flag(ad: ClassAd, name: str, default: bool = False) -> bool:
    """A boolean attribute; a number counts as true unless it is 0."""
    value = value_of(ad, name)
    if value is None:
        return default
    if not isinstance(value, bool | int | float):
        raise BadAttribute(f"{name} must be true or false, but the ad has {name} = {_short(ad, name)}.")
    return bool(value)


def names(ad: ClassAd, name: str) -> tuple[str, ...] | None:
    """A list of names: a comma-separated string, or a ClassAd list of strings. None when it is missing."""
    value = value_of(ad, name)
    if isinstance(value, list) and all(isinstance(v, str) and "\0" not in v for v in value):
        return tuple(v for v in value if v)
    joined = text(ad, name)
    if joined is None:
        return None
    return tuple(word for piece in joined.split(",") if (word := piece.strip()))


def evaluate(expression: str, machine: ClassAd, job: ClassAd) -> Any:
    """An admin's ``expression`` over MY = the machine's ad and TARGET = the job's; None = undefined.

    The admin may write what he likes; attributes of the job that he names are bounded as everywhere.
    Raises :class:`BadAttribute`.
    """
    for match in _TOKEN.finditer(expression):
        if match[1] and not match[2] and match[1] in job:
            check_cost(job, match[1])
    try:
        value = classad2.ExprTree(expression).eval(machine, job)
    except classad2.ClassAdException:
        raise BadAttribute(f"{expression[:60]} cannot be evaluated: correct the expression.") from None
    if value is classad2.Value.Error:
        raise BadAttribute(f"{expression[:60]} evaluates to an error: correct the expression.")
    return None if value is classad2.Value.Undefined else value


def check_cost(ad: ClassAd, name: str) -> None:
    """Raise :class:`BadAttribute` if evaluating ``name`` could take long or need much memory."""
    if _cost(ad, name.lower(), {}) > MAX_UNFOLDED:
        raise BadAttribute(f"{name} leads to an expression too long to evaluate: write the value itself.")


def _cost(ad: ClassAd, name: str, known: dict[str, int]) -> int:
    """Length of the expression ``name`` with all that it names unfolded; cycles count as endless."""
    if name in known:
        return known[name]
    known[name] = MAX_UNFOLDED + 1  # whoever comes back here while we look goes round in a circle
    if len(known) > 200:
        return known[name]
    body = str(ad.lookup(name))
    total = len(body)
    for match in _TOKEN.finditer(body):
        word = (match[1] or "").lower()
        if match[3]:
            raise BadAttribute(f"{name} uses quoted attribute names, which are not evaluated here.")
        if match[2] and word not in FUNCTIONS:
            raise BadAttribute(f"{name} calls {word}(), which is not evaluated here: write the value itself.")
        if word and word in ad and total <= MAX_UNFOLDED:
            total += _cost(ad, word, known)
    known[name] = total
    return total


def _short(ad: ClassAd, name: str) -> str:
    """The expression as the ad has it, short enough for a message."""
    body = str(ad.lookup(name))
    return body if len(body) <= 60 else body[:60] + "..."
