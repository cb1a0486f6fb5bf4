"""Mutated files of weights, checkpoints and texts: read as something sound, or refused in one line, and soon."""

from __future__ import annotations

import io
import json
import random
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from safetensors.torch import save
from tests.fuzz.conftest import Fuzz

from rt1.actions import ActionSpec, Continuous
from rt1.checkpoint import CheckpointInfo, TrainingState, load_info, load_model, load_training, save_checkpoint
from rt1.common.crc32c import masked_crc32c
from rt1.common.json_config import to_json
from rt1.model.rt1 import RT1
from rt1.presets import preset
from rt1.pretrained.convert import convert_imagenet, load_imagenet
from rt1.pretrained.flax_file import read_arrays
from rt1.pretrained.released import load_configuration, rt1main
from rt1.pretrained.tf_bundle import TABLE_MAGIC, TensorBundle, decompress
from rt1.text.encoder import TableEncoder
from rt1.text.paraphrases import load_paraphrases
from rt1.text.word_pieces import WordPieces

EXAMPLES = 30
EXTREMES = (
    "-1",
    "0",
    "1",
    "255",
    "65536",
    "2147483648",
    "9223372036854775808",
    "1e400",
    "-1e400",
    "NaN",
    "1" + "0" * 500,
)
VALUES = ("null", "true", "[]", "{}", '""', "1.5", "[[]]", '"\\ud800"', "[" * 2000)


def mutations(data: bytes, rng: random.Random) -> bytes:
    """Return a mutation of a file: a few of its bytes, numbers, values or pieces changed."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice((_flip, _cut, _double, _delete, _integer, _number, _value))(data, rng)
    return data


def _place(data: bytes, rng: random.Random) -> int:
    """Return a place, half of the time in the first kilobytes, where headers are."""
    return rng.randrange(min(len(data), rng.choice((4096, len(data)))) + 1)


def _flip(data: bytes, rng: random.Random) -> bytes:
    at = _place(data, rng)
    return data[:at] + bytes([rng.choice((0, 0x7F, 0x80, 0xFF, rng.randrange(256)))]) + data[at + 1 :]


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _piece(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = _place(data, rng)
    return start, min(len(data), start + rng.choice((1, 4, 16, 64, 1024)))


def _double(data: bytes, rng: random.Random) -> bytes:
    start, stop = _piece(data, rng)
    return data[:stop] + data[start:stop] * rng.choice((1, 1, 50)) + data[stop:]


def _delete(data: bytes, rng: random.Random) -> bytes:
    start, stop = _piece(data, rng)
    return data[:start] + data[stop:]


def _integer(data: bytes, rng: random.Random) -> bytes:
    """Write an extreme binary integer over some bytes."""
    width, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "big"))
    value = rng.choice((0, 1, (1 << 8 * width) - 1, 1 << 8 * width - 1, (1 << 8 * width - 1) - 1))
    at = _place(data, rng)
    return data[:at] + value.to_bytes(width, order) + data[at + width :]  # type: ignore[arg-type]


def _number(data: bytes, rng: random.Random) -> bytes:
    return _replaced(rb"-?\d+(\.\d+)?(e-?\d+)?", rng.choice(EXTREMES), data, rng)


def _value(data: bytes, rng: random.Random) -> bytes:
    return _replaced(rb'"[^"]*"|-?\d+(\.\d+)?|null|true|false|\[[^\[\]]*\]|\{[^{}]*\}', rng.choice(VALUES), data, rng)


def _replaced(pattern: bytes, value: str, data: bytes, rng: random.Random) -> bytes:
    found = list(re.finditer(pattern, data[:65536]))
    if not found:
        return data
    place = rng.choice(found)
    return data[: place.start()] + value.encode() + data[place.end() :]


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A format: a small valid file, and what reads it and asserts that what it returns is sound."""

    file: str
    """Path within its folder, which is there with the other files it needs."""
    content: bytes
    """The valid file."""
    read: Callable[[Path], None]
    """Read the file at a path."""


def _check_info(file: Path) -> None:
    info = load_info(file.parent)
    assert (info.action_spec.size, info.action_spec.bins) == (info.model.action_tokens, info.model.bins)
    _check_model(file)


def _check_model(file: Path) -> None:
    model = load_model(file.parent)
    assert all(t.isfinite().all() for t in model.state_dict().values())
    assert {t.dtype for t in model.parameters()} == {torch.float32}


def _check_training(file: Path) -> None:
    assert isinstance(load_training(file.parent).progress, dict)


def _check_table(file: Path) -> None:
    table = TableEncoder.load(file)
    assert np.isfinite(table.encode(table.sentences)).all()


def _check_pieces(file: Path) -> None:
    rows = WordPieces(file.read_text(encoding="utf-8"), tokens=8).encode(["open the drawer"])
    assert rows.dtype == np.float32


def _check_paraphrases(file: Path) -> None:
    for instruction, sentences in load_paraphrases(file).items():
        assert all(isinstance(text, str) for text in (instruction, *sentences))


def _check_configuration(file: Path) -> None:
    found = load_configuration(file)
    assert found.action.size == found.model.action_tokens


def _check_flax(file: Path) -> None:
    arrays, _ = read_arrays(file, ("params", "batch_stats"))
    assert sum(array.nbytes for array in arrays.values()) <= 64 * file.stat().st_size


def _check_bundle(file: Path) -> None:
    bundle = TensorBundle(file)
    for name, entry in bundle.entries.items():
        assert bundle.read(name).shape == entry.shape


def _check_block(file: Path) -> None:
    """Read a block of an index whose checksums are right, whatever it holds."""
    data, block = bytearray(), file.read_bytes()
    handles = []
    for content, kind in ((block, 0), (b"\0\0\0\0\1\0\0\0", 0)):
        handles.append(_varint(len(data)) + _varint(len(content)))
        data += content + bytes([kind]) + masked_crc32c(content + bytes([kind])).to_bytes(4, "little")
    index = b"\0\1" + bytes([len(handles[0])]) + b"z" + handles[0] + b"\0\0\0\0\1\0\0\0"
    footer = handles[1] + _varint(len(data)) + _varint(len(index))
    data += index + b"\0" + masked_crc32c(index + b"\0").to_bytes(4, "little")
    file.with_name("ckpt-1.index").write_bytes(data + footer.ljust(40, b"\0") + TABLE_MAGIC.to_bytes(8, "little"))
    _check_bundle(file.with_name("ckpt-1"))


def _check_snappy(file: Path) -> None:
    data = file.read_bytes()
    try:
        assert len(decompress(data)) <= 64 * len(data)
    except IndexError as error:  # it is caught where snappy is used
        raise ValueError(error) from error


def _check_imagenet(file: Path) -> None:
    convert_imagenet(file, file.with_name("out.safetensors"))


def _check_backbone(file: Path) -> None:
    load_imagenet(MODEL, file)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


MODEL = RT1(preset("debug").model)
SPEC = ActionSpec(
    parts=(
        Continuous(name="move", low=(-1.0,) * MODEL.config.action_tokens, high=(1.0,) * MODEL.config.action_tokens),
    ),
    bins=MODEL.config.bins,
)


def _array(value: np.ndarray[Any, Any]) -> msgpack.ExtType:
    return msgpack.ExtType(1, msgpack.packb((value.shape, value.dtype.name, value.tobytes())))


def _flax() -> bytes:
    ones = _array(np.ones((2, 3), np.float32))
    chunked = {"__msgpack_chunked_array__": True, "shape": {"0": 4, "1": 3}, "chunks": {"0": ones, "1": ones}}
    return bytes(msgpack.packb({"step": 3, "params": {"a": {"kernel": ones, "big": chunked}}, "batch_stats": {}}))


def _block() -> bytes:
    """Return a block with a header and the entry of a float32 (2, 3) at the start of the data file."""
    shape = b"\x12\x02\x08\x02\x12\x02\x08\x03"
    entry = (
        b"\x08\x01\x12" + bytes([len(shape)]) + shape + b"\x28\x18\x35" + struct.pack("<I", masked_crc32c(bytes(24)))
    )
    return b"\0\0\2\x08\1" + b"\0\5" + bytes([len(entry)]) + b"a/b/c" + entry + b"\0\0\0\0\1\0\0\0"


def _pth() -> bytes:
    file = io.BytesIO()
    torch.save({"conv_stem.weight": torch.ones(2, 3), "bn1.num_batches_tracked": torch.tensor(3)}, file)
    return file.getvalue()


def _table() -> bytes:
    about = json.dumps({"name": "table", "sentences": ["close the drawer", "open the drawer"]})
    return bytes(save({"vectors": torch.ones(2, 4)}, {"rt1_text_table": about}))


@pytest.fixture
def readers(tmp_path: Path) -> dict[str, Reader]:
    """The formats, with the files that stand beside them."""
    identity = WordPieces.from_instructions(["open the drawer"], tokens=8).identity
    run = save_checkpoint(
        tmp_path / "run",
        model=MODEL,
        info=CheckpointInfo(model=MODEL.config, action_spec=SPEC, text_encoder=identity, control_rate=4.0),
        training=TrainingState(progress={"update": 7, "best": 0.1}, tensors={"m/a": torch.ones(3)}),
    )
    (tmp_path / "ckpt-1.data-00000-of-00001").write_bytes(bytes(24))
    configuration = {"model": to_json(rt1main().model), "action": rt1main().action.to_json()}
    paraphrases = {"open the drawer": ["pull it open", "drawer, open"], "close the drawer": []}
    weights = bytes(save({"conv_stem.weight": torch.ones(2, 3).half()}))
    backbone = bytes(save({"stem.weight": torch.ones(2, 3)}, {"rt1_imagenet": '{"configuration": "EfficientNet-B3"}'}))
    toml = b'"open the drawer" = ["pull it open"]\n"close the drawer" = []\n'
    formats = {
        "info": ("run/checkpoint.json", (run / "checkpoint.json").read_bytes(), _check_info),
        "weights": ("run/model.safetensors", (run / "model.safetensors").read_bytes(), _check_model),
        "progress": ("run/training.json", (run / "training.json").read_bytes(), _check_training),
        "moments": ("run/training.safetensors", (run / "training.safetensors").read_bytes(), _check_training),
        "table": ("table.safetensors", _table(), _check_table),
        "pieces": ("pieces.json", identity.definition.encode(), _check_pieces),
        "json": ("paraphrases.json", json.dumps(paraphrases).encode(), _check_paraphrases),
        "toml": ("paraphrases.toml", toml, _check_paraphrases),
        "configuration": ("network.json", json.dumps(configuration).encode(), _check_configuration),
        "flax": ("checkpoint", _flax(), _check_flax),
        "block": ("block", _block(), _check_block),
        "snappy": ("snappy", bytes.fromhex("50046162fe0200360200"), _check_snappy),
        "torch": ("weights.pth", _pth(), _check_imagenet),
        "safetensors": ("weights.safetensors", weights, _check_imagenet),
        "backbone": ("backbone.safetensors", backbone, _check_backbone),
    }
    return {name: Reader(file=file, content=data, read=read) for name, (file, data, read) in formats.items()}


NAMES = (
    "info", "weights", "progress", "moments", "table", "pieces", "json", "toml", "configuration", "flax", "block",
    "snappy", "torch", "safetensors", "backbone",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_mutated_file_is_sound_or_refused_in_one_line_and_soon(
    name: str, readers: dict[str, Reader], tmp_path: Path, fuzz: Fuzz
) -> None:
    reader = readers[name]
    file = tmp_path / reader.file

    def check(rng: random.Random) -> None:
        file.write_bytes(mutations(reader.content, rng))
        reader.read(file)

    fuzz.check_examples(check, names="" if name in ("pieces", "snappy") else tmp_path, examples=EXAMPLES)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"torch", "safetensors", "backbone"}))
def test_the_file_that_is_mutated_is_valid(name: str, readers: dict[str, Reader], tmp_path: Path) -> None:
    reader = readers[name]
    (tmp_path / reader.file).write_bytes(reader.content)
    reader.read(tmp_path / reader.file)
    assert mutations(reader.content, random.Random(1)) == mutations(reader.content, random.Random(1))
