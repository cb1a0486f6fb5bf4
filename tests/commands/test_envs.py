"""The list of environments."""

from __future__ import annotations

import pytest

from rt1.cli import main
from rt1.envs import registry


def test_every_environment_is_listed_with_its_tasks_or_the_reason_why_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> tuple[str, ...]:
        raise ModuleNotFoundError("DeepMind Control is not installed. Run: pip install 'rt1[dm_control]'")

    monkeypatch.setattr(registry, "all_tasks", missing)
    assert main(["envs"]) == 0
    out = capsys.readouterr().out
    for form in ("metaworld", "gym:ID", "dm_control:DOMAIN-TASK", "simpler", "PACKAGE.MODULE:FACTORY"):
        assert f"\n{form}\n" in f"\n{out}"
    assert "faucet-open-v3" in out
    assert "not here: DeepMind Control is not installed. Run: pip install 'rt1[dm_control]'" in " ".join(out.split())


def test_the_tasks_of_one_environment_are_listed_with_their_instructions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["envs", "metaworld"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[50:] == ["--protocol metaworld-mt50-a", "--protocol metaworld-mt50-b"]
    (line,) = [line for line in lines if line.startswith("faucet-open-v3 ")]
    assert line.endswith("rotate the faucet counter-clockwise to open it; open the faucet; turn the water tap on")


def test_an_unknown_environment_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["envs", "metawrold"]) == 1
    assert "did you mean 'metaworld'" in capsys.readouterr().err
