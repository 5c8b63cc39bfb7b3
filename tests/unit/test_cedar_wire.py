"""CEDAR's framing and cipher: what goes in comes out, however it is cut, and nothing forged does."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from condor_starter.cedar.cipher import Aes, CipherState, Transcript, derive_key
from condor_starter.cedar.errors import CedarError, CipherError, ProtocolError
from condor_starter.cedar.wire import HEADER, MAX_PACKET, Wire

KEY = bytes(range(32))
payloads = st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=6)


def pair(clear_a: bytes = b"", clear_b: bytes = b"") -> tuple[Wire, Wire]:
    """Two ends of one encrypted connection, on which each side has said something in the clear before."""
    a, b = Wire(), Wire()
    for one, other, said in ((a, b, clear_a), (b, a, clear_b)):
        if said:
            other.feed(one.pack(said))
            assert other.next_message() == said
    a.set_key(KEY)
    b.set_key(KEY)
    return a, b


def taken(wire: Wire) -> list[bytes]:
    found = []
    while (message := wire.next_message()) is not None:
        found.append(message)
    return found


@pytest.mark.req("H1")
@given(payloads, st.booleans(), st.data())
def test_messages_come_out_as_they_went_in_wherever_the_bytes_are_cut(
    messages: list[bytes], encrypted: bool, data: st.DataObject
) -> None:
    a, b = pair(b"hello") if encrypted else (Wire(), Wire())
    stream = b"".join(a.pack(m) for m in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        b.feed(stream[start:end])
        found += taken(b)
    assert found == messages
    assert b.idle


@pytest.mark.req("H1")
def test_every_single_byte_at_a_time_is_enough() -> None:
    a, b = pair(b"x", b"y")
    found = []
    for byte in a.pack(b"first") + a.pack(b"second"):
        b.feed(bytes([byte]))
        found += taken(b)
    assert found == [b"first", b"second"]


@pytest.mark.req("H1")
@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("size", [1, MAX_PACKET - 33, MAX_PACKET - 32, MAX_PACKET, 3 * MAX_PACKET + 7])
def test_a_message_longer_than_a_packet_is_cut_into_packets_that_a_peer_takes(
    size: int, encrypted: bool
) -> None:
    a, b = pair() if encrypted else (Wire(), Wire())
    message = os.urandom(size)
    stream = a.pack(message)
    at = 0
    while at < len(stream):
        end, length = HEADER.unpack_from(stream, at)
        assert 1 <= length <= MAX_PACKET
        at += HEADER.size + length
        assert end == (at == len(stream))
    b.feed(stream)
    assert b.next_message() == message


@pytest.mark.req("H1", "X2")
@given(payloads, st.data())
def test_a_changed_bit_anywhere_in_an_encrypted_stream_is_never_taken_for_a_message(
    messages: list[bytes], data: st.DataObject
) -> None:
    a, b = pair(b"hello", b"you")
    stream = bytearray(b"".join(a.pack(m) for m in messages))
    where = data.draw(st.integers(0, len(stream) - 1))
    stream[where] ^= 1 << data.draw(st.integers(0, 7))
    b.feed(bytes(stream))
    found: list[bytes] = []
    try:
        while (message := b.next_message()) is not None:
            found.append(message)
    except CedarError:
        pass
    assert found == messages[: len(found)]
    assert len(found) < len(messages)


@pytest.mark.req("H1", "X2")
def test_packets_that_are_left_out_repeated_or_exchanged_are_refused() -> None:
    for order in ([1], [0, 0], [0, 2], [1, 0]):
        a, b = pair(b"hello")
        packets = [a.pack(b"one"), a.pack(b"two"), a.pack(b"three")]
        with pytest.raises(CipherError):  # noqa: PT012
            for n in order:
                b.feed(packets[n])
                b.next_message()


@pytest.mark.req("H1", "X2")
@given(st.binary(min_size=1, max_size=40), st.binary(min_size=1, max_size=40), st.data())
def test_a_handshake_that_somebody_changed_fails_with_the_first_encrypted_packet(
    said: bytes, answered: bytes, data: st.DataObject
) -> None:
    a, b = Wire(), Wire()
    packet = bytearray(a.pack(said))
    packet[HEADER.size + data.draw(st.integers(0, len(said) - 1))] ^= 1
    b.feed(bytes(packet))
    b.next_message()
    a.feed(b.pack(answered))
    a.next_message()
    a.set_key(KEY)
    b.set_key(KEY)
    b.feed(a.pack(b"secret"))
    with pytest.raises(CipherError):
        b.next_message()


@pytest.mark.req("H1")
def test_both_directions_have_their_own_counters_and_ivs() -> None:
    a, b = pair(b"hello")
    for n in range(20):
        b.feed(a.pack(b"to b %d" % n))
        a.feed(b.pack(b"to a %d" % n))
        assert b.next_message() == b"to b %d" % n
        assert a.next_message() == b"to a %d" % n


@pytest.mark.req("H1")
def test_a_wrong_key_is_refused() -> None:
    a, b = Wire(), Wire()
    a.set_key(KEY)
    b.set_key(KEY[::-1])
    b.feed(a.pack(b"hello"))
    with pytest.raises(CipherError, match="does not authenticate"):
        b.next_message()


@pytest.mark.req("H1")
def test_what_was_said_to_the_shared_port_is_not_part_of_the_handshake() -> None:
    a, b = Wire(), Wire()
    a.pack(b"for the shared port")
    a.forget_clear()
    b.feed(a.pack(b"for the daemon"))
    assert b.next_message() == b"for the daemon"
    a.set_key(KEY)
    b.set_key(KEY)
    b.feed(a.pack(b"payload"))
    assert b.next_message() == b"payload"


@pytest.mark.req("H1")
def test_an_encrypted_message_that_arrives_with_the_last_clear_one_is_read_with_the_key() -> None:
    a, b = Wire(), Wire()
    stream = a.pack(b"handshake")
    a.set_key(KEY)
    b.feed(stream + a.pack(b"payload"))
    assert b.next_message() == b"handshake"
    b.set_key(KEY)
    assert b.next_message() == b"payload"


@pytest.mark.req("X2")
@pytest.mark.parametrize(
    "header",
    [HEADER.pack(1, 0), HEADER.pack(1, MAX_PACKET + 1), HEADER.pack(11, 8), HEADER.pack(255, 0xFFFFFFFF)],
)
def test_a_header_out_of_bounds_is_refused_before_anything_is_kept_for_it(header: bytes) -> None:
    wire = Wire()
    wire.feed(header)
    with pytest.raises(ProtocolError, match="not a CEDAR packet"):
        wire.next_message()


@pytest.mark.req("X2")
def test_a_message_of_endless_packets_is_refused_at_the_limit() -> None:
    wire = Wire(limit=1000)
    packet = HEADER.pack(0, 100) + b"x" * 100
    with pytest.raises(ProtocolError, match="more than 1000 bytes"):  # noqa: PT012
        for _ in range(11):
            wire.feed(packet)
            wire.next_message()


@pytest.mark.req("X2")
@given(st.binary(max_size=200))
def test_bytes_that_are_no_cedar_end_in_an_error_or_in_waiting_never_in_anything_else(data: bytes) -> None:
    for wire in (Wire(), pair()[1]):
        wire.feed(data)
        try:
            while wire.next_message() is not None:
                pass
        except CedarError:
            pass


@pytest.mark.req("H1")
def test_no_key_is_set_in_the_middle_of_a_message_or_twice() -> None:
    wire = Wire()
    wire.feed(HEADER.pack(0, 1) + b"x")
    assert wire.next_message() is None
    with pytest.raises(ProtocolError):
        wire.set_key(KEY)
    wire = Wire()
    wire.set_key(KEY)
    with pytest.raises(ProtocolError):
        wire.set_key(KEY)


@pytest.mark.req("H1")
@given(st.integers(1, 2**32 - 20), st.integers(1, 2**32 - 20), st.binary(min_size=1, max_size=99))
def test_a_connection_that_another_process_began_goes_on_where_it_stopped(
    sent: int, received: int, message: bytes
) -> None:
    iv_a, iv_b = os.urandom(16), os.urandom(16)
    a = Aes(CipherState(KEY, sent, received, iv_a, iv_b, True, True, bytes(64)))
    b = Aes(CipherState(KEY, received, sent, iv_b, iv_a, True, True, bytes(64)))
    one, other = Wire(a), Wire(b)
    for _ in range(3):
        other.feed(one.pack(message))
        one.feed(other.pack(message))
        assert other.next_message() == one.next_message() == message


@pytest.mark.req("H1")
def test_packet_numbers_never_come_twice() -> None:
    last = Aes(CipherState(KEY, 0xFFFFFFFE, 1, bytes(16), bytes(16), True, True, bytes(64)))
    wire = Wire(last)
    assert wire.pack(b"x")
    with pytest.raises(CipherError, match="used up"):
        wire.pack(b"x")


@pytest.mark.req("H1")
def test_the_nonce_is_the_iv_with_the_packet_number_added_to_its_first_word() -> None:
    """A vector made by hand: packet number 2 of a known IV."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    iv = b"\xff\xff\xff\xff" + b"abcdefghijkl"
    wire = Wire(Aes(CipherState(KEY, 2, 1, iv, bytes(16), True, True, bytes(64))))
    packet = wire.pack(b"payload")
    nonce = b"\x00\x00\x00\x01" + b"abcdefghijkl"
    assert AESGCM(KEY).decrypt(nonce, packet[5:], packet[:5]) == b"payload"


@pytest.mark.req("H1")
def test_the_first_packet_binds_what_was_said_before_in_the_order_of_its_sender() -> None:
    import hashlib

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    a, b = Wire(), Wire()
    said = a.pack(b"mine")
    a.feed(b.pack(b"yours"))
    heard = b.pack(b"yours")  # the same bytes once more: nothing is encrypted yet
    a.next_message()
    a.set_key(KEY)
    packet = a.pack(b"x")
    iv, aad = packet[5:21], hashlib.sha256(said).digest() + hashlib.sha256(heard).digest() + packet[:5]
    assert AESGCM(KEY).decrypt(iv, packet[21:], aad) == b"x"


@pytest.mark.req("H1")
def test_a_direction_in_which_nothing_was_said_counts_as_zeros() -> None:
    assert Transcript().digests() == bytes(64)


@pytest.mark.req("H1")
def test_a_session_key_is_derived_from_the_text_of_its_secret() -> None:
    """RFC 5869 written out: extract with salt "htcondor", expand with info "keygen", one block."""
    import hashlib
    import hmac

    secret = "0123456789abcdef" * 4
    prk = hmac.new(b"htcondor", secret.encode(), hashlib.sha256).digest()
    assert derive_key(secret) == hmac.new(prk, b"keygen\x01", hashlib.sha256).digest()


@pytest.mark.req("X2")
def test_keys_do_not_appear_in_anything_that_is_printed() -> None:
    state = CipherState(b"K" * 32, 1, 1, bytes(16), bytes(16), True, True, bytes(64))
    assert "KKK" not in repr(state)
