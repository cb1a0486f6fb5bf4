"""Several ranks: the losses of one, one line when a rank is lost, and going on with another number of ranks."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rt1.checkpoint import load_training, resolve
from rt1.errors import TrainingError
from rt1.evaluate.metrics import read_metrics
from rt1.train.distributed import World, average_statistics, join_world, share_batch_norm


@pytest.fixture
def words(make_source: Callable[..., Any], write_recording: Callable[..., Path], tmp_path: Path) -> list[str]:
    """The words of ``rt1 train``, dropout and drop-connect as they come; the run is ``tmp_path / "run"``."""
    data = write_recording(tmp_path / "data", make_source(9, 7, 8, 6, 5, 9))
    each = ["--preset", "debug", "--held-out", "0.3", "--log-every", "1", "--validate-every", "10", "--device", "cpu"]
    return ["train", "--data", str(data), *each]


def _start(words: list[str], ranks: int) -> list[subprocess.Popen[str]]:
    """Start the ranks as torchrun does: it sets these variables and nothing else."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "rt1", *words],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]


def _finish(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    ends = [process.communicate(timeout=300) for process in processes]
    return [(process.returncode, *end) for process, end in zip(processes, ends, strict=True)]


def _losses(run: Path) -> list[float]:
    return [record["loss"] for record in read_metrics(run)]


def test_two_ranks_have_the_losses_of_one(words: list[str], tmp_path: Path) -> None:
    sync = [*words, "--batch-norm", "sync", "--updates", "20"]
    (one,) = _finish(_start([*sync, "--out", str(tmp_path / "one")], 1))
    two = _finish(_start([*sync, "--activations", "selective", "--out", str(tmp_path / "two")], 2))
    assert [end[0] for end in (one, *two)] == [0, 0, 0]
    assert two[0][1].count("finished at update 20") == 1
    assert two[1][1] == ""  # one rank speaks for all
    assert _losses(tmp_path / "two") == pytest.approx(_losses(tmp_path / "one"), abs=1e-4)
    assert len(_losses(tmp_path / "one")) == 20
    held_out = [_held_out(tmp_path / name) for name in ("one", "two")]
    # The scale of a kernel before BatchNorm has no gradient but rounding, and Adam makes steps of that: training does
    # not see them, the moving statistics do.
    assert held_out[0] == pytest.approx(held_out[1], abs=1e-2)


def test_two_ranks_that_each_see_one_embodiment_have_the_losses_of_one(
    make_source: Callable[..., Any], write_recording: Callable[..., Path], tmp_path: Path
) -> None:
    for name, dimensions in (("arm", 3), ("hand", 5)):
        write_recording(tmp_path / name, make_source(5, 4, dimensions=dimensions))
    parts = [f'[[parts]]\ndata = "{name}"\nembodiment = "{name}"\n' for name in ("arm", "hand")]
    mixture = tmp_path / "mixture.toml"
    mixture.write_text('heads = "separate"\n' + "".join(parts))
    words = ["train", "--data", str(mixture), "--preset", "debug", "--held-out", "0", "--log-every", "1"]
    words += ["--device", "cpu", "--batch-size", "2", "--batch-norm", "sync", "--updates", "6"]  # they take turns
    ends = [
        end for n, out in ((1, "one"), (2, "two")) for end in _finish(_start([*words, "--out", str(tmp_path / out)], n))
    ]
    assert [status for status, _, _ in ends] == [0, 0, 0]
    assert len(_losses(tmp_path / "one")) == 6
    assert _losses(tmp_path / "two") == pytest.approx(_losses(tmp_path / "one"), abs=1e-4)


def _held_out(run: Path) -> list[float]:
    return [record["heldout_loss"] for record in read_metrics(run) if "heldout_loss" in record]


def test_a_killed_rank_ends_the_run_with_one_line_and_the_run_goes_on(words: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    long = [*words, "--out", str(run), "--updates", "2000", "--save-every", "2"]
    processes = _start(long, 2)
    while not (run / "last").is_dir() or load_training(resolve(run)).progress["update"] < 4:
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGKILL)
    (status, _, said), _ = _finish(processes)
    assert status == 1
    errors = [line for line in said.splitlines() if line.startswith("rt1: ")]
    assert len(errors) == 1
    assert "rank 0 of 2 lost another rank" in errors[0]
    assert "Traceback" not in said
    update = load_training(resolve(run)).progress["update"]
    assert update >= 4
    more = [*words, "--out", str(run), "--updates", str(update + 2), "--save-every", "2", "--allow-changes"]
    ((status, said, _),) = _finish(_start(more, 1))  # with another number of ranks
    assert status == 0
    assert f"changed from update {update}: updates: 2000 then, {update + 2} now" in said
    assert load_training(run / "last").progress["update"] == update + 2


class _Twice(World):
    """Stand in for a second rank with the same values."""

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return 2 * values


def test_statistics_that_are_alike_stay_as_they_are_when_they_are_averaged() -> None:
    norm = nn.BatchNorm2d(3)
    norm(torch.randn(4, 3, 5, 5))
    before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    average_statistics(norm, _Twice(size=2))
    assert all(torch.allclose(buffer, before[name]) for name, buffer in norm.named_buffers())


def test_a_batch_norm_that_knows_no_ranks_is_refused_by_name() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3))
    share_batch_norm(model, "local", World(size=2))
    with pytest.raises(TrainingError, match=r"batch_norm is sync, and 0 \(BatchNorm2d\)"):
        share_batch_norm(model, "sync", World(size=2))


def test_auto_takes_the_accelerator_that_torch_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    selected: list[int] = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("xpu"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "set_device_index", selected.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    for choice in ("auto", "xpu"):
        with join_world(choice) as world:
            assert world.device == torch.device("xpu", 1)
    with join_world("cpu") as world:
        assert world.device == torch.device("cpu")
    assert selected == [1, 1]
    with pytest.raises(TrainingError, match="device is cuda, and torch finds xpu"), join_world("cuda"):
        pass
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(TrainingError, match=r"rank 2 .* finds 2 devices"), join_world("auto"):
        pass


def test_auto_takes_the_cpu_where_there_is_no_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with join_world("auto") as world:
        assert world.device == torch.device("cpu")
    with pytest.raises(TrainingError, match="device is mps, and torch finds no accelerator"), join_world("mps"):
        pass
