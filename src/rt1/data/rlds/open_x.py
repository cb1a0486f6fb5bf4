"""The Open X-Embodiment data sets: which keys to read, and how each set's action becomes RT-1's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec, FloatArray, rt1_action_spec
from rt1.common.suggest import lookup
from rt1.data.rlds import open_x_actions as mappings
from rt1.data.rlds.open_x_actions import ActionMapping
from rt1.data.rlds.reader import RLDSSource
from rt1.data.rlds.schema import RLDSLayout
from rt1.data.sources.base import Outcome, check_steps
from rt1.errors import DataError


@dataclass(frozen=True, kw_only=True)
class OpenXDataset:
    """Description of an RLDS data set whose action is mapped to RT-1's; use it for your own data set."""

    name: str
    """Name of the data set."""
    action_keys: tuple[str, ...]
    """Keys that the mapping needs, including flags such as ``is_terminal``."""
    to_rt1: ActionMapping
    """Pure function of the raw action of a whole episode, float32 (S, n) by key, to float32 (S, 11): RT-1's action."""
    control_rate: float
    """Steps per second."""
    one_hot_keys: tuple[str, ...] = ()
    """Action keys that are one-hot; the mapping gets the number of the choice (S, 1), -1 for all zeros."""
    image_key: str = "observation/image"
    """JPEG or PNG image of a step."""
    instruction_key: str = "observation/natural_language_instruction"
    """Instruction."""
    embedding_key: str | None = "observation/natural_language_embedding"
    """Text embedding of the instruction, or None."""
    first_step: int = 0
    """First step that is used; 1 if the first action of every episode is a zero placeholder."""
    bgr: bool = False
    """Whether the images are stored as BGR."""
    lerobot: bool = False
    """Whether it is published as a LeRobot data set, not as RLDS."""
    weight: float = 1.0
    """Share in a mixture; in the table that of RT-1-X."""

    def __post_init__(self) -> None:
        if self.first_step < 0:
            raise ValueError(f"first_step of {self.name!r} is {self.first_step}; it must be at least 0")
        if not (0.0 < self.control_rate < np.inf and 0.0 < self.weight < np.inf):
            rates = f"control_rate is {self.control_rate}, weight {self.weight}"
            raise ValueError(f"{self.name!r}: {rates}; both must be numbers above 0")

    def layout(self) -> RLDSLayout:
        """Return the keys for :class:`rt1.data.rlds.reader.RLDSSource`."""
        return RLDSLayout(
            image_key=self.image_key,
            instruction_key=self.instruction_key,
            embedding_key=self.embedding_key,
            action_keys=self.action_keys,
            one_hot_keys=self.one_hot_keys,
        )


class OpenXSource:
    """Episodes of an Open X data set with RT-1's action; an :class:`~rt1.data.sources.base.EpisodeSource`.

    Actions are mapped when read, so that a changed mapping needs no new index.
    """

    def __init__(self, raw: RLDSSource, dataset: OpenXDataset, action_spec: ActionSpec) -> None:
        """Wrap the raw episodes of a data set; see :func:`open_x_source`."""
        self.raw, self.dataset, self.action_spec = raw, dataset, action_spec
        self.name, self.bgr = dataset.name, dataset.bgr
        self.cache_folder, self.skipped = raw.cache_folder, raw.skipped
        self.details: Mapping[str, Any] = {"control_rate": dataset.control_rate}
        self.lengths: NDArray[np.int64] = raw.lengths - dataset.first_step
        if (self.lengths < 1).any():
            episode = int(np.argmin(self.lengths))
            raise DataError(
                f"{raw.folder}: episode {episode} has {raw.lengths[episode]} steps, and the first {dataset.first_step} "
                "are left out; remove it, or open the data set in Python with first_step 0"
            )
        ends = np.cumsum(list(raw.action_widths.values())).tolist()
        self._columns = {
            key: slice(end - width, end) for (key, width), end in zip(raw.action_widths.items(), ends, strict=True)
        }
        self.actions(0, 0, 1)  # a wrong mapping fails now, not during training

    def instruction(self, episode: int) -> str:
        return self.raw.instruction(episode)

    def task(self, episode: int) -> str:
        """Return an empty string: Open X has no task names."""
        return self.raw.task(episode)

    def text_embedding(self, episode: int) -> FloatArray | None:
        return self.raw.text_embedding(episode)

    def outcome(self, episode: int) -> Outcome:
        """Return success, seed and rewards of an episode, as far as the data set says."""
        outcome = self.raw.outcome(episode)
        rewards = None if outcome.rewards is None else outcome.rewards[self.dataset.first_step :]
        return replace(outcome, rewards=rewards)

    def encoded_images(self, episode: int, start: int, stop: int) -> list[bytes]:
        """Return the JPEG or PNG bytes of steps ``start..stop-1`` as stored; see ``bgr``."""
        check_steps(self, episode, start, stop)
        first = self.dataset.first_step
        return self.raw.encoded_images(episode, first + start, first + stop)

    def actions(self, episode: int, start: int, stop: int) -> FloatArray:
        """Return RT-1's action, float32 (stop - start, 11), of steps ``start..stop-1`` (not clipped)."""
        check_steps(self, episode, start, stop)
        first = self.dataset.first_step
        stored = self.raw.actions(episode, first, int(self.raw.lengths[episode]))
        with np.errstate(over="ignore", invalid="ignore"):  # an overflow becomes infinite, refused below
            mapped = self.dataset.to_rt1({key: stored[:, columns] for key, columns in self._columns.items()})
        expected = (len(stored), self.action_spec.size)
        if mapped.dtype != np.float32 or mapped.shape != expected or not np.isfinite(mapped).all():
            raise DataError(
                f"{self.raw.folder}, episode {episode}: to_rt1 returned {mapped.dtype} {mapped.shape}; "
                f"it must return finite float32 {expected}"
            )
        return mapped[start:stop].copy()


def open_x_source(
    folder: Path | str,
    *,
    dataset: str | OpenXDataset,
    split: str = "train",
    action_spec: ActionSpec | None = None,
    skip_corrupt: bool = False,
) -> OpenXSource:
    """Open an RLDS data set with its action mapped to RT-1's.

    Args:
        folder: the folder of one TFDS version: ``features.json`` and ``<name>-<split>.tfrecord-*``.
        dataset: a name in ``OPEN_X``, or the description of your own data set.
        split: name of the split.
        action_spec: bounds and bins of RT-1's action. None: those of RT-1-X, 512 bins and world_vector within -2..2.
        skip_corrupt: leave out what cannot be used, warn once with the count, and list it in ``skipped``.

    Raises:
        ValueError: an unknown name.
        DataError: an unreadable folder, or one without the keys of this data set.
    """
    if isinstance(dataset, str):
        dataset = lookup("Open X data set", dataset, OPEN_X)
    if dataset.lerobot:
        raise DataError(f"{folder} is RLDS, and {dataset.name} is a LeRobot data set; name the RLDS data set")
    raw = RLDSSource(folder, split=split, layout=dataset.layout(), name=dataset.name, skip_corrupt=skip_corrupt)
    return OpenXSource(raw, dataset, action_spec or rt1_action_spec(bins=512, world_bound=2.0))


_MODE = ("action/terminate_episode",)
_ARM = (*_MODE, "action/world_vector", "action/rotation_delta")
_ARM_AND_GRIPPER = (*_ARM, "action/gripper_closedness_action")
_ALL = (*_ARM_AND_GRIPPER, "action/base_displacement_vertical_rotation", "action/base_displacement_vector")

_BERKELEY_BRIDGE = OpenXDataset(
    name="bridge_dataset",
    action_keys=("action", "is_terminal"),
    to_rt1=mappings.bridge_dataset,
    control_rate=5.0,
    image_key="observation/image_0",
    instruction_key="language_instruction",
    embedding_key="language_embedding",
    first_step=1,
    weight=50.0,
)

_TABLE = (
    OpenXDataset(name="fractal20220817_data", action_keys=_ALL, one_hot_keys=_MODE, to_rt1=mappings.fractal,
                 control_rate=3.0, weight=150.0),
    OpenXDataset(name="kuka", action_keys=_ALL, one_hot_keys=_MODE, to_rt1=mappings.fractal, control_rate=10.0,
                 weight=20.0),
    OpenXDataset(name="bridge", action_keys=(*_ARM, "action/open_gripper"), to_rt1=mappings.bridge, control_rate=5.0,
                 first_step=1, weight=50.0),
    OpenXDataset(name="taco_play", action_keys=(*_MODE, "action/rel_actions_world"), to_rt1=mappings.taco_play,
                 control_rate=15.0, image_key="observation/rgb_static", weight=5.0),
    OpenXDataset(name="jaco_play", action_keys=(*_MODE, "action/world_vector", "action/gripper_closedness_action"),
                 one_hot_keys=_MODE, to_rt1=mappings.jaco_play, control_rate=10.0, weight=20.0),
    OpenXDataset(name="berkeley_cable_routing", action_keys=_ARM, to_rt1=mappings.berkeley_cable_routing,
                 control_rate=10.0, weight=20.0),
    OpenXDataset(name="roboturk", action_keys=_ARM_AND_GRIPPER, to_rt1=mappings.roboturk, control_rate=10.0,
                 image_key="observation/front_rgb", weight=10.0),
    OpenXDataset(name="nyu_door_opening_surprising_effectiveness", action_keys=_ARM_AND_GRIPPER,
                 to_rt1=mappings.nyu_door_opening, control_rate=3.0, weight=5.0),
    OpenXDataset(name="viola", action_keys=_ARM_AND_GRIPPER, to_rt1=mappings.viola, control_rate=20.0,
                 image_key="observation/agentview_rgb", weight=3.0),
    # its other camera, observation/hand_image, is stored BGR
    OpenXDataset(name="berkeley_autolab_ur5", action_keys=_ARM_AND_GRIPPER, to_rt1=mappings.berkeley_autolab_ur5,
                 control_rate=5.0, weight=5.0),
    OpenXDataset(name="toto", action_keys=(*_ARM, "action/open_gripper"), to_rt1=mappings.toto, control_rate=30.0,
                 weight=5.0),
    OpenXDataset(name="language_table", action_keys=("action", "is_terminal"), to_rt1=mappings.language_table,
                 control_rate=10.0, image_key="observation/rgb", instruction_key="observation/instruction",
                 embedding_key=None, weight=30.0),
    _BERKELEY_BRIDGE,
    OpenXDataset(name="fractal20220817_data_lerobot", action_keys=("action",), to_rt1=mappings.fractal_lerobot,
                 control_rate=3.0, image_key="observation.images.image", lerobot=True, weight=150.0),
    OpenXDataset(name="bridge_orig_lerobot", action_keys=("action",), to_rt1=mappings.bridge_lerobot,
                 control_rate=5.0, image_key="observation.images.image_0", lerobot=True, weight=50.0),
)  # fmt: skip

OPEN_X: dict[str, OpenXDataset] = {entry.name: entry for entry in _TABLE} | {"bridge_orig": _BERKELEY_BRIDGE}
"""The data sets known by name; ``bridge_orig`` is another name of ``bridge_dataset``."""
