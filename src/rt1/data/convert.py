"""Data sets from one format to another. Images keep their bytes, and an interrupted conversion resumes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rt1.common.folders import working_in
from rt1.common.json_config import check_between
from rt1.common.progress import progress
from rt1.common.suggest import lookup
from rt1.data.lerobot.metadata import LeRobotSettings
from rt1.data.lerobot.schema import RECORDING_FILE as LEROBOT_RECORDING
from rt1.data.lerobot.video import Codec
from rt1.data.lerobot.writer import LeRobotWriter
from rt1.data.rlds.schema import RECORDING_FILE
from rt1.data.rlds.writer import RecordedEpisode, RecordingSettings, RLDSWriter
from rt1.data.sources.base import OUTCOMES, EpisodeSource, Outcome, optional_members
from rt1.data.sources.concat import origin
from rt1.data.sources.decoding import each_image
from rt1.data.sources.images import encode_png, image_size, is_rgb
from rt1.errors import DataError

Format = Literal["rlds", "lerobot"]
_EPISODES_PER_FILE = {"rlds": 32, "lerobot": 10_000}  # a LeRobot file is ended by its size long before
_FOR_LEROBOT = ("fps", "video", "robot_type")


@dataclass(frozen=True, kw_only=True)
class ConvertSettings:
    """Settings of a conversion that override or complete what the data set says."""

    name: str | None = None
    """Name of the new data set: lower case letters, digits, underscores. None: derived from the old name."""
    fps: int | None = None
    """To LeRobot: steps per second. Needed unless the data set stores its control rate."""
    video: Codec | None = None
    """To LeRobot: re-encode the images as video, which loses detail."""
    robot_type: str | None = None
    """To LeRobot: name of the robot."""

    def __post_init__(self) -> None:
        check_between(self, 1, 1000, "fps")


@dataclass(frozen=True, kw_only=True)
class ConvertReport:
    """The new data set after a conversion."""

    folder: Path
    format: Format
    episodes: int
    """Number of episodes."""
    steps: int
    """Number of steps."""
    instructions: int
    """Number of different instructions."""
    megabytes: float
    """Size of the files."""
    resumed_at: int
    """Number of episodes that existed when this call began."""


def convert_source(
    source: EpisodeSource, out: Path | str, *, to: Format, settings: ConvertSettings | None = None
) -> ConvertReport:
    """Write any source as a data set. An interrupted call resumes at the first incomplete file.

    Image bytes, actions, instructions, task names, text embeddings with the identity of their encoder, and the details
    of the recorder are kept exactly. Images become PNG files if the new format would show their bytes differently:
    images of a video, BGR images, and images that are not 8-bit RGB. Success, seeds and rewards are kept. What the
    data set does not say of them, the new one leaves out. Other observations are lost.

    Raises:
        DataError: an episode that cannot be read or written, or ``out`` was begun with other settings.
        SaveError: ``out`` holds other files.
        LockedError: another process writes to ``out``.
        ValueError: an unknown format, or a setting that does not apply to it.
    """
    out, settings = Path(out), settings or ConvertSettings()
    if not len(source.lengths):
        raise DataError(f"{source.name} has no episodes. There is nothing to convert")
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


def _write_rlds(source: EpisodeSource, out: Path, settings: ConvertSettings) -> int:
    """Write RLDS and return how many episodes already existed."""
    if unused := [name for name in _FOR_LEROBOT if getattr(settings, name) is not None]:
        raise ValueError(f"{', '.join(unused)}: only a LeRobot data set has these. Leave them out")
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
    """Write LeRobot and return how many episodes already existed."""
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
    members = optional_members(source)
    encoder, embedding = None, source.text_embedding(0)
    if embedding is not None:
        encoder = members.text_encoder or {"name": "unknown", "sha256": "unknown", "width": len(embedding)}
    return RecordingSettings(
        name=settings.name or re.sub(r"[^a-z0-9_]+", "_", source.name.lower()).lstrip("_0123456789") or "converted",
        image_size=image_size(source.encoded_images(0, 0, 1)[0]),
        action_spec=source.action_spec,
        episodes=len(source.lengths),
        episodes_per_shard=_EPISODES_PER_FILE[to],
        text_encoder=encoder,
        outcomes=_outcomes(source),
        details={**members.details, "converted_from": source.name},
    )


def _steps_per_second(source: EpisodeSource) -> int:
    rate = optional_members(source).details.get("control_rate")
    if rate is None:
        raise DataError(f"{source.name} does not note its control rate. Give fps=N, the steps per second")
    if rate != int(rate):
        raise DataError(f"{source.name} has a control rate of {rate}. LeRobot wants a whole number. Give fps")
    return int(rate)


def _outcome(source: EpisodeSource, episode: int) -> Outcome:
    stored, number = origin(source, episode)
    read = optional_members(stored).outcome
    return Outcome() if read is None else read(number)


def _outcomes(source: EpisodeSource) -> tuple[str, ...]:
    """Return what all data sets of a source say of their episodes, from the first episode of each."""
    firsts = {id(origin(source, episode)[0]): episode for episode in reversed(range(len(source.lengths)))}
    known = [_outcome(source, episode).keys() for episode in firsts.values()]
    return tuple(key for key in OUTCOMES if all(key in keys for keys in known))


def _recorded(source: EpisodeSource, episode: int) -> RecordedEpisode:
    steps, outcome = int(source.lengths[episode]), _outcome(source, episode)
    images = source.encoded_images(episode, 0, steps)
    if optional_members(origin(source, episode)[0]).bgr or not all(map(is_rgb, images)):
        images = [encode_png(image) for image in each_image(source, episode, 0, steps)]
    return RecordedEpisode(
        images=images,
        actions=source.actions(episode, 0, steps),
        instruction=source.instruction(episode),
        text_embedding=source.text_embedding(episode),
        task=source.task(episode),
        success=outcome.success,
        seed=outcome.seed,
        rewards=outcome.rewards,
        episode_id=episode,
    )
