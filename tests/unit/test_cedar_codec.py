"""CEDAR's typed values, and ads of literals: round trips, and bounds that a hostile peer cannot pass."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from condor_starter.cedar.codec import MAX_ATTRIBUTES, Reader, Writer
from condor_starter.cedar.errors import CedarError, ProtocolError
from condor_starter.cedar.literals import LiteralAd, line, quote, split
from condor_starter.cedar.sinful import BadSinful, Sinful

words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=50)
integers = st.integers(-(2**63), 2**63 - 1)
values = st.lists(
    st.one_of(
        st.tuples(st.just("integer"), integers),
        st.tuples(st.just("text"), words),
        st.tuples(st.just("ad"), st.lists(words.filter(lambda w: w != "ZKM"), max_size=5)),
    ),
    max_size=8,
)


@pytest.mark.req("H1")
@given(values, st.booleans())
def test_what_is_written_is_read_again(items: list[tuple[str, object]], encrypted: bool) -> None:
    writer = Writer(encrypted)
    for kind, value in items:
        getattr(writer, kind)(value)
    reader = Reader(writer.payload(), encrypted)
    for kind, value in items:
        expected = tuple(value) if kind == "ad" else value  # type: ignore[call-overload]
        assert getattr(reader, kind)() == expected
    reader.end()


@pytest.mark.req("H1")
def test_the_bytes_are_those_of_a_captured_transfer_key() -> None:
    key = "1#6b002b7c698824d8bcd4a72"
    assert Writer(True).text(key).payload() == b"\0\0\0\0\0\0\0\x1a" + key.encode() + b"\0"
    assert Writer(False).text(key).payload() == key.encode() + b"\0"
    assert Writer(False).integer(-63).payload() == b"\xff" * 7 + b"\xc1"


@pytest.mark.req("H1")
def test_a_null_string_is_read_as_an_empty_one() -> None:
    assert Reader(b"\xad" + b"next\0", False).text() == ""
    assert Reader(struct.pack(">q", 1) + b"\xad", True).text() == ""


@pytest.mark.req("H1")
def test_a_secret_attribute_is_read_from_behind_its_mark() -> None:
    payload = Writer(True).integer(2).text("ZKM").text('ClaimId = "x"').text("A = 1").text("").text("")
    assert Reader(payload.payload(), True).ad() == ('ClaimId = "x"', "A = 1")


@pytest.mark.req("H1")
def test_the_two_type_names_of_older_peers_become_attributes() -> None:
    payload = Writer(False).integer(1).text("A = 1").text("Job").text("(unknown type)").payload()
    assert Reader(payload, False).ad() == ("A = 1", 'MyType = "Job"')


@pytest.mark.req("H1")
def test_names_that_are_not_utf8_survive() -> None:
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert Reader(Writer(True).text(name).payload(), True).text() == name


@pytest.mark.req("X2")
@given(
    st.binary(max_size=120), st.booleans(), st.lists(st.sampled_from(["integer", "text", "ad"]), max_size=6)
)
def test_any_bytes_are_read_or_refused(data: bytes, encrypted: bool, kinds: list[str]) -> None:
    reader = Reader(data, encrypted)
    try:
        for kind in kinds:
            getattr(reader, kind)()
        reader.end()
    except CedarError:
        pass


@pytest.mark.req("X2")
@pytest.mark.parametrize("count", [-1, MAX_ATTRIBUTES + 1, 2**62])
def test_an_ad_that_claims_to_be_huge_is_refused_at_once(count: int) -> None:
    with pytest.raises(ProtocolError, match="attributes"):
        Reader(Writer(False).integer(count).raw(b"x" * 64).payload(), False).ad()


@pytest.mark.req("X2")
@pytest.mark.parametrize("size", [-1, 0, 2**40])
def test_a_string_that_claims_to_be_huge_is_refused_at_once(size: int) -> None:
    with pytest.raises(ProtocolError):
        Reader(struct.pack(">q", size) + b"x\0", True).text()


@pytest.mark.req("X2")
def test_a_string_with_a_nul_inside_is_refused_and_never_sent() -> None:
    with pytest.raises(ProtocolError):
        Reader(struct.pack(">q", 4) + b"a\0b\0", True).text()
    with pytest.raises(ValueError, match="NUL"):
        Writer(False).text("a\0b")


@pytest.mark.req("X2")
def test_bytes_that_nobody_asked_for_are_an_error() -> None:
    reader = Reader(Writer(False).integer(1).integer(2).payload(), False)
    reader.integer()
    with pytest.raises(ProtocolError, match="8 bytes more"):
        reader.end()


plain = st.text(st.characters(exclude_characters="\0\\", exclude_categories=["Cs"]), max_size=60)


@pytest.mark.req("H1")
@given(
    st.dictionaries(
        st.from_regex(r"\A[A-Za-z_][A-Za-z0-9_]{0,10}\Z"),
        st.one_of(plain, st.booleans(), st.integers(-(10**17), 10**17)),
        max_size=6,
    )
)
def test_literals_are_read_as_they_were_written(values: dict[str, str | bool | int]) -> None:
    unique = {k.lower(): v for k, v in values.items()}
    ad = LiteralAd(line(k, v) for k, v in unique.items())
    for name, value in unique.items():
        assert name in ad
        match value:
            case bool():
                assert ad.flag(name.upper()) is value
            case int():
                assert ad.integer(name.upper()) == value
            case str():
                assert ad.text(name.upper()) == value


@pytest.mark.req("H1")
def test_a_literal_is_what_the_classad_library_reads() -> None:
    import classad2

    for text in ('say "hello"', "C:\\dir\\file", "ends in a backslash\\", "plain", ""):
        read = classad2.parseNext(line("A", text) + "\n")["A"]
        assert read.rstrip() == text, (text, read)


@pytest.mark.req("H1")
def test_expressions_are_passed_over_where_literals_are_wanted() -> None:
    ad = LiteralAd(["A = 1 + 1", 'B = "x', "C = [ a = 1 ]", "no attribute", "D == 3", "E = TRUE", "F=2.5"])
    assert [n for n in "ABCDEF" if n in ad] == ["E", "F"]
    assert ad.flag("E") is True
    assert ad.text("E", "none") == "none"
    assert split("a.b = 1") == ("a.b", "1")
    assert quote("x\\") == '"x\\ "'


SINFULS = (
    "<127.0.0.1:9618?addrs=127.0.0.1-9618&alias=localhost&noUDP&sock=startd_12_cf39>",
    "<127.0.0.1:33921>",
    "<[2001:db8::1]:9618?sock=x>",
    "<node-1.example.org:9618?CCBID=10.0.0.1:9618#3&PrivNet=cluster>",
)


@pytest.mark.req("H1")
@pytest.mark.parametrize("text", SINFULS[:3])
def test_a_sinful_is_printed_as_it_was_read(text: str) -> None:
    assert str(Sinful.parse(text)) == text


@pytest.mark.req("H1")
def test_a_sinful_tells_its_parts() -> None:
    sinful = Sinful.parse(SINFULS[0])
    assert (sinful.host, sinful.port, sinful.param("sock")) == ("127.0.0.1", 9618, "startd_12_cf39")
    assert sinful.param("noUDP") == ""
    assert sinful.param("CCBID") is None
    assert str(sinful.with_sock("me")).endswith("&noUDP&sock=me>")
    assert sinful.addresses() == [("127.0.0.1", 9618)]
    both = Sinful.parse("<10.0.0.1:9618?addrs=10.0.0.1-9618+[2001-db8--1]-9618+[2001:db8::2]-9618>")
    assert both.addresses()[0] == ("10.0.0.1", 9618)
    assert ("2001:db8::2", 9618) in both.addresses()
    assert Sinful.parse(SINFULS[3]).param("CCBID") == "10.0.0.1:9618#3"


@pytest.mark.req("X2")
@given(st.text(max_size=60))
@example("=")
@example("=x&&y")
def test_other_text_is_no_sinful_or_is_printed_so_that_it_is_read_again(text: str) -> None:
    for candidate in (text, f"<{text}>", f"<127.0.0.1:1?{text}>"):
        try:
            sinful = Sinful.parse(candidate)
        except BadSinful:
            continue
        assert Sinful.parse(str(sinful)) == sinful
