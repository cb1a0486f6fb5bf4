"""Reading a metrics file while it is written, and after a kill."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rt1.errors import DataError
from rt1.evaluate.metrics import METRICS_FILE, read_metrics


def test_a_run_without_metrics_has_no_records(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []


def test_records_come_in_the_order_they_were_written(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_text('{"update": 1, "loss": 0.5}\n{"update": 2, "loss": 0.25}\n')
    assert read_metrics(tmp_path) == [{"update": 1, "loss": 0.5}, {"update": 2, "loss": 0.25}]


@pytest.mark.parametrize(
    "line",
    ['{"update": 1, "loss"', "[1]", '{"loss": 1.0}', '{"update": true}', '{"update": 1, "a": ""}', "[" * 5000],
)
def test_a_line_that_is_no_record_is_refused_with_its_file_and_number(tmp_path: Path, line: str) -> None:
    file = tmp_path / METRICS_FILE
    file.write_text(f'{{"update": 1}}\n{line}\n{{"update": 2}}\n')
    with pytest.raises(DataError, match=re.escape(f"{file}, line 2")):
        read_metrics(tmp_path)


def test_a_half_written_last_line_is_left_out(tmp_path: Path) -> None:
    whole = '{"update": 1, "loss": 0.5}\n'
    line = '{"update": 2, "loss": 0.25}'
    for kept in range(len(line)):
        (tmp_path / METRICS_FILE).write_text(whole + line[:kept])
        assert read_metrics(tmp_path) == [{"update": 1, "loss": 0.5}]
