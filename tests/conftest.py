"""Shared fixtures: one torch thread, and the folder of reference material."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # a tiny training test takes 1 s with one thread and up to 60 s on a busy machine


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference numbers and real data beside the checkout (``RT1_SHARED`` overrides it)."""
    folder = Path(os.environ.get("RT1_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no reference material at {folder}; set RT1_SHARED to its folder")
    return folder
