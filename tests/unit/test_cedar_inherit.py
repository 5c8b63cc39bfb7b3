"""What a startd hands down in its starter's environment: read as it is written, refused when it is not
whole.
"""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from condor_starter.cedar.cipher import CipherState, derive_key
from condor_starter.cedar.errors import CedarError, CipherError, ProtocolError
from condor_starter.cedar.inherit import descriptors, parse_inherit, parse_private, parse_socket
from condor_starter.cedar.sessions import FAMILY, PARENT, Keyring, make_session, parse_policy, session_from

KEY = bytes(range(32))
SINFUL = "<127.0.0.1:9618?addrs=127.0.0.1-9618&alias=localhost&noUDP&sock=startd_12_cf39>"
VERSION = "$CondorVersion:_23.9.6_2024-08-08_PackageID:_23.9.6+dfsg-2.1_$"
USER = "submit-side@matchsession"
STARTD = "12*3*0*0*0*0***0*<127.0.0.1:35667>*0*0*0*0*0*0*0*"
LISTENER = "14*6*0*0*0*0***1**0*0*0*0*0*0*0*"
INFO = (
    '[Encryption="YES";Integrity="YES";ShortVersion="23.9.6";CryptoMethods="BLOWFISH";'
    'ValidCommands="60000,60008,1200";CryptoMethodsList="AES.BLOWFISH.3DES";]'
)
SECRET = "0f" * 32


def shadow(out: int = 3, into: int = 2, bound: bool = True, user: str = USER, version: str = VERSION) -> str:
    state = struct.pack("=II", out, into) + b"o" * 16 + b"i" * 16
    flags = "1*1*1*1" if bound else "1*1*0*0"
    return (
        f"8*3*20*1*{len(user)}*{len(version)}*{user}*{version}*0*<127.0.0.1:46279>*64*3*1*"
        f"{state.hex().upper()}*{KEY.hex().upper()}*{flags}*64*{bytes(range(64)).hex()}*0*"
    )


def call(*, streams: str | None = None, port: str = f"SharedPort:cookie/slot1_1_18_6eba_1*{LISTENER}") -> str:
    return f"18 {SINFUL} {streams or f'1 {STARTD} 1 {shadow()}'} 0 {port} 0"


@pytest.mark.req("H1")
def test_a_call_under_a_shared_port_is_read_whole() -> None:
    found = parse_inherit(call())
    assert found.parent_pid == 18
    assert str(found.parent) == SINFUL
    assert found.endpoint == "slot1_1_18_6eba_1"
    assert list(descriptors(found)) == [12, 8, 14]
    startd, to_shadow = found.streams
    assert startd.cipher is None
    assert to_shadow.user == USER
    assert to_shadow.version.startswith("$CondorVersion: 23.9.6 ")
    assert to_shadow.cipher == CipherState(KEY, 3, 2, b"o" * 16, b"i" * 16, True, True, bytes(range(64)))


@pytest.mark.req("H1")
def test_without_a_shared_port_the_listeners_are_tcp_sockets_and_udp_is_passed_over() -> None:
    found = parse_inherit(call(port=f"1 {LISTENER} 2 15*2*0*0*0*0***0**0*0*0*0*0*0*0*"))
    assert found.endpoint == ""
    assert [s.fd for s in found.listeners] == [14]


@pytest.mark.req("H1")
def test_a_missing_parent_address_does_not_shift_the_rest() -> None:
    found = parse_inherit(f"18  1 {STARTD} 1 {shadow()} 0 0")
    assert found.parent is None
    assert len(found.streams) == 2
    assert found.listeners == ()


@pytest.mark.req("H1")
def test_a_field_that_says_its_length_may_have_stars_in_it() -> None:
    assert parse_socket(shadow(user="a*b*c")).user == "a*b*c"


@pytest.mark.req("H1")
def test_a_connection_whose_first_packet_has_not_been_sent_keeps_its_digests() -> None:
    cipher = parse_socket(shadow(0, 0, bound=False)).cipher
    assert cipher is not None
    assert (cipher.sent_packets, cipher.sent_bound, cipher.digests) == (0, False, bytes(range(64)))


@pytest.mark.req("H1", "X9")
@pytest.mark.parametrize(("number", "name"), [(1, "BLOWFISH"), (2, "3DES")])
def test_other_ciphers_are_refused_in_one_clear_sentence(number: int, name: str) -> None:
    old = f"8*3*20*1*0*0***0*<127.0.0.1:1>*32*{number}*1*{KEY[:16].hex()}*0*0*0*0*0*0*"
    with pytest.raises(CipherError, match=f"uses {name}, and this starter speaks AES only: have AES first"):
        parse_inherit(call(streams=f"1 {STARTD} 1 {old}"))
    with pytest.raises(CipherError, match="offers 3DES,BLOWFISH, and this starter speaks AES only"):
        make_session("id", '[CryptoMethodsList="3DES.BLOWFISH";]', SECRET, PARENT)


@pytest.mark.req("X2")
@given(st.text(max_size=80), st.integers(0, 700))
def test_what_is_cut_or_garbled_is_refused_and_never_read_halfway(noise: str, cut: int) -> None:
    whole = call()
    for text in (noise, whole[:cut], whole[:cut] + noise + whole[cut:]):
        said = ""
        try:
            parse_inherit(text)
        except CedarError as e:
            said = str(e)
        assert KEY.hex().upper() not in said


@pytest.mark.req("X2")
def test_a_key_shorter_than_it_says_is_refused() -> None:
    text = shadow().replace(f"*64*3*1*{shadow().split('*')[13]}", f"*66*3*1*{shadow().split('*')[13]}")
    with pytest.raises(ValueError, match="another length"):
        parse_socket(text)


@pytest.mark.req("H1")
def test_the_sessions_of_the_private_part_are_told_by_their_peers() -> None:
    private = f" SessionKey:54c963#{INFO}{SECRET} FamilySessionKey:family:175ce3#{INFO}{SECRET} Other:x"
    parent, family = parse_private(private)
    assert (parent.id, parent.peer, parent.version) == ("54c963", PARENT, "23.9.6")
    assert parent.key == derive_key(SECRET)
    assert parent.commands == {60000, 60008, 1200}
    assert (family.id, family.peer) == ("family:175ce3", FAMILY)


@pytest.mark.req("H1")
def test_a_claim_id_is_a_session_named_by_all_that_stands_before_its_policy() -> None:
    claim = f"{SINFUL}#1795173239#1#{INFO}{SECRET}"
    assert session_from(claim, "x").id == f"{SINFUL}#1795173239#1"
    with pytest.raises(ProtocolError, match="no session of its own"):
        session_from(f"{SINFUL}#1795173239#1#{SECRET}", "x")


@pytest.mark.req("H1")
@given(
    st.dictionaries(
        st.from_regex(r"\A[A-Z][A-Za-z]{0,8}\Z"), st.from_regex(r"\A[A-Za-z0-9.,]{0,9}\Z"), max_size=5
    )
)
def test_a_policy_is_read_as_it_was_written(values: dict[str, str]) -> None:
    text = "[" + "".join(f'{k}="{v}";' for k, v in values.items()) + "]"
    assert parse_policy(text) == {k.lower(): v for k, v in values.items()} or len(
        {k.lower() for k in values}
    ) < len(values)


@pytest.mark.req("X2")
@given(st.text(max_size=100))
def test_other_text_is_no_session(text: str) -> None:
    for candidate in (text, f"id#{text}", f"id#[{text}]key"):
        try:
            session = session_from(candidate, PARENT)
        except CedarError:
            continue
        assert "AES" in candidate.upper()
        assert session.id


@pytest.mark.req("X2")
def test_neither_keys_nor_secrets_are_printed() -> None:
    session = session_from(f"id#{INFO}{SECRET}", PARENT)
    assert SECRET not in repr(session)
    assert repr(session.key) not in repr(session)
    assert "o" * 16 not in repr(KEY)
    assert repr(KEY) not in repr(parse_inherit(call()))


@pytest.mark.req("H1")
def test_the_newest_session_with_a_peer_is_used() -> None:
    ring = Keyring()
    ring.add(session_from(f"one#{INFO}{SECRET}", PARENT))
    ring.add(session_from(f"two#{INFO}{SECRET}", PARENT))
    newest, first = ring.of(PARENT), ring.find("one")
    assert newest is not None
    assert newest.id == "two"
    assert first is not None
    assert ring.of(FAMILY) is None
    assert ring.find("three") is None
