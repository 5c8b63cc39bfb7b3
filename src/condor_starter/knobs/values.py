"""One knob's value: from what an admin wrote (YAML or condor_config text) to its type."""

from __future__ import annotations

import math
import re
from typing import Any

import classad2

_SIZE = re.compile(r"\s*(\d+)\s*([kmgt]?)(?:i?b|bytes)?\s*", re.IGNORECASE)
_TRUE = frozenset({"true", "yes", "on", "t", "y", "1"})
_FALSE = frozenset({"false", "no", "off", "f", "n", "0"})


def convert(kind: str, value: Any) -> Any:
    """``value`` as the knob type ``kind``; raises ValueError that says what was expected and found.

    text and expression: str; integer: int; number: float; flag: bool; size: int, in bytes; words: tuple of
    str (from a list, or from text split at commas and blanks).
    """
    return _CONVERTERS[kind](value)


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"expected text, found {_what(value)}")
    return str(value)


def _integer(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    found = _calculated(value)
    if found is None or found != int(found):
        raise ValueError(f"expected a whole number, found {_what(value)}")
    return int(found)


def _size(value: Any) -> int:
    """Bytes; ``10 Mb``, ``1 GB`` or ``64k`` as in condor_config, where b and B mean the same."""
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match:
        return int(match[1]) << 10 * " kmgt".index((match[2] or " ").lower())
    return _integer(value)


def _number(value: Any) -> float:
    found = _calculated(value)
    if found is None:
        raise ValueError(f"expected a number, found {_what(value)}")
    return found


def _calculated(text: Any) -> float | None:
    """A number as condor_config may have it: ``600`` or ``10 * 60``; None if it is none."""
    if isinstance(text, int | float) and not isinstance(text, bool):
        return float(text)
    if not isinstance(text, str):
        return None
    try:
        return float(text) if math.isfinite(float(text)) else None
    except ValueError:
        pass
    try:
        value = classad2.ExprTree(text).eval()
    except (classad2.ClassAdException, ValueError, SyntaxError):
        return None
    # type(): the library's Value.Undefined is an int, too
    return float(value) if type(value) in (int, float) else None


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(f"expected true or false, found {_what(value)}")


def _words(value: Any) -> tuple[str, ...]:
    if isinstance(value, list | tuple):
        return tuple(_text(v) for v in value)
    return tuple(_plain(value).strip('"').replace(",", " ").split())


def _expression(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return _text(value)


def _plain(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected text, found {_what(value)}")
    return value.strip()


def _what(value: Any) -> str:
    return "nothing" if value is None else repr(value)[:80]


_CONVERTERS = {
    "text": _text,
    "integer": _integer,
    "number": _number,
    "size": _size,
    "flag": _flag,
    "words": _words,
    "expression": _expression,
}
