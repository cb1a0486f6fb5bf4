"""Recording: the same episodes give the same bytes, and an interruption loses at most a shard."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rt1.data.rlds.reader import RLDSSource
from rt1.data.rlds.writer import RecordedEpisode, RecordingSettings, RLDSWriter
from rt1.errors import DataError, SaveError


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_the_same_episodes_give_the_same_bytes(tmp_path: Path, record: Callable[[Path], Path]) -> None:
    one, other = _bytes(record(tmp_path / "one")), _bytes(record(tmp_path / "other"))
    assert one == other
    assert sorted(one) == [
        "dataset_info.json",
        "features.json",
        "push_blocks-train.tfrecord-00000-of-00003",
        "push_blocks-train.tfrecord-00001-of-00003",
        "push_blocks-train.tfrecord-00002-of-00003",
        "recording.json",
        "rt1.json",
    ]


def test_an_interrupted_recording_resumes_to_the_same_bytes(
    tmp_path: Path,
    record: Callable[[Path], Path],
    settings: RecordingSettings,
    episodes: list[RecordedEpisode],
) -> None:
    folder = tmp_path / "interrupted"
    RLDSWriter(folder, settings).write_shard(1, episodes[2:4])
    resumed = RLDSWriter(folder, settings)
    assert resumed.missing_shards() == [0, 2]
    for shard in resumed.missing_shards():
        resumed.write_shard(shard, [episodes[i] for i in settings.shard_episodes(shard)])
    resumed.finish()
    assert _bytes(folder) == _bytes(record(tmp_path / "straight"))


def test_an_unfinished_recording_is_refused_with_its_progress(
    tmp_path: Path, settings: RecordingSettings, episodes: list[RecordedEpisode]
) -> None:
    RLDSWriter(tmp_path / "set", settings).write_shard(1, episodes[2:4])
    with pytest.raises(DataError, match=r"not finished.*1 of 3 shards"):
        RLDSSource(tmp_path / "set")


def test_finishing_with_a_missing_shard_is_refused(
    tmp_path: Path, settings: RecordingSettings, episodes: list[RecordedEpisode]
) -> None:
    writer = RLDSWriter(tmp_path / "set", settings)
    writer.write_shard(1, episodes[2:4])
    with pytest.raises(DataError, match=r"shards \[0, 2\] are not written yet"):
        writer.finish()


def test_a_shard_that_fails_midway_is_still_missing(
    tmp_path: Path, settings: RecordingSettings, episodes: list[RecordedEpisode]
) -> None:
    writer = RLDSWriter(tmp_path / "set", settings)
    with pytest.raises(DataError, match="episode 1 cannot be recorded"):
        writer.write_shard(0, [episodes[0], replace(episodes[1], instruction=" ")])
    assert writer.missing_shards() == [0, 1, 2]
    assert [path.name for path in writer.folder.iterdir()] == ["recording.json"]


def test_other_settings_are_refused_by_the_setting_that_differs(tmp_path: Path, settings: RecordingSettings) -> None:
    RLDSWriter(tmp_path / "set", settings)
    with pytest.raises(DataError, match=r"image_size was \[24, 32\], now \[24, 40\]"):
        RLDSWriter(tmp_path / "set", replace(settings, image_size=(24, 40)))


def test_a_folder_with_other_files_is_refused(tmp_path: Path, settings: RecordingSettings) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(SaveError, match=r"thesis\.txt .*recording\.json"):
        RLDSWriter(tmp_path, settings)
    with pytest.raises(SaveError, match=r"thesis\.txt is a file"):
        RLDSWriter(tmp_path / "thesis.txt", settings)


def test_what_a_killed_program_left_does_not_hinder(tmp_path: Path, settings: RecordingSettings) -> None:
    (tmp_path / ".recording.json.writing-7").touch()
    assert RLDSWriter(tmp_path, settings).missing_shards() == [0, 1, 2]


def test_a_shard_takes_exactly_its_episodes(
    tmp_path: Path, settings: RecordingSettings, episodes: list[RecordedEpisode]
) -> None:
    with pytest.raises(DataError, match=r"shard 2 of .* takes 1 episodes, got 2"):
        RLDSWriter(tmp_path, settings).write_shard(2, episodes[:2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": []}, "it has no steps"),
        ({"images": [b"no image"]}, "neither JPEG nor PNG"),
        ({"actions": np.zeros((1, 2), np.float32)}, r"float32 \(1, 2\)\. They must be float32 \(1, 3\)"),
        ({"actions": np.zeros((1, 3))}, "its actions are float64"),
        ({"actions": np.full((1, 3), np.nan, np.float32)}, "the action of step 0 is .*must be finite"),
        ({"instruction": ""}, "its instruction is empty"),
        ({"text_embedding": None}, "it has no text embedding. The recording has 8"),
        ({"text_embedding": np.zeros(7, np.float32)}, r"float32 \(7,\)\. It must be finite float32 \(8,\)"),
    ],
)
def test_an_episode_that_cannot_be_read_back_is_not_written(
    tmp_path: Path,
    settings: RecordingSettings,
    episodes: list[RecordedEpisode],
    change: dict[str, object],
    message: str,
) -> None:
    bad = replace(episodes[0], **change)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=message):
        RLDSWriter(tmp_path, settings).write_shard(0, [bad, episodes[1]])


def test_an_image_of_another_size_is_refused(
    tmp_path: Path, settings: RecordingSettings, episodes: list[RecordedEpisode]
) -> None:
    writer = RLDSWriter(tmp_path, replace(settings, image_size=(24, 40)))
    with pytest.raises(DataError, match=r"step 0 .*\(24, 32\).*\(24, 40\)"):
        writer.write_shard(0, episodes[:2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "My Set"}, "data set name 'My Set'"),
        ({"episodes": 0}, "episodes is 0"),
        ({"episodes_per_shard": 0}, "_per"),
    ],
)
def test_impossible_settings_are_refused(settings: RecordingSettings, change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(settings, **change)  # type: ignore[arg-type]


def test_the_metadata_is_what_tfds_expects(tmp_path: Path, record: Callable[[Path], Path]) -> None:
    folder = record(tmp_path / "set")
    features = json.loads((folder / "features.json").read_text())["featuresDict"]["features"]
    info = json.loads((folder / "dataset_info.json").read_text())
    payloads = sum(path.stat().st_size for path in folder.glob("*.tfrecord-*")) - 16 * 5
    assert features["steps"]["sequence"]["length"] == "-1"
    assert info["fileFormat"] == "tfrecord"
    assert info["splits"][0]["shardLengths"] == ["2", "2", "1"]
    assert info["splits"][0]["numBytes"] == str(payloads)


def test_a_recording_without_embeddings_has_none(
    tmp_path: Path, settings: RecordingSettings, episodes: list[RecordedEpisode]
) -> None:
    plain = replace(settings, text_encoder=None, episodes=1)
    writer = RLDSWriter(tmp_path, plain)
    writer.write_shard(0, [replace(episodes[0], text_embedding=None)])
    writer.finish()
    source = RLDSSource(tmp_path)
    assert source.text_embedding(0) is None
    assert source.text_encoder is None
