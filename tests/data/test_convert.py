"""Conversion both ways: images keep their bytes, nothing the other format can hold is lost, stops are taken up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rt1.actions import ActionSpec
from rt1.data.convert import ConvertReport, ConvertSettings, Format, convert_data, convert_source
from rt1.data.lerobot.reader import LeRobotSource
from rt1.data.rlds.reader import RLDSSource
from rt1.data.rlds.schema import RLDSLayout
from rt1.data.sources.base import EpisodeSource
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


def test_there_and_back_nothing_changes(tmp_path: Path, record: Callable[[Path], Path]) -> None:
    recorded = record(tmp_path / "recorded")
    there = convert_data(recorded, tmp_path / "lerobot", to="lerobot", settings=ConvertSettings(fps=3))
    back = convert_data(tmp_path / "lerobot", tmp_path / "rlds", to="rlds")
    assert (there.episodes, there.steps, there.instructions, there.resumed_at) == (5, 15, 2, 0)
    assert (back.format, back.folder, back.episodes) == ("rlds", tmp_path / "rlds", 5)
    source, lerobot, rlds = RLDSSource(recorded), LeRobotSource(tmp_path / "lerobot"), RLDSSource(tmp_path / "rlds")
    _assert_same(source, lerobot)
    _assert_same(source, rlds)
    assert source.text_encoder == lerobot.text_encoder == rlds.text_encoder
    assert rlds.details == {"control_rate": 3.0, "converted_from": "push_blocks"}


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
    convert_data(folder, tmp_path / "out", to="lerobot", settings=ConvertSettings(layout=layout, fps=5))
    converted = LeRobotSource(tmp_path / "out")
    _assert_same(source, converted)
    assert converted.text_encoder == {"name": "unknown", "sha256": "unknown", "width": 512}


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
        (
            ConvertSettings(image_key="image"),
            "lerobot",
            "is a rlds data set; leave out image_key, which are for lerobot",
        ),
        (ConvertSettings(fps=3, video="av1"), "rlds", "fps, video: only a LeRobot data set has these"),
        (ConvertSettings(), "zarr", "unknown format 'zarr'"),
    ],
)
def test_settings_without_use_are_refused(
    tmp_path: Path, record: Callable[[Path], Path], options: ConvertSettings, to: Format, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        convert_data(record(tmp_path / "recorded"), tmp_path / "out", to=to, settings=options)


def test_folders_that_cannot_be_converted_are_refused(tmp_path: Path, record: Callable[[Path], Path]) -> None:
    with pytest.raises(DataError, match=r"features\.json .*meta/info\.json"):
        convert_data(tmp_path, tmp_path.with_name("out"), to="rlds")
    recorded = record(tmp_path / "recorded")
    with pytest.raises(DataError, match=r"in the data set .*outside"):
        convert_data(recorded, recorded / "lerobot", to="lerobot")
    convert_data(recorded, tmp_path / "out", to="lerobot", settings=ConvertSettings(fps=3))
    with pytest.raises(DataError, match=r"settings.*fps was 3, now 5"):
        convert_data(recorded, tmp_path / "out", to="lerobot", settings=ConvertSettings(fps=5))


def test_a_source_without_episodes_is_refused(tmp_path: Path, make_source: Callable[..., EpisodeSource]) -> None:
    with pytest.raises(DataError, match=r"memory .*no episodes"):
        convert_source(make_source(), tmp_path / "out", to="rlds")


def test_the_bounds_can_be_given(tmp_path: Path, record: Callable[[Path], Path]) -> None:
    recorded = record(tmp_path / "recorded")
    spec = ActionSpec(parts=RLDSSource(recorded).action_spec.parts, bins=512)
    convert_data(recorded, tmp_path / "out", to="rlds", settings=ConvertSettings(action_spec=spec, name="finer"))
    assert (RLDSSource(tmp_path / "out").action_spec, RLDSSource(tmp_path / "out").name) == (spec, "finer")
