"""The Open X-Embodiment data sets: which keys to read, and how each set's action becomes RT-1's."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from rt1.actions import ActionSpec, FloatArray, rt1_action_spec
from rt1.common.suggest import lookup
from rt1.data.rlds import open_x_actions as mappings
from rt1.data.rlds.open_x_actions import ActionMapping
from rt1.data.rlds.reader import RLDSSource
from rt1.data.rlds.schema import RLDSLayout
from rt1.data.sources.base import Outcome, check_steps
from rt1.errors import DataError


@dataclass(frozen=True, kw_only=True)
class OpenXDataset(RLDSLayout):
    """Description of an RLDS data set whose action is mapped to RT-1's. Use it for your own data set.

    ``action_keys`` are the keys that the mapping needs, including flags such as ``is_terminal``.
    """

    name: str
    """Name of the data set."""
    to_rt1: ActionMapping
    """Pure function of the raw action of a whole episode, float32 (S, n) by key, to float32 (S, 11): RT-1's action."""
    control_rate: float
    """Steps per second."""
    instruction_key: str = "observation/natural_language_instruction"
    embedding_key: str | None = "observation/natural_language_embedding"
    first_step: int = 0
    """First step that is used. 1 if the first action of every episode is a zero placeholder."""
    bgr: bool = False
    """Whether the images are stored as BGR."""
    lerobot: bool = False
    """Whether it is published as a LeRobot data set, not as RLDS."""
    weight: float = 1.0
    """Share in a mixture. The table has those of RT-1-X."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first_step < 0:
            raise ValueError(f"first_step of {self.name!r} is {self.first_step}. It must be at least 0")
        if not (0.0 < self.control_rate < np.inf and 0.0 < self.weight < np.inf):
            rates = f"control_rate is {self.control_rate}, weight {self.weight}"
            raise ValueError(f"{self.name!r}: {rates}. Both must be numbers above 0")

    def layout(self) -> RLDSLayout:
        """Return the keys for :class:`rt1.data.rlds.reader.RLDSSource`."""
        return RLDSLayout(**{key.name: getattr(self, key.name) for key in fields(RLDSLayout)})


class OpenXSource(RLDSSource):
    """Episodes of an Open X data set with RT-1's action.

    Actions are mapped when read, so that a changed mapping needs no new index.
    """

    def __init__(
        self, folder: Path | str, dataset: OpenXDataset, *, split: str, action_spec: ActionSpec, skip_corrupt: bool
    ) -> None:
        """Open a data set. See :func:`open_x_source`."""
        super().__init__(folder, split=split, layout=dataset.layout(), name=dataset.name, skip_corrupt=skip_corrupt)
        self.dataset, self.action_spec, self.bgr = dataset, action_spec, dataset.bgr
        self.details = {"control_rate": dataset.control_rate}
        if (self.lengths <= dataset.first_step).any():
            episode = int(np.argmin(self.lengths))
            steps = f"{self.lengths[episode]} steps, of which the first {dataset.first_step} are left out"
            raise DataError(
                f"{self.folder}: episode {episode} has {steps}. Remove it, or set first_step to 0 in Python"
            )
        self.lengths = self.lengths - dataset.first_step
        self._first = self._first + dataset.first_step
        self.actions(0, 0, 1)  # a wrong mapping fails now, not during training

    def outcome(self, episode: int) -> Outcome:
        outcome = super().outcome(episode)
        rewards = None if outcome.rewards is None else outcome.rewards[self.dataset.first_step :]
        return replace(outcome, rewards=rewards)

    def actions(self, episode: int, start: int, stop: int) -> FloatArray:
        """Return RT-1's action, float32 (stop - start, 11), of steps ``start..stop-1`` (not clipped)."""
        check_steps(self, episode, start, stop)
        stored = super().actions(episode, 0, int(self.lengths[episode]))
        parts = np.split(stored, np.cumsum(list(self.action_widths.values()))[:-1], axis=1)
        with np.errstate(over="ignore", invalid="ignore"):  # an overflow becomes infinite, refused below
            mapped = self.dataset.to_rt1(dict(zip(self.action_widths, parts, strict=True)))
        expected = (len(stored), self.action_spec.size)
        if mapped.dtype != np.float32 or mapped.shape != expected or not np.isfinite(mapped).all():
            result = f"to_rt1 returned {mapped.dtype} {mapped.shape}. It must return finite float32 {expected}"
            raise DataError(f"{self.folder}, episode {episode}: {result}")
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
        raise DataError(f"{folder} is RLDS, and {dataset.name} is a LeRobot data set. Name the RLDS data set")
    action_spec = action_spec or rt1_action_spec(bins=512, world_bound=2.0)
    return OpenXSource(folder, dataset, split=split, action_spec=action_spec, skip_corrupt=skip_corrupt)


_MODE = ("action/terminate_episode",)
_ARM = (*_MODE, "action/world_vector", "action/rotation_delta")
_ARM_AND_GRIPPER = (*_ARM, "action/gripper_closedness_action")
_ALL = (*_ARM_AND_GRIPPER, "action/base_displacement_vertical_rotation", "action/base_displacement_vector")

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
    OpenXDataset(name="bridge_dataset", action_keys=("action", "is_terminal"), to_rt1=mappings.bridge_dataset,
                 control_rate=5.0, image_key="observation/image_0", instruction_key="language_instruction",
                 embedding_key="language_embedding", first_step=1, weight=50.0),
    OpenXDataset(name="fractal20220817_data_lerobot", action_keys=("action",), to_rt1=mappings.fractal_lerobot,
                 control_rate=3.0, image_key="observation.images.image", lerobot=True, weight=150.0),
    OpenXDataset(name="bridge_orig_lerobot", action_keys=("action",), to_rt1=mappings.bridge_lerobot,
                 control_rate=5.0, image_key="observation.images.image_0", lerobot=True, weight=50.0),
)  # fmt: skip

OPEN_X: dict[str, OpenXDataset] = {entry.name: entry for entry in _TABLE}
OPEN_X["bridge_orig"] = OPEN_X["bridge_dataset"]
"""The data sets known by name. ``bridge_orig`` is another name of ``bridge_dataset``."""
