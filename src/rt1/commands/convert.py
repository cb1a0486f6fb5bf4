"""The commands ``rt1 convert ...``: weights that others released, to our checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from rt1.checkpoint import CHECKPOINT_FILES, CheckpointInfo, save_checkpoint
from rt1.common.files import check_replaceable
from rt1.data.convert import ConvertSettings, convert_source
from rt1.data.open_data import DataOptions, open_data
from rt1.errors import SaveError
from rt1.model.heads import parameter_counts
from rt1.pretrained.convert import (
    Conversion,
    convert_flax,
    convert_imagenet,
    convert_tensorflow,
)
from rt1.text.encoder import USE_LARGE_5


@dataclass(frozen=True, kw_only=True)
class ConvertTensorFlowCommand:
    """Convert Google's RT-1: a ckpt-NNN prefix or a SavedModel folder; needs no TensorFlow."""

    path: tyro.conf.Positional[Path]
    """Checkpoint prefix (.../ckpt-424760), SavedModel folder, or a folder that holds one of them."""
    out: Path
    """Checkpoint folder to write."""
    config: str | None = None
    """rt1main, rt1simreal, rt1multirobot, or a JSON file; inferred from the variables' shapes if not given."""
    action_order: tuple[str, ...] = ()
    """Names of the action's parts in token order; the files do not tell it. The default is docs/weights.md's."""

    def run(self, _command: str) -> int:
        """Convert."""
        check_replaceable(self.out, CHECKPOINT_FILES)  # before the weights are read
        found = convert_tensorflow(self.path, config=self.config, action_order=self.action_order or None)
        return _save(found, self.out)


@dataclass(frozen=True, kw_only=True)
class ConvertFlaxCommand:
    """Convert Google's RT-1-X: a flax msgpack file or the folder it lies in; needs no JAX."""

    path: tyro.conf.Positional[Path]
    """The file named checkpoint, or its folder."""
    out: Path
    """Checkpoint folder to write."""
    config: str | None = None
    """rt1x, or a JSON file; inferred from the variables' shapes if not given."""
    action_order: tuple[str, ...] = ()
    """Names of the action's parts in token order, if not those of the configuration."""

    def run(self, _command: str) -> int:
        """Convert."""
        check_replaceable(self.out, CHECKPOINT_FILES)  # before the weights are read
        found = convert_flax(self.path, config=self.config, action_order=self.action_order or None)
        return _save(found, self.out)


@dataclass(frozen=True, kw_only=True)
class ConvertImageNetCommand:
    """Convert ImageNet weights to our backbone: EfficientNet-B3 of Keras (.h5), timm, torchvision; MaxViT of timm."""

    path: tyro.conf.Positional[Path]
    """The file of weights."""
    out: Path
    """The .safetensors file to write."""

    def run(self, _command: str) -> int:
        """Convert."""
        check_replaceable(self.out)  # before the weights are read
        if self.out.resolve() == self.path.resolve():
            raise SaveError(f"{self.out} is the file to convert, which must not be replaced; give another file")
        report = convert_imagenet(self.path, self.out)
        print(f"{self.out}: {len(report.used)} tensors of {report.format}")
        _print_skipped(report.skipped, report.notes)
        return 0


def _save(found: Conversion, out: Path) -> int:
    info = CheckpointInfo(
        model=found.configuration.model,
        action_spec=found.configuration.action,
        text_encoder=USE_LARGE_5,
        provenance=found.report.to_json(),
    )
    save_checkpoint(out, model=found.model, info=info)
    counts = parameter_counts(found.model)
    print(f"{out}: {found.report.configuration}, {counts['total']:,} parameters")
    for name, count in counts.items():
        if name != "total":
            print(f"  {name:14s}{count:>12,}")
    _print_skipped(found.report.skipped, found.report.notes)
    return 0


def _print_skipped(skipped: Mapping[str, tuple[str, ...]], notes: tuple[str, ...]) -> None:
    for reason, names in skipped.items():
        print(f"  skipped {len(names)}: {reason} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})")
    for note in notes:
        print(f"  note: {note}")


@dataclass(frozen=True, kw_only=True)
class ConvertDataCommand:
    """Convert a data set between RLDS and LeRobot, image bytes unchanged; run again to resume."""

    path: tyro.conf.Positional[Path]
    """Folder of the data set."""
    out: Path
    """Folder of the new one."""
    to: Literal["rlds", "lerobot"]
    """Format of the new one."""
    data: tyro.conf.OmitArgPrefixes[DataOptions] = field(default_factory=DataOptions)
    """What the data set does not say of itself."""
    name: str | None = None
    """Name of the new data set; made of the old one's if not given."""
    fps: int | None = None
    """To LeRobot: steps per second; needed unless the data set notes its control rate."""
    video: Literal["av1", "h264"] | None = None
    """To LeRobot: encode the images as video, which loses detail."""
    robot_type: str | None = None
    """To LeRobot: name of the robot."""

    def __post_init__(self) -> None:
        self._settings()

    def _settings(self) -> ConvertSettings:
        return ConvertSettings(name=self.name, fps=self.fps, video=self.video, robot_type=self.robot_type)

    def run(self, _command: str) -> int:
        """Convert."""
        if self.path.resolve() in (self.out.resolve(), *self.out.resolve().parents):
            raise SaveError(f"{self.out} lies in the data set {self.path}; write to a folder outside of it")
        source = open_data(self.path, self.data)
        report = convert_source(source, self.out, to=self.to, settings=self._settings())
        print(
            f"{report.folder}: {report.episodes} episodes, {report.steps} steps, {report.instructions} instructions, "
            f"{report.megabytes:.1f} MB of {report.format}"
        )
        return 0
