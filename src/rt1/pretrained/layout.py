"""From the arrays of TensorFlow and flax to tensors of :class:`rt1.model.rt1.RT1`: layouts, shape checks, assignment.

Both frameworks lay out a dense layer (in, out), a convolution (H, W, in, out), attention (width, heads, head width).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rt1.model.efficientnet import EfficientNetConfig
from rt1.model.heads import parameter_counts
from rt1.model.rt1 import RT1, RT1Config
from rt1.model.weights import outline, weight_problem
from rt1.pretrained.released import RELEASED, Configuration, load_configuration

Kind = Literal[
    "copy", "dense", "dense_1x1", "conv", "depthwise", "heads_in", "heads_out", "heads_bias",
    "pixel_mean", "pixel_variance",
]  # fmt: skip

# Google's code multiplies pixels by 255, by the float32 nearest to 1/255, then by these float32 numbers: TensorFlow's
# 1/sqrt of the ImageNet deviations, of which the last is a neighbour of the nearest float32. Recorded, not derived.
KERAS_PIXEL_GAIN = 255.0 * float(np.float32(1.0 / 255.0))
KERAS_PIXEL_SCALE = tuple(float(np.float32(scale)) for scale in (2.089691877, 2.112885714, 2.108185291))

_CURE = "Convert with the configuration that the network was trained with"
CONV_AXES = {"conv": (3, 2, 0, 1), "depthwise": (2, 3, 0, 1)}


@dataclass(frozen=True, kw_only=True)
class Weight:
    """One array of a file and the place it goes to."""

    name: str
    """Name in the file, without what all names share."""
    key: str
    """Key in the network's state dict."""
    kind: Kind = "copy"
    """How the file lays it out."""
    third: int | None = None
    """The third of the rows it fills. None fills the whole tensor."""


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """An array of a file that the network has no use for."""

    name: str
    """Name in the file, without what all names share."""
    reason: str


Variable = Weight | Skipped


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """An open file of weights of TensorFlow or flax. A key names an array in the file."""

    path: Path
    """The file, for messages."""
    format: str
    """Name of the format, for the report."""
    released: tuple[str, ...]
    """Names of the released configurations that such a file can hold."""
    variables: Callable[[RT1Config], Mapping[str, Variable]]
    """Function that returns the arrays of a network by key."""
    shapes: Mapping[str, tuple[int, ...]]
    """Shapes of the file's arrays of the network, by key."""
    read: Callable[[str], NDArray[Any]]
    """Function that returns the array of a key."""
    others: Sequence[Skipped]
    """The file's other arrays."""
    notes: tuple[str, ...] = ()
    """What the user should know about this file."""


@dataclass(frozen=True, kw_only=True)
class ConversionReport:
    """What a conversion did. Plain data for the provenance of a checkpoint."""

    source: str
    """Name of the file or folder that was read."""
    format: str
    configuration: str
    """Name of the released configuration, or the file that gave it."""
    used: tuple[str, ...]
    """Names of the tensors that were converted."""
    skipped: Mapping[str, tuple[str, ...]]
    """Names of the tensors that were not, by reason."""
    parameters: Mapping[str, int]
    """Trainable parameters per component."""
    notes: tuple[str, ...] = ()
    """What the user should know about this file."""

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json``: counts in place of the lists of names."""
        return {
            "source": self.source,
            "format": self.format,
            "configuration": self.configuration,
            "tensors_used": len(self.used),
            "tensors_skipped": {reason: len(names) for reason, names in self.skipped.items()},
            "notes": list(self.notes),
        }


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A converted network and all that a checkpoint says of it."""

    model: RT1
    """The network, in evaluation mode."""
    configuration: Configuration
    report: ConversionReport


def renamed(name: str, key: str, parts: Mapping[str, str]) -> Iterator[Weight]:
    """Yield the arrays of a layer that are copied as they are, by part name in the file and in the network."""
    for part, target in parts.items():
        yield Weight(name=f"{name}/{part}", key=f"{key}.{target}")


def dense(name: str, key: str, kind: Kind = "dense", third: int | None = None) -> Iterator[Weight]:
    """Yield the kernel and the bias of a layer, or of the query (0), key (1) or value (2) of an attention layer."""
    yield Weight(name=f"{name}/kernel", key=f"{key}.weight", kind=kind, third=third)
    yield Weight(name=f"{name}/bias", key=f"{key}.bias", kind="copy" if third is None else "heads_bias", third=third)


def block_names(config: EfficientNetConfig) -> Iterator[tuple[int, str, bool]]:
    """Yield each block's index, Keras' name of it (``1a``, ``1b``, ``2a`` ...) and whether it has an expansion."""
    index = 0
    for number, stage in enumerate(config.stages, start=1):
        for repeat in range(config.blocks(stage.blocks)):
            yield index, f"{number}{chr(ord('a') + repeat)}", stage.expand != 1
            index += 1


def source_shape(weight: Weight, target: Sequence[int], config: RT1Config) -> tuple[int, ...]:
    """Return the shape the file's array must have to fill a tensor of shape ``target`` (one third, if it fills one)."""
    heads, head_width = config.transformer.heads, config.transformer.head_width
    if weight.kind in CONV_AXES:
        return tuple(target[axis] for axis in np.argsort(CONV_AXES[weight.kind]))
    shapes: dict[Kind, tuple[int, ...]] = {
        "dense": (target[-1], target[0]),
        "dense_1x1": (1, 1, target[-1], target[0]),
        "heads_in": (target[-1], heads, head_width),
        "heads_out": (heads, head_width, target[0]),
        "heads_bias": (heads, head_width),
    }
    return shapes.get(weight.kind, tuple(target))


def to_torch(array: NDArray[Any], kind: Kind, target: Sequence[int]) -> Tensor:
    """Return a file's array in the layout and shape of a torch tensor, float32."""
    array = np.asarray(array, dtype=np.float32)
    if kind in CONV_AXES:
        array = array.transpose(CONV_AXES[kind])
    elif kind in ("dense", "dense_1x1", "heads_in", "heads_out"):
        array = array.reshape(tuple(target)[::-1]).T
    elif kind in PIXELS:
        array = PIXELS[kind](array).astype(np.float32)
    return torch.from_numpy(np.array(array, order="C")).reshape(tuple(target))  # a copy: files give read-only arrays


def pixel_mean(mean: NDArray[Any]) -> NDArray[np.float64]:
    """Return what is subtracted from pixels in [0, 1], given Keras' normalization mean, float64 (3,)."""
    return np.asarray(mean, np.float64) / KERAS_PIXEL_GAIN


def pixel_std(variance: NDArray[Any]) -> NDArray[np.float64]:
    """Return what pixels in [0, 1] are divided by, given Keras' normalization variance, float64 (3,).

    Keras divides by ``sqrt(variance)`` and, in its EfficientNet, once more by ``sqrt`` of the ImageNet deviations. In
    every released checkpoint the variance holds these deviations too, so that the product is the deviation itself.
    """
    with np.errstate(invalid="ignore"):  # of a negative variance: NaN, which is refused
        root = np.maximum(np.sqrt(np.asarray(variance, np.float64)), 1e-7)
    return root / np.asarray(KERAS_PIXEL_SCALE) / KERAS_PIXEL_GAIN


PIXELS: Mapping[Kind, Callable[[NDArray[Any]], NDArray[np.float64]]] = {
    "pixel_mean": pixel_mean,
    "pixel_variance": pixel_std,
}


def target_shape(weight: Weight, tensor: Tensor) -> tuple[int, ...]:
    """Return the shape of the tensor, or of the third of its rows, that ``weight`` fills."""
    rows = tensor.shape[0] if weight.third is None else tensor.shape[0] // 3
    return (rows, *tensor.shape[1:])


def check_shapes(
    variables: Mapping[str, Variable], model: RT1, shapes: Mapping[str, tuple[int, ...]], *, configuration: str
) -> None:
    """Raise ``ValueError`` for the first weight that the file lacks or that does not have the network's shape."""
    state = model.state_dict()
    for key, weight in variables.items():
        if isinstance(weight, Skipped):
            continue
        if key not in shapes:
            raise ValueError(f"no variable {weight.name!r}, which the configuration {configuration} needs. {_CURE}")
        expected = source_shape(weight, target_shape(weight, state[weight.key]), model.config)
        if tuple(shapes[key]) != expected:
            problem = f"variable {weight.name!r} has shape {list(shapes[key])}"
            raise ValueError(f"{problem}. The configuration {configuration} needs {list(expected)}. {_CURE}")


def released_with(file: WeightFile) -> Configuration:
    """Return the first released configuration whose weights have the shapes of a file.

    Raises:
        ValueError: none fits. The message says where the first one does not.
    """
    problems = []
    for name in file.released:
        configuration = RELEASED[name]()
        network = configuration.model
        try:
            check_shapes(file.variables(network), outline(network), file.shapes, configuration=name)
        except ValueError as error:
            problems.append(str(error).split(". ", maxsplit=1)[0])
        else:
            return configuration
    names, cure = ", ".join(file.released), "Give --config with a JSON file that describes the network"
    raise ValueError(f"no released configuration ({names}) fits: {problems[0]}. {cure}")


def convert_file(
    file: WeightFile, config: str | Path | None = None, action_order: Sequence[str] | None = None
) -> Conversion:
    """Return the network of a file of weights, in evaluation mode.

    Args:
        file: the open file.
        config: a name of :data:`rt1.pretrained.released.RELEASED` or a JSON file. None infers it from the shapes.
        action_order: names of the action's parts in token order. None keeps the configuration's.

    Raises:
        ValueError: the file does not fit the configuration.
    """
    configuration = released_with(file) if config is None else load_configuration(config)
    if action_order is not None:
        configuration = configuration.with_action_order(action_order)
    variables = file.variables(configuration.model)
    if surplus := sorted(file.shapes.keys() - variables.keys()):
        arrays = f"{len(surplus)} arrays that the configuration {configuration.name} does not have"
        raise ValueError(f"{file.path} has {arrays}, such as {surplus[0]!r}. {_CURE}")
    check_shapes(variables, outline(configuration.model), file.shapes, configuration=configuration.name)
    model = RT1(configuration.model)
    weights = [variable for variable in variables.values() if isinstance(variable, Weight)]
    keys = {variable.name: key for key, variable in variables.items()}
    fill(model, weights, lambda name: file.read(keys[name]))
    unused = [v for key, v in variables.items() if isinstance(v, Skipped) and key in file.shapes]
    report = ConversionReport(
        source=file.path.name,
        format=file.format,
        configuration=configuration.name,
        used=tuple(weight.name for weight in weights),
        skipped=grouped([*unused, *file.others]),
        parameters=parameter_counts(model),
        notes=file.notes,
    )
    return Conversion(model=model.eval(), configuration=configuration, report=report)


def fill(model: RT1, weights: Sequence[Weight], read: Callable[[str], NDArray[Any]]) -> None:
    """Read each weight in turn and copy it into the network. Shapes were checked before.

    Raises:
        ValueError: an array that :func:`rt1.model.weights.weight_problem` refuses.
    """
    state = model.state_dict()
    for weight in weights:
        tensor = state[weight.key]
        if weight.third is not None:
            tensor = tensor.chunk(3)[weight.third]
        array = read(weight.name)
        if (problem := weight_problem(torch.from_numpy(np.array(array)))) is not None:
            raise ValueError(f"variable {weight.name!r} {problem}. Get the file again")
        converted = to_torch(array, weight.kind, tensor.shape)
        if (problem := weight_problem(converted)) is not None:
            raise ValueError(f"variable {weight.name!r}, converted, {problem}. Get the file again")
        with torch.no_grad():
            tensor.copy_(converted)


def grouped(skipped: Sequence[Skipped]) -> dict[str, tuple[str, ...]]:
    groups: dict[str, list[str]] = {}
    for item in skipped:
        groups.setdefault(item.reason, []).append(item.name)
    return {reason: tuple(names) for reason, names in groups.items()}
