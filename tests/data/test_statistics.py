"""Statistics of a whole source: exact, kept, and void when the source changes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt1.actions import Continuous
from rt1.data.rlds.reader import RLDSSource
from rt1.data.statistics import ActionStatistics, SourceStatistics, source_statistics, spec_between, statistics_of
from rt1.errors import DataError

MakeSource = Callable[..., Any]


@pytest.fixture
def odd(make_source: MakeSource) -> Any:
    """A source with a constant dimension, a far value and values outside the bounds."""
    source = make_source(150, 50)
    for moves in source.moves:
        moves[:, 1] = 0.25
        moves[:, 2] = np.where(np.arange(len(moves)) % 2, 0.1, -0.1)
    source.moves[1][7, 2] = 0.9
    source.moves[0][3:6, 0] = 1.5
    return source


def test_oddities_are_put_in_words(odd: Any) -> None:
    assert source_statistics(odd).remarks() == (
        "move_1 is constant at 0.25",
        "0.50% of move_2 lies more than 5 standard deviations from its mean",
        "1.50% of move_0 lies outside its bounds and is clipped",
    )


def test_a_source_without_oddities_has_no_remarks(make_source: MakeSource) -> None:
    assert source_statistics(make_source(20, 3)).remarks() == ()


def test_statistics_are_those_of_every_step(odd: Any) -> None:
    found, actions = source_statistics(odd), np.concatenate(odd.moves)
    assert found.names == ("move_0", "move_1", "move_2")
    assert found.statistics.count == 200
    np.testing.assert_array_equal(found.statistics.maximum, actions.max(axis=0))
    np.testing.assert_allclose(found.statistics.mean, actions.astype(np.float64).mean(axis=0))
    np.testing.assert_allclose(found.outside, [3 / 200, 0, 0])


def test_statistics_come_back_from_json_exactly(odd: Any) -> None:
    found = source_statistics(odd)
    assert SourceStatistics.from_json(json.loads(json.dumps(found.to_json()))).to_json() == found.to_json()
    for data in ({}, {**found.to_json(), "statistics": {"count": 3}}):
        with pytest.raises(ValueError, match="statistics of a source"):
            SourceStatistics.from_json(data)


def test_a_kept_result_is_used_until_the_source_changes(odd: Any, tmp_path: Path) -> None:
    first = source_statistics(odd, cache=tmp_path)
    kept = next(tmp_path.glob("statistics-*.json"))
    kept.write_text(kept.read_text().replace("[0.015, 0.0, 0.0]", "[0.5, 0.0, 0.0]"))
    assert source_statistics(odd, cache=tmp_path).outside[0] == 0.5
    odd.moves[1][0, 0] = 0.0
    assert source_statistics(odd, cache=tmp_path).outside[0] == first.outside[0]
    wide = Continuous(name="move", low=(-2.0,) * 3, high=(2.0,) * 3)
    odd.action_spec = dataclasses.replace(odd.action_spec, parts=(wide,))
    assert source_statistics(odd, cache=tmp_path).outside[0] == 0.0


def test_half_a_file_is_made_again(odd: Any, tmp_path: Path) -> None:
    whole = source_statistics(odd, cache=tmp_path).to_json()
    kept = next(tmp_path.glob("statistics-*.json"))
    kept.write_text(kept.read_text()[:50])
    assert source_statistics(odd, cache=tmp_path).to_json() == whole
    assert json.loads(kept.read_text()) == whole


def test_a_result_that_cannot_be_kept_is_warned_of_and_returned(odd: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.warns(UserWarning, match="statistics.*could not save"):
        found = source_statistics(odd, cache=tmp_path / "file" / "cache")
    assert found.to_json() == source_statistics(odd).to_json()


def test_an_action_that_is_not_finite_is_named(make_source: MakeSource) -> None:
    source = make_source(4, 1, 5)
    source.moves[2][3, 1] = np.inf
    with pytest.raises(DataError, match=r"memory, episode 2, step 3 .*inf.*finite"):
        source_statistics(source)


def test_a_source_without_steps_is_refused(make_source: MakeSource) -> None:
    with pytest.raises(DataError, match="memory has no steps"):
        source_statistics(make_source())


def test_an_rlds_source_keeps_them_beside_its_index(tmp_path: Path, record: Callable[[Path], Path]) -> None:
    source = RLDSSource(record(tmp_path / "set"))
    found = source_statistics(source)
    kept = list((tmp_path / "set" / ".rt1-index").glob("*/statistics-*.json"))
    assert len(kept) == 1
    assert json.loads(kept[0].read_text()) == found.to_json()


@pytest.fixture(scope="module")
def statistics() -> ActionStatistics:
    """A spread dimension, a constant one, and one that is 0 but for a single 5."""
    actions = np.zeros((1001, 3), np.float32)
    actions[:, 0] = np.linspace(-1, 1, 1001)
    actions[:, 1] = 0.25
    actions[7, 2] = 5
    return statistics_of(actions)


def test_quantiles_leave_out_the_outermost_hundredth(statistics: ActionStatistics) -> None:
    np.testing.assert_allclose(statistics.q01, [-0.98, 0.25, 0], atol=1e-6)
    np.testing.assert_allclose(statistics.q99, [0.98, 0.25, 0], atol=1e-6)


def test_a_spec_of_the_range_spans_minimum_to_maximum_and_widens_a_constant(
    statistics: ActionStatistics,
) -> None:
    spec = spec_between(statistics.minimum, statistics.maximum, parts={"move": 2, "grip": 1}, bins=16)
    np.testing.assert_allclose(spec.low, [-1, 0.25, 0])
    np.testing.assert_allclose(spec.high, [1, 1.25, 5])
    assert spec.dimension_names == ("move_0", "move_1", "grip")
    assert spec.bins == 16


@pytest.mark.parametrize("value", [0.0, 0.5, -0.3, 1 / 3, 3e7, -3e7, 16777217.0, 1e-30, 1e-45, -1e-12, 9e37, -9e37])
def test_a_constant_comes_back_exactly(value: float) -> None:
    constant = np.array([value], dtype=np.float32)
    spec = spec_between(constant, constant, parts={"x": 1})
    np.testing.assert_array_equal(spec.decode(spec.encode(constant)), constant)
    assert not spec.out_of_bounds(constant).any()


def test_constant_dimensions_are_named(statistics: ActionStatistics) -> None:
    assert statistics.constant_dimensions(("x", "y", "grip")) == ("y",)


def test_parts_that_do_not_add_up_are_refused(statistics: ActionStatistics) -> None:
    with pytest.raises(DataError, match=r"add up to 2 dimensions\. The actions have 3"):
        spec_between(statistics.minimum, statistics.maximum, parts={"move": 2})


def test_no_actions_at_all_are_refused() -> None:
    with pytest.raises(DataError, match="no actions"):
        statistics_of(np.empty((0, 3), np.float32))


def test_every_recorded_action_lies_within_the_bounds_given(statistics: ActionStatistics) -> None:
    spec = spec_between(statistics.minimum, statistics.maximum, parts={"a": 3})
    edges = np.stack([statistics.minimum, statistics.maximum]).astype(np.float32)
    assert not spec.out_of_bounds(edges).any()
