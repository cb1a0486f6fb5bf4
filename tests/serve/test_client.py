"""The client: actions by name, one clear error per failure, and never a late reply for the next step's."""

from __future__ import annotations

import email
import re
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from websockets.sync.server import ServerConnection
from websockets.sync.server import serve as open_server

import rt1
from rt1.actions import ActionSpec, Continuous
from rt1.data.sources.images import decode_image, encode_jpeg
from rt1.errors import ClientError, LateReplyError
from rt1.policy.policy import Policy
from rt1.serve.client import Client
from rt1.serve.protocol import encode

PACKAGE = Path(__file__).resolve().parents[2] / "packages" / "rt1-client"
DRAWER, CLOSE = "open the drawer", "close the drawer"
SPEC = ActionSpec(parts=(Continuous(name="move", low=(-1.0,), high=(1.0,)),), bins=16)
METADATA = encode({"action_spec": SPEC.to_json()})
Start = Callable[..., Any]
Images = NDArray[np.uint8]


def _reply(value: float) -> bytes:
    return encode({"actions": np.full((1, 1), value, np.float32), "server_timing": {"infer_ms": 1.0}})


@contextmanager
def _scripted(handler: Callable[[ServerConnection], None]) -> Iterator[str]:
    """Serve by a script, to be as rude as no honest server is."""
    with open_server(handler, "127.0.0.1", 0, compression=None, max_size=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join(timeout=20)


def test_actions_come_by_name_and_are_those_of_the_policy(start: Start, images: Images, policy: Policy) -> None:
    policy.reset(DRAWER)
    with Client(start().url) as client:
        assert client.action_spec == policy.action_spec
        assert client.metadata["control_rate"] == 4.0
        client.reset(DRAWER)
        for image in images:
            action = client.act(image)
            assert list(action) == ["move"]
            np.testing.assert_array_equal(action["move"], policy.act_vector(image))
            assert client.server_timing["infer_ms"] > 0


def test_a_reset_starts_a_new_episode_with_its_instruction(start: Start, images: Images, policy: Policy) -> None:
    with Client(start().url) as client:
        for instruction in (DRAWER, CLOSE, CLOSE):
            client.reset(instruction)
            policy.reset(instruction)
            for image in images[:2]:
                np.testing.assert_array_equal(client.act_vector(image), policy.act_vector(image))


def test_jpeg_bytes_and_a_text_embedding_will_do(start: Start, images: Images, policy: Policy, table: Any) -> None:
    data = encode_jpeg(images[0])
    policy.reset(DRAWER)
    with Client(start().url) as client:
        client.reset(table.encode([DRAWER])[0])
        np.testing.assert_array_equal(client.act_vector(data), policy.act_vector(decode_image(data)))


def test_an_action_before_the_first_reset_is_refused(start: Start, images: Images) -> None:
    with Client(start().url) as client:
        with pytest.raises(ClientError, match="Call reset"):
            client.act(images[0])
        with pytest.raises(ClientError, match="Call reset"):
            client.reconnect()


def test_an_unknown_instruction_fails_at_the_reset_and_another_one_goes_on(start: Start, images: Images) -> None:
    with Client(start().url) as client:
        with pytest.raises(ClientError, match="refused: unknown instruction 'open the draw', did you mean"):
            client.reset("open the draw")
        assert not client.connected
        client.reset(DRAWER)
        assert client.act_vector(images[0]).shape == (3,)


def test_what_cannot_be_sent_costs_no_episode(start: Start, images: Images, policy: Policy) -> None:
    policy.reset(DRAWER)
    with Client(start().url) as client:
        client.reset(DRAWER)
        policy.act_vector(images[0])
        client.act(images[0])
        with pytest.raises(ValueError, match="must be of bool, integers or floats"):
            client.act(np.array([object()]))
        np.testing.assert_array_equal(client.act_vector(images[1]), policy.act_vector(images[1]))


def test_a_lost_connection_is_said_and_reconnecting_starts_a_new_episode(
    start: Start, images: Images, policy: Policy, caplog: pytest.LogCaptureFixture
) -> None:
    with Client(start().url) as client:
        client.reset(DRAWER)
        client.act(images[0])
        assert client._connection is not None
        client._connection.socket.shutdown(socket.SHUT_RDWR)
        with pytest.raises(ClientError, match=r"is lost: .*. Call reconnect\(\) for a new episode"):
            client.act(images[1])
        with pytest.raises(ClientError, match=r"is closed. Call reconnect\(\) for a new episode"):
            client.act(images[1])
        client.reconnect()
        assert "a new episode, without the images before" in caplog.text
        policy.reset(DRAWER)
        np.testing.assert_array_equal(client.act_vector(images[1]), policy.act_vector(images[1]))


def test_a_late_reply_is_never_taken_for_the_next_steps() -> None:
    image, gone = np.zeros((4, 4, 3), np.uint8), threading.Event()

    def handler(connection: ServerConnection) -> None:
        connection.send(METADATA)
        connection.recv()
        connection.send(_reply(0.0))  # the reset
        for number, _ in enumerate(connection):
            if not gone.is_set():
                assert gone.wait(timeout=20)
                return  # its reply would have been late
            connection.send(_reply(float(number + 10)))

    with _scripted(handler) as url, Client(url, timeout=0.3) as client:
        client.reset(DRAWER)
        with pytest.raises(LateReplyError, match=r"did not answer within 0.3 s. The connection is closed"):
            client.act(image)
        assert not client.connected
        gone.set()
        client.timeout = 20.0
        client.reconnect()
        assert client.act_vector(image) == np.float32(10.0)


def test_a_server_that_stops_reading_holds_no_robot() -> None:
    gone = threading.Event()

    def handler(connection: ServerConnection) -> None:
        connection.send(METADATA)
        connection.recv()
        connection.send(_reply(0.0))
        with connection.protocol_mutex:  # nothing more is taken off the socket
            assert gone.wait(timeout=20)

    with _scripted(handler) as url, Client(url, timeout=0.3) as client:
        try:
            client.reset(DRAWER)
            with pytest.raises(LateReplyError):
                client.act(np.zeros((4000, 4000, 3), np.uint8))
        finally:
            gone.set()


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (b"\xc1", None, "not whole, valid msgpack"),
        (encode({"other": 1}), None, "does not say which actions it gives"),
        (METADATA, encode([1]), "a list came instead of a map"),
        (METADATA, encode({"actions": np.zeros((1, 7), np.float32)}), r"without actions of shape \(1, 1\)"),
        (METADATA, encode({"actions": np.zeros((1, 1))}), r"without actions of shape \(1, 1\)"),
        (METADATA, "it hurts here", "refused: it hurts here"),
    ],
)
def test_what_is_no_reply_is_one_clear_error(first: bytes, second: bytes | str | None, message: str) -> None:
    def handler(connection: ServerConnection) -> None:
        connection.send(first)
        for number, _ in enumerate(connection):
            connection.send(_reply(0.0) if number == 0 or second is None else second)

    def drive(url: str) -> None:
        with Client(url) as client:
            client.reset(DRAWER)
            try:
                client.act(np.zeros((4, 4, 3), np.uint8))
            finally:
                assert not client.connected

    with _scripted(handler) as url, pytest.raises(ClientError, match=message) as failed:
        drive(url)
    assert "\n" not in str(failed.value)


def test_an_image_larger_than_the_server_takes_is_said(start: Start) -> None:
    with Client(start(max_message_mb=0.1).url) as client:
        client.reset(DRAWER)
        with pytest.raises(ClientError, match=r"larger than it takes. Send JPEG bytes|is lost"):
            client.act(np.zeros((400, 400, 3), np.uint8))


def test_a_wrong_key_and_a_full_server_are_said(start: Start, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    url = start(api_key_file=tmp_path / "key", max_sessions=1).url
    with pytest.raises(ClientError, match="refused: HTTP 401, the API key is missing or wrong"):
        Client(url, api_key="wrong")
    with Client(url, api_key="secret") as client:
        client.reset("open the drawer")
        with pytest.raises(ClientError, match="HTTP 503, the server has its 1 sessions"):
            Client(url, api_key="secret")


def test_where_nothing_listens_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ClientError, match=r"cannot be reached: .*. Is the server running"):
        Client(f"ws://127.0.0.1:{port}")


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "127.0.0.1", ""])
def test_what_is_no_address_is_said(url: str) -> None:
    with pytest.raises(ClientError, match=r"is not an address. Give ws://host:port"):
        Client(url)


def test_a_timeout_must_be_a_time() -> None:
    with pytest.raises(ValueError, match="timeout is 0, must be above 0 seconds"):
        Client("ws://127.0.0.1:1", timeout=0)


ROBOT = """
import sys
from importlib.abc import MetaPathFinder

class OnlyWhatItAsksFor(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {*sys.stdlib_module_names, "rt1", "numpy", "msgpack", "websockets"}:
            raise ModuleNotFoundError(f"a robot has no {name}", name=name)

sys.path.insert(0, sys.argv[1])
sys.meta_path.insert(0, OnlyWhatItAsksFor())
import numpy as np
import rt1
from rt1.serve.client import Client
from rt1.serve.recording import LoopRecording
from rt1.serve.robot import ActionLimits

assert rt1.__file__.startswith(sys.argv[1]), rt1.__file__
with Client(sys.argv[2]) as client:
    limits = ActionLimits(spec=client.action_spec)
    client.reset("open the drawer")
    action = client.act_vector(np.full((40, 56, 3), 200, np.uint8))
    print(limits.apply(action, limits.rest()).shape, action.tobytes().hex())
try:
    rt1.Policy
except ModuleNotFoundError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def client_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the distribution ``rt1-client``, built as pip does and unpacked."""
    folder = tmp_path_factory.mktemp("rt1-client")
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    command = [sys.executable, "-c", build, str(folder)]
    subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, check=True)
    (wheel,) = folder.glob("rt1_client-*.whl")
    with zipfile.ZipFile(wheel) as files:
        files.extractall(folder / "installed")
    return folder / "installed"


def test_the_distribution_for_robots_acts_with_numpy_msgpack_and_websockets_alone(
    client_files: Path, start: Start, policy: Policy
) -> None:
    command = [sys.executable, "-I", "-c", ROBOT, str(client_files), start().url]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    policy.reset(DRAWER)
    action = policy.act_vector(np.full((40, 56, 3), 200, np.uint8))
    first, second = found.stdout.splitlines()
    assert first == f"(3,) {action.tobytes().hex()}"
    assert "No module named 'rt1.policy'" in second


def test_the_distribution_for_robots_is_of_this_version_and_asks_for_no_torch(client_files: Path) -> None:
    (file,) = client_files.glob("rt1_client-*.dist-info/METADATA")
    metadata = email.message_from_string(file.read_text())
    assert metadata["Version"] == rt1.__version__
    asked = {re.split(r"[^a-z0-9]", name)[0] for name in metadata.get_all("Requires-Dist", []) if "extra" not in name}
    assert asked == {"msgpack", "numpy", "websockets"}


def test_the_client_loads_no_torch() -> None:
    code = "import sys, rt1.serve.client, rt1.serve.recording, rt1.serve.robot; "
    code += "print(sorted({'torch', 'cv2'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
