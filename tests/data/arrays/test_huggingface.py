"""Hugging Face data sets: a row a step, a row an episode, stored bytes passed on, pixels, and bad columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fixtures.lerobot import LeRobotSet, image_of

from rt1.data.arrays.huggingface import HuggingFaceLayout, HuggingFaceSource, video_images
from rt1.data.arrays.huggingface_files import open_saved
from rt1.data.lerobot.video import encode_video
from rt1.data.sources.images import encode_jpeg, encode_png
from rt1.data.sources.video import Video
from rt1.errors import DataError
from rt1.testing import check_source

datasets = pytest.importorskip("datasets", reason="Hugging Face data sets need datasets")
pytest.importorskip("av", reason="videos need av: the extra lerobot")

ARROW = "data-00000-of-00001.arrow"
RNG = np.random.default_rng(0)
JPEGS = [encode_jpeg(RNG.integers(0, 256, (8, 10, 3), dtype=np.uint8)) for _ in range(5)]
ACTIONS = RNG.uniform(-1, 1, (5, 3)).astype(np.float32)


def _columns(**more: Any) -> dict[str, Any]:
    """Two episodes of 2 and 3 steps, a row a step."""
    return {
        "image": [{"bytes": jpeg, "path": None} for jpeg in JPEGS],
        "action": ACTIONS.tolist(),
        "instruction": ["push"] * 2 + ["pull"] * 3,
        "episode_index": [4, 4, 7, 7, 7],
        **more,
    }


def _steps(**more: Any) -> Any:
    return datasets.Dataset.from_dict(_columns(**more)).cast_column("image", datasets.Image())


def test_a_row_a_step_is_read_and_its_jpegs_are_passed_on() -> None:
    source = HuggingFaceSource(_steps(vector=[[1.0, 2.0]] * 5), layout=HuggingFaceLayout(embedding_key="vector"))
    check_source(source)
    assert source.lengths.tolist() == [2, 3]
    assert [source.instruction(episode) for episode in range(2)] == ["push", "pull"]
    assert source.encoded_images(1, 1, 3) == JPEGS[3:]
    np.testing.assert_array_equal(source.actions(1, 0, 3), ACTIONS[2:])
    embedding = source.text_embedding(1)
    assert embedding is not None
    assert embedding.tolist() == [1, 2]
    assert source.images(1, 0, 1)[0].shape == (8, 10, 3)


def test_a_row_an_episode_holds_lists_of_images_and_actions() -> None:
    cells = [{"bytes": jpeg, "path": None} for jpeg in JPEGS]
    table = {"video": [cells[:2], cells[2:]], "moves": [ACTIONS[:2].tolist(), ACTIONS[2:].tolist()]}
    plain = datasets.Dataset.from_dict({**table, "instruction": ["push", "pull"]})
    dataset = plain.cast_column("video", datasets.List(datasets.Image()))
    layout = HuggingFaceLayout(image_key="video", action_keys=("moves",), episode_key=None)
    source = HuggingFaceSource(dataset, layout=layout, name="older notes")
    check_source(source)
    assert source.name == "older notes"
    assert source.lengths.tolist() == [2, 3]
    assert source.encoded_images(1, 1, 3) == JPEGS[3:]
    np.testing.assert_array_equal(source.actions(0, 0, 2), ACTIONS[:2])
    assert source.instruction(1) == "pull"


@pytest.mark.parametrize("channels_first", [False, True])
def test_pixels_are_read_in_either_order(channels_first: bool) -> None:  # noqa: FBT001
    pixels = RNG.integers(0, 256, (5, 8, 10, 3), dtype=np.uint8)
    stored = pixels.transpose(0, 3, 1, 2) if channels_first else pixels
    table = datasets.Dataset.from_dict(_columns(image=stored.tolist()))
    shape = stored.shape[1:]
    dataset = table.cast_column("image", datasets.Array3D(shape, "uint8"))
    source = HuggingFaceSource(dataset, layout=HuggingFaceLayout(channels_first=channels_first))
    check_source(source)
    np.testing.assert_array_equal(source.images(1, 0, 3), pixels[2:])
    assert source.encoded_images(0, 0, 1) == [encode_png(pixels[0])]


def test_an_image_kept_as_a_path_is_read_from_there(tmp_path: Path) -> None:
    for number, jpeg in enumerate(JPEGS):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg)
    paths = [{"bytes": None, "path": str(tmp_path / f"{number}.jpg")} for number in range(5)]
    source = HuggingFaceSource(_steps(image=paths))
    assert source.encoded_images(0, 0, 2) == JPEGS[:2]
    (tmp_path / "1.jpg").unlink()
    with pytest.raises(DataError, match=r"episode 0, step 1: .*1\.jpg: No such file"):
        source.encoded_images(0, 0, 2)


def test_one_sentence_may_stand_for_all_episodes() -> None:
    layout = HuggingFaceLayout(instruction_key=None, instruction="do it")
    assert HuggingFaceSource(_steps(), layout=layout).instruction(1) == "do it"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"episode_index": [4, 7, 4, 7, 7]}, "episode 4 lies in several pieces. Sort the data set by 'episode_index'"),
        ({"action": [[0.0, float("nan")]] * 5}, "episode 4: the action of step 0 is .*finite"),
        (
            {"action": [[0.0], [0.0, 1.0], [0.0], [0.0], [0.0]]},
            "episode 4: 'action' does not hold numbers of one shape",
        ),
    ],
)
def test_an_unusable_episode_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        HuggingFaceSource(_steps(**change))


def test_an_unknown_column_is_answered_with_the_closest() -> None:
    with pytest.raises(DataError, match=r"'actions'.*'action'"):
        HuggingFaceSource(_steps(), layout=HuggingFaceLayout(action_keys=("actions",)))


def test_images_of_another_kind_are_refused() -> None:
    single = datasets.Dataset.from_dict(_columns())
    rows = HuggingFaceSource(single, layout=HuggingFaceLayout(episode_key=None))
    with pytest.raises(DataError, match=r"row 0.*'image'.*dict.*list of 3"):
        rows.images(0, 0, 1)
    video = datasets.Dataset.from_dict(_columns(image=["a.mp4"] * 5)).cast_column("image", datasets.Video())
    with pytest.raises(DataError, match=r"'image'.*video.*episode_key"):
        HuggingFaceSource(video)
    numbers = datasets.Dataset.from_dict(_columns(image=[1.5] * 5))
    with pytest.raises(DataError, match=r"episode 0, step 0.*float64 \(\)"):
        HuggingFaceSource(numbers).images(0, 0, 1)


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(DataError, match="hugging-face holds no episode"):
        HuggingFaceSource(_steps().select([]))


def test_a_row_with_fewer_images_than_actions_is_refused_when_read() -> None:
    cells = [{"bytes": jpeg, "path": None} for jpeg in JPEGS[:2]]
    table = {"image": [cells], "action": [ACTIONS[:3].tolist()], "instruction": ["push"]}
    dataset = datasets.Dataset.from_dict(table).cast_column("image", datasets.List(datasets.Image()))
    source = HuggingFaceSource(dataset, layout=HuggingFaceLayout(episode_key=None))
    with pytest.raises(DataError, match=r"row 0.*'image'.*2 images.*list of 3"):
        source.images(0, 0, 1)


def test_other_columns_are_left_alone_and_a_format_of_the_user_does_not_matter() -> None:
    broken = [{"bytes": b"no image", "path": None}] * 5
    dataset = _steps(other=broken).cast_column("other", datasets.Image()).with_format("numpy")
    source = HuggingFaceSource(dataset)
    assert source.instruction(0) == "push"
    assert source.encoded_images(0, 0, 2) == JPEGS[:2]


# ---- saved folders ----


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    jpeg = encode_jpeg(np.zeros((8, 10, 3), np.uint8))
    table = {
        "image": [{"bytes": jpeg, "path": None}] * 3,
        "action": [[0.5, 1.0]] * 3,
        "instruction": ["push"] * 3,
        "episode_index": [0, 0, 1],
    }
    dataset = datasets.Dataset.from_dict(table).cast_column("image", datasets.Image())
    dataset.save_to_disk(str(tmp_path / "set"))
    return tmp_path / "set"


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_saved_data_set_comes_back(folder: Path) -> None:
    source = HuggingFaceSource(open_saved(folder))
    assert source.lengths.tolist() == [2, 1]
    assert source.images(1, 0, 1)[0].shape == (8, 10, 3)


def test_a_wrong_offset_is_refused_before_it_is_used(folder: Path) -> None:
    """pyarrow reads from where the offset points to, which may lie outside of the file."""
    content = (folder / ARROW).read_bytes()
    jpeg = len(encode_jpeg(np.zeros((8, 10, 3), np.uint8)))
    offsets = np.arange(4, dtype=np.int32) * jpeg
    assert content.count(offsets.tobytes()) == 1
    offsets[1:] = 2**31 - 1
    (folder / ARROW).write_bytes(content.replace((np.arange(4, dtype=np.int32) * jpeg).tobytes(), offsets.tobytes()))
    with pytest.raises(DataError, match=rf"{ARROW} is damaged .*ffset"):
        open_saved(folder)


@pytest.mark.parametrize("keep", [0, 100, 1500])
def test_a_truncated_arrow_file_is_refused(folder: Path, keep: int) -> None:
    (folder / ARROW).write_bytes((folder / ARROW).read_bytes()[:keep])
    with pytest.raises(DataError, match=rf"{ARROW} is damaged"):
        open_saved(folder)


@pytest.mark.parametrize("files", [None, 3, [{}], [["x"]]])
def test_a_mistyped_list_of_files_is_refused(folder: Path, files: object) -> None:
    _edit(folder / "state.json", _data_files=files)
    with pytest.raises(DataError, match=r"state\.json is damaged"):
        open_saved(folder)


@pytest.mark.parametrize("name", ["../set/" + ARROW, "a\nb", "/x"])
def test_a_data_file_outside_of_the_folder_is_refused(folder: Path, name: str) -> None:
    _edit(folder / "state.json", _data_files=[{"filename": name}])
    with pytest.raises(DataError, match=r"state\.json .*data file"):
        open_saved(folder)


@pytest.mark.parametrize("features", [3, {"action": {"_type": "Unknown"}}, {"action": {"dtype": 5, "_type": "Value"}}])
def test_features_that_datasets_does_not_understand_are_one_line(folder: Path, features: object) -> None:
    _edit(folder / "dataset_info.json", features=features)
    with pytest.raises(DataError, match=r"set is damaged") as caught:
        open_saved(folder)
    assert "\n" not in str(caught.value)


def test_a_file_that_shrinks_after_the_open_is_refused_at_the_next_read(folder: Path) -> None:
    source = HuggingFaceSource(open_saved(folder), layout=HuggingFaceLayout())
    (folder / ARROW).write_bytes((folder / ARROW).read_bytes()[:900])
    with pytest.raises(DataError, match=rf"{ARROW} .*changed"):
        source.encoded_images(0, 0, 1)


# ---- videos ----

LENGTHS = (3, 7)


def _grey(episode: int, step: int) -> int:
    return 30 + 60 * episode + 20 * step


def _videos() -> list[bytes]:
    return [
        encode_video([np.full((32, 48, 3), _grey(e, s), np.uint8) for s in range(length)], fps=5, codec="h264")
        for e, length in enumerate(LENGTHS)
    ]


def _video_source(videos: list[dict[str, Any]], lengths: tuple[int, ...] = LENGTHS) -> HuggingFaceSource:
    actions = [[[0.1 * step, 1.0] for step in range(length)] for length in lengths]
    table = {"video": videos, "action": actions, "instruction": ["push", "pull"]}
    dataset = datasets.Dataset.from_dict(table).cast_column("video", datasets.Video())
    return HuggingFaceSource(dataset, layout=HuggingFaceLayout(image_key="video", episode_key=None))


@pytest.mark.parametrize("kept_as", ["bytes", "path"])
def test_every_step_has_its_own_image_of_the_video(tmp_path: Path, kept_as: str) -> None:
    cells: list[dict[str, Any]] = []
    for number, video in enumerate(_videos()):
        (tmp_path / f"{number}.mp4").write_bytes(video)
        cells.append({"bytes": video if kept_as == "bytes" else None, "path": str(tmp_path / f"{number}.mp4")})
    source = _video_source(cells)
    check_source(source)
    assert source.lengths.tolist() == list(LENGTHS)
    for episode, length in reversed(list(enumerate(LENGTHS))):
        for start in range(length):
            images = source.images(episode, start, length)
            assert {image.shape for image in images} == {(32, 48, 3)}
            expected = [_grey(episode, step) for step in range(start, length)]
            assert np.abs(np.array([image.mean() for image in images]) - expected).max() < 3


def test_a_video_is_opened_once_for_all_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    make = Video.__init__

    def counted(self: Video, *args: Any, **options: Any) -> None:
        make(self, *args, **options)
        opened.append(self.name)

    source = _video_source([{"bytes": video, "path": None} for video in _videos()])
    monkeypatch.setattr(Video, "__init__", counted)
    for step in (2, 0, 1):
        for episode in (0, 1):
            assert abs(source.images(episode, step, step + 1)[0].mean() - _grey(episode, step)) < 3
    assert len(opened) == 2


def test_a_video_with_another_number_of_images_than_actions_is_refused() -> None:
    source = _video_source([{"bytes": video, "path": None} for video in _videos()], lengths=(3, 6))
    with pytest.raises(DataError, match=r"row 1.*7 images.*6 actions"):
        source.images(1, 0, 1)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"bytes": b"no video at all", "path": None}, "here: the video is damaged or truncated"),
        ({"bytes": None, "path": "/nowhere/a.mp4"}, r"here: /nowhere/a\.mp4: No such file or directory"),
        ({"bytes": None, "path": None}, "It must be a datasets.Video with bytes or a path"),
        (None, "here: the video is None"),
    ],
)
def test_what_is_no_video_is_named_with_its_episode(value: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        video_images("here", value, 3, 0, 1)


@pytest.mark.parametrize("bytes_kept", [True, False])
def test_open_groups_of_pictures_and_b_frames_are_read(tmp_path: Path, *, bytes_kept: bool) -> None:
    written = LeRobotSet(video="libx265", options={"g": "4", "x265-params": "log-level=none"}, late=2.0)
    written.write_video(tmp_path / "a.mp4", [image_of(0, step) for step in range(11)])
    data = (tmp_path / "a.mp4").read_bytes()
    cell = {"bytes": data if bytes_kept else None, "path": str(tmp_path / "a.mp4")}
    for step in range(11):
        (image,) = video_images("here", cell, 11, step, step + 1)
        assert abs(int((image[4].min(axis=1) > 240).sum()) - 4 * (step + 1)) <= 3


def test_a_pointer_of_git_lfs_in_place_of_a_video_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"version https://git-lfs.github.com/spec/v1\nsize 12\n")
    with pytest.raises(DataError, match=r"a\.mp4 is a git-lfs pointer"):
        video_images("here", {"bytes": None, "path": str(tmp_path / "a.mp4")}, 3, 0, 1)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_video_gives_an_error_and_no_other_image(share: float) -> None:
    video = _videos()[1]
    with pytest.raises(DataError, match="here: "):
        video_images("here", {"bytes": video[: int(share * len(video))]}, 7, 0, 7)
