"""Layers of the convolutional backbones."""

from __future__ import annotations

import torch

from rt1.model.layers import SqueezeExcite


def test_each_channel_is_scaled_by_one_value_that_follows_from_the_means() -> None:
    torch.manual_seed(0)
    layer, map_XCHW = SqueezeExcite(4, 2), torch.rand(3, 4, 5, 6) + 0.1
    scale_XCHW = layer(map_XCHW) / map_XCHW
    torch.testing.assert_close(scale_XCHW, scale_XCHW[:, :, :1, :1].expand_as(scale_XCHW))
    assert ((scale_XCHW > 0) & (scale_XCHW < 1)).all()
    shuffled = map_XCHW.flip(2, 3)
    torch.testing.assert_close(layer(shuffled), layer(map_XCHW).flip(2, 3))
