"""Damaged and hostile RLDS folders: shards, records, metadata, our recorder's notes, the stored index."""

from __future__ import annotations

import json
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fuzz.conftest import Fuzz
from tests.fuzz.mutate import mutate, mutate_json

from rt1.common.crc32c import masked_crc32c
from rt1.data.rlds.open_x import OpenXDataset, open_x_source
from rt1.data.rlds.open_x_actions import bridge_dataset
from rt1.data.rlds.reader import RLDSSource
from rt1.data.rlds.schema import RLDSLayout
from rt1.data.rlds.tfrecord import FRAME_START, frame, map_file, scan_example, scan_records

Episode = tuple[str, str, list[bytes], list[list[float]], list[float] | None]


@pytest.fixture
def folder(tmp_path: Path, make_source: Callable[..., Any], write_recording: Callable[..., Path]) -> Path:
    return write_recording(tmp_path / "data", make_source(3, 1, 2, size=(8, 8)), size=(8, 8))


def _episodes(folder: Path, **options: Any) -> list[Episode]:
    """Read all of a folder; what is read must be of the right shapes and finite."""
    source = _open(folder, **options)
    return [_episode(source, episode) for episode in range(len(source.lengths))]


def _open(folder: Path, **options: Any) -> RLDSSource:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* left out, the first")
        return RLDSSource(folder, **options)


def _episode(source: RLDSSource, episode: int) -> Episode:
    steps = int(source.lengths[episode])
    actions, embedding = source.actions(episode, 0, steps), source.text_embedding(episode)
    images = source.encoded_images(episode, 0, steps)
    assert (actions.shape, len(images)) == ((steps, source.action_spec.size), steps)
    assert np.isfinite(actions).all()
    assert embedding is None or np.isfinite(embedding).all()
    stored = None if embedding is None else embedding.tolist()
    return source.instruction(episode), source.task(episode), images, actions.tolist(), stored


def _forget_index(folder: Path) -> None:
    shutil.rmtree(folder / ".rt1-index", ignore_errors=True)


@pytest.mark.parametrize("skip", [False, True], ids=["strict", "skipping"])
def test_a_damaged_shard_gives_intact_episodes_or_one_line(fuzz: Fuzz, folder: Path, *, skip: bool) -> None:
    shard = next(folder.glob("*.tfrecord-00000-*"))
    content, intact = shard.read_bytes(), _episodes(folder)

    def check(rng: random.Random) -> None:
        shard.write_bytes(mutate(content, rng))
        for episode in _episodes(folder, skip_corrupt=skip):
            assert episode in intact

    fuzz.check_examples(check, names=folder)


def test_a_hostile_record_gives_sound_episodes_or_one_line(fuzz: Fuzz, folder: Path) -> None:
    shard = next(folder.glob("*.tfrecord-00000-*"))
    content = map_file(shard)
    payloads = [content[start:stop] for start, stop in scan_records(shard, content)]

    def check(rng: random.Random) -> None:
        chosen = rng.randrange(len(payloads))
        records = [mutate(payload, rng) if n == chosen else payload for n, payload in enumerate(payloads)]
        shard.write_bytes(b"".join(map(frame, records)))
        _forget_index(folder)
        assert _episodes(folder, skip_corrupt=rng.random() < 0.5)

    fuzz.check_examples(check, names=folder)


def test_a_hostile_record_of_an_open_x_set_gives_sound_actions_or_one_line(
    fuzz: Fuzz, tmp_path: Path, make_source: Callable[..., Any], write_recording: Callable[..., Path]
) -> None:
    folder = write_recording(tmp_path / "data", make_source(3, dimensions=7, size=(8, 8)), size=(8, 8))
    dataset = OpenXDataset(
        name="own",
        action_keys=("action", "is_terminal"),
        to_rt1=bridge_dataset,
        control_rate=5.0,
        instruction_key="language_instruction",
        embedding_key=None,
    )
    (shard,) = folder.glob("*.tfrecord-*")
    content = shard.read_bytes()[FRAME_START:-4]
    _, first, stop = scan_example(content, 0, len(content))[b"steps/action"]

    def check(rng: random.Random) -> None:
        record = bytearray(content)
        for _ in range(rng.randrange(4)):  # extreme numbers in a record of the right form
            record[rng.randrange(first + 3, stop)] = rng.choice((0x7F, 0x80, 0xFF))
        shard.write_bytes(frame(bytes(record) if rng.random() < 0.5 else mutate(bytes(record), rng)))
        _forget_index(folder)
        source = open_x_source(folder, dataset=dataset)
        for episode, steps in enumerate(source.lengths.tolist()):
            assert np.isfinite(source.actions(episode, 0, steps)).all()

    fuzz.check_examples(check, names=folder)


@pytest.mark.parametrize("name", ["features.json", "dataset_info.json", "rt1.json"])
def test_metadata_of_other_values_gives_sound_episodes_or_one_line(fuzz: Fuzz, folder: Path, name: str) -> None:
    file = folder / name
    content = json.loads(file.read_text())

    def check(rng: random.Random) -> None:
        file.write_text(json.dumps(mutate_json(content, rng)), encoding="utf-8")
        layout = None if rng.random() < 0.7 else RLDSLayout(embedding_key="language_embedding")
        assert _episodes(folder, layout=layout)

    fuzz.check_examples(check, names=folder)


@pytest.mark.parametrize("name", ["features.json", "dataset_info.json", "rt1.json"])
def test_damaged_metadata_gives_sound_episodes_or_one_line(fuzz: Fuzz, folder: Path, name: str) -> None:
    file = folder / name
    content = file.read_bytes()

    def check(rng: random.Random) -> None:
        file.write_bytes(mutate(content, rng))
        assert _episodes(folder)

    fuzz.check_examples(check, names=folder)


def test_a_damaged_index_is_never_taken_for_data(fuzz: Fuzz, folder: Path) -> None:
    intact = _episodes(folder)
    (index,) = (folder / ".rt1-index").iterdir()
    files = {file.name: file.read_bytes() for file in index.iterdir()}

    def check(rng: random.Random) -> None:
        for name, content in files.items():
            (index / name).write_bytes(content)
        name = rng.choice(list(files))
        (index / name).write_bytes(mutate(files[name], rng))
        assert _episodes(folder) == intact

    fuzz.check_examples(check, names=folder)


def test_an_index_made_by_somebody_else_gives_sound_episodes(fuzz: Fuzz, folder: Path) -> None:
    _episodes(folder)
    (index,) = (folder / ".rt1-index").iterdir()
    arrays = {name: (index / f"{name}.npy").read_bytes() for name in ("episodes", "images", "actions")}
    content = json.loads((index / "index.json").read_text())["content"]

    def check(rng: random.Random) -> None:
        changed = mutate_json(content, rng) if rng.random() < 0.3 else dict(content)
        chosen = rng.choice(["episodes", "images"])  # who writes actions may write any
        for name, array in arrays.items():
            (index / f"{name}.npy").write_bytes(mutate(array, rng) if name == chosen else array)
        if isinstance(changed, dict):
            changed["checksums"] = {name: masked_crc32c((index / f"{name}.npy").read_bytes()) for name in arrays}
        described = {"content": changed, "checksum": masked_crc32c(json.dumps(changed).encode())}
        (index / "index.json").write_text(json.dumps(described), encoding="utf-8")
        source = _open(folder)
        for episode, steps in enumerate(source.lengths.tolist()):
            assert len(source.encoded_images(episode, 0, steps)) == steps
            assert len(source.actions(episode, 0, steps)) == steps
            assert isinstance(source.instruction(episode), str)
            source.text_embedding(episode)

    fuzz.check_examples(check, names=folder)
