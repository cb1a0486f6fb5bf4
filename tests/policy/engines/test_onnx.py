"""ONNX Runtime is loaded without its usage reports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_onnx_runtime_is_imported_without_its_usage_reports(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}  # where it keeps reports and its id
    subprocess.run([sys.executable, "-c", "import rt1, onnxruntime"], check=True, env=environment)
    assert not list(tmp_path.iterdir())
