"""Conversion both ways: images keep their bytes, nothing the other format can hold is lost, stops are taken up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.fixtures.lerobot import LeRobotSet

from rt1.data.convert import ConvertReport, ConvertSettings, Format, convert_source
from rt1.data.lerobot.reader import LeRobotSource
from rt1.data.lerobot.video import Codec
from rt1.data.open_data import DataOptions, open_data
from rt1.data.rlds.reader import RLDSSource
from rt1.data.rlds.schema import RLDSLayout, read_features
from rt1.data.rlds.writer import RecordedEpisode
from rt1.data.sources.base import EpisodeSource, Outcome
from rt1.data.sources.concat import JoinedSource, MappedSource
from rt1.data.sources.decoding import decoded_images
from rt1.data.sources.images import encode_jpeg, encode_png, is_rgb
from rt1.errors import DataError

pytest.importorskip("pyarrow", reason="LeRobot sets need pyarrow: the extra lerobot")


def _assert_same(one: EpisodeSource, other: EpisodeSource) -> None:
    assert np.array_equal(one.lengths, other.lengths)
    assert one.action_spec == other.action_spec
    for episode, steps in enumerate(one.lengths.tolist()):
        assert one.encoded_images(episode, 0, steps) == other.encoded_images(episode, 0, steps)
        assert np.array_equal(one.actions(episode, 0, steps), other.actions(episode, 0, steps))
        assert (one.instruction(episode), one.task(episode)) == (other.instruction(episode), other.task(episode))
        assert np.array_equal(one.text_embedding(episode), other.text_embedding(episode))  # type: ignore[arg-type]


def _convert(folder: Path, out: Path, to: Format, **settings: Any) -> ConvertReport:
    return convert_source(open_data(folder, DataOptions()), out, to=to, settings=ConvertSettings(**settings))


def test_there_and_back_nothing_changes(tmp_path: Path, record: Callable[[Path], Path]) -> None:
    recorded = record(tmp_path / "recorded")
    there = _convert(recorded, tmp_path / "lerobot", "lerobot", fps=3)
    back = _convert(tmp_path / "lerobot", tmp_path / "rlds", "rlds")
    assert (there.episodes, there.steps, there.instructions, there.resumed_at) == (5, 15, 2, 0)
    assert (back.format, back.folder, back.episodes) == ("rlds", tmp_path / "rlds", 5)
    source, lerobot, rlds = RLDSSource(recorded), LeRobotSource(tmp_path / "lerobot"), RLDSSource(tmp_path / "rlds")
    _assert_same(source, lerobot)
    _assert_same(source, rlds)
    assert source.text_encoder == lerobot.text_encoder == rlds.text_encoder
    assert rlds.details == {"control_rate": 3.0, "converted_from": "push_blocks"}


def test_success_seed_and_reward_travel_both_ways(
    tmp_path: Path, record: Callable[[Path], Path], episodes: list[RecordedEpisode]
) -> None:
    recorded = record(tmp_path / "recorded")
    for video in (None, "h264"):
        folder = tmp_path / f"lerobot-{video}"
        _convert(recorded, folder, "lerobot", fps=3, video=video, name="push_blocks")
        source = LeRobotSource(folder)
        for number, episode in enumerate(episodes):
            outcome = source.outcome(number)
            assert (outcome.success, outcome.seed) == (episode.success, episode.seed)
            assert np.array_equal(outcome.rewards, episode.all_rewards())  # type: ignore[arg-type]
    _convert(tmp_path / "lerobot-None", tmp_path / "back", "rlds", name="push_blocks")
    shards = [sorted(folder.glob("*.tfrecord-*")) for folder in (recorded, tmp_path / "back")]
    joined = [b"".join(path.read_bytes() for path in paths) for paths in shards]
    assert joined[0] == joined[1]


@pytest.mark.parametrize("to", ["rlds", "lerobot"])
@pytest.mark.parametrize("extra", [{}, {"next.reward": [[0.5, -1.0], [0.0, 2.0]]}])
def test_what_a_set_does_not_say_of_its_episodes_is_left_out(
    tmp_path: Path, to: Format, extra: dict[str, list[Any]]
) -> None:
    folder = LeRobotSet(lengths=(2, 2), video=None, extra=extra).write(tmp_path / "set")
    convert_source(LeRobotSource(folder), tmp_path / "out", to=to)
    source = RLDSSource(tmp_path / "out") if to == "rlds" else LeRobotSource(tmp_path / "out")
    outcome = source.outcome(1)
    assert (outcome.success, outcome.seed) == (None, None)
    assert (outcome.rewards is None) if not extra else outcome.rewards.tolist() == [0.0, 2.0]  # type: ignore[union-attr]
    if to == "rlds":
        keys = read_features(tmp_path / "out")
        named = {"steps/is_terminal", "episode_metadata/success", "episode_metadata/seed", "steps/reward"} & set(keys)
        assert named == ({"steps/reward"} if extra else set())


def test_marks_of_success_of_a_lerobot_set_reach_rlds(tmp_path: Path) -> None:
    marks: dict[str, list[Any]] = {
        "next.success": [[False, True], [False, False]],
        "next.reward": [[0.0, 1.0], [0.25, 0.0]],
    }
    folder = LeRobotSet(version="v2.1", lengths=(2, 2), extra=marks).write(tmp_path / "set")
    _convert(folder, tmp_path / "out", "rlds")
    outcomes = [RLDSSource(tmp_path / "out").outcome(episode) for episode in range(2)]
    assert [outcome.success for outcome in outcomes] == [True, False]
    assert [outcome.rewards.tolist() for outcome in outcomes if outcome.rewards is not None] == marks["next.reward"]


def test_only_what_all_of_several_sets_say_is_kept(tmp_path: Path) -> None:
    marks: dict[str, list[Any]] = {"next.success": [[False, True]], "next.reward": [[0.0, 1.0]]}
    both = LeRobotSource(LeRobotSet(lengths=(2,), video=None, extra=marks).write(tmp_path / "both"))
    del marks["next.success"]
    reward = LeRobotSource(LeRobotSet(lengths=(2,), video=None, extra=marks).write(tmp_path / "reward"))
    convert_source(JoinedSource([both, reward]), tmp_path / "out", to="rlds")
    assert RLDSSource(tmp_path / "out").outcome(0).keys() == ("reward",)


def test_an_episode_without_what_the_others_say_is_refused(
    tmp_path: Path, record: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = RLDSSource(record(tmp_path / "recorded"))
    monkeypatch.setattr(source, "outcome", lambda episode: Outcome(seed=None if episode == 1 else 3))
    with pytest.raises(DataError, match=r"episode 1 .*no seed"):
        convert_source(source, tmp_path / "out", to="rlds")


class _Interrupted:
    """A source whose reading breaks off at an episode."""

    def __init__(self, source: EpisodeSource, last: int) -> None:
        self._source, self._last = source, last

    def __getattr__(self, name: str) -> object:
        return getattr(self._source, name)

    def encoded_images(self, episode: int, start: int, stop: int) -> list[bytes]:
        if episode == self._last:
            raise KeyboardInterrupt
        return self._source.encoded_images(episode, start, stop)


@pytest.mark.parametrize("to", ["rlds", "lerobot"])
def test_an_interrupted_conversion_is_taken_up(
    tmp_path: Path, record: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch, to: Format
) -> None:
    monkeypatch.setattr("rt1.data.convert._EPISODES_PER_FILE", {"rlds": 2, "lerobot": 2})
    source = RLDSSource(record(tmp_path / "recorded"))
    settings = ConvertSettings(fps=3) if to == "lerobot" else ConvertSettings()

    def convert(from_source: object) -> ConvertReport:
        assert isinstance(from_source, EpisodeSource)
        return convert_source(from_source, tmp_path / "out", to=to, settings=settings)

    with pytest.raises(KeyboardInterrupt):
        convert(_Interrupted(source, 3))
    assert convert(source).resumed_at == 2
    assert convert(source).resumed_at == 5
    _assert_same(source, LeRobotSource(tmp_path / "out") if to == "lerobot" else RLDSSource(tmp_path / "out"))


def test_real_bridge_episodes_keep_their_bytes_and_embeddings(shared: Path, tmp_path: Path) -> None:
    sample, folder = shared / "data" / "bridge_rlds" / "bridge_dataset" / "1.0.0", tmp_path / "bridge"
    if not sample.is_dir():
        pytest.skip(f"the sample of BridgeData is not at {sample}")
    folder.mkdir()
    for path in sample.iterdir():  # the index is written beside the files, which are not ours
        if path.is_file():
            (folder / path.name).symlink_to(path.resolve())
    layout = RLDSLayout(
        image_key="observation/image_0", instruction_key="language_instruction", embedding_key="language_embedding"
    )
    source = RLDSSource(folder, layout=layout)
    convert_source(source, tmp_path / "out", to="lerobot", settings=ConvertSettings(fps=5))
    converted = LeRobotSource(tmp_path / "out")
    _assert_same(source, converted)
    assert converted.text_encoder == {"name": "unknown", "sha256": "unknown", "width": 512}


_RED, _GREEN, _BLUE = (220, 30, 30), (30, 200, 40), (30, 60, 220)


def _flat(color: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.tile(np.array(color, np.uint8), (48, 48, 1))


def _open(folder: Path, to: Format) -> EpisodeSource:
    return RLDSSource(folder) if to == "rlds" else LeRobotSource(folder)


def _converted_colors(source: EpisodeSource, folder: Path, to: Format, video: Codec | None) -> list[list[int]]:
    """Return the color of the first image of each episode after a conversion."""
    settings = ConvertSettings() if to == "rlds" else ConvertSettings(fps=3, video=video)
    convert_source(source, folder, to=to, settings=settings)
    images = (decoded_images(_open(folder, to), episode, 0, 1)[0] for episode in range(len(source.lengths)))
    return [image[24, 24].astype(int).tolist() for image in images]


TARGETS: list[tuple[Format, Codec | None]] = [("rlds", None), ("lerobot", None), ("lerobot", "h264")]


@pytest.mark.parametrize("encode", [encode_png, encode_jpeg])
@pytest.mark.parametrize(("to", "video"), TARGETS)
def test_colors_stay_where_images_are_stored_with_blue_first(
    tmp_path: Path, make_source: Callable[..., Any], to: Format, video: Codec | None, encode: Callable[..., bytes]
) -> None:
    source, plain = make_source(2, 2, 2), make_source(2, 2, 2)
    for episode, color in enumerate((_RED, _GREEN, _BLUE)):
        source.images[episode][:] = [encode(_flat(color[::-1]))] * 2
        plain.images[episode][:] = [encode(_flat(color))] * 2
    source.bgr = True
    colors = _converted_colors(source, tmp_path / "alone", to, video)
    np.testing.assert_allclose(colors, [_RED, _GREEN, _BLUE], atol=9)
    joined = JoinedSource([plain, MappedSource(source, source.action_spec, lambda actions: actions)])
    colors = _converted_colors(joined, tmp_path / "joined", to, video)
    np.testing.assert_allclose(colors, [_RED, _GREEN, _BLUE] * 2, atol=9)
    if video is None:
        assert _open(tmp_path / "joined", to).encoded_images(0, 0, 2) == plain.images[0]  # bytes that need no change


@pytest.mark.parametrize("pixels", [_flat((90,)), _flat((10, 20, 30, 128)), _flat((1, 2, 3)).astype(np.uint16) * 256])
@pytest.mark.parametrize(("to", "video"), TARGETS)
def test_gray_transparent_and_deep_images_become_the_rgb_that_is_read(
    tmp_path: Path, make_source: Callable[..., Any], to: Format, video: Codec | None, pixels: NDArray[Any]
) -> None:
    source = make_source(1)
    source.images[0][0] = cv2.imencode(".png", pixels)[1].tobytes()
    read = decoded_images(source, 0, 0, 1)[0]
    (color,) = _converted_colors(source, tmp_path / "out", to, video)
    np.testing.assert_allclose(color, read[24, 24], atol=0 if video is None else 4)
    if video is None:
        assert is_rgb(_open(tmp_path / "out", to).encoded_images(0, 0, 1)[0])


def test_the_rate_must_be_known_and_whole(
    tmp_path: Path, make_source: Callable[..., EpisodeSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_source(2)
    with pytest.raises(DataError, match=r"control rate.*fps"):
        convert_source(source, tmp_path / "out", to="lerobot")
    monkeypatch.setattr(source, "details", {"control_rate": 12.5}, raising=False)
    with pytest.raises(DataError, match=r"control rate of 12\.5.*whole"):
        convert_source(source, tmp_path / "out", to="lerobot")


@pytest.mark.parametrize(
    ("options", "to", "message"),
    [
        (ConvertSettings(fps=3, video="av1"), "rlds", "fps, video: only a LeRobot data set has these"),
        (ConvertSettings(), "zarr", "unknown format 'zarr'"),
    ],
)
def test_settings_without_use_are_refused(
    tmp_path: Path, record: Callable[[Path], Path], options: ConvertSettings, to: Format, message: str
) -> None:
    source = RLDSSource(record(tmp_path / "recorded"))
    with pytest.raises(ValueError, match=message):
        convert_source(source, tmp_path / "out", to=to, settings=options)


def test_a_conversion_does_not_go_on_with_other_settings(tmp_path: Path, record: Callable[[Path], Path]) -> None:
    recorded = record(tmp_path / "recorded")
    _convert(recorded, tmp_path / "out", "lerobot", fps=3, name="finer")
    assert LeRobotSource(tmp_path / "out").name == "finer"
    with pytest.raises(DataError, match="fps was 3, now 5"):
        _convert(recorded, tmp_path / "out", "lerobot", fps=5, name="finer")


def test_a_source_without_episodes_is_refused(tmp_path: Path, make_source: Callable[..., EpisodeSource]) -> None:
    with pytest.raises(DataError, match=r"memory .*no episodes"):
        convert_source(make_source(), tmp_path / "out", to="rlds")
