"""The index: kept, used again, made anew when something changed, and small."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rt1.data.rlds.columns import columns_of
from rt1.data.rlds.index import Index, build_index, load_or_build
from rt1.data.rlds.schema import RLDSLayout, Shards, find_shards, read_features
from rt1.data.rlds.writer import RecordedEpisode

SETTINGS = {"split": "train"}


def _never() -> Index:
    raise AssertionError("the stored index should have been used")


@pytest.fixture
def shards(tmp_path: Path, record: Callable[[Path], Path]) -> Shards:
    return find_shards(record(tmp_path / "set"), "train")


@pytest.fixture
def build(shards: Shards) -> Callable[[], Index]:
    features = read_features(shards.paths[0].parent)
    columns = columns_of(features, RLDSLayout(embedding_key="language_embedding"), None)
    return lambda: build_index(shards, columns, skip=False)


def test_the_index_tells_where_every_image_lies(
    shards: Shards, build: Callable[[], Index], episodes: list[RecordedEpisode]
) -> None:
    index = build()
    images = [image for episode in episodes for image in episode.images]
    owners = np.repeat(index.episodes["shard"], index.episodes["steps"])
    files = [path.read_bytes() for path in shards.paths]
    assert [
        files[owner][row["offset"] : row["offset"] + row["length"]]
        for owner, row in zip(owners, index.images, strict=True)
    ] == images
    np.testing.assert_array_equal(index.actions, np.concatenate([episode.actions for episode in episodes]))


def test_instructions_are_stored_once_each(build: Callable[[], Index]) -> None:
    index = build()
    assert index.instructions == ("push the red block", "push the blue block")
    assert index.episodes["instruction"].tolist() == [0, 1, 0, 1, 0]


def test_a_stored_index_is_used_and_equals_the_built_one(
    tmp_path: Path, shards: Shards, build: Callable[[], Index]
) -> None:
    built = build()
    load_or_build([tmp_path / "index"], SETTINGS, shards, build)
    stored = load_or_build([tmp_path / "index"], SETTINGS, shards, _never)
    for name in ("episodes", "images", "actions"):
        np.testing.assert_array_equal(getattr(stored, name), getattr(built, name))
    assert stored.instructions == built.instructions
    assert not stored.actions.flags.writeable  # mapped from the file


def test_other_settings_do_not_use_a_stored_index(tmp_path: Path, shards: Shards, build: Callable[[], Index]) -> None:
    load_or_build([tmp_path / "index"], SETTINGS, shards, build)
    with pytest.raises(AssertionError, match="should have been used"):
        load_or_build([tmp_path / "index"], {"split": "val"}, shards, _never)


def test_a_touched_shard_makes_the_index_void(tmp_path: Path, shards: Shards, build: Callable[[], Index]) -> None:
    load_or_build([tmp_path / "index"], SETTINGS, shards, build)
    shards.paths[1].touch()
    with pytest.raises(AssertionError, match="should have been used"):
        load_or_build([tmp_path / "index"], SETTINGS, shards, _never)


def test_a_shard_changed_in_place_with_its_size_and_time_kept_makes_the_index_void(
    tmp_path: Path, shards: Shards, build: Callable[[], Index]
) -> None:
    load_or_build([tmp_path / "index"], SETTINGS, shards, build)
    path, before = shards.paths[1], shards.paths[1].stat()
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    with pytest.raises(AssertionError, match="should have been used"):
        load_or_build([tmp_path / "index"], SETTINGS, shards, _never)


@pytest.mark.parametrize(
    ("field", "value"), [("shard", 3), ("steps", -1), ("instruction", 9), ("stride", 8), ("embedding", 10**9)]
)
def test_an_index_that_points_out_of_its_files_is_made_again_though_its_checksums_fit(
    tmp_path: Path, shards: Shards, build: Callable[[], Index], field: str, value: int
) -> None:
    forged = build()
    forged.episodes[field][0] = value
    load_or_build([tmp_path / "index"], SETTINGS, shards, lambda: forged)
    again = load_or_build([tmp_path / "index"], SETTINGS, shards, build)
    np.testing.assert_array_equal(again.episodes, build().episodes)


@pytest.mark.parametrize(("field", "value"), [("offset", 2**63 - 1), ("offset", -1), ("length", 2**32 - 1)])
def test_an_index_of_images_outside_their_files_is_made_again(
    tmp_path: Path, shards: Shards, build: Callable[[], Index], field: str, value: int
) -> None:
    forged = build()
    forged.images[field][-1] = value
    load_or_build([tmp_path / "index"], SETTINGS, shards, lambda: forged)
    again = load_or_build([tmp_path / "index"], SETTINGS, shards, build)
    np.testing.assert_array_equal(again.images, build().images)


@pytest.mark.parametrize("name", ["index.json", "episodes.npy", "images.npy", "actions.npy"])
@pytest.mark.parametrize("keep", [0, 60, 135])
def test_a_truncated_index_file_is_made_anew(
    tmp_path: Path, shards: Shards, build: Callable[[], Index], name: str, keep: int
) -> None:
    built = build()
    load_or_build([tmp_path / "index"], SETTINGS, shards, build)
    path = tmp_path / "index" / name
    path.write_bytes(path.read_bytes()[:keep])
    again = load_or_build([tmp_path / "index"], SETTINGS, shards, build)
    np.testing.assert_array_equal(again.images, built.images)
    assert load_or_build([tmp_path / "index"], SETTINGS, shards, _never).instructions == built.instructions


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_one_flipped_bit_anywhere_in_an_index_is_never_taken_for_data(
    shards: Shards, build: Callable[[], Index], data: st.DataObject
) -> None:
    folder = shards.paths[0].parent / "index"
    load_or_build([folder], SETTINGS, shards, build)
    built = build()  # in memory: what is read from the folder changes with its files
    path = folder / data.draw(st.sampled_from(["index.json", "episodes.npy", "images.npy", "actions.npy"]))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    again = load_or_build([folder], SETTINGS, shards, build)
    assert again.instructions == built.instructions
    for name in ("episodes", "images", "actions"):
        np.testing.assert_array_equal(getattr(again, name), getattr(built, name))


@pytest.mark.parametrize("text", ["[]", "3", "{}", '{"content": [], "checksum": 0}', '{"content": {"key": null}}'])
def test_other_json_in_place_of_an_index_is_replaced(
    tmp_path: Path, shards: Shards, build: Callable[[], Index], text: str
) -> None:
    load_or_build([tmp_path / "index"], SETTINGS, shards, build)
    (tmp_path / "index" / "index.json").write_text(text)
    load_or_build([tmp_path / "index"], SETTINGS, shards, build)
    assert len(load_or_build([tmp_path / "index"], SETTINGS, shards, _never).episodes) == 5


def test_an_index_of_another_shape_is_made_anew(tmp_path: Path, shards: Shards, build: Callable[[], Index]) -> None:
    built = build()
    load_or_build([tmp_path / "index"], SETTINGS, shards, build)
    np.save(tmp_path / "index" / "actions.npy", built.actions[:-1])
    assert load_or_build([tmp_path / "index"], SETTINGS, shards, build).actions.shape == built.actions.shape


def test_where_the_first_place_cannot_be_written_the_next_is_used(
    tmp_path: Path, shards: Shards, build: Callable[[], Index]
) -> None:
    (tmp_path / "file").touch()
    places = [tmp_path / "file" / "index", tmp_path / "elsewhere"]
    load_or_build(places, SETTINGS, shards, build)
    assert (tmp_path / "elsewhere" / "index.json").is_file()
    assert load_or_build(places, SETTINGS, shards, _never).skipped == ()


def test_an_index_that_cannot_be_kept_is_used_with_a_warning(
    tmp_path: Path, shards: Shards, build: Callable[[], Index]
) -> None:
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="made at every start"):
        index = load_or_build([tmp_path / "file" / "index"], SETTINGS, shards, build)
    assert len(index.episodes) == 5
