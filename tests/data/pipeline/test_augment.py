"""Random crops and colours: what shares a draw, and what a draw does to a pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rt1.data.pipeline import augment as augmentation
from rt1.data.pipeline.augment import AugmentSettings, colour_map
from rt1.preprocess import crop_margins, shifted

OFF = AugmentSettings(crop_share=0.0)
COLOURS = AugmentSettings(crop_share=0.0, brightness=0.3, contrast=0.3, saturation=0.5, hue=0.1)
GREY = np.array([0.299, 0.587, 0.114])


def augment(images: Tensor, settings: AugmentSettings, *, seed: int, update: int, first_row: int = 0) -> Tensor:
    rows = first_row + np.arange(len(images))
    return augmentation.augment(images, rows, settings, seed=seed, update=update)


def _images(samples: int = 4, steps: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(samples, steps, 16, 20, 3, generator=generator).permute(0, 1, 4, 2, 3)


def _map(**changes: float) -> Any:
    return colour_map(**{"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0, **changes})


def test_nothing_to_change_gives_the_same_images() -> None:
    images = _images()
    assert augment(images, OFF, seed=0, update=0) is images


def test_google_draws_one_crop_for_the_whole_batch() -> None:
    images = _images()
    cropped = augment(images, AugmentSettings(), seed=5, update=7)
    margins = crop_margins(16, 20)
    choices = [(y, x) for y in range(2 * margins[0] + 1) for x in range(2 * margins[1] + 1)]
    fits = [o for o in choices if torch.equal(shifted(images.flatten(0, 1), margins, o), cropped.flatten(0, 1))]
    assert len(fits) == 1
    others = [augment(images, AugmentSettings(), seed=5, update=update) for update in range(8, 20)]
    assert any(not torch.equal(cropped, other) for other in others)


def test_a_crop_per_sample_is_shared_by_its_steps_only() -> None:
    images = _images(samples=12)[:, :1].expand(-1, 3, -1, -1, -1)  # all steps of a sample alike
    cropped = augment(images, AugmentSettings(crop_per="sample"), seed=0, update=0)
    assert torch.equal(cropped, cropped[:, :1].expand_as(cropped))
    blank = (cropped == 0).all(2)[:, 0]  # where the margin shows
    assert len({tuple(sample.flatten().tolist()) for sample in blank}) > 3


@pytest.mark.parametrize("settings", [COLOURS, AugmentSettings(crop_per="sample", brightness=0.5), AugmentSettings()])
def test_a_rank_sees_its_rows_of_what_one_process_sees(settings: AugmentSettings) -> None:
    images = _images()
    whole = augment(images, settings, seed=3, update=9)
    for first, last in ((0, 2), (2, 4), (1, 2)):
        part = augment(images[first:last], settings, seed=3, update=9, first_row=first)
        torch.testing.assert_close(part, whole[first:last], rtol=0, atol=1e-6)


def test_colours_are_shared_by_the_steps_of_a_sample_and_differ_between_samples_updates_and_seeds() -> None:
    images = torch.full((3, 2, 3, 4, 4), 0.4) * torch.tensor([1.0, 0.8, 0.6])[:, None, None]
    seen = [augment(images, COLOURS, seed=seed, update=update) for seed, update in ((0, 0), (0, 1), (1, 0))]
    colours = [tuple(sample[0, :, 0, 0].tolist()) for batch in seen for sample in batch]
    assert len(set(colours)) == 9
    assert all(torch.equal(batch[:, 0], batch[:, 1]) for batch in seen)
    assert torch.equal(seen[0], augment(images, COLOURS, seed=0, update=0))


def test_the_result_stays_within_0_and_1_and_keeps_shape_and_dtype() -> None:
    images = _images()
    strong = AugmentSettings(brightness=1.0, contrast=1.0, saturation=1.0, hue=0.5)
    new = augment(images, strong, seed=0, update=0)
    assert (new.shape, new.dtype) == (images.shape, torch.float32)
    assert new.min() >= 0.0
    assert new.max() <= 1.0


def test_the_margin_of_the_crop_stays_black_whatever_the_colours() -> None:
    grey = torch.full((8, 1, 3, 16, 20), 0.5)
    new = augment(grey, AugmentSettings(crop_per="sample", contrast=0.9, brightness=0.2), seed=0, update=0)
    assert (new == 0).any()


def test_each_change_does_to_a_colour_what_its_name_says() -> None:
    colour = np.array([0.8, 0.4, 0.2, 1.0])
    luma = GREY @ colour[:3]
    np.testing.assert_allclose(_map() @ colour, colour[:3], atol=1e-12)
    np.testing.assert_allclose(_map(brightness=1.25) @ colour, [1.0, 0.5, 0.25])
    np.testing.assert_allclose(_map(contrast=0.5) @ colour, [0.65, 0.45, 0.35])
    np.testing.assert_allclose(_map(saturation=0.0) @ colour, [luma] * 3, atol=1e-3)
    np.testing.assert_allclose(_map(saturation=0.5) @ colour, (colour[:3] + luma) / 2, atol=1e-3)
    turned = _map(hue=0.5) @ colour
    np.testing.assert_allclose(turned, 2 * luma - colour[:3], atol=1e-3)  # half a turn: the opposite colour
    np.testing.assert_allclose(GREY @ (_map(hue=0.2) @ colour), luma, atol=1e-3)


def test_greys_keep_their_place_under_saturation_and_hue() -> None:
    grey = np.array([0.3, 0.3, 0.3, 1.0])
    np.testing.assert_allclose(_map(saturation=1.7, hue=0.3) @ grey, grey[:3], atol=1e-3)


def test_the_changes_follow_one_another_in_their_order() -> None:
    colour = np.array([0.8, 0.4, 0.2, 1.0])
    settings = {"brightness": 0.9, "contrast": 1.2, "saturation": 0.7, "hue": 0.1}
    expected = colour
    for name, value in settings.items():
        expected = np.append(_map(**{name: value}) @ expected, 1.0)
    np.testing.assert_allclose(_map(**settings) @ colour, expected[:3], atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_share": -0.1}, "crop_share is -0.1"),
        ({"crop_share": 2.1}, "crop_share is 2.1"),
        ({"brightness": 1.5}, "brightness is 1.5"),
        ({"hue": 0.6}, r"hue is 0.6"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AugmentSettings(**changes)
