"""ClassAds on a CEDAR connection: from the lines that were sent to the library's ads, and back.

A line is ``Name = expression`` in old syntax, in which a backslash in a string means itself unless a quote
follows, and a newline may stand in a string as it is. The library's parser for old syntax reads line by
line, so lines are translated to new syntax instead, as HTCondor does itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from condor_starter.cedar.literals import split
from condor_starter.sandbox.ads import parse_ad, print_ad

ClassAd = Any
"""A ``classad2.ClassAd``. The library has no type information."""

_STRING = re.compile(r'"((?:\\"(?!\s*\Z)|[^"])*)"')
_SECRET = frozenset(
    {
        *("capability", "childclaimids", "claimid", "claimidlist", "claimids", "pairedclaimid"),
        *("splitclaimid", "transferkey"),
    }
)


def is_secret(name: str) -> bool:
    """True for an attribute by which somebody could act in the name of the claim or of the transfer."""
    low = name.lower()
    return low in _SECRET or low.startswith("_condor_priv")


class WireAd:
    """The attributes of a received ad as text, by name in any case; of two with one name the last counts."""

    def __init__(self, lines: Iterable[str]) -> None:
        pairs = (split(line) for line in lines)
        self._attributes = {name.lower(): (name, expression) for name, expression in pairs if name}

    def update(self, other: WireAd) -> None:
        """Take over the attributes of ``other``."""
        self._attributes |= other._attributes

    def names(self) -> list[str]:
        """All names, as they were written."""
        return [name for name, _ in self._attributes.values()]

    def expression(self, name: str) -> str | None:
        """The text of one attribute's expression; None if it is not there."""
        found = self._attributes.get(name.lower())
        return found[1] if found else None

    def text(self, name: str) -> str:
        """A string literal's value; "" for anything else."""
        body = self.expression(name) or ""
        return body[1:-1].replace('\\"', '"') if len(body) >= 2 and body[0] == body[-1] == '"' else ""

    def flag(self, name: str, default: bool) -> bool:
        """A boolean literal's value, or ``default``."""
        return {"true": True, "false": False}.get((self.expression(name) or "").lower(), default)

    def lines(self, names: Iterable[str] | None = None) -> list[str]:
        """These attributes, as far as they are there (None: all); never one that is secret."""
        wanted = self._attributes if names is None else (name.lower() for name in names)
        found = (self._attributes.get(name) for name in wanted if not is_secret(name))
        return [f"{pair[0]} = {pair[1]}" for pair in found if pair]

    def nested(self) -> str:
        """``[ A = 1; B = 2 ]``: the whole ad as a value of another one's attribute, without secrets."""
        return f"[ {'; '.join(self.lines())} ]"

    def parsed(self) -> ClassAd:
        """The library's ad, without secrets. Raises BadAd for text that it does not take."""
        return parse_ad("[\n" + "".join(f"{_new_syntax(line)};\n" for line in self.lines()) + "]")


def to_lines(ad: ClassAd) -> list[str]:
    """The lines to send for one of the library's ads."""
    return print_ad(ad).splitlines()


def _new_syntax(line: str) -> str:
    return _STRING.sub(_literal, line)


def _literal(match: re.Match[str]) -> str:
    """A string literal of old syntax in new syntax: its backslashes doubled but those before quotes."""
    body = re.sub(r'\\(?!")', r"\\\\", match[1])
    if body.endswith("\\") and not body.endswith("\\\\"):
        body += "\\"
    return '"' + body.replace("\n", "\\n").replace("\r", "\\r") + '"'
