"""EfficientNet-B3 trained on ImageNet (Keras, timm, torchvision) to our backbone.

RT-1 starts from Keras' weights. Two things differ between the sources and RT-1's network, and the weights load
all the same: these networks turn a 300x300 image into a 10x10 map (SAME padding in Keras at a fixed size and in timm's
``tf_`` models, symmetric padding in torchvision and timm's others) where RT-1's padding gives 9x9; and torchvision and
timm's models without ``tf_`` were trained with a BatchNorm eps of 1e-5 where RT-1 has 1e-3. Weights of Keras and of
timm's ``tf_efficientnet_b3`` are therefore the closest. With ``EfficientNetConfig(padding="same")`` these give the
features they gave on ImageNet.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from rt1.files import replacing
from rt1.model.convert.layout import (
    ConversionReport,
    Kind,
    Skipped,
    Weight,
    block_names,
    grouped,
    source_shape,
    to_torch,
)
from rt1.model.efficientnet import EfficientNetConfig, FiLMEfficientNet
from rt1.model.rt1 import RT1, RT1Config

METADATA_KEY = "rt1_imagenet"
COUNTER = "num_batches_tracked"
CLASSIFIER = "classifier of ImageNet"

Names = Iterator[Weight]


def convert_imagenet(path: Path | str, out: Path | str) -> ConversionReport:
    """Write the EfficientNet-B3 weights of a file as our backbone, a ``.safetensors`` file.

    Args:
        path: Keras ``.h5``, or timm or torchvision ``.safetensors`` / ``.pth`` / ``.pt`` / ``.bin``.
        out: file to write; :func:`load_imagenet` reads it.

    Raises:
        ValueError: the file cannot be read, or is no EfficientNet-B3 of a known naming.
        SaveError: the file cannot be written.
    """
    path, out = Path(path), Path(out)
    tensors = _read(path)
    layout, names = _naming(path, tensors)
    wanted = _wanted(FiLMEfficientNet(EfficientNetConfig(), text_width=1, output_width=1))
    converted: dict[str, Tensor] = {}
    for weight in names:
        if weight.name not in tensors:
            raise ValueError(f"{path} has no {weight.name!r}, which an EfficientNet-B3 of {layout} has")
        tensor = _to_ours(tensors[weight.name], weight, tuple(wanted[weight.key].shape))
        if tensor is None:
            raise ValueError(
                f"{path}: {weight.name!r} has shape {list(tensors[weight.name].shape)}, which does not fit "
                f"EfficientNet-B3's {list(wanted[weight.key].shape)}; give B3 weights"
            )
        converted[weight.key] = tensor
    assert converted.keys() == wanted.keys()
    report = ConversionReport(
        source=path.name,
        format=f"EfficientNet-B3 of {layout}",
        configuration="EfficientNet-B3",
        used=tuple(weight.name for weight in names),
        skipped=grouped([Skipped(name=name, reason=_why(name)) for name in tensors.keys() - {w.name for w in names}]),
        parameters={"efficientnet": sum(t.numel() for k, t in converted.items() if "running_" not in k)},
        notes=(
            f"{layout} gives a 10x10 map from 300x300 pixels, RT-1's padding a 9x9 map; the weights load all the same",
        ),
    )
    with replacing(out) as beside:
        save_file(converted, beside, metadata={METADATA_KEY: json.dumps(report.to_json())})
    return report


def load_imagenet(model: RT1, path: Path | str) -> None:
    """Fill a network's EfficientNet with what :func:`convert_imagenet` wrote; FiLM and the rest stay as they are.

    Raises:
        ValueError: the file is not one of these, or the network's EfficientNet is not a B3.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read: {error}; write it with `rt1 convert imagenet`") from error
    if METADATA_KEY not in metadata:
        raise ValueError(f"{path} was not written by `rt1 convert imagenet`; convert the weights first")
    if not isinstance(model.backbone, FiLMEfficientNet):
        raise ValueError(f"{path} holds an EfficientNet-B3; this network's backbone is {model.config.backbone}")
    wanted = _wanted(model.backbone)
    bad = sorted(
        k
        for k in wanted.keys() | tensors.keys()
        if k not in wanted or k not in tensors or wanted[k].shape != tensors[k].shape
    )
    if bad:
        raise ValueError(
            f"{path} holds an EfficientNet-B3; this network's backbone is another one: they differ in {len(bad)} "
            f"tensors, such as {bad[0]!r}; use EfficientNetConfig() or leave the ImageNet weights out"
        )
    model.backbone.load_state_dict(tensors, strict=False)


def _wanted(backbone: FiLMEfficientNet) -> dict[str, Tensor]:
    """Return the tensors of a backbone that ImageNet weights fill: all but FiLM and what follows the network."""
    return {
        key: tensor
        for key, tensor in backbone.state_dict().items()
        if ".film." not in key and not key.startswith(("output.", "output_film.")) and not key.endswith(COUNTER)
    }


def _to_ours(tensor: Tensor, weight: Weight, target: tuple[int, ...]) -> Tensor | None:
    """Bring a tensor to our layout; None if it has another shape than the layout says."""
    expected = source_shape(weight, target, RT1Config())
    # PyTorch's squeeze-excite layers are 1x1 convolutions, ours are linear.
    allowed = {expected, (*expected, 1, 1)} if weight.kind == "copy" and len(target) == 2 else {expected}
    return to_torch(tensor.numpy(), weight.kind, target) if tuple(tensor.shape) in allowed else None


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"{path} is not there; give a .h5, .safetensors or .pth file")
    try:
        if path.suffix in (".h5", ".hdf5"):
            return _read_keras(path)
        if path.suffix == ".safetensors":
            tensors: object = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each format's reader has errors of its own
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} cannot be read as weights: {why}") from error
    if not isinstance(tensors, Mapping) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ValueError(f"{path} holds no plain dictionary of tensors; save model.state_dict() alone")
    return {name: tensor.float() for name, tensor in tensors.items()}


def _read_keras(path: Path) -> dict[str, Tensor]:
    """Read every array of a Keras weight file as ``layer/variable``."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError("reading .h5 needs h5py: pip install h5py") from error
    tensors: dict[str, Tensor] = {}

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            layer, variable = name.split("/")[-2:]
            tensors[f"{layer}/{variable.removesuffix(':0')}"] = torch.from_numpy(np.asarray(item, dtype=np.float32))

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return tensors


def _naming(path: Path, tensors: Mapping[str, Tensor]) -> tuple[str, list[Weight]]:
    config = EfficientNetConfig()
    for layout, first, names in (
        ("Keras", "stem_conv/kernel", keras_names),
        ("timm", "conv_stem.weight", _timm),
        ("torchvision", "features.0.0.weight", _torchvision),
    ):
        if first in tensors:
            return layout, list(names(config))
    raise ValueError(
        f"{path} names its weights in a way that is not known: {sorted(tensors)[:3]}; "
        "Keras' .h5, timm's and torchvision's EfficientNet-B3 are"
    )


def keras_names(config: EfficientNetConfig) -> Names:
    yield _one("stem_conv/kernel", "stem", "conv")
    yield from _keras_norm("stem_bn", "stem_norm")
    for index, name, expands in block_names(config):
        keras, ours = f"block{name}_", f"blocks.{index}."
        if expands:
            yield _one(f"{keras}expand_conv/kernel", f"{ours}expand", "conv")
            yield from _keras_norm(f"{keras}expand_bn", f"{ours}expand_norm")
        yield _one(f"{keras}dwconv/depthwise_kernel", f"{ours}depthwise", "depthwise")
        yield from _keras_norm(f"{keras}bn", f"{ours}depthwise_norm")
        for part in ("reduce", "expand"):
            yield _one(f"{keras}se_{part}/kernel", f"{ours}squeeze.{part}", "dense_1x1")
            yield Weight(name=f"{keras}se_{part}/bias", key=f"{ours}squeeze.{part}.bias")
        yield _one(f"{keras}project_conv/kernel", f"{ours}project", "conv")
        yield from _keras_norm(f"{keras}project_bn", f"{ours}project_norm")
    yield _one("top_conv/kernel", "top", "conv")
    yield from _keras_norm("top_bn", "top_norm")


def _timm(config: EfficientNetConfig) -> Names:
    yield from _conv_and_norm("conv_stem", "bn1", "stem")
    for index, name, expands in block_names(config):
        theirs, ours = f"blocks.{int(name[0]) - 1}.{ord(name[1]) - ord('a')}.", f"blocks.{index}."
        # Without an expansion timm counts its convolutions and norms from the depthwise one on.
        parts = (
            (("conv_pw", "bn1", "expand"), ("conv_dw", "bn2", "depthwise"), ("conv_pwl", "bn3", "project"))
            if expands
            else (("conv_dw", "bn1", "depthwise"), ("conv_pw", "bn2", "project"))
        )
        for conv, norm, part in parts:
            yield from _conv_and_norm(f"{theirs}{conv}", f"{theirs}{norm}", f"{ours}{part}")
        for part in ("reduce", "expand"):
            yield from _weight_and_bias(f"{theirs}se.conv_{part}", f"{ours}squeeze.{part}")
    yield from _conv_and_norm("conv_head", "bn2", "top")


def _torchvision(config: EfficientNetConfig) -> Names:
    yield from _conv_and_norm("features.0.0", "features.0.1", "stem")
    for index, name, expands in block_names(config):
        theirs, ours = f"features.{name[0]}.{ord(name[1]) - ord('a')}.block.", f"blocks.{index}."
        parts = ("expand", "depthwise", "squeeze", "project") if expands else ("depthwise", "squeeze", "project")
        for place, part in enumerate(parts):
            if part == "squeeze":
                yield from _weight_and_bias(f"{theirs}{place}.fc1", f"{ours}squeeze.reduce")
                yield from _weight_and_bias(f"{theirs}{place}.fc2", f"{ours}squeeze.expand")
            else:
                yield from _conv_and_norm(f"{theirs}{place}.0", f"{theirs}{place}.1", f"{ours}{part}")
    last = len(config.stages) + 1
    yield from _conv_and_norm(f"features.{last}.0", f"features.{last}.1", "top")


def _one(name: str, key: str, kind: Kind) -> Weight:
    return Weight(name=name, key=f"{key}.weight", kind=kind)


def _weight_and_bias(name: str, key: str) -> Names:
    for part in ("weight", "bias"):
        yield Weight(name=f"{name}.{part}", key=f"{key}.{part}")


def _conv_and_norm(conv: str, norm: str, key: str) -> Names:
    yield Weight(name=f"{conv}.weight", key=f"{key}.weight")
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield Weight(name=f"{norm}.{part}", key=f"{key}_norm.{part}")


def _keras_norm(name: str, key: str) -> Names:
    parts = {
        "gamma": "weight",
        "beta": "bias",
        "moving_mean": "running_mean",
        "moving_variance": "running_var",
    }
    for theirs, ours in parts.items():
        yield Weight(name=f"{name}/{theirs}", key=f"{key}.{ours}")


def _why(name: str) -> str:
    if name.endswith(COUNTER):
        return "counter"
    return "input normalisation, which RT-1 has of its own" if name.startswith("normalization") else CLASSIFIER
