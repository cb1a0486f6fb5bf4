"""rt1 harvest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rt1.cli import main
from rt1.text.encoder import TableEncoder


def test_a_data_set_s_embeddings_become_a_table(
    make_source: Callable[..., Any],
    write_recording: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = write_recording(tmp_path / "data", make_source(3, 2, 4))
    out = tmp_path / "table.safetensors"
    assert main(["harvest", str(folder), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 2 sentences, 8 entries each, of table\n"
    assert TableEncoder.load(out).sentences == ("close the drawer", "open the drawer")
    assert main(["harvest", str(folder), "--out", str(out), "--encoder", "another"]) == 0
    assert TableEncoder.load(out).identity.name == "another"
