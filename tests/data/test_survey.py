"""What is counted in a data set, and how much of it is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest

from rt1.actions import ActionSpec, Continuous, Discrete
from rt1.data.sources.images import encode_jpeg
from rt1.data.survey import SurveyLimits, show_episode, survey_data
from rt1.errors import DataError


def _spec(*parts: Continuous | Discrete) -> ActionSpec:
    return ActionSpec(parts=parts, bins=16)


def _wide(high: float = 1.0) -> ActionSpec:
    return _spec(Continuous(name="move", low=(-high,) * 3, high=(high,) * 3))


def test_values_outside_the_bounds_are_counted_per_dimension(make_source: Callable[..., Any]) -> None:
    source = make_source(10, 10)
    source.moves[1][:5, 0] = 1.5
    source.moves[0][3, 1] = -2.0
    outside = survey_data(source).actions.outside
    np.testing.assert_allclose(outside, [0.25, 0.05, 0.0])


def test_a_discrete_value_that_is_no_choice_counts_as_outside(make_source: Callable[..., Any]) -> None:
    source = make_source(5, 5)
    source.action_spec = _spec(
        Discrete(name="end", choices=3), Continuous(name="move", low=(-1.0,) * 2, high=(1.0,) * 2)
    )
    for moves in source.moves:
        moves[:, 0] = 1
    source.moves[0][:3, 0] = (-1, 0.5, 3)
    actions = survey_data(source).actions
    np.testing.assert_allclose(actions.outside, [0.3, 0, 0])
    assert actions.outliers[0] == 0


def test_outliers_are_counted_and_the_farthest_is_found(make_source: Callable[..., Any]) -> None:
    source = make_source(150, 50, 200, size=(8, 8))
    source.action_spec = _wide(1000.0)
    source.moves[1][7, 2] = -90.0
    source.moves[2][9, 2] = 20.0
    actions = survey_data(source, SurveyLimits(images=1)).actions
    assert actions.outliers.tolist() == [0, 0, 2]
    assert actions.farthest == (None, None, (1, 7))


def test_the_bins_between_the_quantiles_tell_how_well_the_bounds_fit(make_source: Callable[..., Any]) -> None:
    source = make_source(20, 20)
    source.action_spec = _wide()
    for moves in source.moves:
        moves[:, 0] = np.linspace(-1, 1, 20)
        moves[:, 1] = 0.001 * moves[:, 1]
        moves[:, 2] = 5.0
    assert survey_data(source).actions.bins_used.tolist()[0] == 16
    assert survey_data(source).actions.bins_used.tolist()[1] <= 2
    assert survey_data(source).actions.bins_used.tolist()[2] == 1
    assert survey_data(source).actions.constant == ("move_2",)


def test_nan_and_infinite_actions_are_counted_and_left_out(make_source: Callable[..., Any]) -> None:
    source = make_source(4, 6)
    source.moves[1][2, 1] = np.nan
    source.moves[1][5, 0] = np.inf
    actions = survey_data(source).actions
    assert (actions.not_finite, actions.first_not_finite, actions.steps) == (2, (1, 2), 10)
    assert len(actions.values) == 8
    assert np.isfinite(actions.statistics.mean).all()
    for moves in source.moves:
        moves[:] = np.nan
    with pytest.raises(DataError, match=r"memory: .*10 .*finite"):
        survey_data(source)


def test_the_place_of_an_outlier_is_right_beside_actions_left_out(make_source: Callable[..., Any]) -> None:
    source = make_source(100, 100, size=(8, 8))
    source.action_spec = _wide(1000.0)
    source.moves[0][:3] = np.nan
    source.moves[1][40, 0] = 500.0
    assert survey_data(source, SurveyLimits(images=1)).actions.farthest[0] == (1, 40)


def test_sentences_are_counted_most_frequent_first_and_empty_ones_found(make_source: Callable[..., Any]) -> None:
    source = make_source(*[1] * 5)
    source.instruction = lambda episode: ("", "push", "push", " \n", "push")[episode]
    survey = survey_data(source)
    assert survey.instructions == (("push", 3), ("", 1), (" \n", 1))
    assert survey.empty_instructions == (0, 3)


def test_of_a_large_set_a_bounded_number_of_steps_and_images_is_read(make_source: Callable[..., Any]) -> None:
    read: list[int] = []
    source = make_source(*[10] * 30, size=(8, 8), before_read=read.append)
    survey = survey_data(source, SurveyLimits(instructions=7, steps=100, images=5))
    assert (survey.instruction_episodes, survey.actions.episodes, survey.actions.steps) == (7, 10, 100)
    assert (read[0], read[-1], len(read)) == (0, 29, 10)
    assert len(survey.images.blue_minus_red) == 5
    assert survey.steps == 300


def test_sizes_and_colours_of_the_images_are_taken_as_the_source_declares_them(make_source: Callable[..., Any]) -> None:
    source = make_source(2, 2)
    warm = np.full((16, 24, 3), (200, 120, 100), np.uint8)
    source.images = [[encode_jpeg(warm)] * 2, [encode_jpeg(np.full((8, 8, 3), 90, np.uint8))] * 2]
    images = survey_data(source).images
    assert dict(images.sizes) == {(16, 24): 2, (8, 8): 2}
    np.testing.assert_allclose(images.blue_minus_red, [-100, -100, 0, 0], atol=3)
    source.bgr = True
    images = survey_data(source).images
    np.testing.assert_allclose(images.blue_minus_red, [100, 100, 0, 0], atol=3)
    assert images.declared_bgr
    np.testing.assert_allclose(show_episode(source, 0).images[0][0, 0], (100, 120, 200), atol=3)


def test_an_image_that_does_not_decode_is_named(make_source: Callable[..., Any]) -> None:
    source = make_source(2)
    source.images[0][0] = b"torn"
    with pytest.raises(DataError, match=r"memory, episode 0, step 0: .* neither JPEG nor PNG"):
        survey_data(source)


def test_a_set_without_episodes_is_refused(make_source: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match="memory has no episodes"):
        survey_data(make_source())


def test_the_shown_episode_has_median_length_and_runs_from_first_to_last(make_source: Callable[..., Any]) -> None:
    source = make_source(9, 2, 5)
    shown = show_episode(source, images=3)
    assert (shown.episode, shown.steps, len(shown.images)) == (2, (0, 2, 4), 3)
    np.testing.assert_array_equal(shown.actions, source.moves[2])
    last = cv2.imdecode(np.frombuffer(source.images[2][4], np.uint8), cv2.IMREAD_COLOR)
    assert last is not None
    np.testing.assert_allclose(shown.images[-1], last[..., ::-1], atol=4)
    assert show_episode(source, 1).steps == (0, 1)
    with pytest.raises(DataError, match=r"episode 3.*memory .*0\.\.2"):
        show_episode(source, 3)


def test_what_the_source_left_out_is_kept(make_source: Callable[..., Any]) -> None:
    source = make_source(2)
    source.skipped = ("shard 3: damaged",)
    assert survey_data(source).skipped == ("shard 3: damaged",)
