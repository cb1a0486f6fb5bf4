"""Damaged and mistyped JSON and TOML: mixtures, statistics, run files, exports, commands of the page."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fuzz.conftest import Fuzz
from tests.fuzz.mutate import any_json, mutate, mutate_json

from rt1.commands.demo_pipeline import DemoSettings, _Stages, summary
from rt1.common.json_files import MAX_DEPTH, read_object
from rt1.data.open_data import DataOptions
from rt1.data.open_mixture import open_mixture
from rt1.data.sources.base import EpisodeSource
from rt1.data.statistics import SourceStatistics, source_statistics
from rt1.envs.metaworld import MetaWorldSuite
from rt1.evaluate.metrics import METRICS_FILE, read_metrics
from rt1.play.messages import parse_command
from rt1.policy import auto
from rt1.policy.engines.base import CHOICES
from rt1.policy.exported_manifest import FORMAT, MANIFEST_FILE, read_manifest, sha256
from rt1.presets import preset
from rt1.simulate.collect import ATTEMPTS_FILE, _finished
from rt1.text.encoder import TableEncoder
from rt1.train.log import ABOUT_FILE, LogSettings, MetricsLog
from rt1.train.self_improvement import STATE_FILE, ImproveSettings, Round, _Loop


@pytest.fixture
def check_damaged(fuzz: Fuzz) -> Callable[..., None]:
    """Check a reader with mutations of a JSON file: of its values, or of its bytes."""

    def check_reader(file: Path, content: Any, read: Callable[[], object], *, names: Path | None = None) -> None:
        plain = json.dumps(content).encode()

        def check(rng: random.Random) -> None:
            changed = mutate(plain, rng) if rng.random() < 0.3 else json.dumps(mutate_json(content, rng)).encode()
            file.write_bytes(changed)
            read()

        fuzz.check_examples(check, names=names or file)

    return check_reader


@pytest.mark.parametrize("ending", [".json", ".toml"])
def test_any_bytes_are_a_value_of_bounded_depth_or_one_line(fuzz: Fuzz, tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"some{ending}"
    original = (
        b'{"a": [1, -2.5e3, null, "\\u00e9"], "b": {"c": true}}'
        if ending == ".json"
        else b"a = [1, 2]\n[b.c]\nd = 'x'\n"
    )

    def check(rng: random.Random) -> None:
        text = json.dumps(any_json(rng)).encode() if rng.random() < 0.3 else mutate(original, rng)
        file.write_bytes(text)
        assert _depth(read_object(file)) <= MAX_DEPTH

    fuzz.check_examples(check, names=file)


def _depth(value: Any) -> int:
    if isinstance(value, dict | list):
        return 1 + max(map(_depth, value.values() if isinstance(value, dict) else value), default=0)
    return 0


def test_a_mixture_file_opens_sound_sources_or_is_one_line(
    check_damaged: Callable[..., None],
    tmp_path: Path,
    make_source: Callable[..., EpisodeSource],
    write_recording: Callable[..., Path],
) -> None:
    for name in ("one", "two"):
        write_recording(tmp_path / name, make_source(2, 1, size=(8, 8)), size=(8, 8))
    file = tmp_path / "mixture.json"
    parts = [{"data": "one", "weight": 2.0}, {"data": "two", "weight": 1, "split": "train"}]

    def read() -> None:
        for opened in open_mixture([file], DataOptions()):
            assert 0 < opened.weight < np.inf
            assert opened.source.actions(0, 0, 2).shape == (2, opened.source.action_spec.size)

    check_damaged(file, {"parts": parts, "bounds": "widest", "heads": "one", "bins": 16}, read, names=tmp_path)


def test_statistics_of_a_source_are_finite_and_of_one_shape_or_one_line(
    fuzz: Fuzz, make_source: Callable[..., EpisodeSource]
) -> None:
    content = source_statistics(make_source(3, 2)).to_json()

    def check(rng: random.Random) -> None:
        found = SourceStatistics.from_json(mutate_json(content, rng))
        assert np.isfinite([found.statistics.mean, found.statistics.q01, found.outside]).all()
        assert all(isinstance(remark, str) for remark in found.remarks())

    fuzz.check_examples(check, names="statistics")


def test_damaged_kept_statistics_are_sound_or_taken_again(
    check_damaged: Callable[..., None], tmp_path: Path, make_source: Callable[..., EpisodeSource]
) -> None:
    source = make_source(3, 2)
    content = source_statistics(source, cache=tmp_path).to_json()
    (file,) = tmp_path.glob("statistics-*.json")
    check_damaged(file, content, lambda: source_statistics(source, cache=tmp_path).remarks())


def test_metrics_are_records_of_numbers_or_one_line(fuzz: Fuzz, tmp_path: Path) -> None:
    file = tmp_path / METRICS_FILE
    records = [{"update": 10 * number, "loss": 1.5 / number, "heldout_loss": 2.0} for number in range(1, 5)]
    lines = "".join(json.dumps(record) + "\n" for record in records).encode()

    def check(rng: random.Random) -> None:
        changed = [json.dumps(mutate_json(record, rng)).encode() + b"\n" for record in records]
        file.write_bytes(mutate(lines, rng) if rng.random() < 0.5 else b"".join(changed))
        for record in read_metrics(tmp_path):
            assert isinstance(record["update"], int)
            assert all(isinstance(value, int | float) for value in record.values())

    fuzz.check_examples(check, names=file)


def test_a_run_resumes_with_its_notes_or_one_line(check_damaged: Callable[..., None], tmp_path: Path) -> None:
    quiet = LogSettings(tensorboard=False)
    MetricsLog(tmp_path, settings=quiet, config={"batch_size": 4}).close()
    file = tmp_path / ABOUT_FILE
    content = json.loads(file.read_text())
    check_damaged(file, content, lambda: MetricsLog(tmp_path, resume_at=3, settings=quiet).close())


def test_the_demo_resumes_with_its_state_or_one_line(check_damaged: Callable[..., None], tmp_path: Path) -> None:
    demo = DemoSettings(out=tmp_path)
    stages = _Stages(demo)
    assert stages.run("train", lambda: 3) == 3
    file = tmp_path / "demo.json"

    def read() -> None:
        stages = _Stages(demo)
        assert stages.run("record", lambda: 3) == 3
        assert all(isinstance(seconds, float) for seconds in stages.seconds.values())

    check_damaged(file, json.loads(file.read_text()), read, names=tmp_path)


def test_the_results_of_a_demo_are_told_or_one_line(fuzz: Fuzz, tmp_path: Path) -> None:
    task = {"task": "faucet", "success": 0.5, "interval95": [0.2, 0.8], "expert": 1.0, "blind": None, "random": 0.0}
    content = {
        "tasks": [task],
        "mean_success": 0.5,
        "mean_blind": None,
        "swapped_success": 0.0,
        "paraphrase_success": 0.25,
        "seconds": {"train": 61.5},
        "peak_gb": 1.5,
    }

    def check(rng: random.Random) -> None:
        (tmp_path / "results.json").write_text(json.dumps(mutate_json(content, rng)))
        assert isinstance(summary(tmp_path), str)

    fuzz.check_examples(check, names=tmp_path / "results.json")


def test_an_improvement_resumes_with_its_rounds_or_one_line(
    check_damaged: Callable[..., None], tmp_path: Path, make_source: Callable[..., EpisodeSource]
) -> None:
    def begin() -> tuple[Round, ...]:
        encoder = TableEncoder({"a": np.ones(2)}, "a")
        loop = _Loop(
            recorded=make_source(3),
            config=preset("debug"),
            folder=tmp_path,
            settings=ImproveSettings(),
            suite=MetaWorldSuite(),
            encoder=encoder,
            initial=None,
        )
        loop.begin()
        return loop.result().rounds

    assert begin() == ()
    counted = {name: [{"task": "press", "trials": 4, "successes": 3}] for name in ("improved", "control")}
    file = tmp_path / STATE_FILE
    content = json.loads(file.read_text())
    content |= {
        "rounds": [{"number": 0, "attempts": {}, "kept": {"press": 3}, **counted}],
        "cpu_seconds": {"train": 1.5},
    }

    def read() -> None:
        assert all(0 <= trials.success <= 1 for found in begin() for trials in found.improved)

    check_damaged(file, content, read, names=tmp_path)


def test_a_collection_is_counts_by_task_or_one_line(check_damaged: Callable[..., None], tmp_path: Path) -> None:
    file = tmp_path / ATTEMPTS_FILE
    (tmp_path / "rt1.json").touch()

    def read() -> None:
        collection = _finished(tmp_path)
        assert collection is not None
        assert isinstance(collection.episodes, int)

    check_damaged(file, {"attempts": {"faucet": 5}, "successes": {"faucet": 2}}, read)


def test_an_export_says_sound_sizes_or_is_one_line(check_damaged: Callable[..., None], tmp_path: Path) -> None:
    files = ("condition.onnx", "tokenizer.onnx", "decoder.onnx", "reference.safetensors")
    for name in files:
        (tmp_path / name).write_bytes(name.encode())
    part = {"name": "move", "low": [-1.0, -1.0], "high": [1.0, 1.0], "labels": []}
    sizes = {"window": 3, "image_size": [32, 48], "text_width": 8, "image_tokens": 8, "token_width": 16}
    comparison = {"images": "recorded", "steps": 4, "logit_difference": 1e-5, "largest_logit": 3.0, "tokens": 12}
    agreement = {"tokens_agreeing": 12, "clear_tokens": 10, "clear_tokens_agreeing": 10, "tolerance": 1e-4}
    content = {
        "format": FORMAT,
        "kind": "onnx",
        "precision": "fp32",
        "sizes": {**sizes, "grid": [6, 6], "vocabulary": 0, "guidance": False, "parameters": 9},
        "action_spec": {"bins": 16, "parts": [part, {"name": "stop", "choices": 2, "invalid": "first"}]},
        "text_encoder": {"name": "table", "sha256": "00", "width": 8},
        "control_rate": 3.0,
        "comparison": {**comparison, **agreement, "least_agreement": 0.99},
        "versions": {"torch": "2"},
        "weights": "00",
        "files": {name: sha256(tmp_path / name) for name in files},
        "provenance": {"preset": "debug"},
    }

    def read() -> None:
        manifest = read_manifest(tmp_path)
        assert min(manifest.sizes.window, *manifest.sizes.image_size) > 0
        assert np.isfinite(manifest.action_spec.high - manifest.action_spec.low).all()
        assert manifest.control_rate is None or manifest.control_rate > 0

    check_damaged(tmp_path / MANIFEST_FILE, content, read, names=tmp_path)


def test_a_damaged_measurement_of_the_engines_is_made_again(
    fuzz: Fuzz, tmp_path: Path, make_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = auto.EngineResult(milliseconds=2.5, products=0.5, agreement=1.0, clear_tokens=9, megabytes=1.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(auto, "measure", lambda *_, **__: {"torch": result})
    checkpoint, file = make_checkpoint(tmp_path / "checkpoint"), tmp_path / "rt1" / "engines.json"
    auto.remember(checkpoint, {"torch": result})
    content = json.loads(file.read_text())

    def check(rng: random.Random) -> None:
        file.write_text(json.dumps(mutate_json(content, rng)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            assert auto.fastest(checkpoint) in CHOICES

    fuzz.check_examples(check, names=file)


def test_a_command_of_the_page_is_known_or_one_line(fuzz: Fuzz) -> None:
    commands = [
        {"command": "reset", "value": 3},
        {"command": "instruct", "value": "open"},
        {"command": "speed", "value": 2},
    ]

    def check(rng: random.Random) -> None:
        command = rng.choice(commands)
        text = json.dumps(command).encode()
        taken = parse_command(mutate(text, rng) if rng.random() < 0.3 else json.dumps(mutate_json(command, rng)))
        assert taken.name in ("start", "stop", "reset", "instruct", "task", "speed")

    fuzz.check_examples(check, names="")
