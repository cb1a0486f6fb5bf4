"""The policy: streaming with memory equals the network on whole windows, and what it refuses."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rt1.actions import ActionSpec, Continuous, Discrete, FloatArray
from rt1.checkpoint import CheckpointInfo, save_checkpoint
from rt1.errors import CheckpointError, PolicyError
from rt1.model.rt1 import RT1
from rt1.policy.policy import Policy
from rt1.text.encoder import USE_LARGE_5, TableEncoder, TextEncoderIdentity

WINDOW = 3
SPEC = ActionSpec(
    parts=(Continuous(name="move", low=(-1.0, 0.0), high=(1.0, 5.0)), Discrete(name="end", choices=2)), bins=16
)


@pytest.fixture
def model(make_network: Callable[..., RT1]) -> RT1:
    return make_network(window=WINDOW)


@pytest.fixture
def policy(model: RT1) -> Policy:
    return Policy(model, SPEC)


@pytest.fixture
def table() -> TableEncoder:
    random = np.random.default_rng(1)
    sentences = ("open the drawer", "close the drawer")
    return TableEncoder({sentence: random.normal(size=8) for sentence in sentences}, "table")


def _images(count: int) -> NDArray[np.uint8]:
    """Return images of coarse patches: in noise all pixels average out, and all images look alike."""
    coarse = np.random.default_rng(2).integers(0, 256, (count, 5, 7, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


def _embedding(seed: int = 3) -> FloatArray:
    return np.random.default_rng(seed).normal(size=8).astype(np.float32)


@torch.no_grad()
def _window_logits(model: RT1, images: NDArray[np.uint8], embedding: FloatArray) -> FloatArray:
    return model.predict(torch.from_numpy(images)[None], torch.from_numpy(embedding)[None])[0].numpy()


def _save(model: RT1, folder: Path, identity: TextEncoderIdentity | None) -> Path:
    info = CheckpointInfo(model=model.config, action_spec=SPEC, text_encoder=identity)
    return save_checkpoint(folder, model=model, info=info)


def test_the_first_steps_are_those_of_one_full_window(policy: Policy, model: RT1) -> None:
    images = _images(WINDOW)
    expected = _window_logits(model, images, _embedding())
    policy.reset(_embedding())
    for image, logits in zip(images, expected, strict=True):
        np.testing.assert_allclose(policy.logits(image), logits, atol=1e-4)


def test_later_steps_are_those_of_the_last_images(policy: Policy, model: RT1) -> None:
    images = _images(8)
    policy.reset(_embedding())
    streamed = [policy.logits(image) for image in images]
    for step in range(WINDOW - 1, 8):
        expected = _window_logits(model, images[step - WINDOW + 1 : step + 1], _embedding())
        np.testing.assert_allclose(streamed[step], expected[-1], atol=1e-4)
    # The images and the places in the window do matter, or the comparison would say nothing.
    assert np.abs(streamed[3] - streamed[4]).max() > 0.01
    assert np.abs(streamed[5] - _window_logits(model, images[5:6], _embedding())[0]).max() > 0.01


def test_a_window_of_one_image_has_no_memory(make_network: Callable[..., RT1]) -> None:
    policy = Policy(make_network(window=1), SPEC)
    policy.reset(_embedding())
    first, other, again = (policy.logits(_images(2)[index]) for index in (0, 1, 0))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_reset_forgets_the_images_and_takes_the_new_instruction(policy: Policy) -> None:
    image = _images(1)[0]
    policy.reset(_embedding())
    first, second = policy.logits(image), policy.logits(image)
    policy.reset(_embedding())
    np.testing.assert_array_equal(policy.logits(image), first)
    assert not np.array_equal(first, second)
    policy.reset(_embedding(seed=4))
    assert not np.array_equal(policy.logits(image), first)


def test_each_step_encodes_one_image_and_runs_the_transformer_once(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = policy.stepper.engine
    encode, decode = engine.encode, engine.decode
    shapes: list[tuple[int, ...]] = []

    def seen(function: Callable[..., Any], *inputs: NDArray[Any]) -> Any:
        shapes.append(tuple(inputs[0].shape))
        return function(*inputs)

    monkeypatch.setattr(engine, "encode", functools.partial(seen, encode))
    monkeypatch.setattr(engine, "decode", functools.partial(seen, decode))
    policy.reset(_embedding())
    for image in _images(5):
        policy.act(image)
    assert shapes[::2] == [(1, 48, 48, 3)] * 5
    assert shapes[1::2] == [(1, steps, 4, 16) for steps in (1, 2, 3, 3, 3)]


def test_an_action_is_the_likeliest_token_of_each_dimension(policy: Policy) -> None:
    images = _images(3)
    policy.reset(_embedding())
    found = [policy.act_with_logits(image) for image in images]
    policy.reset(_embedding())
    actions = [policy.act(image) for image in images]
    policy.reset(_embedding())
    vectors = [policy.act_vector(image) for image in images]
    for (action, logits), same, vector in zip(found, actions, vectors, strict=True):
        assert logits.shape == (3, 16)
        assert logits.dtype == np.float32
        expected = SPEC.decode(logits.argmax(axis=-1))
        np.testing.assert_array_equal(vector, expected)
        np.testing.assert_array_equal(SPEC.from_dict(action), expected)
        assert action.keys() == same.keys() == {"move", "end"}
        assert all(np.array_equal(action[name], same[name]) for name in action)
        assert action["move"].dtype == np.float32
        assert action["end"].dtype == np.int32


def test_a_network_in_training_mode_is_put_into_evaluation_mode(model: RT1) -> None:
    policy = Policy(model.train(), SPEC)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    policy.reset(_embedding())
    policy.act(_images(1)[0])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_acting_before_reset_is_refused(policy: Policy) -> None:
    with pytest.raises(RuntimeError, match=r"act\(\) .*before reset\(\)"):
        policy.act(_images(1)[0])


@pytest.mark.parametrize("shape", [(7,), (1, 8), ()])
def test_an_embedding_of_another_width_is_refused(shape: tuple[int, ...], policy: Policy) -> None:
    with pytest.raises(ValueError, match=r"\(8,\).*encoder"):
        policy.reset(np.zeros(shape, np.float32))


def test_an_embedding_that_is_not_finite_is_refused(policy: Policy) -> None:
    with pytest.raises(ValueError, match=r"not finite. Compute it again"):
        policy.reset(np.full(8, np.nan, np.float32))


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), 3e38])
def test_broken_weights_give_an_error_and_no_action(weight: float, model: RT1) -> None:
    model.transformer.output.weight.data[:] = weight
    policy = Policy(model, SPEC)
    policy.reset(_embedding())
    with pytest.raises(PolicyError, match="not finite"):
        policy.act(_images(1)[0])


def test_an_embedding_of_no_sane_size_is_refused(policy: Policy) -> None:
    with pytest.raises(ValueError, match=r"size 1e\+20. At most 10000"):
        policy.reset(np.full(8, 1e20, np.float32))


def test_a_refused_reset_leaves_the_policy_as_it_was(policy: Policy) -> None:
    image = _images(1)[0]
    policy.reset(_embedding())
    first = policy.logits(image)
    policy.reset(_embedding())
    with pytest.raises(ValueError, match="Use the encoder it was trained with"):
        policy.reset(np.zeros(7, np.float32))
    np.testing.assert_array_equal(policy.logits(image), first)


def test_an_embedding_changed_by_its_owner_changes_nothing(policy: Policy) -> None:
    image, embedding = _images(1)[0], _embedding()
    policy.reset(embedding)
    first = policy.logits(image)
    policy.reset(embedding)
    embedding[:] = 0
    np.testing.assert_array_equal(policy.logits(image), first)


def test_an_image_changed_by_its_owner_changes_nothing(policy: Policy) -> None:
    images = _images(2)
    policy.reset(_embedding())
    expected = [policy.logits(image) for image in images][1]
    policy.reset(_embedding())
    buffer = images[0].copy()
    policy.logits(buffer)
    buffer[:] = 0
    np.testing.assert_array_equal(policy.logits(images[1]), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_float_image_is_the_same_image(dtype: type[np.floating], policy: Policy) -> None:
    image = _images(1)[0]
    policy.reset(_embedding())
    expected = policy.logits(image)
    policy.reset(_embedding())
    np.testing.assert_allclose(policy.logits((image / 255.0).astype(dtype)), expected, atol=1e-4)


def test_an_image_may_be_read_only_or_a_view(policy: Policy) -> None:
    image = _images(1)[0]
    policy.reset(_embedding())
    expected = policy.logits(image)
    flipped = image[::-1].copy()
    flipped.setflags(write=False)
    policy.reset(_embedding())
    np.testing.assert_array_equal(policy.logits(flipped[::-1]), expected)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((40, 56), np.uint8), r"shape \(40, 56\), must be one RGB image \(H, W, 3\)"),
        (np.zeros((1, 40, 56, 3), np.uint8), r"shape \(1, 40, 56, 3\), must be one RGB image"),
        (np.zeros((40, 56, 1), np.uint8), r"shape \(40, 56, 1\).*Repeat a gray image three times"),
        (np.zeros((40, 56, 4), np.uint8), r"shape \(40, 56, 4\).*drop the fourth channel of an RGBA image"),
        (np.full((40, 56, 3), 1.5, np.float32), r"float images span \[1.5, 1.5\], must lie in \[0, 1\]"),
        (np.full((40, 56, 3), -0.1, np.float32), r"float images span \[-0.1, -0.1\], must lie in \[0, 1\]"),
        (np.full((40, 56, 3), np.nan, np.float32), r"float images span \[nan, nan\]"),
        (np.zeros((40, 56, 3), np.int64), "dtype torch.int64, must be uint8"),
    ],
)
def test_what_is_no_image_is_refused_and_not_remembered(
    image: NDArray[np.generic], message: str, policy: Policy
) -> None:
    good = _images(1)[0]
    policy.reset(_embedding())
    expected = policy.logits(good)
    policy.reset(_embedding())
    with pytest.raises(ValueError, match=message):
        policy.act(image)
    np.testing.assert_array_equal(policy.logits(good), expected)


@pytest.mark.parametrize("instruction", ["", " ", None])
def test_an_instruction_that_says_nothing_is_refused(instruction: Any, model: RT1, table: TableEncoder) -> None:
    policy = Policy(model, SPEC, encode_text=lambda sentence: table.encode([sentence])[0])
    with pytest.raises(ValueError, match=f"the instruction is {instruction!r}, must say something"):
        policy.reset(instruction)


def test_an_instruction_without_encoder_is_refused(policy: Policy) -> None:
    with pytest.raises(ValueError, match="'open the drawer' needs a text encoder"):
        policy.reset("open the drawer")


def test_a_policy_from_a_checkpoint_takes_sentences_of_the_given_table(
    model: RT1, table: TableEncoder, tmp_path: Path
) -> None:
    folder = _save(model, tmp_path / "run" / "last", table.identity)
    policy, other = Policy.from_checkpoint(folder.parent, text_encoder=table), Policy(model, SPEC)
    policy.reset("open the drawer")
    other.reset(table.encode(["open the drawer"])[0])
    for image in _images(4):
        np.testing.assert_array_equal(policy.logits(image), other.logits(image))
    with pytest.raises(ValueError, match=r"'open the draw'.*'open the drawer'"):
        policy.reset("open the draw")


def test_a_policy_finds_the_table_that_its_checkpoint_names_by_path(
    model: RT1, table: TableEncoder, tmp_path: Path
) -> None:
    path = tmp_path / "table.safetensors"
    named = TableEncoder({sentence: table.encode([sentence])[0] for sentence in table.sentences}, str(path))
    named.save(path)
    policy = Policy.from_checkpoint(_save(model, tmp_path / "c", named.identity))
    policy.reset("open the drawer")
    assert policy.logits(_images(1)[0]).shape == (3, 16)
    TableEncoder({"open the drawer": np.ones(8)}, str(path)).save(path)
    with pytest.raises(ValueError, match="Vectors of two encoders"):
        Policy.from_checkpoint(tmp_path / "c").reset("open the drawer")


def test_another_encoder_than_the_checkpoints_is_refused(model: RT1, table: TableEncoder, tmp_path: Path) -> None:
    folder = _save(model, tmp_path / "c", table.identity)
    other = TableEncoder({"open the drawer": np.ones(8)}, "table")
    with pytest.raises(ValueError, match=r"'table' .*needed"):
        Policy.from_checkpoint(folder, text_encoder=other)


def test_a_checkpoint_that_names_no_encoder_takes_embeddings_or_a_given_encoder(
    model: RT1, table: TableEncoder, tmp_path: Path
) -> None:
    folder = _save(model, tmp_path / "c", None)
    policy = Policy.from_checkpoint(folder)
    with pytest.raises(ValueError, match="needs a text encoder"):
        policy.reset("open the drawer")
    policy.reset(table.encode(["open the drawer"])[0])
    expected = policy.logits(_images(1)[0])
    given = Policy.from_checkpoint(folder, text_encoder=table)
    given.reset("open the drawer")
    np.testing.assert_array_equal(given.logits(_images(1)[0]), expected)


def test_a_sentence_for_a_released_network_needs_vectors_of_google_s_encoder(model: RT1, tmp_path: Path) -> None:
    wide = RT1(dataclasses.replace(model.config, text_width=512))
    folder = _save(wide, tmp_path / "c", USE_LARGE_5)
    vector = np.random.default_rng(3).normal(size=512).astype(np.float32)
    policy = Policy.from_checkpoint(folder)
    with pytest.raises(ValueError, match=r"\(large/5\) .*512-d embedding"):
        policy.reset("pick up the can")
    policy.reset(vector)
    table = TableEncoder({"pick up the can": vector}, USE_LARGE_5.name)
    told = Policy.from_checkpoint(folder, text_encoder=table)
    told.reset("pick up the can")
    np.testing.assert_array_equal(told.logits(_images(1)[0]), policy.logits(_images(1)[0]))
    with pytest.raises(ValueError, match="the text encoder is 'mine'"):
        Policy.from_checkpoint(folder, text_encoder=TableEncoder({"pick up the can": vector}, "mine"))


def test_a_policy_from_nothing_is_a_checkpoint_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is not there. Give a checkpoint folder"):
        Policy.from_checkpoint(tmp_path / "nowhere")
