"""Released weights to our network: the door to the readers of TensorFlow, flax and ImageNet files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rt1.model.rt1 import RT1
from rt1.pretrained import flax, tensorflow
from rt1.pretrained.imagenet import convert_imagenet, load_imagenet
from rt1.pretrained.layout import ConversionReport
from rt1.pretrained.released import Configuration

__all__ = [
    "Conversion",
    "ConversionReport",
    "convert_flax",
    "convert_imagenet",
    "convert_tensorflow",
    "load_imagenet",
]


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A converted network and all that a checkpoint says of it."""

    model: RT1
    """The network, in evaluation mode."""
    configuration: Configuration
    """Its sizes, and the action it predicts."""
    report: ConversionReport
    """What was read and what was left out."""


def convert_tensorflow(
    path: Path | str, *, config: str | Path | None = None, action_order: Sequence[str] | None = None
) -> Conversion:
    """Read Google's TensorFlow weights.

    Args:
        path: a checkpoint prefix (``.../ckpt-424760``) or a SavedModel folder.
        config: a name of :data:`rt1.pretrained.released.RELEASED` or a JSON file; None infers it from the shapes.
        action_order: names of the action's parts in token order; None keeps the configuration's. TensorFlow files do
            not tell it.

    Raises:
        ValueError: the files cannot be read (``BundleError``), or do not fit the configuration.
    """
    return _conversion(tensorflow.convert, path, config, action_order)


def convert_flax(
    path: Path | str, *, config: str | Path | None = None, action_order: Sequence[str] | None = None
) -> Conversion:
    """Read Google's JAX weights (RT-1-X).

    Args:
        path: a flax msgpack file, or the folder it lies in.
        config: a name of :data:`rt1.pretrained.released.RELEASED` or a JSON file; None infers it from the shapes.
        action_order: names of the action's parts in token order; None keeps the configuration's.

    Raises:
        ValueError: the file cannot be read (``FlaxFileError``), or does not fit the configuration.
    """
    return _conversion(flax.convert, path, config, action_order)


def _conversion(
    convert: Callable[[Path | str, str | Path | None], tuple[RT1, Configuration, ConversionReport]],
    path: Path | str,
    config: str | Path | None,
    action_order: Sequence[str] | None,
) -> Conversion:
    model, configuration, report = convert(path, config)
    if action_order is not None:
        configuration = configuration.with_action_order(action_order)
    return Conversion(model=model, configuration=configuration, report=report)
