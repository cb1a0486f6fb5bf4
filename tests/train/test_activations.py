"""Activation checkpointing changes the memory of an update, and not one of its numbers."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rt1.errors import TrainingError
from rt1.model.efficientnet import FiLMEfficientNet, MBConv
from rt1.model.layers import BatchNorm
from rt1.model.maxvit import MaxViT, MaxViTConfig
from rt1.presets import preset
from rt1.train.activations import Activations, checkpoint_blocks
from rt1.train.config import RENAMED, TrainConfig
from rt1.train.loop import train
from rt1.train.run import begin

ALL: tuple[Activations, ...] = ("kept", "selective", "full")


def _backbone(kind: str, activations: Activations) -> FiLMEfficientNet | MaxViT:
    """Make a small backbone in training, with drop-connect, whose text counts."""
    torch.manual_seed(1)
    small = MaxViTConfig(stem_channels=8, channels=(16, 16), depths=(1, 2), partition=2, head_width=8, expand=2)
    efficientnet = dataclasses.replace(preset("debug").model.efficientnet, drop_connect=0.5)
    widths: dict[str, Any] = {"text_width": 4, "output_width": 8}
    model = FiLMEfficientNet(efficientnet, **widths) if kind == "efficientnet" else MaxViT(small, **widths)
    for name, parameter in model.named_parameters():
        if "film" in name or "condition" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    checkpoint_blocks(model.blocks, activations)
    return model.train()


def _update(model: FiLMEfficientNet | MaxViT, *, bf16: bool = False) -> dict[str, Tensor]:
    """Return the output, all gradients, moving statistics, and the random number after them."""
    torch.manual_seed(2)
    image, text = torch.randn(4, 3, 48, 48, requires_grad=True), torch.randn(4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        output = model(image, text)
    output.float().sin().sum().backward()
    assert image.grad is not None
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    numbers = {"output": output.detach(), "image": image.grad, "random": torch.rand(3)}
    return {**numbers, **gradients, **dict(model.named_buffers())}


def _assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize("kind", ["efficientnet", "maxvit"])
@pytest.mark.parametrize("activations", ["selective", "full"])
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_all_numbers_of_an_update_are_those_of_kept_activations(kind: str, activations: Any, *, bf16: bool) -> None:
    _assert_same(_update(_backbone(kind, activations), bf16=bf16), _update(_backbone(kind, "kept"), bf16=bf16))


@pytest.mark.parametrize("activations", ["selective", "full"])
def test_a_batch_is_counted_once_in_the_moving_statistics(activations: Any) -> None:
    model = _backbone("efficientnet", activations)
    _update(model)
    norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
    assert {int(norm.num_batches_tracked) for norm in norms if norm.num_batches_tracked is not None} == {1}


def test_statistics_over_ranks_are_added_up_once_more_for_the_second_computation() -> None:
    sums: dict[str, int] = {}
    numbers = {}
    for activations in ALL:
        model = _backbone("efficientnet", activations)
        sums[activations] = 0

        def reduce(value: Tensor, name: str = activations) -> Tensor:
            sums[name] += 1
            return 2 * value  # a second rank with the same images

        for module in model.modules():
            if isinstance(module, BatchNorm):
                module.reduce = reduce
        numbers[activations] = _update(model)
    _assert_same(numbers["selective"], numbers["kept"])
    _assert_same(numbers["full"], numbers["kept"])
    assert sums["kept"] < sums["selective"] <= sums["full"]


def _saved_bytes(activations: Activations) -> int:
    """Return the bytes of the tensors that autograd keeps after the forward pass."""
    sizes: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    model = _backbone("efficientnet", activations)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        model(torch.randn(4, 3, 48, 48), torch.randn(4, 4))
    return sum(sizes.values())


def test_full_keeps_less_for_the_backward_pass() -> None:
    assert _saved_bytes("full") < 0.6 * _saved_bytes("kept")


@pytest.mark.parametrize(("is_training", "times"), [(True, 2), (False, 1)])
def test_blocks_compute_twice_in_training_only(*, is_training: bool, times: int) -> None:
    model, calls = _backbone("efficientnet", "full").train(is_training), list[int]()
    for block in model.blocks:
        assert isinstance(block, MBConv)
        block.film.register_forward_pre_hook(lambda *_: calls.append(1))
    model(torch.ones(2, 3, 48, 48), torch.ones(2, 4)).sum().backward()
    assert len(calls) == times * len(model.blocks)


def test_a_copy_computes_with_its_own_weights() -> None:
    model = _backbone("efficientnet", "selective")
    other = copy.deepcopy(model)
    for parameter in model.blocks.parameters():
        torch.nn.init.zeros_(parameter)
    _assert_same(_update(other), _update(_backbone("efficientnet", "kept")))


@pytest.mark.parametrize("old", ["lean", "recomputed"])
def test_an_old_name_is_refused_with_the_new_one(old: Any) -> None:
    with pytest.raises(ValueError, match=f"activations is {old}, .*{RENAMED[old]}"):
        TrainConfig(activations=old)


def test_a_run_that_was_begun_under_an_old_name_goes_on(
    make_source: Callable[..., Any], short: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(make_source(6, 5, 7), short(updates=4), run)
    file = run / "last" / "training.json"
    progress = json.loads(file.read_text())
    progress["config"]["activations"] = "lean"
    file.write_text(json.dumps(progress))
    resumed = begin(make_source(6, 5, 7), short(updates=4, activations="selective"), run)
    assert (resumed.update, resumed.changes) == (4, ())


def test_losses_of_a_run_are_those_of_kept_activations(
    make_source: Callable[..., Any], short: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    losses = []
    for activations in ALL:
        train(make_source(6, 5, 7), short(updates=4, activations=activations), tmp_path / activations)
        lines = (tmp_path / activations / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line).get("loss") for line in lines])
    assert len(losses[0]) >= 4
    assert losses[0] == losses[1] == losses[2]


class _Other(torch.nn.Module):
    """Stand in for a backbone whose blocks are not ours."""


def test_a_backbone_whose_blocks_are_not_ours_is_refused(
    make_source: Callable[..., Any],
    short: Callable[..., TrainConfig],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    config = short(activations="selective")
    monkeypatch.setattr("rt1.model.rt1._make_backbone", lambda _: _Other())
    with pytest.raises(TrainingError, match="activations is selective"):
        begin(make_source(6, 5, 7), config, tmp_path / "run")


def test_full_is_refused_where_the_compiler_chooses(
    make_source: Callable[..., Any], short: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="activations is full, and compile is on"):
        begin(make_source(6, 5, 7), short(activations="full", compile=True), tmp_path / "run")
