"""openpi's protocol: where an observation has its image, and its runtime, whose reset sends nothing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from websockets.sync.client import ClientConnection, connect

from rt1.errors import ObservationError
from rt1.policy.policy import Policy
from rt1.serve.openpi import OpenPi, value_at
from rt1.serve.protocol import decode, encode

OPENPI_PYTHON = Path(__file__).resolve().parents[2] / ".venv" / "openpi" / "bin" / "python"
"""What scripts/setup makes."""
DRAWER = "open the drawer"
Images = NDArray[np.uint8]
Start = Callable[..., Any]


def _alone(policy: Policy, images: Images) -> list[NDArray[np.float32]]:
    session = policy.new_session()
    session.reset(DRAWER)
    return [session.act_vector(image) for image in images]


def _ask(connection: ClientConnection, observation: dict[str, Any]) -> dict[str, Any]:
    connection.send(encode(observation))
    reply = connection.recv(timeout=20)
    assert isinstance(reply, bytes), reply
    return dict(decode(reply))


@pytest.mark.parametrize(
    ("key", "observation"),
    [
        ("observation/exterior_image_1_left", {"observation/exterior_image_1_left": 1, "image": 2}),
        ("images/cam_high", {"images": {"cam_high": 1, "cam_low": 2}}),
        ("a/b/c", {"a": {"b/c": 1}}),
    ],
)
def test_an_image_is_found_under_its_key_or_path(key: str, observation: dict[str, Any]) -> None:
    assert value_at(observation, key) == 1
    assert value_at(observation, f"{key}/more") is None
    assert OpenPi({}, key).read(encode({**observation, "prompt": DRAWER})) == {"image": 1, "prompt": DRAWER}


def test_an_observation_without_the_image_of_the_key_names_its_keys() -> None:
    with pytest.raises(
        ObservationError, match=r"no image under 'images/cam_high', only 'image', 'prompt'.*--image-key"
    ):
        OpenPi({}, "images/cam_high").read(encode({"image": 1, "prompt": DRAWER}))
    assert OpenPi({}, "images/cam_high").read(encode({"reset": True})) == {"reset": True}


def test_channels_first_and_float_images_of_a_camera_are_its_image(
    start: Start, policy: Policy, images: Images
) -> None:
    with connect(start(image_key="images/cam_high").url) as connection:
        metadata = connection.recv(timeout=20)
        assert isinstance(metadata, bytes)
        assert (decode(metadata)["action_horizon"], decode(metadata)["episode_pause"]) == (1, 2.0)
        chw = [image.transpose(2, 0, 1) for image in images]
        floats = [(chw[0] / 255).astype(np.float32), images[1] / 255.0, (images[2] / 255).astype(np.float32), chw[3]]
        for image, action in zip(floats, _alone(policy, images), strict=False):
            reply = _ask(connection, {"images": {"cam_high": image}, "prompt": DRAWER})
            np.testing.assert_array_equal(reply["actions"], action[None])


def test_a_client_without_reset_starts_an_episode_after_a_pause(
    start: Start, policy: Policy, images: Images, caplog: pytest.LogCaptureFixture
) -> None:
    alone = _alone(policy, images)
    running = start(episode_pause=1e-9)  # each of these requests comes after a pause
    with connect(running.url) as silent, connect(running.url) as careful:
        for connection in (silent, careful):
            connection.recv(timeout=20)
        for _ in range(2):
            reply = _ask(silent, {"image": images[0], "prompt": DRAWER})
            assert reply["new_episode"] is True
            np.testing.assert_array_equal(reply["actions"], alone[:1])
        assert not caplog.records
        for index in range(2):
            reply = _ask(careful, {"image": images[index], "prompt": DRAWER, "reset": index == 0})
            assert reply["new_episode"] is (index == 0)
            np.testing.assert_array_equal(reply["actions"], alone[index : index + 1])


def test_without_a_pause_the_episode_of_a_client_without_reset_continues_with_one_warning(
    start: Start, policy: Policy, images: Images, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(start(episode_pause=0.0).url) as connection:
        connection.recv(timeout=20)
        replies = [_ask(connection, {"image": image, "prompt": DRAWER}) for image in images[:4]]
    np.testing.assert_array_equal([reply["actions"][0] for reply in replies], _alone(policy, images[:4]))
    assert [reply["new_episode"] for reply in replies] == [True, False, False, False]
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1
    assert "by pauses of 0 s alone. Let it send 'reset': true" in warnings[0]


OPENPI = """
import sys
import numpy as np
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.websocket_client_policy import WebsocketClientPolicy

client = WebsocketClientPolicy("127.0.0.1", int(sys.argv[1]))
broker = ActionChunkBroker(client, client.get_server_metadata()["action_horizon"])
for value in (0, 200):
    image = np.full((40, 56, 3), value, np.uint8)
    print(broker.infer({"observation/image": image, "prompt": "open the drawer"})["actions"][None].tobytes().hex())
try:
    client.infer({"observation/image": image[0], "prompt": "open the drawer"})
except RuntimeError as error:
    print("must be uint8 RGB" in str(error))
"""


RUNTIME = """
import sys, time
import numpy as np
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.runtime.agents.policy_agent import PolicyAgent
from openpi_client.runtime.environment import Environment
from openpi_client.runtime.runtime import Runtime
from openpi_client.websocket_client_policy import WebsocketClientPolicy

class Table(Environment):
    def reset(self):
        self.steps = 0
        time.sleep(1.2)
    def is_episode_complete(self):
        return self.steps == 2
    def get_observation(self):
        return {"image": np.full((40, 56, 3), 200 * self.steps, np.uint8), "prompt": "open the drawer"}
    def apply_action(self, action):
        self.steps += 1
        print(action["actions"][None].tobytes().hex())

policy = WebsocketClientPolicy("127.0.0.1", int(sys.argv[1]))
agent = PolicyAgent(ActionChunkBroker(policy, policy.get_server_metadata()["action_horizon"]))
Runtime(Table(), agent, [], num_episodes=2).run()
"""


@pytest.fixture
def run_openpi(start: Start) -> Callable[[str], list[str]]:
    """Run a script with openpi's own client against a server; return its lines."""
    python = os.environ.get("RT1_OPENPI_PYTHON", str(OPENPI_PYTHON))
    if not Path(python).is_file():
        pytest.skip("openpi-client needs numpy 1: run scripts/setup dev, or set RT1_OPENPI_PYTHON to a Python with it")

    def run(script: str) -> list[str]:
        command = [python, "-c", script, str(start(episode_pause=1.0).port)]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()

    return run


@pytest.mark.parametrize(("script", "more"), [(OPENPI, ["True"]), (RUNTIME, None)], ids=["client", "runtime"])
def test_openpis_own_client_and_both_episodes_of_its_runtime_are_served(
    run_openpi: Callable[[str], list[str]], policy: Policy, script: str, more: list[str] | None
) -> None:
    images = np.full((2, 40, 56, 3), [[[[0]]], [[[200]]]], np.uint8)
    episode = [action.tobytes().hex() for action in _alone(policy, images)]
    assert run_openpi(script) == episode + (episode if more is None else more)
