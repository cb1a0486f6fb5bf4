"""The public surface is a list: it changes on purpose only."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import rt1

ROOT = Path(__file__).resolve().parents[1]
PUBLIC_NAMES = [
    "RT1",
    "ActionSpec",
    "BatchedPolicy",
    "CheckpointError",
    "Continuous",
    "Discrete",
    "Policy",
    "RT1Config",
    "RT1Error",
    "__version__",
    "action_loss",
    "load_model",
    "network_config",
    "rt1_action_spec",
]


def test_the_package_exports_exactly_the_listed_names() -> None:
    assert sorted(rt1.__all__) == sorted(PUBLIC_NAMES)


def test_every_exported_name_exists() -> None:
    missing = [name for name in PUBLIC_NAMES if not hasattr(rt1, name)]
    assert missing == []


def test_the_version_is_the_same_everywhere() -> None:
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited is not None
    assert rt1.__version__ == metadata.version("rt1") == cited[1]
