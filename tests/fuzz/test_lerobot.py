"""Damaged LeRobot folders: one line that names the folder, or what was written where checksums tell."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fixtures.lerobot import CAMERA, LeRobotSet, assert_right_images
from tests.fuzz.conftest import Fuzz
from tests.fuzz.mutate import mutate, mutate_json
from tests.fuzz.readable import assert_readable, write_anew

from rt1.actions import ActionSpec, Continuous
from rt1.data.lerobot.metadata import LeRobotSettings
from rt1.data.lerobot.reader import LeRobotSource
from rt1.data.lerobot.writer import LeRobotWriter
from rt1.data.rlds.writer import RecordedEpisode, RecordingSettings
from rt1.data.sources.images import encode_jpeg

pa = pytest.importorskip("pyarrow", reason="LeRobot sets need pyarrow: the extra lerobot")
pq = pytest.importorskip("pyarrow.parquet", reason="LeRobot sets need pyarrow: the extra lerobot")

RNG = np.random.default_rng(0)
RECORDING = RecordingSettings(
    name="blocks",
    image_size=(16, 24),
    action_spec=ActionSpec(parts=(Continuous(name="move", low=(-1.0,) * 3, high=(1.0,) * 3),)),
    episodes=3,
    episodes_per_shard=2,
    text_encoder={"name": "table", "sha256": "0" * 64, "width": 4},
)
EPISODES = [
    RecordedEpisode(
        images=[encode_jpeg(RNG.integers(0, 256, (16, 24, 3), dtype=np.uint8)) for _ in range(steps)],
        actions=RNG.uniform(-1, 1, (steps, 3)).astype(np.float32),
        instruction=f"push {steps}",
        text_embedding=RNG.normal(size=4).astype(np.float32),
        task="push",
        success=True,
        seed=steps,
        episode_id=steps,
    )
    for steps in (2, 3, 4)
]
JSON = ("meta/info.json", "meta/stats.json", "meta/rt1.json")
TABLES = ("meta/tasks.parquet", "meta/episodes/chunk-000/file-000.parquet", "data/chunk-000/file-000.parquet")
EMBEDDINGS = "meta/rt1_embeddings/chunk-000/file-000.safetensors"
VIDEO = "videos/observation.images.image/chunk-000/file-000.mp4"


def _write(folder: Path, *, video: bool = False) -> Path:
    settings = LeRobotSettings(recording=RECORDING, fps=5, video="h264" if video else None)
    LeRobotWriter(folder, settings).write(lambda number: EPISODES[number])
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write(tmp_path_factory.mktemp("lerobot") / "blocks")


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(written, tmp_path / "blocks"))


def _read(folder: Path) -> None:
    assert_readable(LeRobotSource(folder))


def _check_as_written(folder: Path) -> None:
    source = LeRobotSource(folder)
    for number, episode in enumerate(EPISODES):
        steps = len(episode.images)
        assert source.instruction(number) == episode.instruction
        assert np.array_equal(source.actions(number, 0, steps), episode.actions)
        assert source.encoded_images(number, 0, steps) == episode.images


def _damage_and_read(
    folder: Path,
    name: str,
    change: Callable[[bytes, random.Random], bytes],
    read: Callable[[Path], None] = _read,
) -> Callable[[random.Random], None]:
    original = (folder / name).read_bytes()

    def check(rng: random.Random) -> None:
        write_anew(folder / name, change(original, rng))
        read(folder)

    return check


def _other_json(data: bytes, rng: random.Random) -> bytes:
    return json.dumps(mutate_json(json.loads(data), rng)).encode() if rng.random() < 0.8 else mutate(data, rng)


@pytest.mark.filterwarnings("ignore:.* outside the bounds")
@pytest.mark.parametrize("noted", [True, False])
@pytest.mark.parametrize("name", JSON)
def test_a_mistyped_json_file_gives_episodes_or_one_line(fuzz: Fuzz, folder: Path, name: str, noted: bool) -> None:  # noqa: FBT001
    if not noted and name != JSON[2]:
        (folder / JSON[2]).unlink()
        shutil.rmtree((folder / EMBEDDINGS).parent)
    _read(folder)
    fuzz.check_examples(_damage_and_read(folder, name, _other_json), names="blocks", examples=20)


@pytest.mark.filterwarnings("ignore:.* change their instruction")
@pytest.mark.parametrize("name", TABLES)
def test_a_damaged_table_with_checksums_gives_what_was_written_or_one_line(fuzz: Fuzz, folder: Path, name: str) -> None:
    check = _damage_and_read(folder, name, mutate, _check_as_written)
    fuzz.check_examples(check, names="blocks", examples=20)


def test_damaged_embeddings_give_episodes_or_one_line(fuzz: Fuzz, folder: Path) -> None:
    check = _damage_and_read(folder, EMBEDDINGS, mutate)
    fuzz.check_examples(check, names="blocks", examples=20)


def _mistyped(data: bytes, rng: random.Random) -> bytes:
    """Return the table with the values of a column changed, and with the type that follows from them."""
    table = pq.read_table(pa.BufferReader(data))
    number = rng.randrange(table.num_columns)
    values: Any = mutate_json(table.column(number).to_pylist(), rng) if rng.random() < 0.9 else [None] * len(table)
    if not isinstance(values, list) or len(values) != len(table):
        values = [values] * len(table)
    try:
        column = pa.array(values)
        table = table.set_column(number, table.column_names[number], column)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        return sink.getvalue().to_pybytes()
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return data  # no column can have these values


@pytest.mark.filterwarnings("ignore:.* change their instruction")
@pytest.mark.parametrize("name", TABLES)
def test_a_mistyped_table_gives_episodes_or_one_line(fuzz: Fuzz, folder: Path, name: str) -> None:
    fuzz.check_examples(_damage_and_read(folder, name, _mistyped), names="blocks", examples=20)


def test_a_damaged_video_gives_images_or_one_line(fuzz: Fuzz, tmp_path: Path) -> None:
    pytest.importorskip("av", reason="videos need av: the extra lerobot")
    folder = _write(tmp_path / "blocks", video=True)
    fuzz.check_examples(_damage_and_read(folder, VIDEO, mutate), names="blocks", examples=20)


def _other_lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines()
    number = rng.randrange(len(lines))
    lines[number] = _other_json(lines[number], rng)
    return b"\n".join(lines)


@pytest.mark.filterwarnings("ignore:.* change their instruction")
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("meta/info.json", _other_json),
        ("meta/episodes.jsonl", _other_lines),
        ("meta/tasks.jsonl", _other_lines),
        ("data/chunk-000/episode_000001.parquet", _mistyped),
        (f"videos/chunk-000/{CAMERA}/episode_000001.mp4", mutate),
    ],
)
def test_a_damaged_set_of_version_2_gives_episodes_or_one_line(
    fuzz: Fuzz, tmp_path: Path, name: str, change: Callable[[bytes, random.Random], bytes]
) -> None:
    pytest.importorskip("av", reason="videos need av: the extra lerobot")
    marks: dict[str, list[Any]] = {"next.success": [[False, True], [False] * 3], "next.reward": [[0.0, 1.0], [0.0] * 3]}
    folder = LeRobotSet(version="v2.1", lengths=(2, 3), extra=marks).write(tmp_path / "blocks")
    fuzz.check_examples(_damage_and_read(folder, name, change), names="blocks", examples=20)


_CODECS: tuple[tuple[str | None, dict[str, str]], ...] = (
    (None, {}),
    ("libx264", {"g": "12", "bf": "2"}),
    ("libsvtav1", {"g": "2", "preset": "12"}),
    ("libvpx-vp9", {"g": "2", "cpu-used": "8"}),
)


@pytest.mark.parametrize("seed", range(8))
def test_every_image_and_action_of_a_random_set_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    pytest.importorskip("av", reason="videos need av: the extra lerobot")
    monkeypatch.setenv("SVT_LOG", "1")  # else the AV1 encoder prints a page
    rng = random.Random(seed)
    codec, options = _CODECS[seed % len(_CODECS)]
    lengths = [rng.choice((1, 1, 2, 5, rng.randint(3, 14))) for _ in range(rng.randint(1, 4))]
    kind = rng.choice(("float32", "float64"))
    actions = [np.random.default_rng(seed).uniform(-1, 1, (length, 3)).astype(kind) for length in lengths]
    names = ["x", "y", "grip"]
    written = LeRobotSet(
        version=rng.choice(("v2.0", "v2.1", "v3.0")),
        lengths=lengths,
        fps=rng.choice((5, 12.5, 29.97, 30.0, 50)),
        video=codec,
        options=options,
        episodes_per_file=rng.randint(1, 4),
        actions=actions,
        names=rng.choice((names, {"motors": names}, dict(zip(names, range(3), strict=True)))),
    )
    source = LeRobotSource(written.write(tmp_path / "set"))
    assert_right_images(source, lengths)
    assert source.action_spec.dimension_names == ("x", "y", "grip")
    for episode, values in enumerate(actions):
        assert np.array_equal(source.actions(episode, 0, len(values)), values.astype(np.float32))
