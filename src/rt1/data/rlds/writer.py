"""Writes episodes to an RLDS data set that this package and TFDS read. An interrupted recording resumes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rt1.actions import ActionSpec, FloatArray
from rt1.common.files import replacing, write_text
from rt1.common.folders import check_folder
from rt1.common.json_config import check_at_least, to_json
from rt1.data.rlds.schema import FEATURES_FILE, INFO_FILE, RECORDING_FILE, RT1_FILE, RLDSLayout, read_json
from rt1.data.rlds.tfrecord import FRAME_BYTES, FeatureValue, encode_example, frame
from rt1.data.sources.base import OUTCOMES, Outcome
from rt1.data.sources.images import image_size
from rt1.errors import DataError

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_PACKAGE = "tensorflow_datasets.core.features"


@dataclass(frozen=True, kw_only=True)
class RecordedEpisode:
    """One episode to write."""

    images: Sequence[bytes]
    """JPEG bytes of each step, see :func:`rt1.data.sources.images.encode_jpeg`."""
    actions: FloatArray
    """float32 (steps, A), physical units."""
    instruction: str
    text_embedding: FloatArray | None
    """float32 (E,), or None."""
    task: str
    """Name of the task."""
    success: bool | None
    """Whether the task was solved. None: not known."""
    seed: int | None
    """Seed of the environment's reset. None: not known."""
    episode_id: int
    """Number of the episode within the recording."""
    rewards: FloatArray | None = None
    """float32 (steps,). None stores 1 in the last step of a success and 0 elsewhere."""

    def all_rewards(self) -> FloatArray:
        """Return the reward of each step, float32 (steps,)."""
        if self.rewards is not None:
            return self.rewards
        rewards = np.zeros(len(self.images), np.float32)
        rewards[-1] = bool(self.success)
        return rewards


@dataclass(frozen=True, kw_only=True)
class RecordingSettings:
    """Settings of a recording, fixed before its first episode."""

    name: str
    """Name of the data set: lower case letters, digits, underscores."""
    image_size: tuple[int, int]
    """(H, W) of every image."""
    action_spec: ActionSpec
    """Dimensions and bounds of the actions."""
    episodes: int
    """Number of episodes of the whole recording."""
    episodes_per_shard: int = 32
    """Episodes per file, the most that an interruption loses."""
    text_encoder: Mapping[str, object] | None = None
    """Identity of the encoder of the text embeddings: name, sha256, width. None records no embeddings."""
    outcomes: tuple[str, ...] = OUTCOMES
    """What is known of every episode: success, seed, reward. The keys of the others are left out."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Plain data about the episodes (environment, seed, noise), stored with the data set."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"data set name {self.name!r}. Use lower case letters, digits and underscores")
        check_at_least(self, 1, "episodes", "episodes_per_shard")

    @property
    def shards(self) -> int:
        """Number of files."""
        return math.ceil(self.episodes / self.episodes_per_shard)

    @property
    def embedding_width(self) -> int | None:
        """E: entries of a text embedding, or None."""
        return None if self.text_encoder is None else int(str(self.text_encoder["width"]))

    def shard_episodes(self, shard: int) -> range:
        """Return the numbers of the episodes of a shard."""
        first = shard * self.episodes_per_shard
        return range(first, min(first + self.episodes_per_shard, self.episodes))

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json``."""
        data = {**to_json(self), "shards": self.shards}
        if self.outcomes == OUTCOMES:
            del data["outcomes"]  # recordings of earlier versions do not have it
        return data


class RLDSWriter:
    """Writes one recording, shard by shard, in any order and over several runs of the program.

    A shard appears under its name only when complete. :meth:`finish` writes the metadata. Until then
    :class:`~rt1.data.rlds.reader.RLDSSource` refuses the folder. Equal episodes give equal bytes.
    """

    def __init__(self, folder: Path | str, settings: RecordingSettings) -> None:
        """Begin a recording in ``folder``, or resume one with the same settings.

        Raises:
            DataError: the folder holds a recording with other settings, which are listed.
            SaveError: it holds other files.
        """
        self.folder = Path(folder)
        self.settings = settings
        path = self.folder / RECORDING_FILE
        if path.is_file():
            refuse_difference(path, read_json(path), settings.to_json())
            return
        check_folder(self.folder, ours=(RECORDING_FILE,))
        write_text(path, _json(settings.to_json()))

    def shard_path(self, shard: int) -> Path:
        """Return the file of a shard."""
        return self.folder / f"{self.settings.name}-train.tfrecord-{shard:05d}-of-{self.settings.shards:05d}"

    def missing_shards(self) -> list[int]:
        """Return the numbers of the missing shards."""
        return [shard for shard in range(self.settings.shards) if not self.shard_path(shard).is_file()]

    def write_shard(self, shard: int, episodes: Sequence[RecordedEpisode]) -> None:
        """Write the episodes ``settings.shard_episodes(shard)``. Unsuitable ones raise :class:`DataError`."""
        expected = len(self.settings.shard_episodes(shard))
        if len(episodes) != expected:
            raise DataError(f"shard {shard} of {self.folder} takes {expected} episodes, got {len(episodes)}")
        with replacing(self.shard_path(shard)) as partial, partial.open("wb") as file:
            for episode in episodes:
                check_episode(episode, self.settings)
                file.write(frame(encode_example(_features(episode, self.settings.outcomes))))

    def finish(self) -> None:
        """Write the metadata, which makes the folder readable. A missing shard raises ``DataError``."""
        missing = self.missing_shards()
        if missing:
            raise DataError(f"{self.folder}: shards {missing} are not written yet. Write them before finishing")
        write_text(self.folder / INFO_FILE, _json(self._dataset_info()))
        write_text(self.folder / FEATURES_FILE, _json(_feature_description(self.settings)))
        layout = RLDSLayout(
            embedding_key=None if self.settings.text_encoder is None else "language_embedding",
            task_key="episode_metadata/task",
        )
        described = {key: self.settings.to_json()[key] for key in ("action_spec", "text_encoder", "details")}
        write_text(self.folder / RT1_FILE, _json({"format": 1, "layout": layout.to_json(), **described}))

    def _dataset_info(self) -> dict[str, Any]:
        settings = self.settings
        size = sum(self.shard_path(shard).stat().st_size for shard in range(settings.shards))
        lengths = [str(len(settings.shard_episodes(shard))) for shard in range(settings.shards)]
        split = {
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            "name": "train",
            "numBytes": str(size - FRAME_BYTES * settings.episodes),
            "shardLengths": lengths,
        }
        return {
            "description": f"{settings.episodes} recorded episodes.",
            "fileFormat": "tfrecord",
            "name": settings.name,
            "releaseNotes": {"1.0.0": "Recorded."},
            "splits": [split],
            "version": "1.0.0",
        }


def _json(data: Mapping[str, Any]) -> str:
    return json.dumps(data, indent=2) + "\n"


def refuse_difference(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    different = [f"{key} was {old.get(key)!r}, now {new[key]!r}" for key in new if old.get(key) != new[key]]
    if different:
        changes = ", ".join(different)
        raise DataError(f"{path.parent} was begun with other settings: {changes}. Use them or a new folder")


def check_episode(episode: RecordedEpisode, settings: RecordingSettings) -> None:
    problem = _image_problem(episode, settings) or _action_problem(episode, settings)
    problem = problem or _text_problem(episode, settings) or _outcome_problem(episode, settings)
    if problem:
        raise DataError(f"episode {episode.episode_id} cannot be recorded: {problem}")


def _image_problem(episode: RecordedEpisode, settings: RecordingSettings) -> str:
    if not episode.images:
        return "it has no steps. Record at least one"
    for step, image in enumerate(episode.images):
        if (size := image_size(image)) != tuple(settings.image_size):
            return f"the image of step {step} has size {size}. The recording has {tuple(settings.image_size)}"
    return ""


def _action_problem(episode: RecordedEpisode, settings: RecordingSettings) -> str:
    shape = (len(episode.images), settings.action_spec.size)
    if episode.actions.shape != shape or episode.actions.dtype != np.float32:
        return f"its actions are {episode.actions.dtype} {episode.actions.shape}. They must be float32 {shape}"
    if not np.isfinite(episode.actions).all():
        step = int(np.argmin(np.isfinite(episode.actions).all(axis=1)))
        return f"the action of step {step} is {episode.actions[step].tolist()}. It must be finite"
    return ""


def _text_problem(episode: RecordedEpisode, settings: RecordingSettings) -> str:
    if not episode.instruction.strip():
        return "its instruction is empty. Give the sentence"
    width, embedding = settings.embedding_width, episode.text_embedding
    if embedding is None:
        return "" if width is None else f"it has no text embedding. The recording has {width} entries each"
    if embedding.dtype != np.float32 or embedding.shape != (width,) or not np.isfinite(embedding).all():
        return f"its text embedding is {embedding.dtype} {embedding.shape}. It must be finite float32 ({width},)"
    return ""


def _outcome_problem(episode: RecordedEpisode, settings: RecordingSettings) -> str:
    rewards, steps = episode.rewards, len(episode.images)
    if rewards is not None and (rewards.dtype != np.float32 or rewards.shape != (steps,)):
        return f"its rewards are {rewards.dtype} {rewards.shape}. They must be float32 ({steps},)"
    known = Outcome(success=episode.success, seed=episode.seed, rewards=rewards).keys()
    if "success" in known:
        known = (*known, "reward")
    missing = [key for key in settings.outcomes if key not in known]
    return f"it has no {missing[0]}. The other episodes have one" if missing else ""


def _features(episode: RecordedEpisode, outcomes: Sequence[str]) -> dict[str, FeatureValue]:
    steps = len(episode.images)
    first, last = np.zeros(steps, np.int64), np.zeros(steps, np.int64)
    first[0] = last[-1] = 1
    features: dict[str, FeatureValue] = {
        "steps/observation/image": episode.images,
        "steps/action": episode.actions.reshape(-1),
        "steps/language_instruction": [episode.instruction.encode()] * steps,
        "steps/is_first": first,
        "steps/is_last": last,
        "steps/discount": np.ones(steps, np.float32),
        "episode_metadata/task": [episode.task.encode()],
        "episode_metadata/episode_id": np.array([episode.episode_id], np.int64),
    }
    if "success" in outcomes:
        features["steps/is_terminal"] = last if episode.success else np.zeros(steps, np.int64)
        features["episode_metadata/success"] = np.array([episode.success], np.int64)
    if "seed" in outcomes:
        features["episode_metadata/seed"] = np.array([episode.seed], np.int64)
    if "reward" in outcomes:
        features["steps/reward"] = episode.all_rewards()
    if episode.text_embedding is not None:
        features["steps/language_embedding"] = np.tile(episode.text_embedding, steps)
    return features


def _feature_description(settings: RecordingSettings) -> dict[str, Any]:
    """Return ``features.json`` as TFDS writes it."""
    height, width = settings.image_size
    image = {
        "pythonClassName": f"{_PACKAGE}.image_feature.Image",
        "image": {"shape": _dimensions(height, width, 3), "dtype": "uint8", "encodingFormat": "jpeg"},
    }
    text = {"pythonClassName": f"{_PACKAGE}.text_feature.Text", "text": {}}
    steps: dict[str, Any] = {
        "observation": _dictionary({"image": image}),
        "action": _tensor("float32", settings.action_spec.size),
        "language_instruction": text,
        **{flag: _tensor("bool") for flag in ("is_first", "is_last")},
        "discount": _tensor("float32"),
    }
    metadata = {"task": text, "episode_id": _tensor("int64")}
    if "success" in settings.outcomes:
        steps["is_terminal"] = metadata["success"] = _tensor("bool")
    if "seed" in settings.outcomes:
        metadata["seed"] = _tensor("int64")
    if "reward" in settings.outcomes:
        steps["reward"] = _tensor("float32")
    if settings.embedding_width is not None:
        steps["language_embedding"] = _tensor("float32", settings.embedding_width)
    content = {"feature": _dictionary(steps), "length": "-1"}  # TFDS needs the length
    sequence = {"pythonClassName": f"{_PACKAGE}.dataset_feature.Dataset", "sequence": content}
    return _dictionary({"steps": sequence, "episode_metadata": _dictionary(metadata)})


def _dictionary(features: Mapping[str, Any]) -> dict[str, Any]:
    return {"pythonClassName": f"{_PACKAGE}.features_dict.FeaturesDict", "featuresDict": {"features": dict(features)}}


def _tensor(dtype: str, *sizes: int) -> dict[str, Any]:
    kind = "tensor_feature.Tensor" if sizes else "scalar.Scalar"
    tensor = {"shape": _dimensions(*sizes), "dtype": dtype, "encoding": "none"}
    return {"pythonClassName": f"{_PACKAGE}.{kind}", "tensor": tensor}


def _dimensions(*sizes: int) -> dict[str, Any]:
    return {"dimensions": [str(size) for size in sizes]} if sizes else {}
