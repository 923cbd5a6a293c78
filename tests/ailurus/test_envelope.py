"""Texts for one reader, on a way where others store and forward what passes."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ailurus.envelope import GENERATOR, PRIME, Reader, seal

READER = Reader()


def euler(bits: int) -> int:
    """The integer part of e * 2**bits."""
    guard = bits + 64
    term = total = 1 << guard
    number = 1
    while term:
        term //= number
        total += term
        number += 1
    return total >> 64


def test_the_group_is_ffdhe3072_of_rfc_7919():
    """As section A.2 makes it from e; a safe prime, whose halves Fermat tells to be none."""
    assert 2**3072 - 2**3008 + (euler(2942) + 2625351) * 2**64 - 1 == PRIME
    half = PRIME // 2
    assert pow(3, half - 1, half) == pow(3, PRIME - 1, PRIME) == pow(GENERATOR, half, PRIME) == 1


@settings(max_examples=10, deadline=None)
@given(st.binary(max_size=300), st.text(max_size=20))
def test_its_reader_opens_it(text, bound):
    assert READER.open(seal(text, READER.public, bound), bound) == text


def test_whoever_reads_along_learns_nothing_and_two_of_the_same_differ():
    text = b"a token of a user's" * 20
    one, two = (base64.b64decode(seal(text, READER.public, "7 1")) for _ in "12")
    assert one[384 + 32 :] != two[384 + 32 :]
    assert not any(text[:5] in whole for whole in (one, two))


def test_nobody_else_opens_it_nor_for_anything_else():
    sealed = seal(b"text", READER.public, "7 1")
    with pytest.raises(ValueError, match="not sealed for this reader"):
        Reader().open(sealed, "7 1")
    with pytest.raises(ValueError, match="not sealed for this reader"):
        READER.open(sealed, "7 2")


@pytest.mark.parametrize("at", [0, 200, 383, 384, 415, 416, -1])
def test_a_changed_one_opens_for_nobody(at):
    whole = bytearray(base64.b64decode(seal(b"text", READER.public, "")))
    whole[at] ^= 1
    with pytest.raises(ValueError, match=r"not sealed|no key"):
        READER.open(base64.b64encode(whole).decode(), "")


@pytest.mark.parametrize("number", [0, 1, PRIME - 1, PRIME, 2**3072 - 1])
def test_keys_that_make_every_exchange_the_same_are_refused(number):
    weak = number.to_bytes(384)
    with pytest.raises(ValueError, match="no key"):
        seal(b"text", base64.b64encode(weak).decode(), "")
    with pytest.raises(ValueError, match="no key"):
        READER.open(base64.b64encode(weak + bytes(40)).decode(), "")


@pytest.mark.parametrize("public", ["", "AAAA", "no base64", "é", base64.b64encode(bytes(383))])
def test_what_is_no_key_is_refused(public):
    with pytest.raises(ValueError, match=r".+"):
        seal(b"text", public, "")
