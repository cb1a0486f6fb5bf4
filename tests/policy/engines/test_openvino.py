"""OpenVINO is imported without its usage reports."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from rt1.policy.engines.openvino import import_openvino


def test_openvino_is_imported_without_its_usage_reports() -> None:
    if importlib.util.find_spec("openvino") is None:  # importorskip would import it, reports and all
        pytest.skip("openvino is not installed; it comes with the extra openvino")
    code = (
        "import sys; from rt1.policy.engines.openvino import import_openvino; import_openvino(); "
        "print('openvino_telemetry' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert import_openvino().Core().available_devices
