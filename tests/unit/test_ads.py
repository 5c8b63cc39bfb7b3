"""Ads as text: both syntaxes in, one attribute a line out, nothing that ends the process."""

from __future__ import annotations

import subprocess
import sys

import classad2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from condor_starter.job import BadAd
from condor_starter.sandbox.ads import MAX_EXPRESSION, parse_ad, print_ad
from condor_starter.sandbox.contents import public_ad

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


def test_old_syntax_with_comments_and_blank_lines() -> None:
    ad = parse_ad('# a comment\n\nCmd = "/bin/true"\n  Args="a b"  \nRequestMemory = ImageSize / 1024\n')
    assert (ad["Cmd"], ad["Args"], len(ad)) == ("/bin/true", "a b", 3)


def test_old_syntax_knows_no_escape_but_that_of_the_quote() -> None:
    assert parse_ad('A = "C:\\dir \\"x\\" \\n"\n')["A"] == 'C:\\dir "x" \\n'


def test_new_syntax() -> None:
    ad = parse_ad(' [ Cmd = "/bin/true"; Args = "tab\\t"; N = [ a = 1 ] ] ')
    assert (ad["Cmd"], ad["Args"], ad["N"]["a"]) == ("/bin/true", "tab\t", 1)


def test_htcondors_own_functions_work_from_the_first_ad_on() -> None:
    code = (
        "from condor_starter.sandbox.ads import parse_ad\n"
        "print(parse_ad('[A = size(split(\"a b\"))]').eval('A'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "2"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("# only this\n", "cannot be parsed"),
        (
            'Cmd = "/bin/true"\nthis is no line\n',
            'line 2: expected Name = expression, found "this is no line"',
        ),
        ('\n# c\nCmd = "/bin/true\n', 'line 3: Cmd = "/bin/true is no ClassAd expression'),
        ("Cmd =\n", "line 1: Cmd = (nothing)"),
        ("two words = 3\n", "line 1"),
        ("A == 3\n", "line 1"),
        ("[ Cmd = ", "new syntax"),
        ("A = \0\n", "NUL"),
        ("A = \udcff\n", "UTF-8"),
        ("A = " + "1" * (9 << 20), "is the most"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, words: str) -> None:
    with pytest.raises(BadAd) as e:
        parse_ad(text)
    assert words in e.value.text


@pytest.mark.req("P6", "X2")
@pytest.mark.parametrize(
    "chain",
    [
        "1" + " || 1" * 100_000,
        "a" + "[0]" * 100_000,
        "a" + ".a" * 100_000,
        "(" * 100_000 + "1" + ")" * 100_000,
        "!" * 100_000 + "1",
        '"" ' + "|| 1 " * 100_000 + '""',
        '"\\\\" " ' + "|| 1 " * 100_000 + ' "',
        '/* " */ 1 ' + "|| 1" * 100_000 + ' /* " */',
    ],
)
def test_endless_expressions_never_reach_the_recursive_parser(chain: str) -> None:
    for text in (f"A = {chain}\n", f"[A = {chain}]"):
        with pytest.raises(BadAd):
            parse_ad(text)


@pytest.mark.req("P6")
@pytest.mark.parametrize("link", [" || 1", "[0]", ".a", " + 1"])
def test_the_longest_expression_that_is_read_does_no_harm(link: str) -> None:
    chain = "a" + link * ((MAX_EXPRESSION - 100) // len(link))
    code = (
        "import sys\nfrom condor_starter.sandbox.ads import parse_ad, print_ad\n"
        "ad = parse_ad(sys.stdin.read()); print_ad(ad)\n"
        "try: ad.eval('A')\nexcept Exception: pass\ndel ad; print('alive')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=f"A = {chain}\n", capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "alive"


def test_a_long_string_is_no_long_expression() -> None:
    ad = parse_ad('Environment = "' + "A=(x)() " * 100_000 + '"\nCmd = "/bin/true"\n')
    assert len(ad["Environment"]) == 800_000


@given(
    st.dictionaries(st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,10}", fullmatch=True), TEXT | st.integers(-99, 99))
)
def test_each_attribute_is_one_line_whatever_is_in_it(values: dict[str, str | int]) -> None:
    ad = classad2.ClassAd()
    for name, value in values.items():
        ad[name] = value
    printed = print_ad(ad)
    assert printed.count("\n") == len(ad)
    assert {line.partition(" = ")[0].strip("'") for line in printed.split("\n") if line} == set(ad.keys())


@pytest.mark.req("P6")
def test_a_string_cannot_write_an_attribute_of_its_own() -> None:
    ad = parse_ad('[A = "x\\nExitCode = 0"]')
    again = parse_ad(print_ad(ad))
    assert len(again) == 1 and "ExitCode" not in again


@pytest.mark.req("P2")
def test_the_claims_secrets_are_not_shown_to_the_job() -> None:
    ad = parse_ad('Cmd = "/bin/true"\nClaimId = "s3cret"\nTransferKey = "s3cret"\n_condor_privX = "s3cret"\n')
    shown = public_ad(ad)
    assert "s3cret" not in shown and "Cmd" in shown and ad["ClaimId"] == "s3cret"
