"""The page of a data set: complete, escaped, self-contained."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from rt1 import cli
from rt1.actions import ActionSpec, Continuous
from rt1.data.sources.images import encode_jpeg
from rt1.data.survey import show_episode, survey_data
from rt1.report.dataset import action_histogram, episode_trace, length_histogram, write_page
from rt1.report.dataset_checks import findings
from rt1.report.svg import COLORS

pytest.importorskip("matplotlib")

HOSTILE = "<script>alert(\"x\")</script> & 'quote' {{ title }}"


@pytest.fixture
def write(read_page: Callable[[str], Any], tmp_path: Path) -> Callable[..., Any]:
    """Write the page of a data set and read it."""

    def write(source: Any, episode: int | None = None) -> Any:
        path = tmp_path / "new" / "page.html"
        survey, shown = survey_data(source), show_episode(source, episode)
        assert write_page(path, survey, shown, findings=findings(survey), command="rt1 inspect <d>") == path
        return read_page(path.read_text(encoding="utf-8"))

    return write


def test_the_page_shows_what_is_in_the_set(make_source: Callable[..., Any], write: Callable[..., Any]) -> None:
    source = make_source(3, 5, 7, size=(24, 32))
    source.moves[0][:, 1] = -1.5
    page = write(source)
    for expected in (
        "Data set memory",
        "Episodes 3 of 3 to 7 steps",
        "Steps 15 5.0 per episode",
        "Instructions 2 text embeddings of 8 stored",
        "Image 24 \N{MULTIPLICATION SIGN} 32",
        "move_1 20 % outside",
        "move_1: 20 % of the values lie outside -1..1 and will be clipped",
        "open the drawer 2 67 %",
        "Episode 1, 5 steps: \N{LEFT DOUBLE QUOTATION MARK}close the drawer",
        "actions: all of 15 steps",
        "an image counts as blue where the mean of blue exceeds that of red by more than 5 of 255",
        "rt1 inspect <d>",
    ):
        assert expected in page.text, expected


def test_text_from_outside_is_shown_as_it_is(make_source: Callable[..., Any], write: Callable[..., Any]) -> None:
    source = make_source(3)
    source.name = HOSTILE
    source.instruction = lambda _: HOSTILE
    source.skipped = (HOSTILE,)
    labels = (HOSTILE, "b", "c")
    source.action_spec = ActionSpec(parts=(Continuous(name="m", low=(-2,) * 3, high=(2,) * 3, labels=labels),))
    page = write(source)
    # title twice, what was left out, histogram, table, trace, instruction (also of the episode)
    assert page.text.count(HOSTILE) == 8


def test_the_images_of_the_episode_asked_for_are_shown_small(
    make_source: Callable[..., Any], write: Callable[..., Any]
) -> None:
    source = make_source(2, 3)
    wide = [np.full((300, 600, 3), (10 * step, 100, 50), np.uint8) for step in range(3)]
    source.images[1] = [encode_jpeg(image) for image in wide]
    page = write(source, episode=1)
    assert "step 0 step 1 step 2" in page.text
    for image, tag in zip(wide, page.attributes("img"), strict=True):
        shown = cv2.imdecode(np.frombuffer(base64.b64decode(tag["src"].split(",")[1]), np.uint8), cv2.IMREAD_COLOR)
        assert shown is not None
        assert shown.shape == (160, 320, 3)
        np.testing.assert_allclose(shown[80, 160, ::-1], image[0, 0], atol=4)


def test_long_lists_of_sentences_are_cut_with_the_count(
    make_source: Callable[..., Any], write: Callable[..., Any]
) -> None:
    source = make_source(*[1] * 210, size=(8, 8))
    source.instruction = lambda episode: f"sentence {episode}" if episode else ""
    page = write(source)
    assert "and 10 more" in page.text
    assert "empty 1" in page.text
    assert "sentence 205" not in page.text
    assert "Episodes 210 of 1 steps each" in page.text


def test_the_command_writes_the_page_or_says_how_to_get_it(
    make_source: Callable[..., Any],
    write_recording: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = write_recording(tmp_path / "data", make_source(4, 6, size=(8, 8)), size=(8, 8))
    out = tmp_path / "page.html"
    assert cli.main(["inspect", str(data)]) == 0
    assert "add --out PAGE.html" in capsys.readouterr().out
    assert not out.exists()
    assert cli.main(["inspect", str(data), "--out", str(out), "--episode", "0"]) == 0
    assert f"page: {out}" in capsys.readouterr().out
    assert "Episode 0, 4 steps" in out.read_text(encoding="utf-8")
    assert cli.main(["inspect", str(data), "--out", str(out), "--episode", "2"]) == 1
    assert "there is no episode 2. The episodes of memory are 0..1" in capsys.readouterr().err


def test_a_checkpoint_has_no_page(
    make_checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_checkpoint(tmp_path / "run")
    assert cli.main(["inspect", str(run), "--out", str(tmp_path / "page.html")]) == 1
    assert "is a checkpoint, which has no page or checks. Remove --out" in capsys.readouterr().err


def _values(*values: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.array(values, dtype=np.float32)


def _bars(svg: str, color: str) -> int:
    return svg.count(f"fill: {COLORS[color]}")


def test_a_value_at_a_bound_lies_within_and_the_next_one_outside() -> None:
    low, high = float(np.float32(-0.3)), float(np.float32(0.7))
    within = action_histogram("x", _values(low, high, 0.1), low=low, high=high)
    assert (_bars(within, "policy"), _bars(within, "swapped")) == (3, 0)
    beyond = np.nextafter(_values(low, high), _values(-9, 9))
    outside = action_histogram("x", beyond, low=low, high=high)
    assert (_bars(outside, "policy"), _bars(outside, "swapped")) == (0, 2)


def test_values_very_far_out_share_the_outermost_bar() -> None:
    svg = action_histogram("x", _values(0, 1e6, 3e6, -1e9), low=-1, high=1)
    assert (_bars(svg, "policy"), _bars(svg, "swapped")) == (1, 2)


def test_each_choice_has_its_bar_and_what_is_none_stands_outside() -> None:
    svg = action_histogram("end", _values(0, 0, 1, 2, -1), low=0, high=2, choices=3)
    assert (_bars(svg, "policy"), _bars(svg, "swapped")) == (3, 1)
    assert 'aria-label="end: share of the steps by value"' in svg


def test_one_value_among_a_hundred_thousand_can_be_seen() -> None:
    svg = action_histogram("x", np.append(np.zeros(100_000, np.float32), np.float32(5)), low=-1, high=1)
    assert _bars(svg, "swapped") == 1


@pytest.mark.parametrize("lengths", [[7], [3, 4, 4], [1, 2, 3, 5000]])
def test_lengths_are_drawn_whatever_they_are(lengths: list[int]) -> None:
    svg = length_histogram(np.array(lengths, dtype=np.int64))
    assert _bars(svg, "policy") == len(set(lengths)) if max(lengths) < 100 else 2
    assert "steps" in svg


def test_the_actions_of_an_episode_have_a_dot_at_each_image() -> None:
    svg = episode_trace("x", _values(0, 1, 0, 1, 0), low=-1, high=1, steps=(0, 4))
    assert svg.count("<use ") >= 2
    assert ">step<" in svg
