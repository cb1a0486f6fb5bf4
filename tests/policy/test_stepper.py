"""The batched step: several robots at once get what each would get alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rt1.actions import FloatArray
from rt1.model.conditioning import TextConfig
from rt1.model.rt1 import RT1
from rt1.model.transformer import FeedForward, MaskKind
from rt1.policy.stepper import EpisodeState, Stepper
from rt1.presets import preset

WINDOW = 3
Images = list[NDArray[np.uint8]]


@pytest.fixture
def model(make_network: Callable[..., RT1]) -> RT1:
    return make_network(window=WINDOW)


@pytest.fixture
def stepper(model: RT1) -> Stepper:
    return Stepper(model)


def _embedding(seed: int = 3) -> FloatArray:
    return np.random.default_rng(seed).normal(size=8).astype(np.float32)


def _images(count: int, *, seed: int = 2, size: tuple[int, int] = (40, 56)) -> Images:
    """Return images of coarse patches: in noise all pixels average out, and all images look alike."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, size[0] // 8, size[1] // 8, 3), dtype=np.uint8)
    return list(coarse.repeat(8, axis=1).repeat(8, axis=2))


def _alone(stepper: Stepper, images: Images, embedding: FloatArray) -> list[FloatArray]:
    state = stepper.start(embedding)
    return [stepper.step([state], [image])[0] for image in images]


def test_robots_in_one_batch_get_what_each_gets_alone(stepper: Stepper) -> None:
    # Three robots with instructions, image sizes and starting times of their own.
    sizes, starts = ((40, 56), (48, 48), (64, 80)), (0, 1, 4)
    episodes = [_images(7, seed=seed, size=size) for seed, size in enumerate(sizes)]
    embeddings = [_embedding(seed) for seed in range(3)]
    alone = [_alone(stepper, *pair) for pair in zip(episodes, embeddings, strict=True)]
    states = [stepper.start(embedding) for embedding in embeddings]
    for step in range(7):
        present = [robot for robot in range(3) if step >= starts[robot]]
        images = [episodes[robot][step - starts[robot]] for robot in present]
        together = stepper.step([states[robot] for robot in present], images)
        for robot, logits in zip(present, together, strict=True):
            np.testing.assert_allclose(logits, alone[robot][step - starts[robot]], atol=1e-4)


def test_the_order_of_the_robots_changes_nothing(stepper: Stepper) -> None:
    images = [*_images(1, seed=0), *_images(1, seed=1)]
    first = stepper.step([stepper.start(_embedding(0)), stepper.start(_embedding(1))], images)
    second = stepper.step([stepper.start(_embedding(1)), stepper.start(_embedding(0))], images[::-1])
    np.testing.assert_allclose(first, second[::-1], atol=1e-5)
    assert np.abs(first[0] - first[1]).max() > 0.01


def test_no_images_before_the_window_are_kept(stepper: Stepper) -> None:
    state = stepper.start(_embedding())
    kept = []
    for image in _images(2 * WINDOW):
        stepper.step([state], [image])
        kept.append(state.images)
    assert kept == [1, 2, 3, 3, 3, 3]


@pytest.mark.parametrize("bad", [np.zeros((40, 56), np.uint8), np.zeros((40, 56, 4), np.uint8)])
def test_a_refused_image_changes_no_episode(bad: NDArray[np.uint8], stepper: Stepper) -> None:
    first, second = _images(2)
    states = [stepper.start(_embedding()) for _ in range(2)]
    stepper.step(states, [first, first])
    with pytest.raises(ValueError, match="shape"):
        stepper.step(states, [second, bad])
    assert [state.images for state in states] == [1, 1]
    expected = _alone(stepper, [first, second], _embedding())[1]
    np.testing.assert_allclose(stepper.step(states, [second, second]), [expected] * 2, atol=1e-4)


def test_an_episode_given_twice_is_refused(stepper: Stepper) -> None:
    state, image = stepper.start(_embedding()), _images(1)[0]
    with pytest.raises(ValueError, match="same episode"):
        stepper.step([state, state], [image, image])


@pytest.mark.parametrize(("robots", "images"), [(0, 0), (1, 2), (2, 1)])
def test_each_robot_needs_one_image(robots: int, images: int, stepper: Stepper) -> None:
    states: list[EpisodeState] = [stepper.start(_embedding()) for _ in range(robots)]
    with pytest.raises(ValueError, match=f"{robots} episodes and {images} images"):
        stepper.step(states, _images(images))


def test_an_image_may_be_prepared_before_its_step(stepper: Stepper) -> None:
    first, second = _images(2)
    states = [stepper.start(_embedding()) for _ in range(2)]
    logits = stepper.step(states, [stepper.prepare(first), first])
    np.testing.assert_array_equal(logits[0], logits[1])
    assert not np.array_equal(stepper.step(states, [stepper.prepare(first), second])[1], logits[1])
    with pytest.raises(ValueError, match="RGB"):
        stepper.prepare(first[..., 0])


def test_the_attention_maps_are_those_of_the_last_image(stepper: Stepper, model: RT1) -> None:
    state, images = stepper.start(_embedding()), _images(2)
    with pytest.raises(ValueError, match=r"no attention maps before the first image\. Take a step first"):
        stepper.attention_maps(state)
    for image in images:
        stepper.step([state], [image])
    maps = stepper.attention_maps(state)
    with torch.no_grad():
        condition = model.text(torch.from_numpy(_embedding())[None])
        positions = model.positions(model.prepare(torch.from_numpy(images[-1])[None]), condition)
        expected = model.token_learner.attention(positions)[0]
    assert maps.shape == (4, *model.config.efficientnet.grid(model.config.image_size))
    np.testing.assert_allclose(maps.reshape(4, -1), expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(maps.sum((1, 2)), 1.0, rtol=1e-5)


# ---- guidance ----


def _guided_model(conditioning: Any = "film", **changed: Any) -> RT1:
    """A small network that has learned a null, as far as random weights have learned anything."""
    torch.manual_seed(3)
    config = dataclasses.replace(
        preset("debug").model,
        text_width=8,
        conditioning=conditioning,
        text=TextConfig(drop=0.2, tokens=2),
        action_tokens=3,
        bins=16,
        **changed,
    )
    model = RT1(config).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model


def _three_steps(model: RT1, scale: float) -> NDArray[np.float32]:
    stepper = Stepper(model, cond_scale=scale)
    state = stepper.start(np.arange(1, 9, dtype=np.float32))
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (48, 48, 3), dtype=np.uint8) for _ in range(3)]
    return np.stack([stepper.step([state], [image])[0] for image in images])


@pytest.mark.parametrize("conditioning", ["film", "cross_attention"])
def test_guidance_moves_from_the_null_to_the_instruction_and_beyond(conditioning: Any) -> None:
    model = _guided_model(conditioning)
    null, plain, twice = (_three_steps(model, scale) for scale in (0.0, 1.0, 2.0))
    assert np.abs(plain - null).max() > 1e-3
    np.testing.assert_allclose(twice, null + 2 * (plain - null), atol=1e-4)


def test_without_the_instruction_no_instruction_matters() -> None:
    stepper = Stepper(_guided_model(), cond_scale=0.0)
    image = np.zeros((48, 48, 3), dtype=np.uint8)
    states = [stepper.start(np.full(8, value, dtype=np.float32)) for value in (0.3, -2.0)]
    first, second = stepper.step(states, [image, image])
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_guidance_reaches_a_conditioned_transformer_too() -> None:
    transformer = dataclasses.replace(preset("debug").model.transformer, condition="film")
    model = _guided_model(transformer=transformer)
    null, plain, twice = (_three_steps(model, scale) for scale in (0.0, 1.0, 2.0))
    np.testing.assert_allclose(twice, null + 2 * (plain - null), atol=1e-4)


def test_guided_robots_get_what_each_gets_alone() -> None:
    stepper = Stepper(_guided_model(), cond_scale=1.5)
    random = np.random.default_rng(1)
    texts = random.normal(size=(2, 8)).astype(np.float32)
    images = random.integers(0, 256, (2, 3, 48, 48, 3), dtype=np.uint8)
    together = [stepper.start(text) for text in texts]
    both = np.stack([stepper.step(together, list(images[:, t])) for t in range(3)], axis=1)
    for robot in range(2):
        alone = stepper.start(texts[robot])
        own = np.stack([stepper.step([alone], [image])[0] for image in images[robot]])
        np.testing.assert_allclose(both[robot], own, atol=1e-5)


def test_a_copied_episode_goes_on_apart_from_the_first_one() -> None:
    stepper = Stepper(_guided_model(), cond_scale=2.0)
    image = np.full((48, 48, 3), 90, dtype=np.uint8)
    first = stepper.start(np.ones(8, dtype=np.float32))
    stepper.step([first], [image])
    copies = [first.copy(), first.copy()]
    logits = stepper.step(copies, [image, image])
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-5)
    assert first.null is not None
    assert (len(first.token_TKE), len(first.null.token_TKE)) == (1, 1)
    np.testing.assert_allclose(stepper.step([first], [image])[0], logits[0], atol=1e-5)


def test_one_pass_is_made_where_guidance_changes_nothing() -> None:
    assert Stepper(_guided_model(), cond_scale=1.0).start(np.ones(8, np.float32)).null is None


@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf")])
def test_an_impossible_scale_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="must be a number of at least 0"):
        Stepper(_guided_model(), cond_scale=scale)


def test_guidance_is_refused_for_a_network_that_never_did_without_the_text() -> None:
    model = RT1(preset("debug").model)
    with pytest.raises(ValueError, match=r"cond_scale is 1\.5, but .*text\.drop is 0.*--model\.text\.drop"):
        Stepper(model, cond_scale=1.5)


# ---- every network ----


def _through_the_network(model: RT1, images: Images, embedding: FloatArray) -> FloatArray:
    """Return the newest step's logits of a window, computed whole."""
    with torch.no_grad():
        logits = model.predict(torch.from_numpy(np.stack(images))[None], torch.from_numpy(embedding)[None])
    return logits[0, -1].numpy()


def _error(make: Callable[[], RT1]) -> float:
    """Return the error of a step, as a share of the spread of the logits, over more steps than the window holds."""
    model = make()
    found = np.stack(_alone(Stepper(model), _images(3 * WINDOW), _embedding()))
    images = _images(3 * WINDOW)
    expected = np.stack(
        [_through_the_network(model, images[max(0, n - WINDOW + 1) : n + 1], _embedding()) for n in range(len(images))]
    )
    return float(np.abs(found - expected).max() / expected.std())


def test_fp32_is_the_network_itself_at_every_step(model: RT1) -> None:
    assert _error(lambda: model) < 1e-4


@pytest.mark.parametrize("mask", ["rt1", "rt1x", "step"])
@pytest.mark.parametrize("feed_forward", ["linear", "linear_no_bias", "swiglu", "gelu"])
def test_every_kind_of_transformer_is_the_network_itself(mask: MaskKind, feed_forward: FeedForward, model: RT1) -> None:
    transformer = dataclasses.replace(model.config.transformer, feed_forward=feed_forward, layers=3)
    config = dataclasses.replace(model.config, mask=mask, transformer=transformer)
    torch.manual_seed(1)
    assert _error(lambda: RT1(config).eval()) < 1e-4


@pytest.mark.parametrize(
    "changes",
    [
        {"readout": "last_token"},
        {"readout": "mean_token"},
        {"conditioning": "cross_attention"},
        {"action_tokens": 1, "mask": "rt1x"},
        {"image_size": (45, 51)},
        {"action_tokens": 1},
        {"image_tokens": 1},
    ],
)
def test_other_networks_are_themselves_too(changes: dict[str, object], model: RT1) -> None:
    config = dataclasses.replace(model.config, **changes)  # type: ignore[arg-type]
    torch.manual_seed(1)
    assert _error(lambda: RT1(config).eval()) < 1e-4


def test_tensorflow_s_same_padding_is_kept(model: RT1) -> None:
    for size in ((48, 48), (45, 51)):
        efficientnet = dataclasses.replace(model.config.efficientnet, padding="same")
        config = dataclasses.replace(model.config, efficientnet=efficientnet, image_size=size)
        assert _error(lambda config=config: RT1(config).eval()) < 1e-4  # type: ignore[misc]


def test_the_weights_are_those_of_the_moment(model: RT1) -> None:
    stepper, image = Stepper(model), _images(1)
    before = _alone(stepper, image, _embedding())[0]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    np.testing.assert_array_equal(_alone(stepper, image, _embedding())[0], before)


def test_an_episode_holds_no_more_after_many_steps_than_after_a_few(stepper: Stepper) -> None:
    state, (image,) = stepper.start(_embedding()), _images(1)

    def held() -> int:
        return sum(
            array.nbytes if array.base is None else array.base.nbytes
            for array in (state.text_E, state.condition, state.token_TKE, state.map_KP)
            if array is not None
        )

    sizes = []
    for _ in range(60):
        stepper.step([state], [image])
        sizes.append(held())
    assert sizes[WINDOW - 1] == sizes[-1] == max(sizes)
