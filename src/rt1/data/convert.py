"""Data sets from one format to another: images keep their bytes, an interrupted conversion is taken up again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rt1.actions import ActionSpec
from rt1.common.folders import working_in
from rt1.common.json_config import check_between
from rt1.common.progress import progress
from rt1.common.suggest import lookup
from rt1.data.lerobot.metadata import LeRobotSettings
from rt1.data.lerobot.reader import LeRobotSource
from rt1.data.lerobot.schema import INFO_FILE
from rt1.data.lerobot.schema import RECORDING_FILE as LEROBOT_RECORDING
from rt1.data.lerobot.video import Codec
from rt1.data.lerobot.writer import LeRobotWriter
from rt1.data.rlds.reader import RLDSSource
from rt1.data.rlds.schema import FEATURES_FILE, RECORDING_FILE, RLDSLayout
from rt1.data.rlds.writer import RecordedEpisode, RecordingSettings, RLDSWriter
from rt1.data.sources.base import EpisodeSource
from rt1.data.sources.images import image_size
from rt1.errors import DataError

Format = Literal["rlds", "lerobot"]
_EPISODES_PER_FILE = {"rlds": 32, "lerobot": 10_000}  # a LeRobot file is ended by its size long before
_OF_FORMAT: Mapping[str, tuple[str, ...]] = {"rlds": ("layout", "split"), "lerobot": ("image_key", "action_key")}
_FOR_LEROBOT = ("fps", "video", "robot_type")


@dataclass(frozen=True, kw_only=True)
class ConvertSettings:
    """What a conversion cannot know from the data set; everything may be left out where it can."""

    action_spec: ActionSpec | None = None
    """Dimensions and bounds of the action; None as :class:`RLDSSource` or :class:`LeRobotSource` finds it."""
    name: str | None = None
    """Name of the new data set: lower case letters, digits, underscores; None makes one of the old name."""
    layout: RLDSLayout | None = None
    """From RLDS: which keys hold what; needed unless our recorder wrote the data set."""
    split: str | None = None
    """From RLDS: name of the split, ``train`` if None."""
    image_key: str | None = None
    """From LeRobot: feature with the images; needed where there are several."""
    action_key: str | None = None
    """From LeRobot: feature with the action, ``action`` if None."""
    fps: int | None = None
    """To LeRobot: steps per second; needed unless the data set notes its control rate."""
    video: Codec | None = None
    """To LeRobot: re-encode the images as video, which loses detail."""
    robot_type: str | None = None
    """To LeRobot: name of the robot."""

    def __post_init__(self) -> None:
        check_between(self, 1, 1000, "fps")


@dataclass(frozen=True, kw_only=True)
class ConvertReport:
    """What a conversion did."""

    folder: Path
    """The new data set."""
    format: Format
    """Its format."""
    episodes: int
    """Number of its episodes."""
    steps: int
    """Number of its steps."""
    instructions: int
    """Number of different instructions."""
    megabytes: float
    """Size of its files."""
    resumed_at: int
    """Number of episodes that were there already when this call began."""


def convert_data(
    folder: Path | str, out: Path | str, *, to: Format, settings: ConvertSettings | None = None
) -> ConvertReport:
    """Convert the RLDS or LeRobot data set in a folder; which of them it is, its files tell.

    Kept are the bytes of every image (the images of a video become PNG), the actions exactly, instructions, task
    names, text embeddings with the identity of their encoder, and the details a recorder noted. Not kept, since no
    :class:`~rt1.data.sources.base.EpisodeSource` tells them: other observations, seeds, and success, which an RLDS data
    set then holds as false with reward 0. Run again after an interruption, it goes on at the first file not complete.

    Args:
        folder: the data set.
        out: folder of the new one, new or begun by the same call before.
        to: format of the new one.
        settings: what the data set does not tell.

    Raises:
        DataError: a data set that cannot be read, an episode that cannot be written, ``out`` begun otherwise.
        SaveError: ``out`` holds something else.
        LockedError: another process writes to ``out``.
        ValueError: an unknown format, a setting that has no use here.
    """
    folder, out, settings = Path(folder), Path(out), settings or ConvertSettings()
    if folder.resolve() in (out.resolve(), *out.resolve().parents):
        raise DataError(f"{out} lies in the data set {folder}; write to a folder outside of it")
    kind = _format_of(folder)
    other: Format = "lerobot" if kind == "rlds" else "rlds"
    unused = [name for name in _OF_FORMAT[other] if getattr(settings, name) is not None]
    if unused:
        raise ValueError(f"{folder} is a {kind} data set; leave out {', '.join(unused)}, which are for {other}")
    return convert_source(_open(folder, kind, settings), out, to=to, settings=settings)


def convert_source(
    source: EpisodeSource, out: Path | str, *, to: Format, settings: ConvertSettings | None = None
) -> ConvertReport:
    """Write any source as a data set; see :func:`convert_data`, whose settings for reading have no use here."""
    out, settings = Path(out), settings or ConvertSettings()
    if not len(source.lengths):
        raise DataError(f"{source.name} has no episodes; there is nothing to convert")
    write = lookup("format", to, {"rlds": _write_rlds, "lerobot": _write_lerobot})
    with working_in(out, ours=(RECORDING_FILE if to == "rlds" else LEROBOT_RECORDING,)):
        resumed_at = write(source, out, settings)
    episodes = range(len(source.lengths))
    return ConvertReport(
        folder=out,
        format=to,
        episodes=len(episodes),
        steps=int(source.lengths.sum()),
        instructions=len({source.instruction(episode) for episode in episodes}),
        megabytes=sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 1e6,
        resumed_at=resumed_at,
    )


def _format_of(folder: Path) -> Format:
    if any((folder / name).is_file() for name in (INFO_FILE, LEROBOT_RECORDING)):
        return "lerobot"
    if any((folder / name).is_file() for name in (FEATURES_FILE, RECORDING_FILE)):
        return "rlds"
    raise DataError(f"{folder} has neither {FEATURES_FILE} (RLDS) nor {INFO_FILE} (LeRobot); point to such a folder")


def _open(folder: Path, kind: Format, settings: ConvertSettings) -> EpisodeSource:
    spec = settings.action_spec
    if kind == "rlds":
        return RLDSSource(folder, split=settings.split or "train", layout=settings.layout, action_spec=spec)
    action_key = settings.action_key or "action"
    return LeRobotSource(folder, image_key=settings.image_key, action_key=action_key, action_spec=spec)


def _write_rlds(source: EpisodeSource, out: Path, settings: ConvertSettings) -> int:
    """Write RLDS and return how many episodes were there already."""
    unused = [name for name in _FOR_LEROBOT if getattr(settings, name) is not None]
    if unused:
        raise ValueError(f"{', '.join(unused)}: only a LeRobot data set has these; leave them out")
    recording = _recording(source, "rlds", settings)
    writer = RLDSWriter(out, recording)
    missing = writer.missing_shards()
    done = first = recording.episodes - sum(len(recording.shard_episodes(shard)) for shard in missing)
    with progress(f"write {recording.name}", recording.episodes, unit="episodes", done=done) as bar:
        for shard in missing:
            numbers = recording.shard_episodes(shard)
            writer.write_shard(shard, [_recorded(source, number) for number in numbers])
            done += len(numbers)
            bar.update(done)
    writer.finish()
    return first


def _write_lerobot(source: EpisodeSource, out: Path, settings: ConvertSettings) -> int:
    """Write LeRobot and return how many episodes were there already."""
    lerobot = LeRobotSettings(
        recording=_recording(source, "lerobot", settings),
        fps=_steps_per_second(source) if settings.fps is None else settings.fps,
        robot_type=settings.robot_type or "unknown",
        video=settings.video,
    )
    writer = LeRobotWriter(out, lerobot)
    first = writer.missing_episodes().start
    writer.write(lambda number: _recorded(source, number))
    return first


def _recording(source: EpisodeSource, to: Format, settings: ConvertSettings) -> RecordingSettings:
    details: Mapping[str, Any] = getattr(source, "details", {})
    encoder: Mapping[str, object] | None = getattr(source, "text_encoder", None)
    embedding = source.text_embedding(0)
    if embedding is None:
        encoder = None
    elif encoder is None:
        encoder = {"name": "unknown", "sha256": "unknown", "width": len(embedding)}
    return RecordingSettings(
        name=settings.name or re.sub(r"[^a-z0-9_]+", "_", source.name.lower()).lstrip("_0123456789") or "converted",
        image_size=image_size(source.encoded_images(0, 0, 1)[0]),
        action_spec=source.action_spec,
        episodes=len(source.lengths),
        episodes_per_shard=_EPISODES_PER_FILE[to],
        text_encoder=encoder,
        details={**details, "converted_from": source.name},
    )


def _steps_per_second(source: EpisodeSource) -> int:
    rate = getattr(source, "details", {}).get("control_rate")
    if rate is None:
        raise DataError(f"{source.name} does not note its control rate; give fps=N, the steps per second")
    if rate != int(rate):
        raise DataError(f"{source.name} has a control rate of {rate}; LeRobot wants a whole number; give fps")
    return int(rate)


def _recorded(source: EpisodeSource, episode: int) -> RecordedEpisode:
    steps = int(source.lengths[episode])
    return RecordedEpisode(
        images=source.encoded_images(episode, 0, steps),
        actions=source.actions(episode, 0, steps),
        instruction=source.instruction(episode),
        text_embedding=source.text_embedding(episode),
        task=source.task(episode),
        success=False,
        seed=0,
        episode_id=episode,
    )
