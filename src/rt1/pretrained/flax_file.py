"""flax checkpoint files (msgpack) read without JAX: nested dictionaries of arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from rt1.common.border import reading
from rt1.common.json_files import MAX_DEPTH
from rt1.errors import FlaxFileError
from rt1.pretrained.tf_bundle import ITEM_SIZES, decode_array

ARRAY, SCALAR = 1, 3
"""flax's numbers for the msgpack extension types of an array and of a numpy scalar."""
CHUNKED = "__msgpack_chunked_array__"
ORBAX_FILES = ("_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt", "ocdbt.process_0", "default")
ORBAX_PLACEHOLDER = "PLACEHOLDER://"
MAX_LIST = 1000
"""Longest msgpack list. flax writes maps. A list's header of 5 bytes could claim gigabytes."""
SAVE_AGAIN = (
    "Load it in Python with JAX and save its params and batch_stats with "
    "flax.serialization.msgpack_serialize, see docs/weights.md"
)


def find_file(path: Path) -> Path:
    """Return the msgpack file that ``path`` means: itself, or the one ``checkpoint`` or ``checkpoint_N`` in a folder.

    Raises:
        FlaxFileError: nothing there, several files, or an orbax folder.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise FlaxFileError(f"{path} is not there. Give a flax checkpoint file, or the folder it lies in")
    for folder in (path, path / "checkpoint"):
        if any((folder / name).exists() for name in ORBAX_FILES):
            raise FlaxFileError(f"{folder} is an orbax checkpoint, which only JAX can read. {SAVE_AGAIN}")
    if (path / "checkpoint").is_file():
        return path / "checkpoint"
    files = sorted(file for file in path.glob("checkpoint_*") if file.is_file())
    if len(files) == 1:
        return files[0]
    names = f" ({', '.join(file.name for file in files)})" if files else ""
    raise FlaxFileError(f"{path} holds {len(files) or 'no'} flax checkpoints{names}. Name the file")


def read_arrays(file: Path, collections: Sequence[str]) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Read the arrays of the named top-level collections.

    Args:
        file: a flax msgpack file.
        collections: top-level names to read, e.g. ``params``. The others are passed over without being kept.

    Returns:
        Arrays by path (``params/Dense_0/kernel``), and the names of the top-level entries that were passed over.

    Raises:
        FlaxFileError: the file is truncated or not msgpack, or its arrays lie elsewhere (orbax).
    """
    size = file.stat().st_size
    arrays: dict[str, NDArray[Any]] = {}
    others: list[str] = []
    name = f"{file} ({size} bytes)"
    with (
        reading(name, error=FlaxFileError, cure="Get the whole flax checkpoint again", also=(msgpack.UnpackException,)),
        file.open("rb") as stream,
    ):
        unpacker = msgpack.Unpacker(
            stream, raw=False, ext_hook=_extension, max_buffer_size=size, max_array_len=MAX_LIST
        )
        for _ in range(unpacker.read_map_header()):
            entry = unpacker.unpack()
            if not isinstance(entry, str):
                raise TypeError(f"an entry is named {entry!r:.80}. Names are text")
            if entry in collections:
                arrays.update(_flatten(unpacker.unpack(), entry))
            else:
                unpacker.skip()
                others.append(entry)
        if unpacker.tell() != size:
            raise ValueError("bytes follow its end")
    return arrays, others


def _flatten(tree: object, path: str, depth: int = 0) -> Iterator[tuple[str, NDArray[Any]]]:
    if depth > MAX_DEPTH:
        raise FlaxFileError(f"it is nested deeper than {MAX_DEPTH} levels. Get the whole file again")
    if isinstance(tree, Mapping) and CHUNKED in tree:
        yield path, _join_chunks(tree)
    elif isinstance(tree, Mapping):
        for name, child in tree.items():
            yield from _flatten(child, f"{path}/{name}", depth + 1)
    elif isinstance(tree, str) and tree.startswith(ORBAX_PLACEHOLDER):
        raise FlaxFileError(f"{path} lies in an orbax folder next to this file, which only JAX can read. {SAVE_AGAIN}")
    elif isinstance(tree, np.ndarray | np.generic | int | float):
        yield path, np.asarray(tree)
    elif tree is not None:
        raise FlaxFileError(f"{path} is {type(tree).__name__}. A flax checkpoint of weights holds arrays only")


def _join_chunks(tree: Mapping[str, Any]) -> NDArray[Any]:
    """Join an array that flax split because it is larger than a gigabyte."""
    shape, chunks = (tuple(tree[name][str(i)] for i in range(len(tree[name]))) for name in ("shape", "chunks"))
    return np.concatenate(chunks).reshape(_sizes(shape))


def _extension(code: int, data: bytes) -> NDArray[Any] | np.generic:
    if code not in (ARRAY, SCALAR):
        raise FlaxFileError(f"the file holds msgpack extension type {code}. flax arrays have type {ARRAY} or {SCALAR}")
    shape, dtype, content = msgpack.unpackb(data, raw=False, max_array_len=MAX_LIST)
    if dtype not in ITEM_SIZES:
        raise FlaxFileError(f"the file holds an array of type {dtype!r:.80}. Weights are numbers")
    array = decode_array(content, dtype).reshape(_sizes(shape))
    return array if code == ARRAY else array[()]


def _sizes(shape: Sequence[object]) -> list[int]:
    """Return a shape from a file, checked: numpy would infer a size of -1."""
    sizes = [size for size in shape if type(size) is int and size >= 0]
    if len(sizes) != len(shape):
        raise FlaxFileError(f"the file holds an array of shape {shape!r:.80}. Sizes are whole numbers of at least 0")
    return sizes
