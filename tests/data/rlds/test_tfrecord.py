"""TFRecord frames and Examples: exact bytes, round trips, and damage that is always noticed."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rt1.data.rlds.tfrecord import (
    BYTES,
    FLOATS,
    INTS,
    bytes_places,
    encode_example,
    first_bytes,
    float_values,
    frame,
    int_values,
    map_file,
    scan_example,
    scan_records,
)
from rt1.errors import DataError

PAYLOADS = [b"first", b"", bytes(range(256)) * 3]
PATH = Path("some.tfrecord")


def _spans(data: bytes, start: int, stop: int) -> list[tuple[int, int]]:
    places = bytes_places(data, start, stop)
    return list(zip(places[::2], places[1::2], strict=True))


def _payloads(data: bytes, corrupt: list[str] | None = None) -> list[bytes]:
    return [data[start:stop] for start, stop in scan_records(PATH, data, corrupt=corrupt)]


def test_a_frame_has_the_bytes_tensorflow_writes() -> None:
    # Written by tf.io.TFRecordWriter of TensorFlow 2.21.
    assert frame(b"hello").hex() == "0500000000000000eab2043e68656c6c6fbb1f1c19"


def test_records_come_back_in_order_from_a_mapped_file(tmp_path: Path) -> None:
    path = tmp_path / "set.tfrecord"
    path.write_bytes(b"".join(map(frame, PAYLOADS)))
    data = map_file(path)
    assert [data[start:stop] for start, stop in scan_records(path, data)] == PAYLOADS


def test_an_empty_file_has_no_records(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert list(scan_records(PATH, map_file(tmp_path / "empty"))) == []


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.tfrecord: No such file"):
        map_file(tmp_path / "nothing.tfrecord")


@pytest.mark.parametrize("cut", [1, 5, 13, 20])
def test_a_truncated_record_is_refused_with_file_and_offset(cut: int) -> None:
    data = frame(b"first") + frame(b"second!!")
    with pytest.raises(DataError, match=r"some\.tfrecord: truncated .*byte 21.*skip_corrupt"):
        _payloads(data[:-cut])


@given(position=st.integers(0, 3 * 16 + 5 + 768 - 1), bit=st.integers(0, 7))
def test_one_flipped_bit_anywhere_is_noticed(position: int, bit: int) -> None:
    data = bytearray(b"".join(map(frame, PAYLOADS)))
    data[position] ^= 1 << bit
    with pytest.raises(DataError, match=r"some\.tfrecord: .*byte \d+"):
        _payloads(bytes(data))


@given(position=st.integers(0, 3 * 16 + 5 + 768 - 1), bit=st.integers(0, 7))
def test_with_damage_skipped_only_intact_records_come_back_and_the_damage_is_noted(position: int, bit: int) -> None:
    data = bytearray(b"".join(map(frame, PAYLOADS)))
    data[position] ^= 1 << bit
    corrupt: list[str] = []
    found = _payloads(bytes(data), corrupt)
    assert len(corrupt) == 1
    assert all(payload in PAYLOADS for payload in found)
    assert len(found) < len(PAYLOADS)


def test_damage_in_a_payload_loses_only_that_record() -> None:
    data = bytearray(b"".join(map(frame, [b"first", b"second", b"third"])))
    data[21 + 14] ^= 1
    corrupt: list[str] = []
    assert _payloads(bytes(data), corrupt) == [b"first", b"third"]
    assert len(corrupt) == 1
    assert "record at byte 21" in corrupt[0]


def _read(message: bytes) -> dict[bytes, object]:
    values: dict[bytes, object] = {}
    for name, (kind, start, stop) in scan_example(message, 0, len(message)).items():
        if kind == BYTES:
            values[name] = [message[first : first + size] for first, size in _spans(message, start, stop)]
        else:
            values[name] = (float_values if kind == FLOATS else int_values)(message, start, stop).tolist()
    return values


@given(
    blobs=st.lists(st.binary(max_size=300), max_size=5),
    floats=st.lists(st.floats(width=32, allow_nan=False), max_size=9),
    ints=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=9),
)
def test_an_example_reads_back_what_was_encoded(blobs: list[bytes], floats: list[float], ints: list[int]) -> None:
    message = encode_example({"i": np.array(ints, np.int64), "b": blobs, "f": np.array(floats, np.float32)})
    assert _read(message) == {b"b": blobs, b"f": floats, b"i": ints}


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152])
def test_elements_of_every_size_are_located_in_a_framed_record(size: int) -> None:
    blob = b"\xff" * size
    data = frame(encode_example({"image": [blob, b"between", blob]}))
    kind, start, stop = scan_example(data, 12, len(data) - 4)[b"image"]
    spans = _spans(data, start, stop)
    assert kind == BYTES
    assert [data[first : first + length] for first, length in spans] == [blob, b"between", blob]


def test_an_example_has_the_bytes_tensorflow_writes() -> None:
    # tf.train.Example.SerializeToString(deterministic=True) of TensorFlow 2.21.
    message = encode_example(
        {"a": [b"x", b""], "b": np.array([1.5, -2], np.float32), "c": np.array([3, 300, -1], np.int64)}
    )
    assert message.hex() == (
        "0a390a0c0a016112070a050a01780a000a110a0162120c120a0a080000c03f000000c0"
        "0a160a016312111a0f0a0d03ac02ffffffffffffffffff01"
    )


def test_the_order_of_the_features_does_not_change_the_bytes() -> None:
    one = encode_example({"a": [b"x"], "b": np.zeros(2, np.float32)})
    other = encode_example({"b": np.zeros(2, np.float32), "a": [b"x"]})
    assert one == other


def test_only_wanted_features_are_returned() -> None:
    message = encode_example({"a": [b"x"], "b": [b"y"]})
    assert list(scan_example(message, 0, len(message), {b"b"})) == [b"b"]


def test_lists_that_are_not_packed_are_read_too() -> None:
    floats = b"".join(b"\x0d" + np.float32(v).tobytes() for v in (1.5, -2.0))
    ints = b"\x08\x05\x08\x80\x01\x08" + b"\xff" * 9 + b"\x01"
    assert float_values(floats, 0, len(floats)).tolist() == [1.5, -2.0]
    assert int_values(ints, 0, len(ints)).tolist() == [5, 128, -1]


def test_fields_in_another_order_and_unknown_fields_are_read_too() -> None:
    bytes_list = b"\x0a\x01x"
    feature = b"\x0a\x03" + bytes_list
    unknown = b"\x18\x07" + b"\x25abcd" + b"\x29abcdefgh"
    entry = unknown + b"\x12\x05" + feature + b"\x0a\x01k"
    features = b"\x0a" + bytes([len(entry)]) + entry
    message = b"\x0a" + bytes([len(features)]) + features
    assert _read(message) == {b"k": [b"x"]}


def test_a_feature_without_a_list_is_left_out() -> None:
    message = b"\x0a\x07" + b"\x0a\x05" + b"\x0a\x01k" + b"\x12\x00"
    assert _read(message) == {}


def test_the_first_element_of_a_bytes_list_is_read_alone() -> None:
    message = encode_example({"text": [b"one", b"two"], "none": []})
    spans = scan_example(message, 0, len(message))
    assert first_bytes(message, *spans[b"text"][1:]) == b"one"
    assert first_bytes(message, *spans[b"none"][1:]) == b""


@given(st.binary(max_size=60))
def test_bytes_that_are_no_example_never_raise_anything_but_a_data_error(junk: bytes) -> None:
    try:
        values = _read(junk)
    except DataError:
        values = {}
    assert all(isinstance(value, list) for value in values.values())


@given(blobs=st.lists(st.binary(max_size=40), min_size=1, max_size=4), data=st.data())
def test_a_list_that_runs_over_its_end_is_refused(blobs: list[bytes], data: st.DataObject) -> None:
    message = frame(encode_example({"b": blobs}))
    _, start, stop = scan_example(message, 12, len(message) - 4)[b"b"]
    short = data.draw(st.integers(start + 1, stop - 1))
    if short not in {first + size for first, size in _spans(message, start, stop)}:
        with pytest.raises(DataError):
            bytes_places(message, start, short)
    assert bytes_places(message, start, stop)


def test_a_number_of_more_than_64_bits_is_refused_at_once() -> None:
    started = time.process_time()
    with pytest.raises(DataError, match="64 bits at byte 9"):
        scan_example(b"\xff" * 400_000, 0, 400_000)
    with pytest.raises(DataError, match="64 bits"):
        int_values(b"\x08" + b"\xff" * 9 + b"\x7f", 0, 11)
    assert time.process_time() - started < 1.0


def test_the_largest_numbers_are_read() -> None:
    values = np.array([-1, -(2**63), 2**63 - 1, 0], np.int64)
    message = encode_example({"i": values})
    _, start, stop = scan_example(message, 0, len(message))[b"i"]
    assert int_values(message, start, stop).tolist() == values.tolist()


def test_an_image_length_of_2_to_the_63_is_refused() -> None:
    length = b"\x80" * 9 + b"\x01"
    element = b"\x0a" + length + b"image"
    with pytest.raises(DataError, match="over its end"):
        bytes_places(element + bytes(4), 0, len(element))


def test_another_dtype_is_refused_when_encoding() -> None:
    with pytest.raises(ValueError, match="float64 array"):
        encode_example({"x": np.zeros(2)})  # type: ignore[dict-item]


def test_the_kinds_differ() -> None:
    message = encode_example({"f": np.ones(1, np.float32), "i": np.ones(1, np.int64), "b": [b""]})
    kinds = {name: span[0] for name, span in scan_example(message, 0, len(message)).items()}
    assert kinds == {b"b": BYTES, b"f": FLOATS, b"i": INTS}
