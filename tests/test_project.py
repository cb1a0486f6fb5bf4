"""The files around the code: workflows, hooks, forms and images are valid, and follow scripts/check."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.test_launch import check_shell

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
CI = ROOT / ".github" / "workflows" / "ci.yml"
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
SECRET = re.compile(r"password|secret|token|api[-_]?key", re.IGNORECASE)


def _check(tool: str, *words: str | Path) -> None:
    if not (BIN / tool).is_file():
        pytest.skip(f"no {tool}: run scripts/setup dev")
    ended = subprocess.run([BIN / tool, *words], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("vendor.github-workflows", CI),
        ("custom.github-workflows-require-timeout", CI),
        ("vendor.github-issue-forms", ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml"),
        ("vendor.github-issue-forms", ROOT / ".github" / "ISSUE_TEMPLATE" / "feature.yml"),
        ("vendor.github-issue-config", ROOT / ".github" / "ISSUE_TEMPLATE" / "config.yml"),
        ("vendor.citation-file-format", ROOT / "CITATION.cff"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_file_of_the_project_follows_its_schema(schema: str, file: Path) -> None:
    check_schema(schema, file)


def check_schema(schema: str, file: Path) -> None:
    """Check a file with check-jsonschema, which brings these schemas."""
    _check("check-jsonschema", "--builtin-schema", schema, file)


def _steps(job: dict[str, Any]) -> Iterator[str]:
    return (step["run"] for step in job["steps"] if "run" in step)


def test_the_workflow_runs_scripts_that_exist_and_tests_every_supported_python() -> None:
    jobs = yaml.safe_load(CI.read_text())["jobs"]
    assert list(jobs) == ["tests", "docs", "wheels"]
    runs = [run for job in jobs.values() for run in _steps(job)]
    for run in runs:
        check_shell(run)
    scripts = {word for run in runs for word in run.split() if word.startswith("scripts/")}
    assert scripts == {"scripts/test", "scripts/docs"}
    assert jobs["tests"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13", "3.14"]
    assert jobs["tests"]["env"]["PYTHON"] == "python"  # else scripts/setup takes another one
    assert "${PYTHON:-" in (ROOT / "scripts" / "setup").read_text()


def test_the_hooks_are_the_checks() -> None:
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = [(hook["name"], hook["entry"]) for hook in local["hooks"]]
    lines = (ROOT / "scripts" / "check").read_text().replace('"$bin/', ".venv/bin/").replace('"', "").splitlines()
    checks = [re.fullmatch(r"check (.+?) (\.venv/bin/.+)", line) for line in lines]
    assert hooks == [match.groups() for match in checks if match]
    assert {(hook["language"], hook["pass_filenames"]) for hook in local["hooks"]} == {("system", False)}


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_an_image_is_clean_has_a_pinned_base_no_secret_and_no_root(file: Path) -> None:
    text = file.read_text()
    assert re.findall(r"^FROM (\S+)", text, re.MULTILINE) == ["python:3.12.11-slim-bookworm"]
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE)[-1] not in ("root", "0")
    assert not SECRET.search(text)
    copied = {name for names in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE) for name in names.split()}
    assert [name for name in copied if not (ROOT / name).exists()] == []
    sent = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert copied == sent
    _check("hadolint", file)


def test_there_is_an_image_for_processors_and_one_for_gpus() -> None:
    assert [file.name for file in DOCKERFILES] == ["cpu.Dockerfile", "cuda.Dockerfile"]
