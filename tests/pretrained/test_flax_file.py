"""flax msgpack files without JAX: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from numpy.typing import NDArray

from rt1.errors import FlaxFileError
from rt1.pretrained.flax_file import find_file, read_arrays


def array(value: NDArray[Any], code: int = 1, dtype: str | None = None) -> msgpack.ExtType:
    return msgpack.ExtType(code, msgpack.packb((value.shape, dtype or value.dtype.name, value.tobytes())))


def write(file: Path, tree: dict[str, Any]) -> Path:
    file.write_bytes(msgpack.packb(tree))
    return file


def test_nested_arrays_and_scalars_are_read_by_path(tmp_path: Path) -> None:
    kernel, count = np.arange(6, dtype=np.float32).reshape(2, 3), np.array(5, np.int32)
    tree = {"params": {"Dense_0": {"kernel": array(kernel)}, "count": array(count, code=3), "none": None}}
    arrays, skipped = read_arrays(write(tmp_path / "checkpoint", tree), ["params"])
    assert (sorted(arrays), skipped) == (["params/Dense_0/kernel", "params/count"], [])
    np.testing.assert_array_equal(arrays["params/Dense_0/kernel"], kernel)
    assert arrays["params/count"] == 5


def test_bfloat16_becomes_float32(tmp_path: Path) -> None:
    bits = np.array([0x3F80, 0xC020], np.uint16)  # 1 and -2.5
    arrays, _ = read_arrays(write(tmp_path / "c", {"params": {"a": array(bits, dtype="bfloat16")}}), ["params"])
    assert arrays["params/a"].tolist() == [1.0, -2.5]


def test_an_array_in_chunks_is_joined(tmp_path: Path) -> None:
    value = np.arange(12, dtype=np.float32)
    chunked = {
        "__msgpack_chunked_array__": True,
        "shape": {"0": 3, "1": 4},
        "chunks": {str(i): array(value[2 * i : 2 * i + 2]) for i in range(6)},
    }
    arrays, _ = read_arrays(write(tmp_path / "c", {"params": {"a": chunked}}), ["params"])
    np.testing.assert_array_equal(arrays["params/a"], value.reshape(3, 4))


def test_other_collections_are_passed_over_and_named(tmp_path: Path) -> None:
    tree = {"step": 3, "opt_state": {"mu": array(np.zeros(4))}, "params": {"a": array(np.ones(1))}}
    arrays, skipped = read_arrays(write(tmp_path / "c", tree), ["params"])
    assert (list(arrays), skipped) == (["params/a"], ["step", "opt_state"])


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "c", {"params": {"a": array(np.ones(3))}, "batch_stats": {}}).read_bytes()
    for size in range(len(whole)):
        (tmp_path / "c").write_bytes(whole[:size])
        with pytest.raises(FlaxFileError, match=rf"c \({size} bytes\) .*whole flax"):
            read_arrays(tmp_path / "c", ["params", "batch_stats"])


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\n", b"\x89HDF\r\n", b"\xc1" * 50])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(FlaxFileError, match="whole flax"):
        read_arrays(tmp_path / "c", ["params"])


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        ("PLACEHOLDER://params.a", "lies in an orbax folder"),
        ("text", "params/a is str"),
        (msgpack.ExtType(2, b""), "extension type 2"),
        (msgpack.ExtType(1, msgpack.packb(((1,), "object", b"12345678"))), "array of type 'object'"),
    ],
)
def test_a_leaf_that_is_no_array_is_refused(tmp_path: Path, leaf: object, message: str) -> None:
    with pytest.raises(FlaxFileError, match=message):
        read_arrays(write(tmp_path / "c", {"params": {"a": leaf}}), ["params"])


def test_a_file_is_found_by_itself_its_folder_or_its_step(tmp_path: Path) -> None:
    for name in ("checkpoint", "other/checkpoint_1000"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        write(file, {})
        assert find_file(file) == file
        assert find_file(file.parent) == file


def test_several_steps_in_a_folder_are_listed(tmp_path: Path) -> None:
    for step in (1, 2):
        write(tmp_path / f"checkpoint_{step}", {})
    with pytest.raises(FlaxFileError, match=r"2 flax checkpoints .*checkpoint_1, checkpoint_2"):
        find_file(tmp_path)


@pytest.mark.parametrize("marker", ["_METADATA", "manifest.ocdbt", "checkpoint/_METADATA"])
def test_an_orbax_folder_is_refused_with_how_to_save_it_again(tmp_path: Path, marker: str) -> None:
    (tmp_path / marker).parent.mkdir(exist_ok=True)
    (tmp_path / marker).write_bytes(b"")
    with pytest.raises(FlaxFileError, match=r"orbax.*msgpack_serialize"):
        find_file(tmp_path)


def test_an_empty_folder_and_a_missing_path_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FlaxFileError, match="holds no flax checkpoint"):
        find_file(tmp_path)
    with pytest.raises(FlaxFileError, match="is not there"):
        find_file(tmp_path / "nothing")


def _nested(depth: int) -> bytes:
    return b"\x81\xa6params" + b"\x81\xa1a" * depth + b"\xc0"


@pytest.mark.parametrize(
    "content",
    [
        _nested(1010),
        _nested(100_000),
        b"\x81\xa6params" + b"\xdd\x7f\xff\xff\xff" * 300,  # lists that claim 2 billion entries
        b"\x81\xa6params\x81\xa1a\xdd\x7f\xff\xff\xff",
        b"\x81\xa6params\xdf\xff\xff\xff\xff",
        b"\x81\xa6params\xc6\xff\xff\xff\xff",
        b"\x81\x01\x02",
        b"\x81\x93\x01\x02\x03\xc0",
        msgpack.packb({"params": {}}) + b"\xc0",
        msgpack.packb({"params": {"__msgpack_chunked_array__": True, "shape": {"1": 1}, "chunks": {}}}),
        msgpack.packb({"params": {"__msgpack_chunked_array__": True, "shape": 3, "chunks": {}}}),
        msgpack.packb({"params": {"a": array(np.zeros(4), dtype="f4,(")}}),
        msgpack.packb({"params": {"a": msgpack.ExtType(1, msgpack.packb(((-1,), "float32", bytes(8))))}}),
        msgpack.packb({"params": {"a": msgpack.ExtType(1, msgpack.packb((("a",), "float32", bytes(8))))}}),
        msgpack.packb({"params": {"a": msgpack.ExtType(1, msgpack.packb(((2**62,), "float32", bytes(8))))}}),
        msgpack.packb({"params": {"a": msgpack.ExtType(1, msgpack.packb(7))}}),
        msgpack.packb({"params": {"a": msgpack.Timestamp(2**62, 0)}}),
    ],
)
def test_a_mistyped_or_hostile_file_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(FlaxFileError, match="c") as caught:
        read_arrays(tmp_path / "c", ["params"])
    assert str(tmp_path / "c") in str(caught.value)
    assert "\n" not in str(caught.value)
