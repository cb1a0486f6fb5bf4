"""EfficientNet-B3 (Keras, timm, torchvision) and MaxViT (timm) trained on ImageNet to our backbone.

RT-1 starts from Keras' weights. The sources differ from RT-1's network in two ways. They turn a 300x300 image into a
10x10 map (SAME padding in Keras and in timm's ``tf_`` models, symmetric padding elsewhere), RT-1's padding into 9x9.
torchvision and timm's models without ``tf_`` have a BatchNorm eps of 1e-5, RT-1 has 1e-3. The closest are Keras and
timm's ``tf_efficientnet_b3``: with ``EfficientNetConfig(padding="same")`` they give their ImageNet features. So does a
MaxViT of timm's ``maxvit_*_tf_*`` (Google's weights).
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rt1.common.border import reading
from rt1.common.files import replacing
from rt1.common.first_look import first_look
from rt1.common.json_config import to_json
from rt1.common.json_files import parse
from rt1.errors import CheckpointError, DataError
from rt1.model.efficientnet import EfficientNetConfig, FiLMEfficientNet
from rt1.model.maxvit import MaxViT, MaxViTConfig
from rt1.model.rt1 import RT1, RT1Config
from rt1.model.weights import first_problem, read_safetensors, weight_problem
from rt1.pretrained.imagenet_names import Naming, recognize
from rt1.pretrained.layout import ConversionReport, Skipped, Weight, grouped, source_shape, to_torch

METADATA_KEY = "rt1_imagenet"
COUNTER = "num_batches_tracked"
CLASSIFIER = "classifier of ImageNet"
MAX_RATIO = 100
"""Most times that the arrays of an .h5 file may be larger than it. Weights hardly compress. A header can claim more."""
_WRITE = "Write it with `rt1 convert imagenet`"

_ADDED = {"film", "condition", "output", "output_film", "output_condition"}
"""Our layers that ImageNet's networks do not have."""


def convert_imagenet(path: Path | str, out: Path | str) -> ConversionReport:
    """Write the weights of a file as our backbone, a ``.safetensors`` file.

    Args:
        path: EfficientNet-B3 as Keras ``.h5``, or of timm or torchvision as ``.safetensors`` / ``.pth`` / ``.pt`` /
            ``.bin``, or a MaxViT of timm (``maxvit_*_tf_*``) of any size, which is read off its shapes.
        out: file to write. :func:`load_imagenet` reads it.

    Raises:
        CheckpointError: the file cannot be read, or is no network of a known naming.
        SaveError: the file cannot be written.
    """
    path, out = Path(path), Path(out)
    tensors = _read(path)
    naming = _recognize(path, tensors)
    network = _title(naming.config)
    kind = f"{network.partition(':')[0]} of {naming.layout}"
    used = tuple(weight.name for weight in naming.weights)
    if missing := [name for name in used if name not in tensors]:  # before a network of the sizes in the names is made
        raise CheckpointError(f"{path} has no {missing[0]!r}, which {kind} has")
    targets = _targets(_empty(naming.config))
    converted: dict[str, Tensor] = {}
    for weight in naming.weights:
        if (problem := weight_problem(tensors[weight.name])) is not None:
            raise CheckpointError(f"{path}: {weight.name!r} {problem}. Get the file again")
        tensor = _to_ours(tensors[weight.name], weight, tuple(targets[weight.key].shape))
        if tensor is None:
            shapes = f"{list(tensors[weight.name].shape)}, which does not fit {list(targets[weight.key].shape)}"
            raise CheckpointError(f"{path}: {weight.name!r} has shape {shapes} of {network}. Give weights of that size")
        converted[weight.key] = tensor
    assert converted.keys() == targets.keys()
    component = "efficientnet" if isinstance(naming.config, EfficientNetConfig) else "maxvit"
    report = ConversionReport(
        source=path.name,
        format=kind,
        configuration=network,
        used=used,
        skipped=grouped([Skipped(name=name, reason=_why(name)) for name in sorted(tensors.keys() - set(used))]),
        parameters={component: sum(t.numel() for k, t in converted.items() if "running_" not in k)},
        notes=(_note(naming),),
    )
    with replacing(out) as temporary:
        save_file(converted, temporary, metadata={METADATA_KEY: json.dumps(report.to_json())})
    return report


def load_imagenet(model: RT1, path: Path | str) -> None:
    """Fill a network's backbone with what :func:`convert_imagenet` wrote. FiLM and the rest stay as they are.

    Raises:
        CheckpointError: the file is not one of these, or the network's backbone is another one.
    """
    path = Path(path)
    tensors, metadata = read_safetensors(path, error=CheckpointError, cure=_WRITE)
    if METADATA_KEY not in metadata:
        raise CheckpointError(f"{path} was not written by `rt1 convert imagenet`. Convert the weights first")
    about = parse(metadata[METADATA_KEY], name=f"the description in {path}", error=CheckpointError, cure=_WRITE)
    network = about.get("configuration") if isinstance(about, dict) else None
    if not isinstance(model.backbone, FiLMEfficientNet | MaxViT):
        raise CheckpointError(f"{path} holds {network}. This network's backbone is {model.config.backbone}")
    targets = _targets(model.backbone)
    if isinstance(model.backbone, FiLMEfficientNet) and model.backbone.top is None:
        tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith(("top.", "top_norm."))}
    shapes, target_shapes = ({key: tensor.shape for key, tensor in group.items()} for group in (tensors, targets))
    bad = sorted(key for key in shapes.keys() | target_shapes.keys() if shapes.get(key) != target_shapes.get(key))
    if bad:
        difference = f"they differ in {len(bad)} tensors, such as {bad[0]!r}"
        other = f"This network's backbone is another one, {model.config.backbone}: {difference}"
        raise CheckpointError(f"{path} holds {network}. {other}. Use that backbone, or leave the ImageNet weights out")
    if (problem := first_problem(tensors, targets)) is not None:
        raise CheckpointError(f"{path}: {problem}. {_WRITE}")
    model.backbone.load_state_dict(tensors, strict=False)


def _recognize(path: Path, tensors: Mapping[str, Tensor]) -> Naming:
    try:
        naming = recognize(tensors)
    except (ValueError, LookupError, ArithmeticError) as error:
        raise CheckpointError(f"{path}: its sizes cannot be told ({error}). Give another file") from error
    if naming is None:
        cure = "Give EfficientNet-B3 of Keras (.h5), timm or torchvision, or MaxViT of timm"
        raise CheckpointError(f"{path} has weights of names that are not known: {sorted(tensors)[:3]!r:.200}. {cure}")
    return naming


def _empty(config: EfficientNetConfig | MaxViTConfig) -> nn.Module:
    """Return a backbone of this size without memory for its weights."""
    with torch.device("meta"):
        if isinstance(config, EfficientNetConfig):
            return FiLMEfficientNet(config, text_width=1, output_width=1)
        return MaxViT(config, text_width=1, output_width=1)


def _title(config: EfficientNetConfig | MaxViTConfig) -> str:
    """Return a network's name and, for a MaxViT, the options of ``rt1 train`` that give it its sizes."""
    if isinstance(config, EfficientNetConfig):
        return "EfficientNet-B3"
    words = ["MaxViT: --model.backbone maxvit"]
    standard = to_json(MaxViTConfig())
    for name, value in to_json(config).items():
        if value != standard[name]:
            numbers = " ".join(map(str, value)) if isinstance(value, list) else value
            words.append(f"--model.maxvit.{name.replace('_', '-')} {numbers}")
    return " ".join(words)


def _note(naming: Naming) -> str:
    if isinstance(naming.config, EfficientNetConfig):
        maps = "gives a 10x10 map from 300x300 pixels, RT-1's padding a 9x9 map"
        return f"{naming.layout} {maps}. The weights load all the same"
    return f"they fill {_title(naming.config)}. Images are multiples of {naming.config.divisor} pixels"


def _targets(backbone: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a backbone that ImageNet weights fill: all but those of its :data:`_ADDED` layers."""
    layer = re.compile(r"(?:blocks\.\d+\.)?(\w+)")
    state = {key: tensor for key, tensor in backbone.state_dict().items() if not key.endswith(COUNTER)}
    return {key: tensor for key, tensor in state.items() if (m := layer.match(key)) and m[1] not in _ADDED}


def _to_ours(tensor: Tensor, weight: Weight, target: tuple[int, ...]) -> Tensor | None:
    """Bring a tensor to our layout. None if it has another shape than the layout says."""
    expected = source_shape(weight, target, RT1Config())
    # PyTorch's squeeze-excite layers are 1x1 convolutions, ours are linear.
    allowed = {expected, (*expected, 1, 1)} if weight.kind == "copy" and len(target) == 2 else {expected}
    return to_torch(tensor.float().numpy(), weight.kind, target) if tuple(tensor.shape) in allowed else None


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path} is not there. Give a .h5, .safetensors or .pth file")
    if path.suffix in (".h5", ".hdf5"):
        return _read_keras(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path, error=CheckpointError, cure="Get the whole file again")[0]
    return _read_torch(path)


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings(action="ignore"):  # torch's advice on old formats, for their writers
            tensors: object = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Not torch's message: it advises to load the file with the code in it, or is the number of an opcode.
        problem = "is not a whole file of torch.save. Get the whole file again"
        if type(error).__name__ == "UnpicklingError":
            problem = (
                "is damaged, or holds objects other than tensors, which could run code. Save model.state_dict() alone"
            )
        raise CheckpointError(f"{path} {problem}") from error
    if not isinstance(tensors, dict) or not all(map(_is_named_tensor, tensors.items())):
        raise CheckpointError(f"{path} holds no plain dictionary of tensors. Save model.state_dict() alone")
    if sum(tensor.numel() for tensor in tensors.values()) > path.stat().st_size:  # by strides of 0
        raise CheckpointError(f"{path} claims larger tensors than it holds. Get another file")
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _is_named_tensor(item: tuple[object, object]) -> bool:
    name, value = item
    return isinstance(name, str) and isinstance(value, Tensor) and value.layout == torch.strided


def _read_keras(path: Path) -> dict[str, Tensor]:
    import h5py  # noqa: F401 (where it is missing, this is the error)

    try:
        first_look("rt1.pretrained.imagenet:keras_tensors", path, library="h5py")
        return keras_tensors(path)
    except DataError as error:
        raise CheckpointError(str(error)) from error


def keras_tensors(path: Path | str) -> dict[str, Tensor]:
    """Return every array of a Keras weight file as ``layer/variable``.

    Raises:
        DataError: it is no HDF5 file, or damaged. h5py can also crash or hang: see :mod:`rt1.common.first_look`.
    """
    import h5py

    tensors: dict[str, Tensor] = {}
    left = MAX_RATIO * Path(path).stat().st_size

    def visit(name: str, item: object) -> None:
        nonlocal left
        if isinstance(item, h5py.Dataset):
            left -= item.nbytes
            if left < 0:
                raise ValueError("its header claims far larger arrays than it holds")
            layer, variable = ["", *name.split("/")][-2:]
            tensors[f"{layer}/{variable.removesuffix(':0')}"] = torch.from_numpy(np.array(item))

    with reading(path, cure="Get the whole file again"), h5py.File(path, "r") as file:
        file.visititems(visit)
    return tensors


def _why(name: str) -> str:
    if name.endswith(COUNTER):
        return "counter"
    return "input normalization, which RT-1 has of its own" if name.startswith("normalization") else CLASSIFIER
