"""Tuning: the fastest setting that acts as fp32 does, remembered; damage and strangers' files do no harm."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rt1.model.rt1 import RT1
from rt1.policy.autotune import Tuned, made_up_episodes, measure, setting_for, tuned
from rt1.policy.packed.encoder import FoldedEncoder
from rt1.policy.packed.layers import Int8Linear
from rt1.policy.policy import Policy
from rt1.policy.stepper import SETTINGS, StepSetting


@pytest.fixture
def model(make_network: Callable[..., RT1]) -> RT1:
    return make_network()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rt1" / "settings.json"


@pytest.fixture
def checkpoint(make_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "checkpoint")


def _remember(model: RT1, file: Path, **changes: Any) -> None:
    """Change what is remembered, so that it shows whether it was read."""
    tuned(model, identity="a", file=file)
    ((key, found),) = json.loads(file.read_text()).items()
    file.write_text(json.dumps({key: {**found, **changes}}))


def test_a_measurement_has_every_setting_that_can_run_and_chooses_a_fast_one_that_agrees(model: RT1) -> None:
    found = measure(model, steps=8)
    assert found.milliseconds.keys() == {name for name in SETTINGS if SETTINGS[name].obstacle() is None}
    assert found.agreement["fp32"] == 1.0
    agreeing = [name for name, share in found.agreement.items() if share >= 0.99]
    assert found.setting == min(agreeing, key=found.milliseconds.__getitem__)
    assert found.threads == dict.fromkeys(found.threads, torch.get_num_threads())


def test_threads_are_part_of_the_measurement(model: RT1) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        found = measure(model, steps=2)
        assert found.threads.keys() == found.milliseconds.keys()
        assert set(found.threads.values()) <= {1, 3}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_measurement_is_remembered_for_these_weights(model: RT1, file: Path) -> None:
    _remember(model, file, milliseconds={"fp32": -1.0})
    assert tuned(model, identity="a", file=file).milliseconds == {"fp32": -1.0}
    assert tuned(model, identity="b", file=file).milliseconds["fp32"] > 0
    assert len(json.loads(file.read_text())) == 2


def test_it_is_measured_again_on_demand(model: RT1, file: Path) -> None:
    _remember(model, file, milliseconds={})
    assert tuned(model, identity="a", again=True, file=file).milliseconds["fp32"] > 0
    assert tuned(model, identity="a", file=file).milliseconds["fp32"] > 0


@pytest.mark.parametrize("content", ["{half a fi", "[1, 2]", 100_000 * "["], ids=["cut", "a list", "nested"])
def test_a_damaged_file_is_left_out_with_a_warning_and_mended(content: str, model: RT1, file: Path) -> None:
    file.parent.mkdir(parents=True)
    file.write_text(content)
    with pytest.warns(UserWarning, match="settings.json"):
        tuned(model, identity="a", file=file)
    assert len(json.loads(file.read_text())) == 1


@pytest.mark.parametrize(
    "changes", [{"setting": "fp7"}, {"colour": "red"}, {"threads": {}}, {"threads": {"fp32": "four"}}]
)
def test_what_another_version_remembered_is_measured_again(changes: dict[str, Any], model: RT1, file: Path) -> None:
    _remember(model, file, **changes)
    assert tuned(model, identity="a", file=file).setting in SETTINGS


def test_a_setting_that_cannot_run_here_is_no_result() -> None:
    with pytest.raises(ValueError, match="'fp7' cannot run here; measure again"):
        Tuned(setting="fp7", milliseconds={}, agreement={}, threads={})


def test_a_place_that_cannot_be_written_is_only_warned_about(model: RT1, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="measured again next time"):
        assert tuned(model, identity="a", file=tmp_path / "file" / "settings.json").setting in SETTINGS


def test_made_up_episodes_fill_the_window_and_follow_the_seed(model: RT1) -> None:
    one, same, other = (list(made_up_episodes(model.config, steps=10, seed=seed)) for seed in (0, 0, 1))
    assert [len(images) for _, images in one] == [4, 4, 2]
    assert all(np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1]) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one[0][1], other[0][1])


def test_a_policy_takes_a_setting_by_name_or_the_tuned_one(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert Policy.from_checkpoint(checkpoint).setting == "fp32"
    chosen = Policy.from_checkpoint(checkpoint, setting="tune").setting
    assert Policy.from_checkpoint(checkpoint, setting="auto").setting == chosen
    assert len(json.loads((tmp_path / "cache" / "rt1" / "settings.json").read_text())) == 1


def test_a_setting_of_fewer_bits_is_taken_by_name(checkpoint: Path, skip_unless_it_runs: Callable[[str], None]) -> None:
    skip_unless_it_runs("int8")
    assert Policy.from_checkpoint(checkpoint, setting="int8").setting == "int8"


def test_a_candidate_that_cannot_run_is_left_out_with_one_line(
    model: RT1, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("it needs the cpu support avx512bw\nException raised from somewhere")

    monkeypatch.setattr(StepSetting, "obstacle", lambda self: "no bfloat16" if self.decoder == "bf16" else None)
    monkeypatch.setattr(Int8Linear, "__call__", refuse)  # past all trials, at the first step
    found = measure(model, steps=2)
    assert list(found.milliseconds) == ["fp32"]
    assert found.setting == "fp32"
    bf16, int8 = (record.getMessage() for record in caplog.records)
    assert "auto leaves out" in bf16
    assert "'bf16' cannot run here: no bfloat16;" in bf16
    assert re.search("'int8' cannot run here: .*needs the cpu support avx.*; use 'fp32'", int8)
    assert "\n" not in int8


def test_a_network_that_cannot_run_at_all_is_an_error(model: RT1, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(FoldedEncoder, "__init__", refuse)
    with pytest.raises(RuntimeError, match="out of memory"):
        measure(model, steps=2)


ON_AVX2 = """
import sys
from rt1.policy.policy import Policy

for setting in ("auto", "bf16", "int8"):
    try:
        print(Policy.from_checkpoint(sys.argv[1], setting=setting).setting)
    except ValueError as error:
        print(error)
"""


def test_a_processor_without_avx512_acts_by_auto_and_refuses_bf16_and_int8_in_one_line(
    checkpoint: Path, tmp_path: Path
) -> None:
    emulated = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", ON_AVX2, checkpoint],
        env={**os.environ, **emulated},
        capture_output=True,
        text=True,
        check=True,
    )
    auto, bf16, int8 = done.stdout.splitlines()
    if bf16 == "bf16":
        pytest.skip("this torch computes bf16 without AVX-512, too")
    assert auto == "fp32"
    assert all("cannot run here" in line and "use 'fp32'" in line for line in (bf16, int8))
    assert [line.startswith("auto leaves out") for line in done.stderr.splitlines()] == [True, True]


def test_an_unknown_setting_is_refused(checkpoint: Path, model: RT1) -> None:
    with pytest.raises(ValueError, match="did you mean 'bf16'"):
        setting_for(checkpoint, model, "bf17")
