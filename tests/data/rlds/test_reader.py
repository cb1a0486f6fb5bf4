"""RLDS folders as episode sources: our own recordings, damage, real data."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rt1.actions import rt1_action_spec
from rt1.data.rlds import reader
from rt1.data.rlds.reader import RLDSSource
from rt1.data.rlds.schema import RLDSLayout
from rt1.data.rlds.writer import RecordedEpisode, RecordingSettings
from rt1.data.sources.base import EpisodeSource
from rt1.data.sources.images import decode_image
from rt1.errors import DataError


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path, record: Callable[[Path], Path]) -> Path:
    return record(tmp_path / "set")


def test_a_recording_reads_back_as_it_was_recorded(
    folder: Path, episodes: list[RecordedEpisode], settings: RecordingSettings
) -> None:
    source = RLDSSource(folder)
    assert isinstance(source, EpisodeSource)
    assert source.name == "push_blocks"
    assert source.action_spec == settings.action_spec
    assert source.text_encoder == settings.text_encoder
    assert source.lengths.tolist() == [1, 2, 3, 4, 5]
    assert source.lengths.dtype == np.int64
    for number, episode in enumerate(episodes):
        steps = len(episode.images)
        embedding = source.text_embedding(number)
        assert embedding is not None
        np.testing.assert_array_equal(embedding, episode.text_embedding)
        np.testing.assert_array_equal(source.actions(number, 0, steps), episode.actions)
        assert source.encoded_images(number, 0, steps) == episode.images
        assert source.instruction(number) == episode.instruction
        assert source.task(number) == episode.task


def test_any_range_of_steps_is_read(folder: Path, episodes: list[RecordedEpisode]) -> None:
    source = RLDSSource(folder)
    for start in range(5):
        for stop in range(start, 6):
            assert source.encoded_images(4, start, stop) == episodes[4].images[start:stop]
            np.testing.assert_array_equal(source.actions(4, start, stop), episodes[4].actions[start:stop])


def test_actions_handed_out_can_be_changed_without_harm(folder: Path, episodes: list[RecordedEpisode]) -> None:
    source = RLDSSource(folder)
    source.actions(2, 0, 3)[:] = 0
    np.testing.assert_array_equal(source.actions(2, 0, 3), episodes[2].actions)


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (0, 4), (2, 1)])
def test_steps_outside_an_episode_are_refused(folder: Path, start: int, stop: int) -> None:
    source = RLDSSource(folder)
    with pytest.raises(IndexError, match=r"of episode 2, which has 3"):
        source.encoded_images(2, start, stop)
    with pytest.raises(IndexError):
        source.actions(2, start, stop)


@pytest.mark.parametrize("episode", [-1, 5])
def test_an_episode_that_does_not_exist_is_refused(folder: Path, episode: int) -> None:
    source = RLDSSource(folder)
    with pytest.raises(IndexError, match=r"It has the episodes 0\.\.4"):
        source.instruction(episode)
    with pytest.raises(IndexError):
        source.actions(episode, 0, 1)


def test_a_second_opening_reads_the_same_from_the_index(folder: Path, episodes: list[RecordedEpisode]) -> None:
    RLDSSource(folder)
    stored = next((folder / ".rt1-index").iterdir()) / "index.json"
    before = stored.stat().st_mtime_ns
    source = RLDSSource(folder)
    assert stored.stat().st_mtime_ns == before
    assert source.encoded_images(3, 1, 3) == episodes[3].images[1:3]
    assert source.instruction(3) == episodes[3].instruction


def test_a_changed_shard_is_indexed_again(folder: Path, episodes: list[RecordedEpisode]) -> None:
    RLDSSource(folder)
    shard = folder / "push_blocks-train.tfrecord-00001-of-00003"
    other = folder / "push_blocks-train.tfrecord-00000-of-00003"
    shutil.copy(other, shard)
    source = RLDSSource(folder)
    assert source.lengths.tolist() == [1, 2, 1, 2, 5]
    assert source.encoded_images(3, 0, 2) == episodes[1].images


def test_a_read_only_folder_is_indexed_in_the_cache(folder: Path, tmp_path: Path) -> None:
    (folder / ".rt1-index").touch()  # a file in its place stands for a folder that cannot be written
    source = RLDSSource(folder)
    stored = list((tmp_path / "cache" / "rt1" / "index").iterdir())
    assert len(stored) == 1
    assert RLDSSource(folder).lengths.tolist() == source.lengths.tolist()


def test_a_shard_that_shrinks_while_open_is_noticed(folder: Path) -> None:
    source = RLDSSource(folder)
    os.truncate(folder / "push_blocks-train.tfrecord-00002-of-00003", 100)
    with pytest.raises(DataError, match="00002-of-00003 became shorter"):
        source.encoded_images(4, 0, 1)


def test_a_shard_that_vanishes_while_open_is_named(folder: Path) -> None:
    source = RLDSSource(folder)
    (folder / "push_blocks-train.tfrecord-00002-of-00003").unlink()
    with pytest.raises(DataError, match="00002-of-00003: No such file"):
        source.encoded_images(4, 0, 1)


def test_threads_read_the_same_while_files_are_closed_and_opened(
    folder: Path, episodes: list[RecordedEpisode], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "_OPEN_FILES", 1)
    source = RLDSSource(folder)
    wrong = [0] * 4

    def read(seed: int) -> None:
        for number in np.random.default_rng(seed).integers(0, 5, 200):
            wrong[seed] += source.encoded_images(int(number), 0, 1)[0] != episodes[number].images[0]

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [0] * 4


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(data=st.data())
def test_one_flipped_bit_anywhere_in_a_shard_is_never_read_as_good_data(folder: Path, data: st.DataObject) -> None:
    shard = folder / "push_blocks-train.tfrecord-00001-of-00003"
    good = shard.read_bytes()
    position = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[position] ^= 1 << data.draw(st.integers(0, 7))
    shard.write_bytes(bad)
    try:
        with pytest.raises(DataError, match=r"00001-of-00003: .*byte \d+"):
            RLDSSource(folder)
    finally:
        shard.write_bytes(good)


@pytest.mark.parametrize("cut", [1, 16, 3000])
def test_a_truncated_shard_is_refused_with_file_and_offset(folder: Path, cut: int) -> None:
    shard = folder / "push_blocks-train.tfrecord-00002-of-00003"
    os.truncate(shard, shard.stat().st_size - cut)
    with pytest.raises(DataError, match=r"00002-of-00003: truncated .*byte 0: .*skip_corrupt"):
        RLDSSource(folder)


def test_a_shard_cut_between_two_records_is_refused(folder: Path) -> None:
    os.truncate(folder / "push_blocks-train.tfrecord-00002-of-00003", 0)
    with pytest.raises(DataError, match=r"0 episodes.*dataset_info\.json.* 1"):
        RLDSSource(folder)


def test_a_missing_shard_is_refused_by_name(folder: Path) -> None:
    (folder / "push_blocks-train.tfrecord-00001-of-00003").unlink()
    with pytest.raises(DataError, match=r"1 of 3 shards .*missing.*00001-of-00003"):
        RLDSSource(folder)


def test_with_damage_skipped_the_rest_is_read_and_counted(folder: Path, episodes: list[RecordedEpisode]) -> None:
    (folder / "push_blocks-train.tfrecord-00001-of-00003").unlink()
    shard = folder / "push_blocks-train.tfrecord-00000-of-00003"
    data = bytearray(shard.read_bytes())
    data[500] ^= 1
    shard.write_bytes(data)
    with pytest.warns(UserWarning, match="2 left out.*missing"):
        source = RLDSSource(folder, skip_corrupt=True)
    assert source.lengths.tolist() == [2, 5]
    assert source.encoded_images(1, 0, 5) == episodes[4].images
    assert len(source.skipped) == 2
    with pytest.warns(UserWarning, match="2 left out"):  # from the stored index too
        assert RLDSSource(folder, skip_corrupt=True).skipped == source.skipped


def test_a_spec_of_another_width_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"action .*3 values.*11 dimensions"):
        RLDSSource(folder, action_spec=rt1_action_spec())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"format": 2}, "has format 2. This version reads format 1"),
        ({"format": 1}, "is damaged"),
        ({"format": 1, "layout": {}}, "is damaged"),
        ({"format": 1, "text_encoder": 3}, "is damaged"),
        ({"format": 1, "details": []}, "the details are"),
        ({"format": 1, "details": {"control_rate": "3"}}, "the control rate is '3'"),
    ],
)
def test_a_foreign_rt1_json_is_refused(folder: Path, content: dict[str, Any], message: str) -> None:
    (folder / "rt1.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        RLDSSource(folder)


def test_real_bridge_data_is_read(shared: Path, tmp_path: Path) -> None:
    original = shared / "data" / "bridge_rlds" / "bridge_dataset" / "1.0.0"
    folder = tmp_path / "bridge"
    folder.mkdir()
    for path in original.iterdir():
        (folder / path.name).symlink_to(path)
    layout = RLDSLayout(image_key="observation/image_0", embedding_key="language_embedding")
    for split, first_instruction in [
        ("train", "put cup from counter or drying rack into sink"),
        ("val", "flip pot upright which is in sink"),
    ]:
        source = RLDSSource(folder, split=split, layout=layout)
        assert source.lengths.tolist() == [10] * 25
        assert source.instruction(0) == first_instruction
        assert all(source.instruction(episode).strip() for episode in range(25))
        assert source.action_spec.size == 7
        for episode in range(25):
            embedding = source.text_embedding(episode)
            assert embedding is not None
            assert embedding.shape == (512,)
            assert np.linalg.norm(embedding) == pytest.approx(1.0, abs=1e-5)
            assert all(decode_image(data).shape == (64, 64, 3) for data in source.encoded_images(episode, 0, 10))
            assert (np.abs(source.actions(episode, 0, 10)[:, 6] - 0.5) <= 0.5).all()  # the gripper
