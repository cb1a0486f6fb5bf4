"""Integers of variable length and fields of messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rt1.common.protobuf import delimited, encode_varint, fields, read_varint
from rt1.errors import DataError


@given(st.integers(0, 2**64 - 1))
def test_an_integer_comes_back(value: int) -> None:
    data = encode_varint(value)
    assert read_varint(b"\0" + data, 1) == (value, 1 + len(data))


def test_an_integer_without_an_end_is_refused_at_once() -> None:
    with pytest.raises(DataError, match="more than 64 bits"):
        read_varint(b"\xff" * 400_000, 0)
    with pytest.raises(DataError, match="ends within a number"):
        read_varint(b"\xff", 0)
    assert read_varint(b"\xff" * 9 + b"\x01", 0) == (2**64 - 1, 10)


def test_the_fields_of_a_message_are_yielded_with_their_tags() -> None:
    message = delimited(1, b"abc") + bytes([2 << 3, 7]) + bytes([3 << 3 | 5, 1, 2, 3, 4])
    assert [(tag, message[a:b]) for tag, a, b in fields(message, 0, len(message))] == [
        (0x0A, b"abc"),
        (0x10, b"\x07"),
        (0x1D, b"\1\2\3\4"),
    ]


@pytest.mark.parametrize(("message", "problem"), [(b"\x0b", "tag 11"), (b"\x0a\x05abc", "over its end")])
def test_bytes_that_are_no_message_are_refused(message: bytes, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        list(fields(message, 0, len(message)))
