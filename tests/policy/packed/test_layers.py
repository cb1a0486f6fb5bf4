"""Packed layers give what torch's own layers give."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rt1.model.efficientnet import Conv, Padding
from rt1.policy.packed import layers
from rt1.policy.packed.layers import DTYPES, Convolution, Numbers, Projection, Target, linear, obstacle, sparing_threads

CPU = torch.device("cpu")


def _target(numbers: Numbers = "fp32") -> Target:
    target = Target(device=CPU, numbers=numbers)
    if reason := obstacle(target):
        pytest.skip(f"{numbers} cannot run here: {reason}")
    return target


def _norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, eps=1e-3)
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        assert tensor is not None
        nn.init.uniform_(tensor, 0.5, 2.0)
    return norm.eval()


@torch.no_grad()
@pytest.mark.parametrize("padding", ["rt1", "same"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [(12, 17), (9, 8)])
def test_a_packed_convolution_is_the_convolution_its_norm_and_the_swish(
    padding: Padding, stride: int, kernel: int, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    conv, norm = Conv(8, 8, kernel, stride=stride, groups=8, padding=padding), _norm(8)
    x = torch.randn(2, 8, *size).contiguous(memory_format=torch.channels_last)
    packed = Convolution(conv, norm, _target(), size=size, swish=True)
    expected = nn.functional.silu(norm(conv(x)))
    torch.testing.assert_close(packed(x), expected, atol=1e-5, rtol=1e-4)
    assert packed.size == tuple(expected.shape[2:])


@torch.no_grad()
def test_inputs_can_be_scaled_by_the_weights() -> None:
    torch.manual_seed(0)
    conv, scale, x = Conv(4, 6), torch.rand(4), torch.randn(2, 4, 5, 5)
    packed = Convolution(conv, None, _target(), size=(5, 5), input_scale_I=scale)
    torch.testing.assert_close(packed(x), conv(x * scale[:, None, None]), atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("size", [(3, 2), (9, 8)], ids=["small map", "large map, its gate in the weight"])
@pytest.mark.parametrize("other", [None, torch.ones(3, 6, 1, 1)])
@pytest.mark.parametrize(("numbers", "most"), [("fp32", 1e-5), ("bf16", 0.03)])
def test_a_projection_gates_convolves_normalises_and_adds(
    size: tuple[int, int], other: Tensor | None, numbers: Numbers, most: float
) -> None:
    torch.manual_seed(0)
    conv, norm, gate = Conv(12, 6), _norm(6), torch.rand(3, 12)
    x = torch.randn(3, 12, *size).contiguous(memory_format=torch.channels_last)
    if other is not None:
        other = (other * torch.randn(3, 6, *size)).contiguous(memory_format=torch.channels_last)
    expected = norm(conv(x * gate[:, :, None, None])) + (0 if other is None else other)
    dtype = DTYPES[numbers]
    found = Projection(conv, norm, _target(numbers), size=size)(
        x.to(dtype), gate, None if other is None else other.to(dtype)
    )
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert _relative(found, expected) < most


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected).abs().max() / expected.std())


@torch.no_grad()
@pytest.mark.parametrize(("numbers", "most"), [("fp32", 1e-5), ("bf16", 0.02), ("int8", 0.06)])
@pytest.mark.parametrize("rows", [(1,), (7,), (2, 3)])
def test_a_packed_linear_layer_is_the_linear_layer(numbers: Numbers, most: float, rows: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 48), torch.randn(*rows, 64) * torch.logspace(-2, 2, rows[-1])[:, None]
    found = linear(layer.weight, layer.bias, _target(numbers))(x)
    assert found.shape == (*rows, 48)
    for one, expected in zip(found.flatten(0, -2), layer(x).flatten(0, -2), strict=True):  # rows of any size alike
        assert _relative(one, expected) < most


@torch.no_grad()
@pytest.mark.parametrize("numbers", ["fp32", "bf16", "int8"])
def test_a_row_of_zeros_gives_the_bias(numbers: Numbers) -> None:
    layer = nn.Linear(8, 4)
    found = linear(layer.weight, layer.bias, _target(numbers))(torch.zeros(2, 8)).float()
    torch.testing.assert_close(found, layer.bias.expand(2, 4), atol=5e-3, rtol=0)


def test_between_products_fewer_threads_are_taken_and_the_products_have_all() -> None:
    before = torch.get_num_threads()
    layer = nn.Linear(64, 48)
    x = torch.randn(5, 64)
    torch.set_num_threads(3)
    try:
        packed = linear(layer.weight, layer.bias, _target("fp32"))
        expected = packed(x)
        with sparing_threads(1):
            assert torch.get_num_threads() == 1
            assert layers._shared_out(lambda: torch.tensor(torch.get_num_threads())) == 3
            assert torch.get_num_threads() == 1
            torch.testing.assert_close(packed(x), expected)
            with sparing_threads(2), pytest.raises(RuntimeError):  # one in another changes nothing
                packed(torch.randn(5, 63))
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
        with sparing_threads(4):  # more than there are
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_trial_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    assert obstacle.__wrapped__(Target(device=CPU, numbers="fp32")) is None
    assert torch.equal(torch.get_rng_state(), before)


def test_a_call_that_this_machine_refuses_is_an_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Tensor:
        raise RuntimeError("bf16 path needs the cpu support avx512bw\nException raised from somewhere")

    monkeypatch.setattr(layers, "Linear", refuse)
    assert obstacle.__wrapped__(Target(device=CPU, numbers="bf16")) == "bf16 path needs the cpu support avx512bw"


def test_int8_products_that_saturate_are_an_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    def saturating(rows: Tensor, weight: Tensor) -> Tensor:
        """Add pairs of products in 16 bits, as processors without VNNI do."""
        products = (rows.int() + 128)[:, :, None] * weight.int()
        pairs = products.unflatten(1, (-1, 2)).sum(2).clamp(-(2**15), 2**15 - 1)
        return pairs.sum(1) - 128 * weight.int().sum(0)

    monkeypatch.setattr(torch, "_int_mm", saturating)
    assert "int8 products are off by 99%" in str(obstacle.__wrapped__(Target(device=CPU, numbers="int8")))


def test_packed_kernels_that_fail_are_left_out_with_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> Tensor:
        raise RuntimeError("no such kernel\nException raised from somewhere")

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", refuse)
    assert layers._packing_runs.__wrapped__() is False
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == ["no such kernel"]
