"""The block's backward pass by hand: the numbers of torch's own, whatever is kept and however it is cut."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from rt1.model import pieces
from rt1.model.efficientnet import EfficientNetConfig, FiLMEfficientNet, Stage
from rt1.model.layers import BatchNorm

# Kernels of 3 and 5, both strides, with and without an expansion, and one input wide enough to keep the expansion.
CONFIG = EfficientNetConfig(
    width=1.0,
    depth=1.0,
    drop_connect=0.0,
    stem_channels=8,
    top_channels=None,
    stages=(
        Stage(kernel=3, stride=1, expand=1, channels=8, blocks=1),
        Stage(kernel=5, stride=2, expand=4, channels=72, blocks=2),
        Stage(kernel=3, stride=2, expand=2, channels=16, blocks=2),
    ),
)


def _trained(*, is_lean: bool, recompute: bool = False, kind: torch.dtype = torch.float32) -> FiLMEfficientNet:
    torch.manual_seed(1)
    model = FiLMEfficientNet(CONFIG, text_width=4, output_width=8).train()
    for name, parameter in model.named_parameters():
        if "film" in name:  # starts at zero: the text would change nothing
            torch.nn.init.normal_(parameter, std=0.3)
    model.spare_memory(lean=is_lean, recompute=recompute)
    return model.to(kind)


def _backward(model: FiLMEfficientNet, kind: torch.dtype) -> dict[str, torch.Tensor]:
    torch.manual_seed(2)
    image = torch.randn(3, 3, 33, 41).to(kind).contiguous(memory_format=torch.channels_last).requires_grad_()
    text, weight = torch.randn(3, 4).to(kind), torch.randn(3, 1, 8).to(kind)
    output = model(image, text)
    (output.sin() * weight).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert image.grad is not None
    return {"output": output.detach(), "image": image.grad, **gradients, **dict(model.named_buffers())}


@pytest.fixture(scope="module")
def exact() -> dict[str, torch.Tensor]:
    """Output, gradients and moving statistics in double precision, by torch's own backward pass."""
    return _backward(_trained(is_lean=False, kind=torch.float64), torch.float64)


@pytest.mark.parametrize("cache", [1, 50_000, 1 << 30])
@pytest.mark.parametrize("how", ["lean", "lean, recomputed", "recomputed"])
def test_output_gradients_and_statistics_are_torchs_own(
    cache: int, how: str, exact: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "CACHE_BYTES", cache)
    found = _backward(_trained(is_lean="lean" in how, recompute="recomputed" in how), torch.float32)
    assert found.keys() == exact.keys()
    for name, wanted in exact.items():
        error = (found[name].double() - wanted.double()).norm()
        assert error <= 2e-5 * wanted.double().norm() + 2e-4, f"{name}: {error}"


@pytest.mark.parametrize("cache", [1, 50_000])
def test_two_threads_give_the_same(cache: int, exact: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "CACHE_BYTES", cache)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    found = _backward(_trained(is_lean=True), torch.float32)
    torch.set_num_threads(before)
    for name, wanted in exact.items():
        error = (found[name].double() - wanted.double()).norm()
        assert error <= 2e-5 * wanted.double().norm() + 2e-4, f"{name}: {error}"


def test_a_frozen_part_can_be_recomputed() -> None:
    model = _trained(is_lean=True, recompute=True)
    for parameter in (*model.stem.parameters(), *model.stem_norm.parameters()):
        parameter.requires_grad = False
    model(torch.randn(2, 3, 33, 33), torch.randn(2, 4)).sum().backward()
    assert model.stem.weight.grad is None
    assert all(p.grad is not None for name, p in model.named_parameters() if "stem" not in name)


def test_in_evaluation_the_plain_block_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> torch.Tensor:
        raise AssertionError

    monkeypatch.setattr("rt1.model.efficientnet.Block", refuse)
    model = _trained(is_lean=True).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 33, 33), torch.randn(1, 4)).isfinite().all()


def _sum_of_two(parts: list[torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """Stand in for a second rank that has the same images."""

    def reduce(value: torch.Tensor) -> torch.Tensor:
        parts.append(value)
        return 2 * value

    return reduce


@pytest.mark.parametrize("how", ["plain", "lean"])
def test_statistics_of_a_rank_with_the_same_images_change_nothing(how: str, exact: dict[str, torch.Tensor]) -> None:
    model, asked = _trained(is_lean=how == "lean"), list[torch.Tensor]()
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.reduce = _sum_of_two(asked)
    found = _backward(model, torch.float32)
    assert asked
    for name in ("output", "image"):
        assert (found[name].double() - exact[name]).norm() <= 1e-4 * exact[name].norm()
