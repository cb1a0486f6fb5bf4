"""What differs between a run's settings and those it began with."""

from __future__ import annotations

from rt1.train.changes import differences


def test_a_setting_saved_under_its_old_name_is_the_same_setting() -> None:
    assert differences({"clip": 4, "seed": 1}, {"windows_per_clip": 4, "seed": 1}) == []
    assert differences({"clip": 4}, {"windows_per_clip": 2}) == ["windows_per_clip: 4 then, 2 now"]


def test_what_only_decides_speed_is_no_difference() -> None:
    assert differences({"threads": 1, "seed": 1}, {"threads": 2, "seed": 2}) == ["seed: 1 then, 2 now"]
