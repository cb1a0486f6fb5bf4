"""Statistics put together from pieces, or from the input alone, are those of the map itself."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from rt1.model.layers import BatchNorm
from rt1.model.pieces import rows
from rt1.model.statistics import Expansion, over_all, sums


def _map(channels: int) -> torch.Tensor:
    torch.manual_seed(3)
    return (torch.randn(4, channels, 5, 6) * 2 + 1).contiguous(memory_format=torch.channels_last)


def test_pieces_of_different_sizes_give_mean_and_variance_of_the_whole() -> None:
    d = _map(8)
    moments = [(len(part) * 30, part.mean((0, 2, 3)), part.var((0, 2, 3), correction=0)) for part in (d[:1], d[1:])]
    found = over_all(moments, None)
    assert found.rows == 120
    torch.testing.assert_close(found.mean_C, d.mean((0, 2, 3)))
    torch.testing.assert_close(found.variance_C, d.var((0, 2, 3), correction=0))


def test_an_expansion_knows_its_outputs_statistics_and_normalises_by_them() -> None:
    x, conv, norm = (
        _map(8),
        nn.Conv2d(8, 24, 1, bias=False),
        BatchNorm(24, eps=1e-3, momentum=0.1),
    )
    with torch.no_grad():
        expansion = Expansion.of(x, (conv, norm))
        wanted = F.batch_norm(conv(x), None, None, norm.weight, norm.bias, training=True, eps=1e-3)
        found = F.conv2d(x, expansion.folded, expansion.shift_C)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_sums_are_those_of_the_gradient_and_of_it_times_the_normalised_map() -> None:
    d, dz, norm = _map(8), _map(8).flip(0), BatchNorm(8, eps=1e-3, momentum=0.1)
    statistics = over_all([(120, d.mean((0, 2, 3)), d.var((0, 2, 3), correction=0))], None)
    normal = (d - statistics.mean_C[:, None, None]) * (statistics.variance_C[:, None, None] + 1e-3).rsqrt()
    with torch.no_grad():
        dnormal_C, dz_C = sums(rows(dz), rows(d), norm, statistics)
    torch.testing.assert_close(dz_C, dz.sum((0, 2, 3)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(dnormal_C, (dz * normal).sum((0, 2, 3)), rtol=1e-4, atol=1e-4)
