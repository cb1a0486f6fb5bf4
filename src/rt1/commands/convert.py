"""The commands ``rt1 convert ...``: released weights to checkpoints, and data sets between formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from rt1.checkpoint import CHECKPOINT_FILES, CheckpointInfo, save_checkpoint
from rt1.commands.options import DataFormat
from rt1.common.files import check_replaceable, real_path
from rt1.common.folders import writing_alone
from rt1.data.convert import ConvertSettings, Format, convert_source
from rt1.data.open_data import DataOptions, open_data
from rt1.errors import SaveError, UsageError
from rt1.model.heads import parameter_counts
from rt1.policy.lerobot import IMAGE_KEY, read_lerobot, write_lerobot
from rt1.pretrained.convert import Conversion, convert_flax, convert_imagenet, convert_tensorflow
from rt1.text.encoder import USE_LARGE_5


@dataclass(frozen=True, kw_only=True)
class ConvertTensorFlowCommand:
    """Convert Google's RT-1, a ckpt-NNN prefix or a SavedModel folder. TensorFlow is not needed."""

    path: tyro.conf.Positional[Path]
    """Checkpoint prefix (.../ckpt-424760), SavedModel folder, or a folder that holds one of them."""
    out: Path
    """Checkpoint folder to write."""
    config: str | None = None
    """rt1main, rt1simreal, rt1multirobot, or a JSON file. Default: inferred from the shapes of the variables."""
    action_order: tuple[str, ...] = ()
    """Names of the action parts in token order, which the files do not contain. Default: see docs/weights.md."""

    def run(self, _command: str) -> int:
        """Convert, and print the parameter counts."""
        return _convert_google(self, convert_tensorflow)


@dataclass(frozen=True, kw_only=True)
class ConvertFlaxCommand:
    """Convert Google's RT-1-X, a flax msgpack file or its folder. JAX is not needed."""

    path: tyro.conf.Positional[Path]
    """The file named checkpoint, or its folder."""
    out: Path
    """Checkpoint folder to write."""
    config: str | None = None
    """rt1x, or a JSON file. Default: inferred from the shapes of the variables."""
    action_order: tuple[str, ...] = ()
    """Names of the action parts in token order. Default: those of the configuration."""

    def run(self, _command: str) -> int:
        """Convert, and print the parameter counts."""
        return _convert_google(self, convert_flax)


@dataclass(frozen=True, kw_only=True)
class ConvertImageNetCommand:
    """Convert ImageNet weights to a backbone: EfficientNet-B3 (Keras .h5, timm, torchvision) or MaxViT (timm)."""

    path: tyro.conf.Positional[Path]
    """File with the weights."""
    out: Path
    """Backbone to write, a .safetensors file."""

    def run(self, _command: str) -> int:
        """Convert, and print what was skipped."""
        check_replaceable(self.out)  # before the weights are read
        if real_path(self.out) == real_path(self.path):
            raise SaveError(f"{self.out} is the file to convert, which must not be replaced. Give another file")
        with writing_alone(self.out):
            report = convert_imagenet(self.path, self.out)
        print(f"{self.out}: {len(report.used)} tensors of {report.format}")
        _print_skipped(report.skipped, report.notes)
        return 0


@dataclass(frozen=True, kw_only=True)
class ConvertCheckpointCommand:
    """Convert a checkpoint to LeRobot's folder pretrained_model, or such a folder to a checkpoint. Both act alike."""

    path: tyro.conf.Positional[Path]
    """Checkpoint or run folder, or LeRobot's folder of a policy of type rt1 (--to rt1)."""
    to: Literal["lerobot", "rt1"]
    """Format to write."""
    out: Path
    """Folder to write."""
    embodiment: str | None = None
    """To lerobot: which embodiment, where the network has several."""
    image_key: str = IMAGE_KEY
    """To lerobot: LeRobot's key of the camera, as the environment or robot names it."""

    def run(self, _command: str) -> int:
        """Convert, and print what the network takes and gives."""
        if real_path(self.out) == real_path(self.path):
            raise SaveError(f"{self.out} is the folder to convert, which must not be replaced. Give another folder")
        with writing_alone(self.out):
            info = self._write()
        encoder = "not known" if info.text_encoder is None else info.text_encoder.name
        names = ", ".join(info.action_spec.dimension_names)
        print(f"{self.out}: window {info.model.window}, text encoder {encoder}, action {names}")
        return 0

    def _write(self) -> CheckpointInfo:
        if self.to == "lerobot":
            return write_lerobot(self.path, self.out, embodiment=self.embodiment, image_key=self.image_key)
        if self.embodiment is not None:
            raise UsageError(f"--embodiment is {self.embodiment}, which --to rt1 does not take. Leave it out")
        checkpoint = read_lerobot(self.path)
        save_checkpoint(self.out, model=checkpoint.model, info=checkpoint.info, extras=self.path)
        return checkpoint.info


def _convert_google(command: ConvertTensorFlowCommand | ConvertFlaxCommand, convert: Callable[..., Conversion]) -> int:
    check_replaceable(command.out, CHECKPOINT_FILES)  # before the weights are read
    with writing_alone(command.out):
        conversion = convert(command.path, config=command.config, action_order=command.action_order or None)
        info = CheckpointInfo(
            model=conversion.configuration.model,
            action_spec=conversion.configuration.action,
            text_encoder=USE_LARGE_5,
            provenance=conversion.report.to_json(),
        )
        save_checkpoint(command.out, model=conversion.model, info=info)
    counts = parameter_counts(conversion.model)
    print(f"{command.out}: {conversion.report.configuration}, {counts.pop('total'):,} parameters")
    for name, count in counts.items():
        print(f"  {name:14s}{count:>12,}")
    _print_skipped(conversion.report.skipped, conversion.report.notes)
    return 0


def _print_skipped(skipped: Mapping[str, tuple[str, ...]], notes: tuple[str, ...]) -> None:
    for reason, names in skipped.items():
        print(f"  skipped {len(names)}: {reason} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})")
    for note in notes:
        print(f"  note: {note}")


@dataclass(frozen=True, kw_only=True)
class ConvertDataCommand:
    """Convert a data set to RLDS or LeRobot with unchanged image bytes. Run it again to resume."""

    path: tyro.conf.Positional[Path]
    """Folder of the data set, an HDF5 file, or hf:OWNER/NAME on the Hugging Face hub."""
    out: Path
    """Folder to write."""
    to: Format
    """Format to write."""
    settings: tyro.conf.OmitArgPrefixes[ConvertSettings] = field(default_factory=ConvertSettings)
    """Settings of the conversion."""
    data: DataFormat = field(default_factory=DataOptions)

    def run(self, _command: str) -> int:
        """Convert, and print the size of the new data set."""
        out = real_path(self.out)
        if real_path(self.path) in (out, *out.parents):
            raise SaveError(f"{self.out} lies in the data set {self.path}. Write to a folder outside of it")
        source = open_data(self.path, self.data)
        report = convert_source(source, self.out, to=self.to, settings=self.settings)
        print(
            f"{report.folder}: {report.episodes} episodes, {report.steps} steps, {report.instructions} instructions, "
            f"{report.megabytes:.1f} MB of {report.format}"
        )
        return 0
