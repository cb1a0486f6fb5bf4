"""The wheels of all packages: each is built as pip does, and installed into an empty environment."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import rt1

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = [ROOT, *sorted(path.parent for path in (ROOT / "packages").glob("*/pyproject.toml"))]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


def _run(*command: str | Path) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module", params=PACKAGES, ids=lambda folder: "rt1" if folder == ROOT else folder.name)
def wheel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a package, built without a download."""
    folder = tmp_path_factory.mktemp("wheel")
    _run(*PIP, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder, request.param)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds this wheel and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    _run(*PIP, "--python", python, "install", "--no-deps", "--no-index", wheel)
    return python


def test_a_wheel_installs_into_an_empty_environment(python: Path, wheel: Path) -> None:
    name, version = wheel.name.split("-")[:2]
    code = f"from importlib import metadata; print(metadata.version({name!r}), len(list(metadata.distributions())))"
    assert _run(python, "-I", "-c", code).split() == [version, "1"]


@pytest.mark.parametrize("wheel", [ROOT], indirect=True, ids=["rt1"])
def test_the_command_of_the_wheel_runs_without_a_library(python: Path, wheel: Path) -> None:
    assert wheel.name.startswith(f"rt1-{rt1.__version__}-py3")
    assert _run(python.with_name("rt1"), "--version") == f"rt1 {rt1.__version__}\n"
    assert "  train " in _run(python.with_name("rt1"), "--help")


@pytest.mark.parametrize("wheel", [ROOT], indirect=True, ids=["rt1"])
def test_the_wheel_holds_every_file_of_the_package_and_its_licence(wheel: Path) -> None:
    listed = _run("git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "src/rt1").splitlines()
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name.removeprefix("src/") for name in listed} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0] for name in names} == {"rt1", f"rt1-{rt1.__version__}.dist-info"}
