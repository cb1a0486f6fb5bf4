"""Statistics of actions and the specs made of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rt1.data.bounds import ActionStatistics, action_statistics, bounds_spec, spec_between, statistics_of
from rt1.data.rlds.reader import RLDSSource
from rt1.data.rlds.writer import RecordedEpisode
from rt1.errors import DataError


@pytest.fixture(scope="module")
def statistics() -> ActionStatistics:
    """A spread dimension, a constant one, and one that is 0 but for a single 5."""
    actions = np.zeros((1001, 3), np.float32)
    actions[:, 0] = np.linspace(-1, 1, 1001)
    actions[:, 1] = 0.25
    actions[7, 2] = 5
    return statistics_of(actions)


def test_statistics_of_a_source_are_those_of_all_its_actions(
    tmp_path: Path, record: Callable[[Path], Path], episodes: list[RecordedEpisode]
) -> None:
    found = action_statistics(RLDSSource(record(tmp_path / "set")))
    actions = np.concatenate([episode.actions for episode in episodes])
    assert found.count == len(actions) == 15
    np.testing.assert_array_equal(found.minimum, actions.min(axis=0))
    np.testing.assert_array_equal(found.maximum, actions.max(axis=0))
    np.testing.assert_allclose(found.mean, actions.astype(np.float64).mean(axis=0))
    np.testing.assert_allclose(found.std, actions.astype(np.float64).std(axis=0))


def test_quantiles_leave_out_the_outermost_hundredth(statistics: ActionStatistics) -> None:
    np.testing.assert_allclose(statistics.q01, [-0.98, 0.25, 0], atol=1e-6)
    np.testing.assert_allclose(statistics.q99, [0.98, 0.25, 0], atol=1e-6)


def test_statistics_come_back_from_json_exactly(statistics: ActionStatistics) -> None:
    back = ActionStatistics.from_json(json.loads(json.dumps(statistics.to_json())))
    assert back.to_json() == statistics.to_json()
    assert back.count == 1001


def test_other_json_is_refused() -> None:
    with pytest.raises(ValueError, match="action statistics"):
        ActionStatistics.from_json({"count": 3})


def test_a_spec_of_the_range_spans_minimum_to_maximum_and_widens_a_constant(
    statistics: ActionStatistics,
) -> None:
    spec = bounds_spec(statistics, parts={"move": 2, "grip": 1}, bins=16)
    np.testing.assert_allclose(spec.low, [-1, -0.75, 0])
    np.testing.assert_allclose(spec.high, [1, 1.25, 5])
    assert spec.dimension_names == ("move_0", "move_1", "grip")
    assert spec.bins == 16


def test_a_spec_of_quantiles_falls_back_to_the_range_where_they_coincide(
    statistics: ActionStatistics,
) -> None:
    spec = bounds_spec(statistics, parts={"move": 3}, bounds="quantiles")
    np.testing.assert_allclose(spec.low, [-0.98, -0.75, 0], atol=1e-6)
    np.testing.assert_allclose(spec.high, [0.98, 1.25, 5], atol=1e-6)


def test_constant_dimensions_are_named(statistics: ActionStatistics) -> None:
    assert statistics.constant_dimensions(("x", "y", "grip")) == ("y",)


def test_parts_that_do_not_add_up_are_refused(statistics: ActionStatistics) -> None:
    with pytest.raises(DataError, match=r"2 dimensions.* 3"):
        bounds_spec(statistics, parts={"move": 2})


def test_no_actions_at_all_are_refused() -> None:
    with pytest.raises(DataError, match="no actions"):
        statistics_of(np.empty((0, 3), np.float32))


def test_every_recorded_action_lies_within_the_bounds_given(statistics: ActionStatistics) -> None:
    spec = spec_between(statistics.minimum, statistics.maximum, parts={"a": 3})
    edges = np.stack([statistics.minimum, statistics.maximum]).astype(np.float32)
    assert not spec.out_of_bounds(edges).any()
