"""Unknown names: what was given, what exists, what was probably meant."""

from __future__ import annotations

import pytest

from rt1.common.suggest import lookup, unknown_name


def test_a_close_name_is_suggested() -> None:
    with pytest.raises(ValueError, match=r"^unknown preset 'dmeo', did you mean 'demo'\? Known: debug, demo, paper$"):
        lookup("preset", "dmeo", {"paper": 1, "demo": 2, "debug": 3})


def test_where_nothing_is_close_the_known_names_are_listed() -> None:
    assert unknown_name("task", "xyz", ["reach", "push"]) == "unknown task 'xyz'. Known: push, reach"


def test_where_nothing_is_known_it_says_none() -> None:
    assert unknown_name("task", "reach", []) == "unknown task 'reach'. Known: none"


def test_a_known_name_gives_its_value() -> None:
    assert lookup("preset", "demo", {"demo": 2}) == 2


def test_a_very_long_name_is_cut() -> None:
    assert "x ..." in unknown_name("task", "x" * 100_000, ["reach"])
    assert len(unknown_name("task", "x" * 100_000, ["reach"])) < 300
