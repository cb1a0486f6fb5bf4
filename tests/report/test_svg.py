"""Figures are well-formed inline SVG in the page's colors, with text as text."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import numpy as np
import pytest

from rt1.report.svg import COLORS, action_plots, success_bars, training_curves

mpl = pytest.importorskip("matplotlib")


def _parse(svg: str) -> ET.Element:
    assert "http" not in svg
    # In a page the two namespaces are known; XML on its own wants them said.
    return ET.fromstring(str(svg).replace("<svg ", '<svg xmlns:xlink="x" ', 1))


def _texts(svg: str) -> list[str]:
    return [(element.text or "").replace("\N{NO-BREAK SPACE}", " ") for element in _parse(svg).iter("text")]


def test_training_curves_show_loss_and_accuracy_in_training_and_held_out() -> None:
    metrics = [{"update": u, "loss": 5.0 / u, "accuracy": u / 100} for u in range(1, 60)]
    metrics[-1] |= {"heldout_loss": 1.0, "heldout_accuracy": 0.5}
    curves = training_curves(metrics)
    assert list(curves) == ["Loss", "Token accuracy"]
    for svg in curves.values():
        assert "update" in _texts(svg)
        assert COLORS["policy"] in svg
        assert COLORS["swapped"] in svg


def test_curves_without_records_are_left_out() -> None:
    assert training_curves([]) == {}
    assert list(training_curves([{"update": 1, "loss": 2.0}])) == ["Loss"]


def test_each_dimension_of_an_episode_gets_its_plot() -> None:
    recorded = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    plots = action_plots(["x", "$y$", "<z>"], recorded, recorded + np.float32(0.1))
    assert list(plots) == ["x", "$y$", "<z>"]
    for svg in plots.values():
        assert "step" in _texts(svg)
        assert COLORS["recorded"] in svg
        assert COLORS["policy"] in svg


def test_bars_say_their_rates_and_what_was_not_run() -> None:
    svg = success_bars(
        'rates of "<b>"', {"policy": (0.95, (0.76, 0.99)), "expert": (1.0, None), "replay": (None, None)}
    )
    texts = _texts(svg)
    assert {"policy", "expert", "replay", "95 %", "100 %", "not run"} <= set(texts)
    assert _parse(svg).get("aria-label") == 'rates of "<b>"'


def test_the_same_numbers_give_the_same_figure() -> None:
    rates = {"policy": (0.5, (0.3, 0.7)), "random": (0.0, None)}
    assert success_bars("task", rates) == success_bars("task", rates)


def test_drawing_leaves_the_users_matplotlib_settings_alone() -> None:
    before = dict(mpl.rcParams)
    training_curves([{"update": 1, "loss": 2.0}])
    assert dict(mpl.rcParams) == before
