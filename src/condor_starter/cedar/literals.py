"""Small ads made of literals, which is all that handshakes and transfers exchange: no ClassAd library is
needed.

An ad on the wire is a tuple of ``Name = expression`` lines in old syntax, in which a backslash means itself
unless a quote follows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

Literal = str | int | float | bool

_LINE = re.compile(r"\s*([A-Za-z_][\w.]*)\s*=(?!=)\s*(.*?)\s*\Z", re.DOTALL)
_INTEGER = re.compile(r"-?\d{1,18}\Z")
_REAL = re.compile(r"-?\d+\.\d*(?:[eE][-+]?\d+)?\Z")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"\Z', re.DOTALL)
_WORDS = {"true": True, "false": False}


def line(name: str, value: Literal) -> str:
    """``Name = literal`` in old syntax."""
    if isinstance(value, bool):
        return f"{name} = {'true' if value else 'false'}"
    if isinstance(value, str):
        return f"{name} = {quote(value)}"
    return f"{name} = {value}"


def lines(values: Mapping[str, Literal]) -> list[str]:
    """An ad of literals."""
    return [line(name, value) for name, value in values.items()]


def quote(text: str) -> str:
    """A string literal. A backslash at the end would swallow the closing quote: a blank stands behind it."""
    text = text.replace('"', '\\"').replace("\0", " ")
    return f'"{text} "' if text.endswith("\\") else f'"{text}"'


def split(attribute: str) -> tuple[str, str]:
    """The name and the expression of one line; ("", "") if it is none."""
    match = _LINE.match(attribute)
    return (match[1], match[2]) if match else ("", "")


class LiteralAd:
    """The literal attributes of an ad from the wire; others are passed over. Names are in any case."""

    def __init__(self, ad: Iterable[str]) -> None:
        self._values: dict[str, Literal] = {}
        for attribute in ad:
            name, expression = split(attribute)
            if name and (value := _literal(expression)) is not None:
                self._values[name.lower()] = value

    def text(self, name: str, default: str = "") -> str:
        """A string attribute, or ``default`` when it is missing or no string."""
        value = self._values.get(name.lower())
        return value if isinstance(value, str) else default

    def integer(self, name: str, default: int = 0) -> int:
        """An integer or boolean attribute, or ``default``."""
        value = self._values.get(name.lower())
        return int(value) if isinstance(value, int) else default

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean or integer attribute, or ``default``."""
        value = self._values.get(name.lower())
        return bool(value) if isinstance(value, int) else default

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._values


def _literal(expression: str) -> Literal | None:
    if match := _STRING.match(expression):
        return match[1].replace('\\"', '"')
    if _INTEGER.match(expression):
        return int(expression)
    if _REAL.match(expression):
        return float(expression)
    return _WORDS.get(expression.lower())
