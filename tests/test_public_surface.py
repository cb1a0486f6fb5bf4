"""The public surface is a list: it changes on purpose only."""

from __future__ import annotations

import re
import tomllib
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


def test_the_version_is_in_one_place_and_the_changelog_begins_with_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "src/rt1/__init__.py"
    assert "version:" not in (ROOT / "CITATION.cff").read_text().replace("cff-version:", "")
    newest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] in (rt1.__version__, "Unreleased")
