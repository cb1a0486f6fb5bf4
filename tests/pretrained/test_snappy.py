"""Snappy blocks."""

from __future__ import annotations

import time

import pytest

from rt1.errors import DataError
from rt1.pretrained.snappy import decompress

# Made by Google's library from the texts on the right.
KNOWN = [
    ("50046162fe0200360200", b"ab" * 40),
    (
        (
            "67d06167656e742f5f6163746f725f6e6574776f726b2f5f7472616e73666f726d65722f5f6c61796572732f302f66662f62696173"
            "2061a2340020312f66662f62696173"
        ),
        b"agent/_actor_network/_transformer/_layers/0/ff/bias agent/_actor_network/_transformer/_layers/1/ff/bias",
    ),
    ("46f045" + bytes(range(70)).hex(), bytes(range(70))),
]


@pytest.mark.parametrize(("block", "text"), KNOWN)
def test_a_block_of_googles_library_is_decompressed(block: str, text: bytes) -> None:
    assert decompress(bytes.fromhex(block)) == text


def test_each_kind_of_copy_is_followed() -> None:
    # "abcd" as a literal; 4 bytes from 4 back with a one-byte, a two-byte and a four-byte offset.
    literal = bytes([3 << 2]) + b"abcd"
    copies = bytes([0b001, 4]) + bytes([3 << 2 | 0b10, 4, 0]) + bytes([3 << 2 | 0b11, 4, 0, 0, 0])
    assert decompress(bytes([16]) + literal + copies) == b"abcd" * 4


def test_a_copy_may_overlap_what_it_writes() -> None:
    assert decompress(bytes([7, 0]) + b"a" + bytes([2 << 2 | 0b001, 1])) == b"a" * 7


def test_a_copy_from_before_the_start_is_refused() -> None:
    with pytest.raises(ValueError, match="reaches 9 bytes back, only 1 are there"):
        decompress(bytes([5, 0]) + b"a" + bytes([0b001, 9]))


def test_a_block_of_another_size_than_it_says_is_refused() -> None:
    with pytest.raises(ValueError, match="gives 1 bytes, its header says 5"):
        decompress(bytes([5, 0]) + b"a")


def test_a_block_that_ends_in_a_tag_is_refused() -> None:
    with pytest.raises(IndexError):
        decompress(bytes([5, 0]) + b"a" + bytes([0b001]))


def test_a_size_without_an_end_is_refused_at_once() -> None:
    with pytest.raises(DataError, match="more than 64 bits"):
        decompress(b"\xff" * 400_000)


def test_a_block_of_many_overlapping_copies_takes_no_time() -> None:
    copies = 20_000
    block = bytes([0x80 | (1 + 64 * copies) & 0x7F, 0x80 | (1 + 64 * copies) >> 7 & 0x7F, (1 + 64 * copies) >> 14])
    start = time.perf_counter()
    assert decompress(block + b"\x00a" + b"\xfe\x01\x00" * copies) == b"a" * (1 + 64 * copies)
    assert time.perf_counter() - start < 2


def test_a_literal_that_ends_behind_the_block_is_refused() -> None:
    with pytest.raises(ValueError, match="ends behind the block"):
        decompress(b"\x05\x10ab")
