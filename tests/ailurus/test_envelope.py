"""Texts for one reader, on a way where others store and forward what passes."""

from __future__ import annotations

import base64

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.public import PublicKey, SealedBox

from ailurus.envelope import Reader, seal

READER = Reader()
# Whose exchange with any key gives zero: two of the small orders of the curve.
WEAK = [bytes(32), bytes([1, *bytes(31)])]


@settings(max_examples=10, deadline=None)
@given(st.binary(max_size=300), st.text(max_size=20))
def test_its_reader_opens_it(text, bound):
    assert READER.open(seal(text, READER.public, bound), bound) == text


def test_whoever_reads_along_learns_nothing_and_two_of_the_same_differ():
    text = b"a token of a user's" * 20
    one, two = (base64.b64decode(seal(text, READER.public, "7 1")) for _ in "12")
    # The sender's key comes first.
    assert one[32:] != two[32:]
    assert not any(part in whole for part in (text[:5], b"7 1") for whole in (one, two))


def test_nobody_else_opens_it_nor_for_anything_else():
    sealed = seal(b"text", READER.public, "7 1")
    with pytest.raises(ValueError, match="not sealed for this reader"):
        Reader().open(sealed, "7 1")
    with pytest.raises(ValueError, match="sealed for something else"):
        READER.open(sealed, "7 2")


@pytest.mark.parametrize("at", [0, 31, 32, 47, 48, -1])
def test_a_changed_one_opens_for_nobody(at):
    whole = bytearray(base64.b64decode(seal(b"text", READER.public, "")))
    whole[at] ^= 1
    with pytest.raises(ValueError, match="not sealed for this reader"):
        READER.open(base64.b64encode(whole).decode(), "")


@pytest.mark.parametrize("whole", [b"", bytes(47), bytes(48), WEAK[1] + bytes(40)])
def test_what_nobody_sealed_is_refused(whole):
    with pytest.raises(ValueError, match="not sealed for this reader"):
        READER.open(base64.b64encode(whole).decode(), "")


@pytest.mark.parametrize("inside", [b"", b"text", msgspec.msgpack.encode(["7 1", "no bytes"])])
def test_what_another_program_sealed_for_this_reader_is_refused(inside):
    box = SealedBox(PublicKey(base64.b64decode(READER.public)))
    with pytest.raises(ValueError, match="not sealed for this reader"):
        READER.open(base64.b64encode(box.encrypt(inside)).decode(), "7 1")


@pytest.mark.parametrize("sealed", ["no base64", "é", "AAA"])
def test_what_is_no_base64_is_refused(sealed):
    with pytest.raises(ValueError, match=r".+"):
        READER.open(sealed, "")


@pytest.mark.parametrize(
    "key",
    [b"", bytes(31), bytes(33), bytes(384), *WEAK],
    ids=lambda key: f"{key[:1].hex()}*{len(key)}",
)
def test_what_is_no_key_is_refused(key):
    with pytest.raises(ValueError, match="no key"):
        seal(b"text", base64.b64encode(key).decode(), "")


@pytest.mark.parametrize("public", ["AAA", "no base64", "é"])
def test_nor_is_a_key_that_is_no_base64(public):
    with pytest.raises(ValueError, match=r".+"):
        seal(b"text", public, "")
