"""The wire format: what goes round, what openpi writes, and what is refused."""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from rt1.errors import ProtocolError
from rt1.serve.protocol import MAX_TEXT, MAX_VALUES, decode, encode, shown

DTYPES = st.sampled_from(["|u1", "|b1", "<i4", ">i2", "<f4", "<f8", "<f2", "<u8"]).map(np.dtype)
ARRAYS = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))


def _array(**changes: Any) -> bytes:
    """Return the message of an array as openpi writes it, with changes that no honest sender makes."""
    fields = {"__ndarray__": True, "data": bytes(6), "dtype": "|u1", "shape": [2, 3], **changes}
    return bytes(msgpack.packb({"image": {key.encode(): value for key, value in fields.items()}}))


@given(ARRAYS)
def test_an_array_comes_back_with_its_bits_dtype_and_shape(array: NDArray[Any]) -> None:
    back = decode(encode({"image": array}))["image"]
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())


PLAIN: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(PLAIN)
def test_plain_data_comes_back(value: Any) -> None:
    assert decode(encode(value)) == value


@given(st.binary(max_size=60))
def test_random_bytes_are_plain_data_or_refused(message: bytes) -> None:
    refused: ProtocolError | None = None
    try:
        value = decode(message)
    except ProtocolError as error:
        refused = error
    else:
        assert decode(encode(value)) == value or b"\xca" in message or b"\xcb" in message  # NaN is not itself
    assert "\n" not in str(refused)


def test_a_strided_array_is_sent_in_order() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(decode(encode(array.T[::-1])), array.T[::-1])


@pytest.mark.parametrize("scalar", [np.float32(1.5), np.int64(-3), np.bool_(True), np.uint8(7)])  # noqa: FBT003
def test_a_numpy_scalar_comes_back(scalar: np.generic) -> None:
    back = decode(encode(scalar))
    assert back == scalar
    assert back.dtype == scalar.dtype


def test_the_bytes_are_those_that_openpi_writes() -> None:
    array = np.arange(6, dtype=np.uint8).reshape(2, 3)
    written = {b"__ndarray__": True, b"data": array.tobytes(), b"dtype": "|u1", b"shape": (2, 3)}
    assert encode({"image": array}) == msgpack.packb({"image": written})
    assert encode(np.float32(2.0)) == msgpack.packb({b"__npgeneric__": True, b"data": 2.0, b"dtype": "<f4"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "|O"}, "dtype '|O', must be of bool, integers or floats"),
        ({"dtype": "|V1"}, "dtype '|V1'"),
        ({"dtype": "<c8"}, "dtype '<c8'"),
        ({"dtype": "<f4,<f4"}, "dtype '<f4,<f4'"),
        ({"dtype": "<f3"}, "dtype '<f3'"),
        ({"dtype": 7}, "dtype 7"),
        ({"shape": [2, 4]}, "takes 8 bytes, but 6 came"),
        ({"shape": [2**40, 2**40]}, "but 6 came"),
        ({"shape": [-2, -3]}, "must be at most 8 whole numbers"),
        ({"shape": [2, 3] + [1] * 7}, "must be at most 8 whole numbers"),
        ({"shape": "23"}, "must be at most 8 whole numbers"),
        ({"data": "aaaaaa"}, "data of an array is a str"),
        ({"extra": 1}, "must have b'__ndarray__', b'data', b'dtype', b'shape'"),
    ],
)
def test_an_array_that_is_none_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ProtocolError) as refused:
        decode(_array(**changes))
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", "not whole, valid msgpack"),
        (_array()[:-3], "not whole, valid msgpack"),
        (_array() + b"\0", "not whole, valid msgpack"),
        (b"\x91" * 20 + b"\x00", "within each other"),
        (b"\x91" * 100_000 + b"\x00", "within each other"),
        (b"\xdd\xff\xff\xff\xff" + bytes(50_000), "more than 4096 values"),
        (msgpack.packb({"not read": [[1] * 1000] * 1000}), "more than 4096 values"),
        (msgpack.packb({"not read": {str(key): key for key in range(MAX_VALUES // 2)}}), "more than 4096 values"),
        (msgpack.packb({"not read": "a" * MAX_TEXT}), "more than 65536 bytes of text"),
        (msgpack.packb({"not read": ["a" * 1000] * 1000}), "more than 65536 bytes of text"),
        (msgpack.packb(msgpack.ExtType(5, b"payload")), "extension"),
        (msgpack.packb(msgpack.Timestamp(2**34)), "extension"),
        (b"\xc1", "not whole, valid msgpack"),
        (_array(shape=[0, 2**62, 2**62], data=b""), "numpy refuses it"),
        (msgpack.packb({b"image": 1}), "Keys must be strings"),
        (msgpack.packb({b"__npgeneric__": True, b"data": 300, b"dtype": "|u1"}), "does not fit dtype"),
        (msgpack.packb({b"__npgeneric__": True, b"data": 1e300, b"dtype": "<f2"}), "1e+300 does not fit dtype"),
        (msgpack.packb({b"__npgeneric__": True, b"data": "x", b"dtype": "|u1"}), "must be a number"),
    ],
)
def test_a_damaged_or_monstrous_message_is_refused(message: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError) as refused:
        decode(message)
    assert reason in str(refused.value)


def test_a_message_at_the_limits_comes_back() -> None:
    value = {"text": "é" * 30_000, "numbers": [1] * (MAX_VALUES - 6), "data": bytes(1 << 20)}
    assert decode(encode(value)) == value


def test_values_of_every_msgpack_type_are_walked_over_as_msgpack_reads_them() -> None:
    values: list[Any] = [size * kind for size in (0, 31, 32, 255, 256, 5000) for kind in ("a", b"a")]
    values += [sign * (1 << bits) for bits in (0, 6, 7, 8, 15, 16, 31, 32, 62) for sign in (1, -1)]
    values += [None, True, False, 1.5, [], {}, [0] * 15, [0] * 16, {str(key): 0 for key in range(16)}]
    assert decode(encode(values)) == values


@pytest.mark.parametrize(
    ("value", "text"),
    [("a" * 99, repr("a" * 40)), (bytes(10**6), repr(bytes(40))), (2**63, str(2**63)), ([1], "a list")],
)
def test_a_value_in_an_error_message_is_short(value: Any, text: str) -> None:
    assert shown(value) == text


@pytest.mark.parametrize(
    "value", [np.array([object()]), np.array([1j]), np.array(["a"]), object(), {"a": {1, 2}}, 2**70, np.complex64(1)]
)
def test_what_the_format_does_not_hold_is_not_sent(value: Any) -> None:
    with pytest.raises(ProtocolError, match=r"cannot be sent|must be of bool"):
        encode(value)
