"""ClassAds as text: reading what others wrote, in old and new syntax, within bounds."""

from __future__ import annotations

import re
from typing import Any

import classad2

from condor_starter.job import BadAd

ClassAd = Any
"""A ``classad2.ClassAd``. The library has no type information."""

MAX_AD = 8 << 20
"""Bytes of one ad; an environment may be megabytes, no more."""

MAX_DEPTH = 200
"""Brackets, parentheses and braces within one another: the parser is recursive."""

# HTCondor's own functions (split, stringListMember, envV1ToV2 ...) evaluate to error in a process until
# the library has parsed old syntax once.
classad2.parseNext("Primed = true\n")

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


def parse_ad(text: str) -> ClassAd:
    """The ad in ``text``: new syntax when it starts with ``[``, else old (one ``Name = expression`` a line).

    Old syntax may have blank lines and ``#`` comments. Raises :class:`BadAd` with what is wrong and where.
    """
    _bounded(text)
    body = text.strip()
    if not body:
        raise BadAd('The job ad is empty: write at least Cmd = "/path/of/the/program".')
    if body.startswith("["):
        return _new(body)
    return _old(body)


def _bounded(text: str) -> None:
    if len(text) > MAX_AD:
        raise BadAd(f"The ad has {len(text)} characters; {MAX_AD} is the most that is read.")
    if "\0" in text:
        raise BadAd("The ad has a NUL byte: it is no text file.")
    depth = deepest = 0
    for mark in re.findall(r"[\[({\])}]", _STRING.sub("", text)):
        depth += 1 if mark in "[({" else -1
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH:
        raise BadAd(f"The ad nests {deepest} brackets; {MAX_DEPTH} is the most that is read.")


def _new(body: str) -> ClassAd:
    try:
        return classad2.ClassAd(body)
    except (classad2.ClassAdException, ValueError, SyntaxError) as e:
        raise BadAd(f"The ad is not a ClassAd in new syntax: {e}") from None


def _old(body: str) -> ClassAd:
    ad = classad2.ClassAd()
    for number, line in enumerate(body.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, expression = line.partition("=")
        if not equals:
            raise BadAd(f'The ad, line {number}: expected Name = expression, found "{line.strip()[:60]}".')
        try:
            ad.update(classad2.parseNext(f"{name.strip()} = {expression.strip()}\n"))
        except (classad2.ClassAdException, ValueError, SyntaxError) as e:
            raise BadAd(
                f"The ad, line {number} ({name.strip()[:60]}): not a ClassAd expression: {e}"
            ) from None
    return ad
