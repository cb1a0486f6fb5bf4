"""Recorded episodes through a policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rt1.data.decoding import decoded_images
from rt1.data.episode import DataError
from rt1.data.images import decode_image
from rt1.evaluate.offline import episode_plots, predict_episode
from rt1.model.rt1 import RT1
from rt1.policy import Policy
from rt1.text.encoder import TableEncoder


def test_an_episode_is_predicted_as_the_robot_would_act(
    make_source: Callable[..., Any], make_network: Callable[..., RT1]
) -> None:
    source, model = make_source(3, 5), make_network()
    result = predict_episode(Policy(model, source.action_spec), source, 1)
    assert result.episode == 1
    np.testing.assert_array_equal(result.recorded, source.moves[1])
    policy = Policy(model, source.action_spec)
    policy.reset(source.text_embedding(1))
    images = [decode_image(data) for data in source.images[1]]
    np.testing.assert_array_equal(result.images, images)
    np.testing.assert_array_equal(result.predicted, [policy.act_vector(image) for image in images])


def test_an_episode_before_leaves_nothing_in_the_memory(
    make_source: Callable[..., Any], make_network: Callable[..., RT1]
) -> None:
    source = make_source(3, 5)
    policy = Policy(make_network(), source.action_spec)
    first, _, again = (predict_episode(policy, source, episode) for episode in (1, 0, 1))
    np.testing.assert_array_equal(first.predicted, again.predicted)


def test_an_episode_without_a_stored_embedding_is_encoded_from_its_instruction(
    make_source: Callable[..., Any], make_network: Callable[..., RT1], table: TableEncoder
) -> None:
    source = make_source(4)
    stored = source.embeddings.copy()
    policy = Policy(make_network(), source.action_spec, encode_text=lambda s: table.encode([s])[0])
    source.text_embedding = lambda _: None
    by_sentence = predict_episode(policy, source, 0).predicted
    source.text_embedding = lambda _: table.encode([source.instruction(0)])[0]
    np.testing.assert_array_equal(predict_episode(policy, source, 0).predicted, by_sentence)
    source.text_embedding = lambda _: stored[0]
    assert not np.array_equal(predict_episode(policy, source, 0).predicted, by_sentence)


def test_each_task_is_plotted_as_often_as_asked(
    make_source: Callable[..., Any], make_network: Callable[..., RT1]
) -> None:
    source = make_source(2, 2, 2, 3, 2)
    policy = Policy(make_network(), source.action_spec)
    plots = episode_plots(policy, source, [2, 4, 3, 1])
    assert [plot.title for plot in plots] == [
        "task-0, held-out episode 2: 'open the drawer'",
        "task-1, held-out episode 3: 'close the drawer'",
    ]
    assert plots[1].recorded.shape == plots[1].predicted.shape == (3, 3)
    assert plots[1].dimension_names == source.action_spec.dimension_names
    assert len(episode_plots(policy, source, [2, 4, 3, 1], per_task=2)) == 4
    assert episode_plots(policy, source, []) == []


def test_an_image_that_does_not_decode_is_named_by_episode_and_step(make_source: Callable[..., Any]) -> None:
    source = make_source(2, 4)
    source.images[1][2] = source.images[1][2][:100]
    assert len(decoded_images(source, 1, 0, 2)) == 2
    with pytest.raises(DataError, match=r"memory, episode 1, step 2: .*JPEG of 100 bytes"):
        decoded_images(source, 1, 1, 4)
