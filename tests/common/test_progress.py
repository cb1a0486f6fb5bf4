"""Progress: a bar on a terminal, lines in a file."""

from __future__ import annotations

import io
import re

import pytest

from rt1.common.processes import run_jobs
from rt1.common.progress import (
    EpisodeCount,
    EpisodeProgress,
    Progress,
    count_episode,
    count_step,
    duration,
    episode_progress,
    progress,
)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_file_gets_the_last_line_and_no_control_characters() -> None:
    stream = io.StringIO()
    bar = Progress("recording", 40, unit="episodes", stream=stream)
    for done in range(41):
        bar.update(done, "2 rejected")
    bar.close()
    assert re.fullmatch(r"recording 40/40 episodes, \S+/s, 0 s left, 2 rejected\n", stream.getvalue())


def test_a_terminal_gets_a_bar_that_is_written_over() -> None:
    stream = _Terminal()
    bar = Progress("training", 4, unit="updates", stream=stream)
    bar.update(1)
    bar.update(4)
    bar.close()
    first, second = stream.getvalue().removesuffix("\n").removeprefix("\r").split("\r")
    assert "[#####...............] training 1/4 updates, " in first
    assert "[####################] training 4/4 updates, " in second
    assert "0 s left" in second
    assert stream.getvalue().endswith("\n")


def test_a_file_gets_at_most_one_line_in_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = 0.0
    monkeypatch.setattr("rt1.common.progress.time.monotonic", lambda: seconds)
    stream = io.StringIO()
    bar = Progress("trials", 1000, unit="trials", stream=stream)
    for done in range(60):
        seconds = float(done)
        bar.update(done)
    assert re.findall(r"^trials (\d+)/1000 trials, 1/s, ", stream.getvalue(), re.MULTILINE) == [
        "10",
        "20",
        "30",
        "40",
        "50",
    ]


def test_the_bar_needs_no_terminal_with_utf_8() -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding="ascii")
    stream.isatty = lambda: True  # type: ignore[method-assign]
    bar = Progress("", 2, unit="trials", stream=stream)
    bar.update(1)
    bar.close()
    assert b"[##########..........] 1/2 trials" in written.getvalue()


def test_the_speed_counts_only_what_was_done_here() -> None:
    stream = _Terminal()
    Progress("training", 200, unit="updates", done=150, stream=stream).update(150)
    assert "150/200 updates, 0/s, ? left" in stream.getvalue()


def test_a_great_speed_is_a_plain_number() -> None:
    stream = io.StringIO()
    bar = Progress("counting", 10**9, unit="things", stream=stream)
    bar.update(10**9)
    bar.close()
    assert re.search(r", \d{4,}/s, ", stream.getvalue())


def test_nothing_to_do_is_no_error() -> None:
    stream = _Terminal()
    Progress("recording", 0, unit="episodes", stream=stream).update(0)
    assert "recording 0/0 episodes" in stream.getvalue()


def test_progress_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("recording", 2, unit="episodes") as bar:
        bar.update(2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("recording 2/2 episodes")


def test_steps_give_a_rate_and_a_time_left_before_the_first_episode_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds, stream, count = 0.0, _Terminal(), EpisodeCount()
    monkeypatch.setattr("rt1.common.progress.time.monotonic", lambda: seconds)
    bar = EpisodeProgress(count, "trials", 4, unit="trials", stream=stream)
    for moment, steps, episodes in ((5.0, 0, 0), (7.0, 20, 0), (15.0, 80, 2)):  # the workers start for five seconds
        seconds = moment
        count.add(steps=steps, episodes=episodes, longest=60)
        bar.poll()
    shown = [text.partition("] ")[2] for text in stream.getvalue().split("\r")[1:]]
    assert shown == [
        "trials 0/4 trials, 0 steps, 0 steps/s, ? left",
        "trials 0/4 trials, 20 steps, 10 steps/s, 22 s left",  # 4 episodes of at most 60 steps
        "trials 2/4 trials, 100 steps, 10 steps/s, 10 s left",  # 2 more of 50
    ]


def test_a_file_gets_at_most_one_line_in_ten_seconds_of_many_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds, stream, count = 0.0, io.StringIO(), EpisodeCount()
    monkeypatch.setattr("rt1.common.progress.time.monotonic", lambda: seconds)
    bar = EpisodeProgress(count, "trials", 4, unit="trials", stream=stream)
    for moment in range(1, 36):
        seconds = float(moment)
        count.add(steps=1, longest=60)
        bar.poll()
    bar.close()
    assert re.findall(r", (\d+) steps, ", stream.getvalue()) == ["10", "20", "30", "35"]


def _one_episode(steps: int) -> None:
    for _ in range(steps):
        count_step(10)
    count_episode()


@pytest.mark.parametrize("workers", [1, 2])
def test_episodes_and_steps_of_all_workers_are_counted_and_earlier_ones_kept(
    workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with episode_progress("recording", 7, done=4) as bar:
        assert len(list(run_jobs(_one_episode, [10, 3, 5], workers=workers))) == 3
        bar.note = "1 rejected"
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"recording 7/7 episodes, 18 steps, \S+ steps/s, 0 s left, 1 rejected", line)
    count_step(10)  # nobody looks: no error


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3599.9, "1 h 0 min"), (90_061, "25 h 1 min")],
)
def test_durations_are_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(("seconds", "words"), [(0.04, "0.0 s"), (59.94, "59.9 s"), (59.99, "1 min 0 s")])
def test_durations_with_a_digit_after_the_point_never_show_sixty(seconds: float, words: str) -> None:
    assert duration(seconds, 1) == words
