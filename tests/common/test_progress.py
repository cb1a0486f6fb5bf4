"""Progress: a bar on a terminal, lines in a file."""

from __future__ import annotations

import io
import re

import pytest

from rt1.common.progress import Progress, duration, progress


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
    bar = Progress("trials", 2, unit="trials", stream=stream)
    bar.update(1)
    bar.close()
    assert b"[##########..........] trials 1/2" in written.getvalue()


def test_the_speed_counts_only_what_was_done_here() -> None:
    stream = _Terminal()
    Progress("training", 200, unit="updates", done=150, stream=stream).update(150)
    assert "150/200 updates, 0/s, ? left" in stream.getvalue()


def test_a_great_speed_is_a_plain_number() -> None:
    stream = io.StringIO()
    Progress("counting", 10**9, unit="things", stream=stream).update(10**9)
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


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3599.9, "1 h 0 min"), (90_061, "25 h 1 min")],
)
def test_durations_are_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(("seconds", "words"), [(0.04, "0.0 s"), (59.94, "59.9 s"), (59.99, "1 min 0 s")])
def test_durations_with_a_digit_after_the_point_never_show_sixty(seconds: float, words: str) -> None:
    assert duration(seconds, 1) == words
