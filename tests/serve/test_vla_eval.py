"""The protocol of vla-eval: bytes as its harness writes them, and the harness itself where it is installed."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from numpy.typing import NDArray
from websockets.sync.client import ClientConnection, connect

from rt1.actions import FloatArray, rt1_action_spec
from rt1.data.sources.images import encode_png
from rt1.errors import ProtocolError
from rt1.policy.policy import Policy
from rt1.serve.vla_eval import VlaEval

DRAWER, CLOSE = "open the drawer", "close the drawer"
Start = Callable[..., Any]
Images = NDArray[np.uint8]


def _message(kind: str, payload: Any, seq: Any = 1) -> bytes:
    return bytes(msgpack.packb({"type": kind, "payload": payload, "seq": seq, "timestamp": 0.0}))


def _png(image: Images) -> dict[str, Any]:
    return {"__image__": True, "format": "png", "data": encode_png(image), "shape": list(image.shape)}


def _observation(image: Any, instruction: str = DRAWER, **more: Any) -> dict[str, Any]:
    return {"images": {"agentview": image}, "task_description": instruction, **more}


def _alone(policy: Policy, images: Images, instruction: str = DRAWER) -> list[FloatArray]:
    session = policy.new_session()
    session.reset(instruction)
    return [session.act_vector(image) for image in images]


class Benchmark:
    """One connection of a harness."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection, self.seq = connection, 0

    def send(self, kind: str, payload: dict[str, Any]) -> None:
        self.seq += 1
        self.connection.send(_message(kind, payload, self.seq))

    def ask(self, kind: str, payload: dict[str, Any]) -> dict[str, Any]:
        self.send(kind, payload)
        message = self.connection.recv(timeout=20)
        assert isinstance(message, bytes)
        reply: dict[str, Any] = msgpack.unpackb(message)
        assert reply["seq"] == self.seq
        return reply

    def act(self, observation: dict[str, Any]) -> FloatArray:
        reply = self.ask("observation", observation)
        assert reply["type"] == "action", reply
        array = reply["payload"]["actions"]
        return np.frombuffer(array["data"], array["dtype"]).reshape(array["shape"])


@pytest.fixture
def url(start: Start) -> str:
    return str(start(protocol="vla-eval").url)


def test_a_hello_gets_the_specs_and_health_is_json(start: Start) -> None:
    running = start(protocol="vla-eval", image_key="images/agentview")
    with connect(running.url) as connection:
        hello = Benchmark(connection).ask("hello", {"harness_version": "0.8.0", "protocol_version": 1})
    assert (hello["type"], hello["payload"]["protocol_version"]) == ("hello", 1)
    assert hello["payload"]["action_spec"] == {
        "move": {"name": "move", "dims": 3, "format": "raw", "range": [-1.0, 1.0]}
    }
    assert hello["payload"]["observation_spec"]["agentview"]["format"] == "rgb_hwc_uint8"
    http = HTTPConnection("127.0.0.1", running.port, timeout=20)
    http.request("GET", "/health")
    response = http.getresponse()
    assert (response.status, json.loads(response.read())) == (200, {"status": "ok"})
    http.close()


def test_episodes_of_two_connections_get_the_actions_of_the_policy(url: str, policy: Policy, images: Images) -> None:
    with connect(url) as first, connect(url) as second:
        one, two = Benchmark(first), Benchmark(second)
        for benchmark in (one, two):
            benchmark.send("episode_start", {"task": {"name": "drawer"}})  # it has no reply
        for index in range(3):
            np.testing.assert_array_equal(one.act(_observation(_png(images[index]))), _alone(policy, images)[index])
            action = two.act(_observation(_png(images[index + 1]), CLOSE))
            np.testing.assert_array_equal(action, _alone(policy, images[1:], CLOSE)[index])
        one.send("episode_end", {"metrics": {"success": True}})
        one.send("episode_start", {"task": {"name": "drawer"}})
        np.testing.assert_array_equal(one.act(_observation(_png(images[0]))), _alone(policy, images)[0])


def test_a_restart_within_an_episode_forgets_the_images(url: str, policy: Policy, images: Images) -> None:
    raw = {"__ndarray__": True, "data": images[1].tobytes(), "dtype": "|u1", "shape": list(images[1].shape)}
    with connect(url) as connection:
        benchmark = Benchmark(connection)
        benchmark.act(_observation(_png(images[0])))
        action = benchmark.act(_observation(raw, episode_restart=True))
    np.testing.assert_array_equal(action, _alone(policy, images[1:])[0])


def test_an_error_keeps_connection_and_episode(url: str, policy: Policy, images: Images) -> None:
    alone = _alone(policy, images)
    with connect(url) as connection:
        benchmark = Benchmark(connection)
        np.testing.assert_array_equal(benchmark.act(_observation(_png(images[0]))), alone[0])
        for payload, reason in (
            ({"images": {}, "task_description": DRAWER}, "no image under 'images'"),
            ({"images": {"a": 1, "b": 2}, "task_description": DRAWER}, "--image-key images/NAME"),
            (_observation(_png(images[0])) | {"task_description": None}, "no task_description"),
            (_observation(b"no image"), "neither JPEG nor PNG"),
            (_observation({"__ndarray__": True, "data": b"", "dtype": "|O", "shape": [0]}), "dtype '|O'"),
            (_observation(_png(images[0]), "open the draw"), "did you mean 'open the drawer'"),
        ):
            reply = benchmark.ask("observation", payload)
            assert reply["type"] == "error"
            assert reason in reply["payload"]["error"]
            assert "\n" not in reply["payload"]["error"]
        assert "did you mean 'hello'" in benchmark.ask("helo", {})["payload"]["error"]
        assert "protocol_version is 2" in benchmark.ask("hello", {"protocol_version": 2})["payload"]["error"]
        np.testing.assert_array_equal(benchmark.act(_observation(_png(images[1]))), alone[1])


def test_a_camera_is_chosen_by_its_key(start: Start, policy: Policy, images: Images) -> None:
    with connect(start(protocol="vla-eval", image_key="images/wrist").url) as connection:
        observation = _observation(_png(images[0]))
        observation["images"]["wrist"] = _png(images[1])
        np.testing.assert_array_equal(Benchmark(connection).act(observation), _alone(policy, images[1:])[0])


@pytest.mark.parametrize("message", [b"\xc0", b"\x90", _message("hello", []), _message("hello", {}, "1")])
def test_what_is_no_message_of_vla_eval_is_refused(message: bytes) -> None:
    with pytest.raises(ProtocolError, match="type, payload, seq"):
        VlaEval(rt1_action_spec(), None).read(message)


def test_rt1s_own_actions_become_position_rotation_and_gripper() -> None:
    spec = rt1_action_spec()
    dialogue = VlaEval(spec, None)
    dialogue.read(_message("hello", {}))
    hello = dialogue.reply(None, timing={}, is_new_episode=False)
    assert hello is not None
    specs = msgpack.unpackb(hello)["payload"]["action_spec"]
    assert [(name, entry["format"]) for name, entry in specs.items()] == [
        ("position", "delta_xyz"),
        ("rotation", "euler_xyz"),
        ("gripper", "binary_close_positive"),
    ]
    dialogue.read(_message("observation", _observation(b"")))
    action = np.arange(spec.size, dtype=np.float32) * (spec.discrete_choices == 0)
    reply = dialogue.reply(action, timing={}, is_new_episode=True)
    assert reply is not None
    parts = spec.to_dict(action)
    expected = np.concatenate([parts["world_vector"], parts["rotation_delta"], parts["gripper_closedness_action"]])
    assert msgpack.unpackb(reply)["payload"]["actions"]["data"] == expected.astype(np.float32).tobytes()


HARNESS = """
import json, sys
import numpy as np
from vla_eval.api import run
from vla_eval.benchmarks.base import StepBenchmark, StepResult
from vla_eval.specs import IMAGE_RGB, LANGUAGE, DimSpec

class Drawers(StepBenchmark):
    actions = []
    def get_tasks(self):
        return [{"name": "open the drawer"}, {"name": "close the drawer"}]
    def reset(self, task):
        self.steps = 0
        return np.zeros((40, 56, 3), np.uint8)
    def step(self, action):
        self.actions.append(np.asarray(action["actions"]).tobytes().hex())
        self.steps += 1
        return StepResult(np.full((40, 56, 3), 60 * self.steps, np.uint8), 0.0, self.steps == 3, {})
    def make_obs(self, image, task):
        return {"images": {"agentview": image}, "task_description": task["name"]}
    def get_step_result(self, result):
        return {"success": True}
    def get_action_spec(self):
        return {"move": DimSpec("move", 3, "raw")}
    def get_observation_spec(self):
        return {"agentview": IMAGE_RGB, "language": LANGUAGE}

if __name__ == "__main__":
    sys.modules["drawers"] = sys.modules["__main__"]
    config = {"benchmarks": [{"benchmark": "drawers:Drawers", "episodes_per_task": 2}]}
    results = run(config, server_url=sys.argv[1], no_save=True, docker=False)
    rates = [task["mean_success"] for task in results[0]["tasks"]]
    print(json.dumps({"actions": Drawers.actions, "success": rates}))
"""


def test_the_harness_itself_runs_episodes_on_two_connections(url: str, policy: Policy, tmp_path: Path) -> None:
    python = os.environ.get("RT1_VLA_EVAL_PYTHON", "")
    if not Path(python).is_file():
        pytest.skip("set RT1_VLA_EVAL_PYTHON to a Python with vla-eval, which rt1 does not depend on")
    (tmp_path / "drawers.py").write_text(HARNESS)

    def evaluate(_: int) -> subprocess.CompletedProcess[str]:
        command = [python, str(tmp_path / "drawers.py"), url]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path)

    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(evaluate, range(2)))
    images = np.stack([np.full((40, 56, 3), value, np.uint8) for value in (0, 60, 120)])
    alone = {text: np.stack(_alone(policy, images, text)) for text in (DRAWER, CLOSE)}
    for run in runs:
        assert run.returncode == 0, run.stderr
        assert "mismatch" not in run.stderr
        report = json.loads(run.stdout.splitlines()[-1])
        assert report["success"] == [1.0, 1.0]
        actions = np.stack([np.frombuffer(bytes.fromhex(action), np.float32) for action in report["actions"]])
        np.testing.assert_allclose(actions[:3], alone[DRAWER], atol=1e-4)  # batches round otherwise
        np.testing.assert_allclose(
            actions, np.concatenate([alone[text] for text in (DRAWER, DRAWER, CLOSE, CLOSE)]), atol=1e-4
        )
