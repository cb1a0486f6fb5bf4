"""MaxViT: groups, shapes, conditioning, and the whole network around it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rt1.model.conditioning import Conditioning, TextConfig
from rt1.model.loss import action_loss
from rt1.model.maxvit import MaxViT, MaxViTConfig, MBConv, grouped, ungrouped
from rt1.model.rt1 import RT1, RT1Config
from rt1.model.transformer import TransformerConfig

SMALL = MaxViTConfig(stem_channels=8, channels=(8, 16), depths=(1, 2), partition=2, head_width=8, drop_connect=0.0)


def _maxvit(conditioning: Conditioning = "film") -> MaxViT:
    torch.manual_seed(0)
    return MaxViT(SMALL, text_width=6, output_width=12, conditioning=conditioning).eval()


def _trained(model: torch.nn.Module) -> None:
    """Move every parameter a little, so that no layer is the identity it starts as."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


def test_block_groups_are_neighbours_and_grid_groups_are_spread_evenly() -> None:
    map_XHWC = torch.arange(16).view(1, 4, 4, 1)
    block = grouped(map_XHWC, 2, "block")[0, ..., 0]
    grid = grouped(map_XHWC, 2, "grid")[0, ..., 0]
    assert block.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    assert grid.tolist() == [[0, 2, 8, 10], [1, 3, 9, 11], [4, 6, 12, 14], [5, 7, 13, 15]]


@pytest.mark.parametrize("size", [(4, 4), (6, 8)])
def test_ungrouping_undoes_grouping(size: tuple[int, int]) -> None:
    map_XHWC = torch.randn(2, *size, 3)
    assert torch.equal(ungrouped(grouped(map_XHWC, 2, "block"), 2, "block", size), map_XHWC)
    assert torch.equal(ungrouped(grouped(map_XHWC, 2, "grid"), 2, "grid", size), map_XHWC)


def test_the_standard_size_has_the_parameters_of_maxvit_t() -> None:
    with torch.device("meta"):
        model = MaxViT(MaxViTConfig(), text_width=1, output_width=1)
    ours = {name for name, _ in model.named_parameters() if ".condition." in name or name.startswith("output")}
    published = sum(p.numel() for name, p in model.named_parameters() if name not in ours)
    # 31 M in the paper (table 1), which counts a classifier of 0.8 M, too.
    assert 29.5e6 < published < 31.0e6


def test_positions_follow_the_stated_grid() -> None:
    image_XCHW, text_XE = torch.randn(2, 3, 16, 32), torch.randn(2, 6)
    rows, columns = SMALL.grid((16, 32))
    assert (rows, columns) == (2, 4)
    assert _maxvit()(image_XCHW, text_XE).shape == (2, rows * columns, 12)


def test_every_position_sees_the_whole_image() -> None:
    model = _maxvit()
    _trained(model)
    image_XCHW = torch.randn(1, 3, 32, 32, requires_grad=True)
    model(image_XCHW, torch.randn(1, 6))[0, 0].sum().backward()
    assert image_XCHW.grad is not None
    corners = image_XCHW.grad[0, :, ::31, ::31].abs().amax(0)
    assert (corners > 0).all()


@pytest.mark.parametrize("conditioning", ["film", "cross_attention"])
def test_the_text_changes_the_positions_once_its_layers_have_learned(conditioning: Conditioning) -> None:
    model = _maxvit(conditioning)
    image_XCHW = torch.randn(1, 3, 16, 16)
    texts = [torch.randn(1, 6) if conditioning == "film" else torch.randn(1, 3, 6) for _ in range(2)]
    assert torch.equal(model(image_XCHW, texts[0]), model(image_XCHW, texts[1]))
    _trained(model)
    assert (model(image_XCHW, texts[0]) - model(image_XCHW, texts[1])).abs().max() > 1e-3


def test_images_do_not_see_each_other() -> None:
    model = _maxvit()
    _trained(model)
    image_XCHW, text_XE = torch.randn(3, 3, 16, 16), torch.randn(3, 6)
    together = model(image_XCHW, text_XE)
    torch.testing.assert_close(model(image_XCHW[1:2], text_XE[1:2]), together[1:2], rtol=1e-4, atol=1e-5)


def test_a_dropped_branch_is_dropped_for_whole_images_and_scaled_up_for_the_others() -> None:
    torch.manual_seed(0)
    block = MBConv(4, 4, stride=1, expand=1, drop=0.25)
    y = block.drop_branch(torch.ones(64, 2, 3))
    per_image = y.flatten(1)
    assert (per_image == per_image[:, :1]).all()
    assert per_image[:, 0].unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert torch.equal(block.eval().drop_branch(torch.ones(2, 3)), torch.ones(2, 3))


def test_an_image_size_that_does_not_fit_names_the_next_one_that_does() -> None:
    with pytest.raises(ValueError, match=r"image_size is \(300, 300\).*224"):
        RT1Config(backbone="maxvit")


@pytest.mark.parametrize(
    "wrong", [{"depths": (1,)}, {"channels": (8, 12)}, {"partition": 0}, {"drop_connect": 1.0}, {"depths": (0, 1)}]
)
def test_impossible_sizes_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must"):
        MaxViTConfig(**{"stem_channels": 8, "channels": (8, 16), "depths": (1, 1), "head_width": 8, **wrong})  # type: ignore[arg-type]


def _network(**changed: object) -> RT1:
    torch.manual_seed(0)
    settings: dict[str, object] = {
        "window": 2,
        "image_size": (16, 16),
        "text_width": 6,
        "token_width": 12,
        "image_tokens": 2,
        "token_learner_hidden": 4,
        "action_tokens": 3,
        "bins": 8,
        "backbone": "maxvit",
        "maxvit": SMALL,
        "transformer": TransformerConfig(layers=1, width=12, heads=2, head_width=6, hidden=8, dropout=0.0),
        **changed,
    }
    return RT1(RT1Config(**settings))  # type: ignore[arg-type]


def _overfit(model: RT1, text: Tensor) -> float:
    images = torch.randint(0, 256, (2, 2, 16, 16, 3), dtype=torch.uint8)
    tokens = torch.randint(0, 8, (2, 2, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = action_loss(model.predict(images, text), tokens)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses[-1]


@pytest.mark.parametrize("conditioning", ["film", "cross_attention"])
def test_the_network_with_maxvit_learns_one_batch_by_heart(conditioning: Conditioning) -> None:
    tokens = 1 if conditioning == "film" else 3
    model = _network(conditioning=conditioning, text=TextConfig(tokens=tokens))
    assert _overfit(model, torch.randn(2, 6)) < 0.1
