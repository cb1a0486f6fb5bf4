"""TensorFlow checkpoints without TensorFlow: every tensor, and every way a file can be wrong."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rt1.errors import BundleError, DataError
from rt1.pretrained.tf_bundle import TensorBundle, decompress

WriteBundle = Callable[..., Path]
WriteIndex = Callable[[Path, list[tuple[bytes, bytes]]], object]


def some_tensors() -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(0)
    tensors: dict[str, NDArray[Any]] = {
        f"net/layer-{n}/kernel": rng.standard_normal((n % 3 + 1, 4)).astype(np.float32) for n in range(120)
    }
    return {
        **tensors,
        "half": rng.standard_normal(5).astype(np.float16),
        "step": np.array(424760, np.int64),
        "wide": np.arange(6, dtype=np.float64).reshape(1, 2, 3),
    }


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("compress", [False, True])
def test_every_tensor_comes_back_from_plain_and_compressed_indexes(
    tmp_path: Path, write_bundle: WriteBundle, shards: int, *, compress: bool
) -> None:
    tensors = some_tensors()
    bundle = TensorBundle(write_bundle(tmp_path / "ckpt-1", tensors, shards=shards, compress=compress, per_block=7))
    assert bundle.entries.keys() == tensors.keys()
    for name, tensor in tensors.items():
        read = bundle.read(name)
        assert read.dtype == tensor.dtype
        np.testing.assert_array_equal(read, tensor)


def test_a_checkpoint_of_tensorflow_itself_is_read_with_all_checksums(checkpoints: Path) -> None:
    bundle = TensorBundle(checkpoints / "tf_small" / "ckpt-1")
    numeric = [entry for entry in bundle.entries.values() if not entry.dtype.startswith("type")]
    assert (len(bundle.entries), len(numeric)) == (651, 650)
    assert sum(bundle.read(entry.name).nbytes for entry in numeric) == 64_363_696
    assert bundle.read("global_step/.ATTRIBUTES/VARIABLE_VALUE").dtype == np.int64


@pytest.mark.parametrize(
    "given", ["saved", "saved/variables", "saved/variables/variables", "saved/variables/variables.index"]
)
def test_a_saved_model_is_found_by_its_folder_or_its_files(
    tmp_path: Path, write_bundle: WriteBundle, given: str
) -> None:
    write_bundle(tmp_path / "saved" / "variables" / "variables", some_tensors())
    assert TensorBundle(tmp_path / given).prefix == tmp_path / "saved" / "variables" / "variables"


def test_a_saved_model_is_preferred_to_a_checkpoint_in_the_same_folder(
    tmp_path: Path, write_bundle: WriteBundle
) -> None:
    write_bundle(tmp_path / "variables" / "variables", some_tensors())
    write_bundle(tmp_path / "ckpt-1", some_tensors())
    assert TensorBundle(tmp_path).prefix.name == "variables"


def test_a_data_file_may_be_given(tmp_path: Path, write_bundle: WriteBundle) -> None:
    prefix = write_bundle(tmp_path / "ckpt-1", some_tensors())
    assert TensorBundle(f"{prefix}.data-00000-of-00001").prefix == prefix


def test_several_checkpoints_in_a_folder_are_listed(tmp_path: Path, write_bundle: WriteBundle) -> None:
    for name in ("ckpt-1", "ckpt-2"):
        write_bundle(tmp_path / name, some_tensors())
    with pytest.raises(BundleError, match=r"2 checkpoints .*ckpt-1, ckpt-2"):
        TensorBundle(tmp_path)


def test_a_path_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no ckpt-9\.index"):
        TensorBundle(tmp_path / "ckpt-9")


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
def test_a_git_lfs_pointer_is_refused_by_name(tmp_path: Path, write_bundle: WriteBundle, suffix: str) -> None:
    prefix = write_bundle(tmp_path / "ckpt-1", some_tensors())
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 141805676\n"
    Path(f"{prefix}{suffix}").write_text(pointer)
    with pytest.raises(BundleError, match=rf"ckpt-1\{suffix} is a git-lfs pointer.*git lfs pull"):
        TensorBundle(prefix)


def test_a_truncated_data_file_is_refused_with_both_sizes(tmp_path: Path, write_bundle: WriteBundle) -> None:
    prefix = write_bundle(tmp_path / "ckpt-1", some_tensors())
    file = Path(f"{prefix}.data-00000-of-00001")
    whole = file.read_bytes()
    file.write_bytes(whole[:1000])
    with pytest.raises(BundleError, match=rf"{file.name} .*truncated.*1000 bytes.*{len(whole)}"):
        TensorBundle(prefix)


def test_a_missing_data_file_is_named(tmp_path: Path, write_bundle: WriteBundle) -> None:
    prefix = write_bundle(tmp_path / "ckpt-1", some_tensors(), shards=2)
    Path(f"{prefix}.data-00001-of-00002").unlink()
    with pytest.raises(BundleError, match=r"ckpt-1\.data-00001-of-00002.*missing"):
        TensorBundle(prefix)


def test_a_changed_byte_of_a_tensor_is_found(tmp_path: Path, write_bundle: WriteBundle) -> None:
    prefix = write_bundle(tmp_path / "ckpt-1", {"a": np.ones(4, np.float32), "b": np.ones(4, np.float32)})
    file = Path(f"{prefix}.data-00000-of-00001")
    data = bytearray(file.read_bytes())
    data[20] ^= 1
    file.write_bytes(data)
    bundle = TensorBundle(prefix)
    np.testing.assert_array_equal(bundle.read("a"), np.ones(4))
    with pytest.raises(BundleError, match=r"'b' .*16 .*checksum"):
        bundle.read("b")


def test_every_changed_byte_of_the_index_is_refused(tmp_path: Path, write_bundle: WriteBundle) -> None:
    prefix = write_bundle(tmp_path / "ckpt-1", {"a": np.ones(4, np.float32)})
    file = Path(f"{prefix}.index")
    whole = file.read_bytes()
    meta_block = 13  # nothing in it is used
    places = [p for p in range(len(whole)) if whole[p] != 0 or p > len(whole) - 9]
    refused = 0
    for place in places:
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        try:
            TensorBundle(prefix)
        except BundleError:
            refused += 1
    assert refused >= len(places) - meta_block


def test_an_index_cut_anywhere_is_refused(tmp_path: Path, write_bundle: WriteBundle) -> None:
    prefix = write_bundle(tmp_path / "ckpt-1", {"a": np.ones(4, np.float32)})
    file = Path(f"{prefix}.index")
    whole = file.read_bytes()
    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        with pytest.raises(BundleError, match="magic number"):
            TensorBundle(prefix)


def test_another_file_in_place_of_an_index_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ckpt-1.index").write_bytes(b"something else altogether" * 10)
    with pytest.raises(BundleError, match=r"magic number .*250 bytes"):
        TensorBundle(tmp_path / "ckpt-1")


def test_an_unknown_tensor_and_a_string_are_refused(checkpoints: Path) -> None:
    bundle = TensorBundle(checkpoints / "tf_small")
    with pytest.raises(BundleError, match="has no tensor 'nothing'"):
        bundle.read("nothing")
    with pytest.raises(BundleError, match=r"type 7.*numeric"):
        bundle.read("_CHECKPOINTABLE_OBJECT_GRAPH")


def _index(file: Path, entries: list[tuple[bytes, bytes]], write_index: WriteIndex) -> str:
    """Write an index of these entries behind a header of one shard; return why it is refused."""
    write_index(file, [(b"", b"\x08\x01"), *entries])
    file.with_name("ckpt-1.data-00000-of-00001").write_bytes(bytes(100))
    with pytest.raises(BundleError) as caught:
        TensorBundle(file)
    assert "\n" not in str(caught.value)
    return str(caught.value)


FLOAT = b"\x08\x01"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([(b"a", b"\x08\xff" + b"\xff" * 400_000)], "more than 64 bits"),
        ([(b"a", b"\x0a\x01a")], "field 1 is no integer"),
        ([(b"a", FLOAT + b"\x10\x05")], "a message is an integer"),
        ([(b"a", FLOAT + b"\x12\x7f")], "runs over its end"),
        ([(b"a", b"\x0b")], "tag 11"),
        ([(b"\xff", FLOAT)], "damaged"),
        ([(b"b", FLOAT), (b"a", FLOAT)], "not in order"),
        ([(b"a", FLOAT), (b"a", FLOAT)], "not in order"),
        ([(b"a" * 2000, FLOAT)], "does not fit its block"),
        ([(b"a", FLOAT + b"\x18\x07")], "beyond the 1 data files"),
        ([(b"a", FLOAT + b"\x20" + b"\xff" * 8 + b"\x01\x28\x04")], "is truncated"),
        ([(b"a", FLOAT + b"\x28" + b"\xff" * 9 + b"\x01")], "is truncated"),
    ],
)
def test_a_hostile_index_is_refused_in_one_line(
    entries: list[tuple[bytes, bytes]], message: str, tmp_path: Path, write_index: WriteIndex
) -> None:
    assert message in _index(tmp_path / "ckpt-1.index", entries, write_index)


def test_a_shape_beyond_its_bytes_is_refused(tmp_path: Path, write_index: WriteIndex) -> None:
    size = b"\x12\x0b\x08" + b"\x80" * 9 + b"\x01"  # 2**63, whose square is 0 in 64 bits
    shape = b"\x12" + bytes([2 * len(size)]) + size * 2
    write_index(tmp_path / "ckpt-1.index", [(b"", b"\x08\x01"), (b"a", FLOAT + shape)])
    (tmp_path / "ckpt-1.data-00000-of-00001").write_bytes(b"")
    bundle = TensorBundle(tmp_path / "ckpt-1")
    with pytest.raises(BundleError, match="Only whole numeric tensors"):
        bundle.read("a")


# ---- snappy blocks ----

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
