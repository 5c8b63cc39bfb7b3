"""ClassAds as text: reading what others wrote, in old and new syntax, within bounds; writing our own."""

from __future__ import annotations

import re
from typing import Any

import classad2

from condor_starter.job import BadAd

ClassAd = Any
"""A ``classad2.ClassAd``. The library has no type information."""

MAX_AD = 8 << 20
"""Characters of one ad; an environment may be megabytes, no more."""

MAX_EXPRESSION = 32 << 10
"""Characters of an ad outside of string literals. The library frees an expression by recursion: a chain of a
hundred thousand operators ends the process (the parser itself stops at a depth of some hundreds)."""

# HTCondor's own functions (split, stringListMember, envV1ToV2 ...) evaluate to error in a process until
# the library has parsed old syntax once.
classad2.parseNext("Primed = true\n")

# What the two lexers skip; where they differ (backslashes, comments) the less favourable reading counts.
_NEW = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_OLD = r'"[^"\\]*(?:\\(?:"|(?!"))[^"\\]*)*"'
_COMMENT = r"|/\*.*?\*/|//[^\n]*"
_LITERALS = tuple(re.compile(p, re.DOTALL) for p in (_NEW, _OLD, _NEW + _COMMENT, _OLD + _COMMENT))
_NAME = re.compile(r"\s*([A-Za-z_]\w*)\s*=(?!=)(.*)", re.DOTALL)


def parse_ad(text: str) -> ClassAd:
    """The ad in ``text``: new syntax when it starts with ``[``, else old (one ``Name = expression`` a line).

    Old syntax may have blank lines and ``#`` comments. Raises :class:`BadAd` with what is wrong and where.
    """
    check_text(text)
    body = text.strip()
    if not body:
        raise BadAd('The job ad is empty: write at least Cmd = "/path/of/the/program".')
    return _new(body) if body.startswith("[") else _old(text)


def check_text(text: str) -> None:
    """Raise :class:`BadAd` for text that must not reach the ClassAd parser: too long, NULs, endless chains.

    Whoever parses an ad or expression from outside without :func:`parse_ad` calls this first.
    """
    if len(text) > MAX_AD:
        raise BadAd(f"The ad has {len(text)} characters; {MAX_AD} is the most that is read.")
    if "\0" in text:
        raise BadAd("The ad has a NUL byte: it is no text file.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadAd("The ad is not UTF-8 text: convert it.") from None
    if len(text) > MAX_EXPRESSION:
        outside = max(len(literal.sub("", text)) for literal in _LITERALS)
        if outside > MAX_EXPRESSION:
            raise BadAd(f"The ad has {outside} characters outside of strings; {MAX_EXPRESSION} is the most.")


def _new(body: str) -> ClassAd:
    try:
        return classad2.ClassAd(body)
    except (classad2.ClassAdException, ValueError, SyntaxError) as e:
        raise BadAd(f"The ad is not a ClassAd in new syntax: {e}") from None


def _old(text: str) -> ClassAd:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    ad = _parse_old("\n".join(lines) + "\n") if all(map(_NAME.match, lines)) else None
    if ad is None or len(ad) == 0:
        raise BadAd(_what_is_wrong(text))
    return ad


def _parse_old(text: str) -> ClassAd | None:
    try:
        return classad2.parseNext(text)
    except (classad2.ClassAdException, TypeError, ValueError):
        return None


def _what_is_wrong(text: str) -> str:
    """The first line that is no ``Name = expression``, found by parsing each alone."""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _NAME.match(line)
        if match is None:
            return f'The ad, line {number}: expected Name = expression, found "{line.strip()[:60]}".'
        if not _parse_old(line + "\n"):
            found = match[2].strip()[:60]
            return f"The ad, line {number}: {match[1]} = {found or '(nothing)'} is no ClassAd expression."
    return "The ad cannot be parsed: check quotes and brackets."


def print_ad(ad: ClassAd) -> str:
    """Old syntax, one attribute a line. A newline in a string does not become a line of its own."""
    text = str(ad.printOld())
    if text.count("\n") == len(ad):
        return text
    return "".join(f"{name} = {_one_line(ad, name)}\n" for name in sorted(ad.keys(), key=str.lower))


def _one_line(ad: ClassAd, name: str) -> str:
    value = ad.get(name)
    if isinstance(value, str):  # old syntax knows no escape but that of the quote
        quoted = value.replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
        return f'"{quoted}"'
    return " ".join(str(ad.lookup(name)).split("\n"))
