"""Bounds of the action that the user gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt1.actions import ActionSpec, Continuous, Discrete
from rt1.data.bounds import spec_with_bounds, with_bounds
from rt1.data.open_data import DataOptions, open_data
from rt1.data.sources.concat import JoinedSource
from rt1.errors import DataError

VALUES = np.column_stack([np.linspace(0, 1, 2001), np.zeros(2001), np.full(2001, 0.5)]).astype(np.float32)
VALUES[7] = [900, 3, 0.5]
"""One outlier, a dimension that changes in one step, a constant."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.savez(tmp_path / "0.npz", image=np.zeros((2001, 4, 4, 3), np.uint8), action=VALUES)
    return tmp_path


def _spec(folder: Path, *words: str) -> ActionSpec:
    return open_data(folder, DataOptions(instruction="go", bounds=words)).action_spec


def test_an_outlier_does_not_set_the_bounds_of_quantiles(folder: Path) -> None:
    assert _spec(folder).high[0] == 900
    for words, share in (("q01", 0.01), ("q001", 0.001)):
        spec = _spec(folder, words)
        assert spec.low[0] == pytest.approx(share, abs=1e-3)
        assert spec.high[0] == pytest.approx(1 - share, abs=1e-3)
        assert (spec.low[1], spec.high[1]) == (0, 3)
        assert spec.low[2] == 0.5 < spec.high[2]  # a constant is its own lower bound
        assert spec.dimension_names == ("action_0", "action_1", "action_2")


def test_two_numbers_are_the_bounds_of_all_dimensions(folder: Path) -> None:
    spec = _spec(folder, "-1", "2.5")
    assert spec.low.tolist() == [-1] * 3
    assert spec.high.tolist() == [2.5] * 3


@pytest.mark.parametrize(
    "content",
    [
        {"low": [0, 1, 2], "high": [3, 4, 5]},
        {"action": {"q01": [0, 1, 2], "q99": [3, 4, 5], "min": [-9] * 3, "max": [9] * 3}},
        {"action_spec": {"bins": 64, "parts": [{"name": "a", "low": [0, 1, 2], "high": [3, 4, 5], "labels": []}]}},
    ],
)
def test_a_file_has_the_bounds(folder: Path, content: dict[str, Any]) -> None:
    path = folder / "bounds.json"
    path.write_text(json.dumps(content))
    spec = _spec(folder, str(path))
    assert (spec.low.tolist(), spec.high.tolist(), spec.bins) == ([0, 1, 2], [3, 4, 5], 256)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("q02",), "q02.*LOW HIGH, q01, q001"),
        (("1", "x"), "1 x. .*LOW HIGH"),
        (("2", "1"), "2 1. LOW must be below"),
        (("nan", "1"), "nan 1. LOW must be below"),
        (("1", "2", "3"), "1 2 3.*LOW HIGH"),
        (("-inf", "inf"), "-inf inf.*finite"),
    ],
)
def test_other_bounds_are_refused(folder: Path, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        _spec(folder, *words)


@pytest.mark.parametrize("content", ["[]", '{"a": 3}', '{"low": [1], "high": [2]}', '{"low": "a", "high": 3}'])
def test_a_file_with_something_else_is_refused(folder: Path, content: str) -> None:
    (folder / "bounds.json").write_text(content)
    with pytest.raises(DataError, match=r"bounds\.json"):
        _spec(folder, str(folder / "bounds.json"))


def test_files_of_one_robot_mix_with_the_same_bounds_and_the_refusal_names_the_ways(tmp_path: Path) -> None:
    for name, factor in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "0.npz", image=np.zeros((9, 4, 4, 3), np.uint8), action=factor * VALUES[:9])

    def sources(*words: str) -> list[Any]:
        return [open_data(tmp_path / n, DataOptions(instruction="go", bounds=words)) for n in ("one", "two")]

    with pytest.raises(DataError, match=r'--bounds.*bounds = "widest"'):
        JoinedSource(sources())
    assert JoinedSource(sources("-1", "1")).lengths.tolist() == [9, 9]


def test_choices_keep_theirs() -> None:
    parts = (Discrete(name="mode", choices=3), Continuous(name="move", low=(0.0,), high=(1.0,)))
    spec = spec_with_bounds(ActionSpec(parts=parts), np.array([-5, -2]), np.array([5, 2]))
    assert spec.parts[0] == parts[0]
    assert (spec.low.tolist(), spec.high.tolist()) == ([0, -2], [2, 2])


def test_bounds_apply_to_recordings_too(make_source: Callable[..., Any]) -> None:
    source = make_source(4, 6)
    bounded = with_bounds(source, ["-7", "7"])
    assert set(bounded.action_spec.high.tolist()) == {7}
    np.testing.assert_array_equal(bounded.actions(1, 0, 6), source.actions(1, 0, 6))
