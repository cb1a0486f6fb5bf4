"""The engines of a machine: the fastest that agrees, remembered; damage and strangers' files do no harm."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from rt1.policy import auto
from rt1.policy.auto import EngineResult, best, fastest, measure
from rt1.policy.engines.base import engine_choice
from rt1.policy.engines.torch import TorchEngine
from rt1.policy.policy import Policy


@pytest.fixture
def run(onnx_export: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint that two engines run, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(auto, "CHOICES", tuple(map(engine_choice, ("torch", "torch:bf16", "onnx"))))
    monkeypatch.setattr(auto, "MATRIX", 64)
    monkeypatch.setattr(auto, "cached_export", lambda *_, **__: onnx_export[1])
    return onnx_export[0]


def _result(**changes: float) -> EngineResult:
    values: dict[str, Any] = {
        "milliseconds": 5.0,
        "products": 0.5,
        "agreement": 1.0,
        "clear_tokens": 9,
        "megabytes": 1.0,
    }
    return EngineResult(**{**values, **changes})


def test_a_measurement_has_every_engine_that_runs(run: Path) -> None:
    results = measure(run, steps=10)
    assert list(results) == ["torch", "torch:bf16", "onnx"]
    assert results["torch"].agreement == results["onnx"].agreement == 1.0
    assert all(result.milliseconds > 0 and result.products > 0 for result in results.values())
    assert len({result.clear_tokens for result in results.values()}) == 1


@pytest.mark.parametrize(
    ("results", "choice"),
    [
        ({"torch": {}, "onnx": {"milliseconds": 3.0}, "torch:bf16": {"milliseconds": 2.0}}, "torch:bf16"),
        ({"torch": {}, "onnx:int8": {"milliseconds": 2.0, "agreement": 0.98}}, "torch"),
        ({"torch": {}, "onnx": {"milliseconds": 2.0, "clear_tokens": 0}}, "torch"),
    ],
)
def test_the_fastest_that_agrees_is_the_best(results: dict[str, dict[str, float]], choice: str) -> None:
    assert str(best({name: _result(**changes) for name, changes in results.items()})) == choice


def test_a_measurement_is_remembered_for_these_weights(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choice = fastest(run)
    monkeypatch.setattr(auto, "measure", None)
    assert fastest(run) == choice
    assert Policy.from_checkpoint(run, engine="torch").engine == "torch"


@pytest.mark.parametrize("content", ["{half a fi", "[1, 2]", 100_000 * "["], ids=["cut", "a list", "nested"])
def test_a_damaged_file_is_left_out_with_a_warning_and_mended(
    content: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "compare_engines", lambda *_, **__: {"torch": _result()})
    file = tmp_path / "rt1" / "engines.json"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")  # Python's own, which prints what one line warns of once
        assert str(fastest(run)) == "torch"
    (warning,) = caught
    assert "engines.json" in str(warning.message)
    assert len(json.loads(file.read_text())) == 1


@pytest.mark.parametrize("stored", [{"fp7": {}}, {"torch": {"milliseconds": "four"}}, 3, {"torch": 5}])
def test_what_another_version_remembered_is_measured_again(
    stored: Any, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "compare_engines", lambda *_, **__: {"torch": _result()})
    fastest(run)
    file = tmp_path / "rt1" / "engines.json"
    ((key, good),) = json.loads(file.read_text()).items()
    file.write_text(json.dumps({key: stored}))
    assert str(fastest(run)) == "torch"
    assert json.loads(file.read_text()) == {key: good}


def test_a_cache_that_cannot_be_written_is_only_warned_about(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "compare_engines", lambda *_, **__: {"torch": _result()})
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(auto, "_file", lambda: tmp_path / "file" / "engines.json")
    with pytest.warns(UserWarning, match="measured again next time"):
        assert str(fastest(run)) == "torch"


def test_an_engine_that_cannot_run_is_left_out_with_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> Path:
        raise RuntimeError("it needs the cpu support avx512bw\nException raised from somewhere")

    monkeypatch.setattr(auto, "cached_export", refuse)
    results = measure(run, steps=2)
    assert list(results) == ["torch", "torch:bf16"]
    (line,) = [record.getMessage() for record in caplog.records]
    assert "the engine onnx is left out: it needs the cpu support avx512bw" in line
    assert "\n" not in line


def test_a_network_that_cannot_run_at_all_is_an_error(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(TorchEngine, "__init__", refuse)
    with pytest.raises(RuntimeError, match="out of memory"):
        measure(run, steps=2)
