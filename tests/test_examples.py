"""Each example runs as it stands and stays short."""

from __future__ import annotations

import ast
import importlib
import json
import re
import runpy
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rt1.actions import rt1_action_spec
from rt1.checkpoint import CheckpointInfo, load_info, load_model, save_checkpoint
from rt1.common import processes
from rt1.envs import registry
from rt1.errors import CheckpointError
from rt1.model.rt1 import RT1
from rt1.play import server as play_server
from rt1.policy.policy import Policy
from rt1.text.encoder import USE_LARGE_5, TableEncoder

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def test_every_example_is_run_here_and_is_shorter_than_seventy_lines() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in EXAMPLES.glob("*.py")}
    del lengths["ros2_node.py"]  # needs ROS 2, which runs where the robot is
    del lengths["dm_control_expert.py"]  # needs stable-baselines3, which brings another torch
    assert sorted(lengths) == [
        "own_dataset.py",
        "own_environment.py",
        "released_weights.py",
        "robocat.py",
        "robot_loop.py",
    ]
    assert max(lengths.values()) < 70


def test_the_ros_2_node_is_python_and_asks_of_rt1_what_is_there() -> None:
    tree = ast.parse((EXAMPLES / "ros2_node.py").read_text())
    asked = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and "rt1" in (node.module or "")]
    assert {node.module for node in asked} == {"rt1.actions", "rt1.serve.client", "rt1.serve.robot"}
    for node in asked:
        module = importlib.import_module(str(node.module))
        assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_the_expert_of_dm_control_is_python_and_asks_of_rt1_what_is_there() -> None:
    tree = ast.parse((EXAMPLES / "dm_control_expert.py").read_text())
    asked = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and "rt1" in (node.module or "")]
    assert "rt1.envs.dm_control" in {node.module for node in asked}
    for node in asked:
        module = importlib.import_module(str(node.module))
        assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_an_environment_of_ones_own_is_recorded_trained_on_evaluated_and_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(registry, "_SUITES", dict(registry._SUITES))
    monkeypatch.setattr(processes, "free_cores", lambda: 1)  # worker processes take seconds to start
    monkeypatch.setattr(play_server, "serve", _play_three_steps)
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / "own_environment.py"), run_name="__main__")
    out = capsys.readouterr().out
    assert out.endswith("watch it: http://127.0.0.1:3\n")
    assert out.split()[:5] == ["task", "policy", "expert", "replay", "random"]
    results = json.loads((tmp_path / "outputs" / "touch" / "results.json").read_text())
    assert [(task["task"], task["trials"], task["expert"]) for task in results["tasks"]] == [("touch", 20, 1.0)]
    provenance = load_info(tmp_path / "outputs" / "touch" / "run").provenance
    assert (provenance["env"], provenance["tasks"]) == ({"suite": "touch", "settings": {}}, ["touch"])


def _play_three_steps(server: Any, ready: Callable[[int], None]) -> None:
    """Play without a browser, and say the number of steps in place of the port."""
    playground = server._worker._playground
    playground.choose_task("touch")
    for _ in range(3):
        playground.step()
    ready(playground.view.step)
    playground.close()


def test_a_data_set_of_ones_own_is_checked_and_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / "own_dataset.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert "lamps: 8 episodes, 48 steps" in said
    assert "trained for 20 updates" in said
    assert load_model(tmp_path / "outputs" / "lamps").config.text_width == 2


@pytest.fixture
def served(
    make_network: Callable[..., RT1], make_source: Callable[..., Any], table: TableEncoder, tmp_path: Path
) -> Iterator[str]:
    """The address of `rt1 serve` with a policy that has the actions of recorded episodes."""
    model = make_network()
    info = CheckpointInfo(
        model=model.config, action_spec=make_source(1).action_spec, text_encoder=table.identity, control_rate=10.0
    )
    save_checkpoint(tmp_path / "checkpoint", model=model, info=info)
    table.save(tmp_path / "table")
    words = ["serve", tmp_path / "checkpoint", "--port", "0", "--text-encoder", tmp_path / "table"]
    command = [sys.executable, "-m", "rt1", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"ws://[\d.:]+", process.stdout.readline())
            assert found is not None
            yield found[0]
        finally:
            process.terminate()


def test_a_robot_loop_without_a_server_ends_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="1"):
        _run_robot_loop(monkeypatch, "--url", "ws://127.0.0.1:1")
    assert re.fullmatch("ws://127.0.0.1:1 [^\n]*\n", capsys.readouterr().err)


def _run_robot_loop(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["robot_loop.py", *words])
    runpy.run_path(str(EXAMPLES / "robot_loop.py"), run_name="__main__")


def test_a_robot_replays_an_episode_and_then_drives_until_it_stops(
    served: str,
    write_recording: Any,
    make_source: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mcap = pytest.importorskip("mcap.reader", reason="mcap is not installed. Run: pip install 'rt1[mcap]'")
    monkeypatch.chdir(tmp_path)
    data = write_recording(tmp_path / "set", make_source(4))
    _run_robot_loop(monkeypatch, "--url", served, "--dry-run", str(data))
    assert capsys.readouterr().out == "see dry_run.html\n"
    assert "Episode 0" in (tmp_path / "dry_run.html").read_text()
    _run_robot_loop(
        monkeypatch, "--url", served, "--instruction", "open the drawer", "--steps", "4", "--mcap", "loop.mcap"
    )
    did = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert did[-1] == "stops"
    assert did.count("moves") + did.count("stopped:") == 4  # an action that is late is not carried out
    with (tmp_path / "loop.mcap").open("rb") as file:
        images = [schema for schema, _, _ in mcap.make_reader(file).iter_messages(topics=["/image"])]
    assert len(images) == did.count("moves")


NOTEBOOK = EXAMPLES / "first_policy.ipynb"


@pytest.fixture
def run_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, Any]]:
    """Run the code cells of the notebook from top to bottom, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    display = types.ModuleType("IPython.display")
    display.Video = Path  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["outputs"] for cell in cells] == [[]] * len(cells)
    script = tmp_path / "notebook.py"
    script.write_text("\n\n".join("".join(cell["source"]) for cell in cells))
    return lambda: runpy.run_path(str(script))


def test_the_notebook_runs_on_a_checkpoint(
    steady: Path,
    table: TableEncoder,
    run_notebook: Callable[[], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("av", reason="videos need PyAV")

    def from_pretrained(name: str) -> Policy:
        return Policy.from_checkpoint(name, text_encoder=table)

    monkeypatch.setenv("RT1_POLICY", str(steady))
    monkeypatch.setattr(Policy, "from_pretrained", from_pretrained, raising=False)
    run_notebook()
    first, second, *episodes = capsys.readouterr().out.splitlines()
    assert first.startswith("faucet-open-v3: '")
    assert second.startswith("image (16, 16, 3), action {'all': ")
    assert episodes == ["no success after 25 steps"] * 3
    assert Path("first_policy.mp4").stat().st_size > 500


@pytest.mark.slow
def test_the_notebook_runs_on_the_policy_that_comes_with_rt1(
    gl: str, run_notebook: Callable[[], dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert gl
    try:
        load_info("metaworld-mt50")
    except CheckpointError as error:
        pytest.skip(f"no policy metaworld-mt50 comes with this version: {error}")
    run_notebook()
    assert "success after" in capsys.readouterr().out


@pytest.mark.parametrize("script", sorted((EXAMPLES / "launch").glob("*.slurm")), ids=lambda script: script.name)
def test_a_launch_script_is_valid_bash_and_asks_for_cores(script: Path) -> None:
    check = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert (check.returncode, check.stderr) == (0, "")
    text = script.read_text()
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", text, re.MULTILINE))
    assert len(options) == text.count("\n#SBATCH "), "an option that SLURM would not read"
    assert int(options["cpus-per-task"]) >= 1
    assert text.index("#SBATCH") < text.index("\nset -euo pipefail"), "SLURM reads no option after the first command"


def test_the_array_of_shards_runs_each_share_once() -> None:
    script = EXAMPLES / "launch" / "evaluate_array.slurm"
    for number in range(1, 9):
        settings = {"SLURM_ARRAY_TASK_ID": str(number), "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_CPUS_PER_TASK": "4"}
        words = ["bash", "-c", f'srun() {{ echo "$@"; }}; . {script} runs/mine']
        printed = subprocess.run(words, env=settings, capture_output=True, text=True, check=True).stdout.split()
        assert printed[1:4] == ["rt1", "evaluate", "runs/mine"]
        options = dict(zip(printed[4::2], printed[5::2], strict=True))
        assert options == {
            "--protocol": "metaworld-mt50-b",
            "--shard": f"{number}/8",
            "--workers": "4",
            "--out": "runs/mine/evaluation-mt50-b",
        }


@pytest.mark.slow
def test_a_hugging_face_data_set_trains_a_guided_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("datasets", reason="Hugging Face data sets need datasets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    runpy.run_path(str(EXAMPLES / "robocat.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert re.search(r"40 updates, best held-out loss \d\.\d\d, checkpoint outputs/robocat/best", said)
    assert "logits (2, 2, 2, 256)" in said
    assert re.search(r"guided action \[-0\.\d+ ", said)  # pushing; pulling is +0.5
    config = load_model(tmp_path / "outputs" / "robocat").config
    assert (config.backbone, config.conditioning, config.text.drop) == ("maxvit", "cross_attention", 0.2)


@pytest.mark.slow
def test_google_s_weights_are_converted_and_act(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build = runpy.run_path(str(reference / "make_checkpoints.py"))["flax_checkpoint"]
    build(reference / "jax_small" / "checkpoint", tmp_path / "jax_small")
    transformer = {"layers": 2, "width": 64, "heads": 4, "head_width": 32, "feed_forward": "linear_no_bias"}
    backbone = {"padding": "same", "unbiased_moving_variance": False}
    model = {"window": 3, "mask": "rt1x", "efficientnet": backbone, "transformer": transformer}
    config = tmp_path / "jax_small.json"
    config.write_text(json.dumps({"model": model, "action": rt1_action_spec(invalid="none").to_json()}))

    places = [str(tmp_path / "jax_small"), str(tmp_path / "converted")]
    monkeypatch.setattr(sys, "argv", ["released_weights.py", "flax", *places, "--config", str(config)])
    runpy.run_path(str(EXAMPLES / "released_weights.py"), run_name="__main__")
    printed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert printed == [part.name for part in rt1_action_spec().parts]
    assert load_info(tmp_path / "converted").text_encoder == USE_LARGE_5
