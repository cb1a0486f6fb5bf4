"""RLDS folders as episode sources: our own recordings, Open X-Embodiment forms, and everything that is refused."""

from __future__ import annotations

import json
import os
import shutil
import threading
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rt1.actions import ActionSpec, Continuous, Discrete, rt1_action_spec
from rt1.data import rlds
from rt1.data.episode import DataError, EpisodeSource
from rt1.data.images import decode_image, encode_jpeg
from rt1.data.rlds import RLDSSource
from rt1.data.rlds_schema import RLDSLayout
from rt1.data.rlds_writer import RecordedEpisode, RecordingSettings
from rt1.data.tfrecord import FeatureValue, encode_example, frame

IMAGE = encode_jpeg(np.full((8, 8, 3), 90, np.uint8))


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path, record: Callable[[Path], Path]) -> Path:
    return record(tmp_path / "set")


def _tensor(*sizes: int, dtype: str = "float32", encoding: str = "none") -> dict[str, Any]:
    return {
        "tensor": {"shape": {"dimensions": [str(n) for n in sizes]}, "dtype": dtype, "encoding": encoding}
    }


def _tree(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Nest leaves by the pieces of their keys, as ``features.json`` does."""
    children: dict[str, dict[str, Any]] = {}
    plain = {key: leaf for key, leaf in leaves.items() if "/" not in key}
    for key, leaf in leaves.items():
        if "/" in key:
            head, rest = key.split("/", 1)
            children.setdefault(head, {})[rest] = leaf
    return {
        "featuresDict": {"features": {**plain, **{head: _tree(child) for head, child in children.items()}}}
    }


def _data_set(
    folder: Path, step_features: Mapping[str, Any], records: list[Mapping[str, FeatureValue]]
) -> Path:
    """Write a foreign set of one shard whose steps have the features given, and an image and an instruction."""
    folder.mkdir()
    steps = _tree({"image": {"image": {}}, "instruction": {"text": {}}, **step_features})
    top = {"featuresDict": {"features": {"steps": {"sequence": {"feature": steps, "length": "-1"}}}}}
    (folder / "features.json").write_text(json.dumps(top))
    payloads = [
        encode_example({f"steps/{key}": value for key, value in record.items()}) for record in records
    ]
    (folder / "foreign-train.tfrecord-00000-of-00001").write_bytes(b"".join(map(frame, payloads)))
    return folder


def _steps(count: int, **more: FeatureValue) -> dict[str, FeatureValue]:
    return {"image": [IMAGE] * count, "instruction": [b"pick it up"] * count, **more}


LAYOUT = RLDSLayout(image_key="image", instruction_key="instruction")


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


def test_actions_handed_out_can_be_changed_without_harm(
    folder: Path, episodes: list[RecordedEpisode]
) -> None:
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
    with pytest.raises(IndexError, match=r"it has the episodes 0\.\.4"):
        source.instruction(episode)
    with pytest.raises(IndexError):
        source.actions(episode, 0, 1)


def test_a_second_opening_reads_the_same_from_the_index(
    folder: Path, episodes: list[RecordedEpisode]
) -> None:
    RLDSSource(folder)
    stored = next((folder / ".rt1-index").iterdir()) / "index.json"
    before = stored.stat().st_mtime_ns
    source = RLDSSource(folder)
    assert stored.stat().st_mtime_ns == before
    assert source.encoded_images(3, 1, 3) == episodes[3].images[1:3]
    assert source.instruction(3) == episodes[3].instruction


def test_a_changed_shard_is_indexed_again(
    folder: Path, tmp_path: Path, record: Callable[[Path], Path], episodes: list[RecordedEpisode]
) -> None:
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
    monkeypatch.setattr(rlds, "_OPEN_FILES", 1)
    source = RLDSSource(folder)
    wrong: list[int] = []

    def read(seed: int) -> None:
        for number in np.random.default_rng(seed).integers(0, 5, 200):
            if source.encoded_images(int(number), 0, 1)[0] != episodes[number].images[0]:
                wrong.append(int(number))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@hypothesis_settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)
@given(data=st.data())
def test_one_flipped_bit_anywhere_in_a_shard_is_never_read_as_good_data(
    folder: Path, data: st.DataObject
) -> None:
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
    with pytest.raises(DataError, match=r"00002-of-00003: truncated record at byte 0: .*skip_corrupt=True"):
        RLDSSource(folder)


def test_a_shard_cut_between_two_records_is_refused(folder: Path) -> None:
    os.truncate(folder / "push_blocks-train.tfrecord-00002-of-00003", 0)
    with pytest.raises(DataError, match="0 episodes, but dataset_info.json promises 1"):
        RLDSSource(folder)


def test_a_missing_shard_is_refused_by_name(folder: Path) -> None:
    (folder / "push_blocks-train.tfrecord-00001-of-00003").unlink()
    with pytest.raises(
        DataError, match=r"1 of 3 shards are missing, the first is push_blocks.*00001-of-00003"
    ):
        RLDSSource(folder)


def test_with_damage_skipped_the_rest_is_read_and_counted(
    folder: Path, episodes: list[RecordedEpisode]
) -> None:
    (folder / "push_blocks-train.tfrecord-00001-of-00003").unlink()
    shard = folder / "push_blocks-train.tfrecord-00000-of-00003"
    data = bytearray(shard.read_bytes())
    data[500] ^= 1
    shard.write_bytes(data)
    with pytest.warns(UserWarning, match="2 left out, the first: .*shards are missing"):
        source = RLDSSource(folder, skip_corrupt=True)
    assert source.lengths.tolist() == [2, 5]
    assert source.encoded_images(1, 0, 5) == episodes[4].images
    assert len(source.skipped) == 2
    with pytest.warns(UserWarning, match="2 left out"):  # from the stored index too
        assert RLDSSource(folder, skip_corrupt=True).skipped == source.skipped


def test_nothing_left_after_skipping_is_refused(tmp_path: Path) -> None:
    records = [_steps(1, action=np.full(2, np.nan, np.float32))]
    folder = _data_set(tmp_path / "foreign", {"action": _tensor(2)}, records)
    with pytest.raises(DataError, match="holds no readable episode; 1 skipped, the first: .*step 0"):
        RLDSSource(folder, layout=LAYOUT, skip_corrupt=True)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (_steps(3, action=np.array([0, 0, 0, 0, np.nan, 0], np.float32)), "the action of step 2 is .*finite"),
        (_steps(3, action=np.array([0, 0, 0, np.inf, 0, 0], np.float32)), "the action of step 1 is .*finite"),
        (_steps(0, action=np.zeros(0, np.float32)), "the episode has no steps"),
        (
            {**_steps(2, action=np.zeros(4, np.float32)), "instruction": [b" ", b"x"]},
            r"'steps/instruction'\) is empty",
        ),
        (
            _steps(2, action=np.zeros(5, np.float32)),
            "'steps/action' has 5 values for 2 steps; it must have 2 a step",
        ),
        (_steps(2), "the record has no 'steps/action'"),
        ({"instruction": [b"x"], "action": np.zeros(2, np.float32)}, "the record has no 'steps/image'"),
    ],
)
def test_an_unusable_episode_is_named_and_may_be_left_out(
    tmp_path: Path, record: Mapping[str, FeatureValue], message: str
) -> None:
    good = _steps(2, action=np.arange(4, dtype=np.float32))
    folder = _data_set(tmp_path / "foreign", {"action": _tensor(2)}, [good, record, good])
    with pytest.raises(DataError, match=rf"00000-of-00001: episode 1 of this file, at byte \d+: .*{message}"):
        RLDSSource(folder, layout=LAYOUT)
    with pytest.warns(UserWarning, match="1 left out"):
        source = RLDSSource(folder, layout=LAYOUT, skip_corrupt=True)
    assert source.lengths.tolist() == [2, 2]
    assert source.actions(1, 0, 2).tolist() == [[0, 1], [2, 3]]


def test_without_a_layout_the_keys_are_named(tmp_path: Path) -> None:
    folder = _data_set(
        tmp_path / "foreign", {"action": _tensor(2)}, [_steps(1, action=np.zeros(2, np.float32))]
    )
    with pytest.raises(DataError, match=r"layout=RLDSLayout\(.*it has action, image, instruction"):
        RLDSSource(folder)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (
            RLDSLayout(image_key="imag", instruction_key="instruction"),
            "unknown RLDS key 'imag'; did you mean 'image'",
        ),
        (
            RLDSLayout(image_key="action", instruction_key="instruction"),
            "holds a tensor; image_key must name an image",
        ),
        (
            RLDSLayout(image_key="image", instruction_key="instruction", action_keys=("image",)),
            "numbers are needed",
        ),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(tmp_path: Path, layout: RLDSLayout, message: str) -> None:
    folder = _data_set(
        tmp_path / "foreign", {"action": _tensor(2)}, [_steps(1, action=np.zeros(2, np.float32))]
    )
    with pytest.raises(DataError, match=message):
        RLDSSource(folder, layout=layout)


def test_a_spec_of_another_width_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="steps/action hold 3 values, the action spec has 11 dimensions"):
        RLDSSource(folder, action_spec=rt1_action_spec())


def test_without_a_spec_the_bounds_are_those_of_the_data(tmp_path: Path) -> None:
    records = [_steps(2, move=np.array([-2, 7, 3, 7], np.float32), grip=np.array([0, 1], np.int64))]
    features = {"move": _tensor(2), "grip": _tensor(dtype="bool")}
    layout = RLDSLayout(image_key="image", instruction_key="instruction", action_keys=("move", "grip"))
    source = RLDSSource(_data_set(tmp_path / "foreign", features, records), layout=layout)
    assert source.action_spec.dimension_names == ("move_0", "move_1", "grip")
    assert source.action_spec.low.tolist() == [-2, 6, 0]
    assert source.action_spec.high.tolist() == [3, 8, 1]
    assert source.actions(0, 0, 2).tolist() == [[-2, 7, 0], [3, 7, 1]]


FRACTAL = {
    "world_vector": 3,
    "rotation_delta": 3,
    "gripper_closedness_action": 1,
    "base_displacement_vector": 2,
    "base_displacement_vertical_rotation": 1,
}


def _fractal(folder: Path, terminate: list[list[int]]) -> tuple[Path, RLDSLayout, dict[str, np.ndarray]]:
    """A set of the form of fractal20220817_data: named action parts, one-hot termination, embedding in the steps."""
    rng = np.random.default_rng(1)
    parts = {
        name: rng.uniform(-1, 1, (len(terminate), width)).astype(np.float32)
        for name, width in FRACTAL.items()
    }
    parts["terminate_episode"] = np.array(terminate, np.int64)
    record: dict[str, FeatureValue] = {f"action/{name}": part.reshape(-1) for name, part in parts.items()}
    record["observation/natural_language_embedding"] = rng.normal(size=4 * len(terminate)).astype(np.float32)
    features = {f"action/{name}": _tensor(width) for name, width in FRACTAL.items()}
    features["action/terminate_episode"] = _tensor(3, dtype="int32")
    features["observation/natural_language_embedding"] = _tensor(4)
    layout = RLDSLayout(
        image_key="image",
        instruction_key="instruction",
        embedding_key="observation/natural_language_embedding",
        action_keys=tuple(f"action/{name}" for name in [*FRACTAL, "terminate_episode"]),
    )
    return _data_set(folder, features, [_steps(len(terminate), **record)]), layout, parts


def test_named_action_parts_are_joined_in_the_order_of_the_spec(tmp_path: Path) -> None:
    folder, layout, parts = _fractal(tmp_path / "fractal", [[0, 1, 0], [0, 0, 1], [1, 0, 0]])
    spec = rt1_action_spec()
    source = RLDSSource(folder, layout=layout, action_spec=spec)
    actions = source.actions(0, 0, 3)
    np.testing.assert_array_equal(actions, spec.from_dict(parts))
    assert actions[:, 0].tolist() == [1, 2, 0]
    np.testing.assert_array_equal(actions[:, 1:4], parts["world_vector"])
    embedding = source.text_embedding(0)
    assert embedding is not None
    assert embedding.shape == (4,)


def test_the_same_files_read_with_another_spec_give_other_vectors(tmp_path: Path) -> None:
    folder, layout, _ = _fractal(tmp_path / "fractal", [[0, 1, 0]])
    assert RLDSSource(folder, layout=layout, action_spec=rt1_action_spec()).actions(0, 0, 1).shape == (1, 11)
    assert RLDSSource(folder, layout=layout).actions(0, 0, 1).shape == (1, 13)


def test_a_choice_that_is_not_one_hot_is_refused_with_its_step(tmp_path: Path) -> None:
    folder, layout, _ = _fractal(tmp_path / "fractal", [[0, 1, 0], [0, 1, 1]])
    with pytest.raises(
        DataError, match="episode 0 of this file.* step 1: .*terminate_episode.*must be one-hot"
    ):
        RLDSSource(folder, layout=layout, action_spec=rt1_action_spec())


def test_one_key_as_wide_as_the_spec_is_its_vector(tmp_path: Path) -> None:
    spec = ActionSpec(
        parts=(Discrete(name="action", choices=2), Continuous(name="x", low=(0.0,), high=(1.0,)))
    )
    records = [_steps(1, action=np.array([1, 0.5], np.float32))]
    source = RLDSSource(
        _data_set(tmp_path / "foreign", {"action": _tensor(2)}, records), layout=LAYOUT, action_spec=spec
    )
    assert source.actions(0, 0, 1).tolist() == [[1, 0.5]]


@pytest.mark.parametrize(("encoding", "pack"), [("zlib", zlib.compress), ("bytes", bytes)])
def test_packed_tensors_are_unpacked(tmp_path: Path, encoding: str, pack: Callable[[bytes], bytes]) -> None:
    action = np.array([[1.5, -2], [0, 3]], np.float32)
    features = {"action": _tensor(2, encoding=encoding)}
    records = [_steps(2, action=[pack(row.tobytes()) for row in action])]
    source = RLDSSource(_data_set(tmp_path / "kuka", features, records), layout=LAYOUT)
    np.testing.assert_array_equal(source.actions(0, 0, 2), action)


def test_a_packed_tensor_that_does_not_unpack_is_refused(tmp_path: Path) -> None:
    features = {"action": _tensor(2, encoding="zlib")}
    folder = _data_set(tmp_path / "kuka", features, [_steps(1, action=[b"not zlib"])])
    with pytest.raises(DataError, match="'steps/action' does not unpack as zlib float32"):
        RLDSSource(folder, layout=LAYOUT)


def test_an_instruction_stored_as_codes_is_read(tmp_path: Path) -> None:
    codes = np.zeros((2, 16), np.int64)
    codes[:, :6] = list("schön".encode())
    features = {"action": _tensor(1), "codes": _tensor(16, dtype="int32")}
    records = [_steps(2, action=np.zeros(2, np.float32), codes=codes)]
    folder = _data_set(tmp_path / "table", features, records)
    source = RLDSSource(folder, layout=RLDSLayout(image_key="image", instruction_key="codes"))
    assert source.instruction(0) == "schön"


@pytest.mark.parametrize("packed", [True, False])
def test_an_embedding_is_read_from_either_form_of_float_list(tmp_path: Path, packed: bool) -> None:  # noqa: FBT001
    embedding = np.array([0.5, -1, 2], np.float32)
    features = {"action": _tensor(1), "vector": _tensor(3)}
    record = _steps(2, action=np.zeros(2, np.float32))
    folder = _data_set(tmp_path / "foreign", features, [record])
    values = np.tile(embedding, 2)
    floats = (
        b"\x0a" + bytes([24]) + values.tobytes()
        if packed
        else b"".join(b"\x0d" + v.tobytes() for v in values)
    )
    feature = b"\x12" + bytes([len(floats)]) + floats
    entry = b"\x0a\x0csteps/vector\x12" + bytes([len(feature)]) + feature
    extra = b"\x0a" + bytes([len(entry)]) + entry
    # Two pieces of one message field are merged by every protobuf reader.
    message = (
        encode_example({f"steps/{key}": value for key, value in record.items()})
        + b"\x0a"
        + bytes([len(extra)])
        + extra
    )
    (folder / "foreign-train.tfrecord-00000-of-00001").write_bytes(frame(message))
    source = RLDSSource(
        folder, layout=RLDSLayout(image_key="image", instruction_key="instruction", embedding_key="vector")
    )
    found = source.text_embedding(0)
    assert found is not None
    np.testing.assert_array_equal(found, embedding)


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (np.zeros(2, np.float32), "has 2 values; it must have 3"),
        (np.zeros(3, np.int64), "is not a list of floats"),
    ],
)
def test_an_embedding_of_another_form_is_refused(tmp_path: Path, vector: FeatureValue, message: str) -> None:
    features = {"action": _tensor(1), "vector": _tensor(3)}
    folder = _data_set(tmp_path / "set", features, [_steps(1, action=np.zeros(1, np.float32), vector=vector)])
    layout = RLDSLayout(image_key="image", instruction_key="instruction", embedding_key="vector")
    with pytest.raises(DataError, match=message):
        RLDSSource(folder, layout=layout)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"format": 2}, "has format 2; this version reads format 1"),
        ({"format": 1}, "is damaged"),
        ({"format": 1, "layout": {}}, "is damaged"),
    ],
)
def test_a_foreign_rt1_json_is_refused(folder: Path, content: dict[str, Any], message: str) -> None:
    (folder / "rt1.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        RLDSSource(folder)


def test_an_index_takes_at_most_60_bytes_per_step_of_an_11_dimensional_action(tmp_path: Path) -> None:
    record = _steps(45, action=np.zeros(45 * 11, np.float32))
    folder = _data_set(tmp_path / "set", {"action": _tensor(11)}, [record] * 40)
    RLDSSource(folder, layout=LAYOUT)
    size = sum(path.stat().st_size for path in (folder / ".rt1-index").rglob("*.npy"))
    assert size / (40 * 45) < 60


def test_real_bridge_data_is_read(shared: Path, tmp_path: Path) -> None:
    original = shared / "data" / "bridge_rlds" / "bridge_dataset" / "1.0.0"
    folder = tmp_path / "bridge"
    folder.mkdir()
    for path in original.iterdir():
        (folder / path.name).symlink_to(path)
    layout = RLDSLayout(image_key="observation/image_0", embedding_key="language_embedding")
    for split in ("train", "val"):
        source = RLDSSource(folder, split=split, layout=layout)
        assert source.lengths.tolist() == [10] * 25
        assert source.instruction(0) == "put cup from counter or drying rack into sink"
        assert all(source.instruction(episode).strip() for episode in range(25))
        assert source.action_spec.size == 7
        for episode in range(25):
            embedding = source.text_embedding(episode)
            assert embedding is not None
            assert embedding.shape == (512,)
            assert np.linalg.norm(embedding) == pytest.approx(1.0, abs=1e-5)
            assert all(
                decode_image(data).shape == (64, 64, 3) for data in source.encoded_images(episode, 0, 10)
            )
            assert set(source.actions(episode, 0, 10)[:, 6].tolist()) <= {0.0, 1.0}
