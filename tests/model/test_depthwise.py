"""The depthwise convolution's gradients are torch's own, for every padding and stride."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from rt1.model.depthwise import add_weight_gradient, depthwise, input_gradient
from rt1.model.pieces import Padding


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [(1, 1, 1, 1), (2, 2, 0, 1), (0, 1, 1, 2)])
def test_output_and_gradients_are_torchs_own(kernel: int, stride: int, padding: Padding) -> None:
    torch.manual_seed(0)
    a = torch.randn(2, 8, 11, 12).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(8, 1, kernel, kernel, requires_grad=True)
    wanted = F.conv2d(F.pad(a, padding), weight, stride=stride, groups=8)
    torch.testing.assert_close(depthwise(a.detach(), weight.detach(), padding, stride), wanted.detach())

    dd = torch.randn_like(wanted)
    wanted.backward(dd)
    assert a.grad is not None
    assert weight.grad is not None
    found = input_gradient(dd, (11, 12), weight.detach(), padding, stride)
    torch.testing.assert_close(found, a.grad, rtol=1e-4, atol=1e-5)
    dweight = torch.ones_like(weight)
    add_weight_gradient(dweight, dd, a.detach(), padding, stride)
    torch.testing.assert_close(dweight, weight.grad + 1, rtol=1e-4, atol=1e-4)
