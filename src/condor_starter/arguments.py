"""HTCondor's two ways of writing arguments and environment in one string, old (V1) and new (V2). Pure."""

from __future__ import annotations

_BLANK = " \t\r\n"


class SyntaxProblem(ValueError):
    """A string that cannot be read; the text says what is wrong with it."""


def split_v2(string: str) -> list[str]:
    """Words of the new syntax: blanks separate, single quotes protect, ``''`` within quotes is one quote."""
    words: list[str] = []
    word: list[str] | None = None
    i, end = 0, len(string)
    while i < end:
        char = string[i]
        if char == "'":
            piece, i = _quoted(string, i)
            word = [*(word or []), piece]
        elif char in _BLANK:
            if word is not None:
                words.append("".join(word))
            word, i = None, i + 1
        else:
            piece, i = _bare(string, i)
            word = [*(word or []), piece]
    if word is not None:
        words.append("".join(word))
    return words


def _bare(string: str, start: int) -> tuple[str, int]:
    i = start
    while i < len(string) and string[i] not in _BLANK and string[i] != "'":
        i += 1
    return string[start:i], i


def _quoted(string: str, start: int) -> tuple[str, int]:
    """The quoted piece that opens at ``start``, and the index after its closing quote."""
    pieces: list[str] = []
    i = start + 1
    while True:
        close = string.find("'", i)
        if close < 0:
            raise SyntaxProblem(f"has an opening single quote without its end: {string[start : start + 40]}")
        pieces.append(string[i:close])
        if string[close + 1 : close + 2] != "'":
            return "".join(pieces), close + 1
        pieces.append("'")
        i = close + 2


def split_v1(string: str) -> list[str]:
    """Words of the old syntax: blanks separate, nothing quotes."""
    return string.split()


def environment_v2(string: str) -> dict[str, str]:
    """``Environment``: words ``NAME=value``; a later one wins."""
    return dict(_pair(word) for word in split_v2(string))


def environment_v1(string: str, delimiter: str = ";") -> dict[str, str]:
    """``Env``: ``NAME=value`` separated by ``;`` (or the ad's EnvDelim) or by newlines."""
    pieces = string.replace("\n", delimiter).split(delimiter)
    return dict(_pair(piece.lstrip()) for piece in pieces if piece.strip())


def _pair(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals:
        raise SyntaxProblem(f"is missing '=' after the variable {word[:40]}")
    if not name:
        raise SyntaxProblem(f"has a value without a variable name: {word[:40]}")
    return name, value


def join_v1(words: tuple[str, ...] | list[str]) -> str:
    """The words as a log line shows them: blanks between, no quoting."""
    return " ".join(words)
