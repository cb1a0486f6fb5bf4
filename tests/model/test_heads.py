"""Several embodiments on one trunk: each head by itself, in mixed batches, and as a network of its own."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from rt1.model.conditioning import TextConfig
from rt1.model.heads import parameter_counts, single_embodiment
from rt1.model.loss import action_loss
from rt1.model.maxvit import MaxViTConfig
from rt1.model.rt1 import RT1, RT1Config
from rt1.presets import preset

HEADS = (2, 5, 3)
BINS = 16


def make(**changes: Any) -> RT1:
    config = dataclasses.replace(
        preset("debug").model, window=3, bins=BINS, text_width=8, action_tokens=5, embodiments=HEADS
    )
    torch.manual_seed(3)
    model = RT1(dataclasses.replace(config, **changes))
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def inputs(rows: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    image_BTHWC = torch.randint(0, 256, (rows, 3, 48, 48, 3), dtype=torch.uint8, generator=generator)
    return image_BTHWC, torch.randn(rows, 8, generator=generator)


VARIANTS: dict[str, dict[str, Any]] = {
    "rt1": {},
    "tokens of a step see each other": {"mask": "step"},
    "last token": {"readout": "last_token"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_mixed_batch_gives_each_sample_what_the_network_of_its_embodiment_gives(variant: str) -> None:
    model = make(**VARIANTS[variant])
    image_BTHWC, text_BE = inputs(4)
    embodiment_B = torch.tensor([1, 0, 2, 0])
    valid_BT = torch.tensor([[True] * 3, [False, True, True], [True] * 3, [True] * 3])
    with torch.no_grad():
        logits_BTAV = model.predict(image_BTHWC, text_BE, valid_BT=valid_BT, embodiment_B=embodiment_B)
        assert logits_BTAV.shape == (4, 3, 5, BINS)
        for row, head in enumerate(embodiment_B.tolist()):
            cut = slice(row, row + 1)
            own = single_embodiment(model, head).predict(image_BTHWC[cut], text_BE[cut], valid_BT=valid_BT[cut])
            assert own.shape[2] == HEADS[head]
            real = valid_BT[row]
            torch.testing.assert_close(logits_BTAV[cut, real, : HEADS[head]], own[:, real], rtol=1e-4, atol=1e-5)
            assert not logits_BTAV[row, :, HEADS[head] :].any()


def test_the_network_of_an_embodiment_has_no_part_of_the_others() -> None:
    model = make()
    plain = single_embodiment(model, 0)
    assert plain.config == dataclasses.replace(model.config, embodiments=(), action_tokens=2)
    assert plain.transformer.output.weight.equal(model.transformer.output[0].weight)
    assert not any(name.startswith("transformer.output.0") for name in plain.state_dict())
    with pytest.raises(ValueError, match="embodiment 3 is unknown"):
        single_embodiment(model, 3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_other_heads_and_dimensions_an_action_has_not_get_no_gradient(variant: str) -> None:
    model = make(**VARIANTS[variant])
    image_BTHWC, text_BE = inputs(2)
    embodiment_B = torch.tensor([0, 2])
    logits_BTAV = model.predict(image_BTHWC, text_BE, embodiment_B=embodiment_B)
    logits_BTAV.retain_grad()
    token_BTA = torch.zeros(2, 3, 5, dtype=torch.int32)
    token_BTA[0, :, 2:] = token_BTA[1, :, 3:] = -1
    action_loss(logits_BTAV, token_BTA).backward()
    assert logits_BTAV.grad is not None
    assert not logits_BTAV.grad[0, :, 2:].any()
    assert not logits_BTAV.grad[1, :, 3:].any()
    assert logits_BTAV.grad[0, :, :2].any()
    gradients = [layer.weight.grad for layer in model.transformer.output]
    assert [bool(gradient.any()) for gradient in gradients] == [True, False, True]
    if model.config.readout == "action_tokens":  # tokens of dimensions that neither sample has
        position_LD = model.transformer.position_LD.grad
        assert position_LD is not None
        position_TSD = position_LD.unflatten(0, (3, model.config.step_tokens))
        assert not position_TSD[:, model.config.image_tokens + 3 :].any()
        assert position_TSD[:2, model.config.image_tokens + 1].any()


@pytest.mark.parametrize("spread", [None, 2.0])
def test_the_loss_of_a_step_is_the_mean_over_the_dimensions_its_action_has(spread: float | None) -> None:
    logits_BTAV = torch.randn(2, 3, 5, BINS, generator=torch.Generator().manual_seed(0))
    token_BTA = torch.randint(0, BINS, (2, 3, 5), generator=torch.Generator().manual_seed(0))

    def loss(rows: slice, dimensions: slice) -> Tensor:
        chosen = logits_BTAV[rows, :, dimensions], token_BTA[rows, :, dimensions]
        spread_A = None if spread is None else torch.full(chosen[1].shape[2:], spread)
        return action_loss(*chosen, spread_A=spread_A, smoothing=0.1)

    alone = torch.stack([loss(slice(0, 1), slice(0, 2)), loss(slice(1, 2), slice(None))])
    token_BTA[0, :, 2:] = -1
    torch.testing.assert_close(loss(slice(None), slice(None)), alone.mean())


def test_heads_need_a_number_per_sample_and_one_head_none() -> None:
    model, (image_BTHWC, text_BE) = make(), inputs(1)
    with pytest.raises(ValueError, match=r"3 embodiments. Give embodiment_B"):
        model.predict(image_BTHWC, text_BE)
    with pytest.raises(ValueError, match=r"one embodiment. Leave embodiment_B out"):
        single_embodiment(model, 0).predict(image_BTHWC, text_BE, embodiment_B=torch.tensor([0]))
    with pytest.raises(ValueError, match="action_tokens must be the largest"):
        RT1Config(embodiments=(4, 7), action_tokens=11)


def test_the_parameters_are_counted_as_in_the_paper() -> None:
    with torch.device("meta"):
        counts = parameter_counts(RT1(RT1Config()))
    assert counts == {
        "efficientnet": 10_696_232,
        "block_films": 3_701_808,
        "projection": 786_432,
        "last_film": 525_312,
        "token_learner": 34_376,
        "transformer": 19_376_384,
        "total": 35_120_544,
    }


def test_another_backbone_is_counted_under_its_own_name() -> None:
    small = MaxViTConfig(stem_channels=8, channels=(8, 16), depths=(1, 1), partition=2, head_width=8)
    with torch.device("meta"):
        model = RT1(RT1Config(backbone="maxvit", maxvit=small, image_size=(16, 16), text=TextConfig(projection=4)))
    counts = parameter_counts(model)
    assert set(counts) == {
        "text",
        "maxvit",
        "block_films",
        "projection",
        "last_film",
        "token_learner",
        "transformer",
        "total",
    }
    assert counts["text"] == 512 * 4 + 4
    assert counts["total"] == sum(p.numel() for p in model.parameters())
