"""ImageNet weights of Keras, timm and torchvision to our backbone and back out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rt1.errors import CheckpointError
from rt1.model.efficientnet import EfficientNetConfig, FiLMEfficientNet, Stage
from rt1.model.rt1 import RT1, RT1Config
from rt1.pretrained.convert import convert_imagenet, load_imagenet

# The published EfficientNet-B3, written out: blocks, kernel, expansion, input and output channels.
STAGES = [
    (2, 3, 1, 40, 24),
    (3, 3, 6, 24, 32),
    (3, 5, 6, 32, 48),
    (5, 3, 6, 48, 96),
    (5, 5, 6, 96, 136),
    (6, 5, 6, 136, 232),
    (2, 3, 6, 232, 384),
]
Shapes = dict[str, tuple[int, ...]]


def blocks() -> Iterator[tuple[int, int, int, int, int, int]]:
    """Yield stage, repeat, kernel, expansion, input and output channels of the 26 blocks."""
    for stage, (count, kernel, expand, inputs, outputs) in enumerate(STAGES):
        for repeat in range(count):
            yield stage, repeat, kernel, expand, inputs if repeat == 0 else outputs, outputs


def norm(name: str, channels: int) -> Shapes:
    parts = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{part}": (channels,) for part in parts} | {f"{name}.num_batches_tracked": ()}


def squeeze(reduce: str, expand: str, channels: int, reduced: int) -> Shapes:
    return {
        f"{reduce}.weight": (reduced, channels, 1, 1),
        f"{reduce}.bias": (reduced,),
        f"{expand}.weight": (channels, reduced, 1, 1),
        f"{expand}.bias": (channels,),
    }


def timm_shapes() -> Shapes:
    shapes: Shapes = {"conv_stem.weight": (40, 3, 3, 3), **norm("bn1", 40)}
    for stage, repeat, kernel, expand, inputs, outputs in blocks():
        name, middle = f"blocks.{stage}.{repeat}", inputs * expand
        if expand == 1:
            shapes |= {f"{name}.conv_dw.weight": (middle, 1, kernel, kernel), **norm(f"{name}.bn1", middle)}
            shapes |= {f"{name}.conv_pw.weight": (outputs, middle, 1, 1), **norm(f"{name}.bn2", outputs)}
        else:
            shapes |= {f"{name}.conv_pw.weight": (middle, inputs, 1, 1), **norm(f"{name}.bn1", middle)}
            shapes |= {f"{name}.conv_dw.weight": (middle, 1, kernel, kernel), **norm(f"{name}.bn2", middle)}
            shapes |= {f"{name}.conv_pwl.weight": (outputs, middle, 1, 1), **norm(f"{name}.bn3", outputs)}
        shapes |= squeeze(f"{name}.se.conv_reduce", f"{name}.se.conv_expand", middle, inputs // 4)
    shapes |= {"conv_head.weight": (1536, 384, 1, 1), **norm("bn2", 1536)}
    return shapes | {"classifier.weight": (1000, 1536), "classifier.bias": (1000,)}


def torchvision_shapes() -> Shapes:
    shapes: Shapes = {"features.0.0.weight": (40, 3, 3, 3), **norm("features.0.1", 40)}
    for stage, repeat, kernel, expand, inputs, outputs in blocks():
        name, middle = f"features.{stage + 1}.{repeat}.block", inputs * expand
        at = 0
        if expand != 1:
            shapes |= {f"{name}.0.0.weight": (middle, inputs, 1, 1), **norm(f"{name}.0.1", middle)}
            at = 1
        shapes |= {f"{name}.{at}.0.weight": (middle, 1, kernel, kernel), **norm(f"{name}.{at}.1", middle)}
        shapes |= squeeze(f"{name}.{at + 1}.fc1", f"{name}.{at + 1}.fc2", middle, inputs // 4)
        shapes |= {f"{name}.{at + 2}.0.weight": (outputs, middle, 1, 1), **norm(f"{name}.{at + 2}.1", outputs)}
    shapes |= {"features.8.0.weight": (1536, 384, 1, 1), **norm("features.8.1", 1536)}
    return shapes | {"classifier.1.weight": (1000, 1536), "classifier.1.bias": (1000,)}


def keras_norm(name: str, channels: int) -> Shapes:
    return {f"{name}/{part}": (channels,) for part in ("gamma", "beta", "moving_mean", "moving_variance")}


def keras_shapes() -> Shapes:
    shapes: Shapes = {"normalization/mean": (3,), "normalization/variance": (3,), "normalization/count": ()}
    shapes |= {"stem_conv/kernel": (3, 3, 3, 40), **keras_norm("stem_bn", 40)}
    for stage, repeat, kernel, expand, inputs, outputs in blocks():
        name, middle = f"block{stage + 1}{'abcdef'[repeat]}_", inputs * expand
        if expand != 1:
            shapes |= {f"{name}expand_conv/kernel": (1, 1, inputs, middle), **keras_norm(f"{name}expand_bn", middle)}
        shapes |= {f"{name}dwconv/depthwise_kernel": (kernel, kernel, middle, 1), **keras_norm(f"{name}bn", middle)}
        shapes |= {f"{name}se_reduce/kernel": (1, 1, middle, inputs // 4), f"{name}se_reduce/bias": (inputs // 4,)}
        shapes |= {f"{name}se_expand/kernel": (1, 1, inputs // 4, middle), f"{name}se_expand/bias": (middle,)}
        shapes |= {f"{name}project_conv/kernel": (1, 1, middle, outputs), **keras_norm(f"{name}project_bn", outputs)}
    return shapes | {"top_conv/kernel": (1, 1, 384, 1536), **keras_norm("top_bn", 1536)}


def random_tensors(shapes: Shapes) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}


def backbone_keys() -> set[str]:
    net = FiLMEfficientNet(EfficientNetConfig(), text_width=1, output_width=1)
    return {k for k in net.state_dict() if "film" not in k and "tracked" not in k and not k.startswith("output.")}


@pytest.mark.parametrize("layout", ["timm", "torchvision"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_pytorch_network_comes_back_tensor_by_tensor(tmp_path: Path, layout: str, suffix: str) -> None:
    tensors = random_tensors(timm_shapes() if layout == "timm" else torchvision_shapes())
    file, out = tmp_path / f"weights{suffix}", tmp_path / "backbone.safetensors"
    if suffix == ".pth":
        torch.save(tensors, file)
    else:
        save_file(tensors, file)
    report = convert_imagenet(file, out)
    converted = load_file(out)
    assert converted.keys() == backbone_keys()
    assert report.format == f"EfficientNet-B3 of {layout}"
    assert {reason: len(names) for reason, names in report.skipped.items()} == {
        "counter": 78,
        "classifier of ImageNet": 2,
    }
    assert sorted(t.sum().item() for t in converted.values()) == pytest.approx(
        sorted(tensors[name].sum().item() for name in report.used), rel=1e-6
    )
    names = {
        "timm": ("conv_stem", "blocks.5.2.conv_dw", "blocks.5.2.bn2.running_var", "blocks.0.1.se.conv_expand"),
        "torchvision": (
            "features.0.0",
            "features.6.2.block.1.0",
            "features.6.2.block.1.1.running_var",
            "features.1.1.block.1.fc2",
        ),
    }[layout]
    assert torch.equal(converted["stem.weight"], tensors[f"{names[0]}.weight"])
    assert torch.equal(converted["blocks.20.depthwise.weight"], tensors[f"{names[1]}.weight"])
    assert torch.equal(converted["blocks.20.depthwise_norm.running_var"], tensors[names[2]])
    assert torch.equal(converted["blocks.1.squeeze.expand.weight"], tensors[f"{names[3]}.weight"][:, :, 0, 0])


@pytest.mark.parametrize("root", ["", "model_weights/"])
def test_a_keras_file_comes_back_tensor_by_tensor(tmp_path: Path, root: str) -> None:
    h5py = pytest.importorskip("h5py", reason="Keras files need h5py")
    tensors = random_tensors(keras_shapes())
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        for name, tensor in tensors.items():
            file[f"{root}{name.split('/')[0]}/{name}:0"] = tensor.numpy()
    out = tmp_path / "backbone.safetensors"
    report = convert_imagenet(tmp_path / "weights.h5", out)
    converted = load_file(out)
    assert converted.keys() == backbone_keys()
    assert report.skipped.keys() == {"input normalization, which RT-1 has of its own"}
    expected = tensors["block6c_dwconv/depthwise_kernel"].permute(2, 3, 0, 1)
    assert torch.equal(converted["blocks.20.depthwise.weight"], expected)
    assert torch.equal(converted["top.weight"], tensors["top_conv/kernel"].permute(3, 2, 0, 1))
    assert torch.equal(converted["blocks.1.squeeze.reduce.weight"], tensors["block1b_se_reduce/kernel"][0, 0].T)
    assert torch.equal(converted["blocks.25.project_norm.running_mean"], tensors["block7b_project_bn/moving_mean"])


def test_the_weights_load_into_a_network_and_leave_film_alone(tmp_path: Path) -> None:
    save_file(random_tensors(timm_shapes()), tmp_path / "weights.safetensors")
    convert_imagenet(tmp_path / "weights.safetensors", tmp_path / "backbone.safetensors")
    model = RT1(RT1Config())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    load_imagenet(model, tmp_path / "backbone.safetensors")
    converted = load_file(tmp_path / "backbone.safetensors")
    for name, tensor in model.state_dict().items():
        expected = converted.get(name.removeprefix("backbone."), before[name])
        assert torch.equal(tensor, expected), name


def test_weights_of_another_size_are_refused_by_name(tmp_path: Path) -> None:
    tensors = random_tensors(timm_shapes())
    tensors["blocks.0.0.conv_dw.weight"] = torch.zeros(32, 1, 3, 3)
    save_file(tensors, tmp_path / "b0.safetensors")
    with pytest.raises(ValueError, match=r"'blocks\.0\.0\.conv_dw\.weight' .*\[32, 1, 3, 3\].*B3"):
        convert_imagenet(tmp_path / "b0.safetensors", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    tensors = random_tensors(torchvision_shapes())
    del tensors["features.8.1.bias"]
    save_file(tensors, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"no 'features\.8\.1\.bias'.*torchvision"):
        convert_imagenet(tmp_path / "weights.safetensors", tmp_path / "out.safetensors")


def test_an_unknown_naming_is_refused(tmp_path: Path) -> None:
    save_file({"layer1.weight": torch.zeros(1)}, tmp_path / "resnet.safetensors")
    with pytest.raises(ValueError, match=r"not known.*'layer1\.weight'"):
        convert_imagenet(tmp_path / "resnet.safetensors", tmp_path / "out.safetensors")


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors", "weights.h5"])
@pytest.mark.parametrize("content", [b"not weights", b"hello, world", b"e" * 100, b""])
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name} .*[;.] ([Gg]et the whole file again|[Ss]ave model)") as refusal:
        convert_imagenet(tmp_path / name, tmp_path / "out.safetensors")
    assert "\n" not in str(refusal.value)
    assert "101" not in str(refusal.value)


class Code:
    """Runs a command where it is unpickled without a check."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("ran",)


def test_a_file_with_code_is_not_loaded_and_nobody_is_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"conv_stem.weight": Code()}, "weights.pth")
    with pytest.raises(CheckpointError, match=r"other than tensors.*could run code") as refusal:
        convert_imagenet("weights.pth", "out.safetensors")
    assert "weights_only" not in str(refusal.value)
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda t: t.fill_(float("nan")), "not finite"),
        (lambda t: t.int(), "int32"),
        (lambda t: t.to(torch.complex64), "complex64"),
    ],
)
def test_tensors_that_are_no_weights_are_refused(
    change: Callable[[torch.Tensor], torch.Tensor], problem: str, tmp_path: Path
) -> None:
    tensors = random_tensors(timm_shapes())
    tensors["conv_stem.weight"] = change(tensors["conv_stem.weight"])
    torch.save(tensors, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=rf"weights\.pth: 'conv_stem\.weight' .*{problem}"):
        convert_imagenet(tmp_path / "weights.pth", tmp_path / "out.safetensors")


def test_tensors_larger_than_their_file_are_refused(tmp_path: Path) -> None:
    torch.save({"conv_stem.weight": torch.zeros(1).expand(1 << 40)}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="claims larger tensors"):
        convert_imagenet(tmp_path / "weights.pth", tmp_path / "out.safetensors")


def test_a_header_that_claims_far_more_than_the_file_holds_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file.create_dataset("stem_conv/kernel", shape=(1 << 40,), dtype="f4")  # nothing is stored
    with pytest.raises(CheckpointError, match="far larger arrays"):
        convert_imagenet(tmp_path / "weights.h5", tmp_path / "out.safetensors")


def test_a_file_with_more_than_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"conv_stem.weight": torch.zeros(1)}, "epoch": 3}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"dictionary of tensors.*state_dict"):
        convert_imagenet(tmp_path / "weights.pth", tmp_path / "out.safetensors")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not there"):
        convert_imagenet(tmp_path / "weights.pth", tmp_path / "out.safetensors")


def test_a_file_that_was_not_converted_is_not_loaded(tmp_path: Path) -> None:
    save_file({"stem.weight": torch.zeros(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="`rt1 convert imagenet`"):
        load_imagenet(RT1(RT1Config()), tmp_path / "weights.safetensors")


def test_another_backbone_is_refused(tmp_path: Path) -> None:
    save_file(random_tensors(timm_shapes()), tmp_path / "weights.safetensors")
    convert_imagenet(tmp_path / "weights.safetensors", tmp_path / "backbone.safetensors")
    stages = (Stage(kernel=3, stride=2, expand=1, channels=16, blocks=1),)
    small = RT1(RT1Config(efficientnet=EfficientNetConfig(stages=stages)))
    with pytest.raises(ValueError, match="This network's backbone is another one"):
        load_imagenet(small, tmp_path / "backbone.safetensors")
    assert np.isfinite(small.backbone.stem.weight.detach().numpy()).all()
