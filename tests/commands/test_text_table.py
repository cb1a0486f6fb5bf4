"""rt1 text-table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rt1.cli import main
from rt1.text.encoder import TableEncoder
from rt1.text.load import load_identified


def test_a_data_set_s_embeddings_become_a_table(
    make_source: Callable[..., Any],
    write_recording: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = write_recording(tmp_path / "data", make_source(3, 2, 4))
    out = tmp_path / "table.safetensors"
    assert main(["text-table", str(folder), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 2 sentences, 8 entries each, of table\n"
    assert TableEncoder.load(out).sentences == ("close the drawer", "open the drawer")
    assert main(["text-table", str(folder), "--out", str(out), "--encoder", "another"]) == 0
    assert TableEncoder.load(out).identity.name == "another"


def test_a_table_of_a_known_encoder_goes_by_its_file_and_is_found_by_who_trained_with_it(
    make_source: Callable[..., Any], write_recording: Callable[..., Path], tmp_path: Path, table: TableEncoder
) -> None:
    folder, out = write_recording(tmp_path / "data", make_source(3, 2, 4)), tmp_path / "table.safetensors"
    assert main(["text-table", str(folder), "--out", str(out)]) == 0
    found = TableEncoder.load(out).identity
    assert found.name == str(out)
    assert found != table.identity
    assert load_identified(found).encode(["open the drawer"]).shape == (1, 8)
