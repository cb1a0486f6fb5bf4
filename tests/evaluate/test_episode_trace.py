"""A recorded episode run through a policy, and what of it a page shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rt1.data.sources.decoding import decoded_images
from rt1.data.sources.images import decode_image
from rt1.errors import DataError
from rt1.evaluate.episode_choice import ChosenEpisodes, InstructionSource
from rt1.evaluate.episode_trace import EpisodePlot, EpisodeRecorder, episode_plots, stream_episode
from rt1.model.rt1 import RT1
from rt1.policy.policy import Policy

STORED = InstructionSource(stored=True, origin="stored")


def _watched(policy: Policy, source: Any, episode: int) -> EpisodePlot:
    policy.reset(source.text_embedding(episode))
    watch = EpisodeRecorder(source, episode, attention=policy.attention_maps)
    for image, logits in stream_episode(policy, source, episode):
        watch.add(image, policy.action_spec.decode_logits(logits)[1])
    return watch.plot()


def test_an_episode_is_predicted_as_the_robot_would_act(
    make_source: Callable[..., Any], make_network: Callable[..., RT1]
) -> None:
    source, model = make_source(3, 5), make_network()
    plot = _watched(Policy(model, source.action_spec), source, 1)
    np.testing.assert_array_equal(plot.recorded, source.moves[1])
    policy = Policy(model, source.action_spec)
    policy.reset(source.text_embedding(1))
    images = [decode_image(data) for data in source.images[1]]
    np.testing.assert_array_equal(plot.images, images)
    np.testing.assert_array_equal(plot.predicted, [policy.act_vector(image) for image in images])


def test_of_a_long_episode_a_few_images_and_where_the_network_looked_are_kept(
    make_source: Callable[..., Any], make_network: Callable[..., RT1]
) -> None:
    source, model = make_source(40), make_network()
    plot = _watched(Policy(model, source.action_spec), source, 0)
    assert plot.predicted.shape == (40, 3)
    assert plot.steps == [0, 6, 11, 17, 22, 28, 33, 39]
    assert [view.step for view in plot.attention] == [6, 22, 33]
    config = model.config
    for view in plot.attention:
        np.testing.assert_array_equal(view.image, decode_image(source.images[0][view.step]))
        assert view.map_KRC.shape == (config.image_tokens, *config.grid)
        np.testing.assert_allclose(view.map_KRC.sum(axis=(1, 2)), 1.0, rtol=1e-5)


def test_an_episode_before_leaves_nothing_in_the_memory(
    make_source: Callable[..., Any], make_network: Callable[..., RT1]
) -> None:
    source = make_source(3, 5)
    policy = Policy(make_network(), source.action_spec)
    first, _, again = (_watched(policy, source, episode) for episode in (1, 0, 1))
    np.testing.assert_array_equal(first.predicted, again.predicted)


def _chosen(*numbers: int, held_out: bool | None = True) -> ChosenEpisodes:
    return ChosenEpisodes(numbers=np.array(numbers, dtype=int), reason="", held_out=held_out)


def test_the_first_episode_of_each_task_is_plotted(
    make_source: Callable[..., Any], make_network: Callable[..., RT1]
) -> None:
    source = make_source(2, 2, 2, 3, 2)
    policy = Policy(make_network(), source.action_spec)
    plots = episode_plots(policy, source, _chosen(2, 4, 3, 1), STORED)
    assert [plot.title for plot in plots] == [
        "task-0, held-out episode 2: 'open the drawer'",
        "task-1, held-out episode 3: 'close the drawer'",
    ]
    assert plots[1].recorded.shape == plots[1].predicted.shape == (3, 3)
    assert plots[1].dimension_names == source.action_spec.dimension_names
    (plot,) = episode_plots(policy, source, _chosen(0, 1, held_out=None), STORED, most=1)
    assert plot.title == "task-0, episode 0: 'open the drawer'"
    assert episode_plots(policy, source, _chosen(), STORED) == []
    source.instruction = lambda _: ""
    assert (
        episode_plots(policy, source, _chosen(2, 4), InstructionSource(stored=False, origin="the instructions")) == []
    )


def test_an_image_that_does_not_decode_is_named_by_episode_and_step(make_source: Callable[..., Any]) -> None:
    source = make_source(2, 4)
    source.images[1][2] = source.images[1][2][:100]
    assert len(decoded_images(source, 1, 0, 2)) == 2
    with pytest.raises(DataError, match=r"memory, episode 1, step 2: .*100 bytes"):
        decoded_images(source, 1, 1, 4)


def test_a_plot_whose_parts_do_not_fit_is_refused() -> None:
    actions, image = np.zeros((4, 2), np.float32), np.zeros((2, 2, 3), np.uint8)
    whole: dict[str, Any] = {"title": "t", "dimension_names": ["a", "b"], "recorded": actions, "predicted": actions}
    with pytest.raises(ValueError, match=r"with at least 1 image \(got 0\)"):
        EpisodePlot(**whole, steps=[], images=[])
    with pytest.raises(ValueError, match="must both be"):
        EpisodePlot(**{**whole, "predicted": actions[:3]}, steps=[0], images=[image])
    with pytest.raises(ValueError, match="2 steps for 1 images"):
        EpisodePlot(**whole, steps=[0, 1], images=[image])
