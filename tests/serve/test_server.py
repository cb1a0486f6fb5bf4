"""The server over real sockets: many robots at once, and whatever a bad or lost client does, the others see nothing."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import trustme
from numpy.typing import NDArray
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.sync.client import connect

from rt1.actions import FloatArray
from rt1.data.sources.images import encode_jpeg
from rt1.errors import ClientError
from rt1.policy.policy import Policy
from rt1.policy.stepper import Stepper
from rt1.serve.client import Client
from rt1.serve.protocol import decode, encode
from rt1.serve.server import PolicyServer
from rt1.serve.settings import ServerSettings

DRAWER, CLOSE = "open the drawer", "close the drawer"
MakePolicy = Callable[[Stepper], Policy]
Start = Callable[..., Any]
Images = NDArray[np.uint8]


def _get(port: int, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers=headers or {})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def _alone(policy: Policy, images: Images, instruction: str) -> list[FloatArray]:
    own = policy.new_session()
    own.reset(instruction)
    return [own.act_vector(image) for image in images]


def _drive(url: str, images: Images, instruction: str) -> list[FloatArray]:
    with Client(url) as client:
        client.reset(instruction)
        return [client.act_vector(image) for image in images]


def _refusal(url: str, message: bytes | str) -> tuple[str, int]:
    """Send a message that must be refused; return the text and the code of the close."""
    with connect(url, compression=None, max_size=None) as connection:
        connection.recv(timeout=20)
        connection.send(message)
        text = connection.recv(timeout=20)
        assert isinstance(text, str)
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(timeout=20)
        assert closed.value.rcvd is not None
        return text, closed.value.rcvd.code


def _wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def _count(running: Any, name: str, **labels: str) -> float:
    return float(running.server.counters.registry.get_sample_value(name, labels))


def test_the_first_message_says_what_is_served_and_replies_are_openpis(
    start: Start, images: Images, policy: Policy
) -> None:
    with connect(start().url) as connection:
        first = connection.recv(timeout=20)
        assert isinstance(first, bytes)
        metadata = decode(first)
        assert metadata["action_spec"] == policy.action_spec.to_json()
        assert (metadata["window"], metadata["control_rate"]) == (policy.model.config.window, 4.0)
        timings = []
        for image, action in zip(images, _alone(policy, images, DRAWER), strict=True):
            connection.send(encode({"observation/image": image, "prompt": DRAWER}))
            raw = connection.recv(timeout=20)
            assert isinstance(raw, bytes)
            reply = decode(raw)
            np.testing.assert_array_equal(reply["actions"], action[None])
            timings.append(set(reply["server_timing"]))
        assert timings == [{"infer_ms"}] + [{"infer_ms", "prev_total_ms"}] * 4


def test_robots_at_once_get_what_each_gets_alone(start: Start, images: Images, policy: Policy) -> None:
    url = start().url
    orders = [np.roll(images, shift, axis=0) for shift in range(4)]
    texts = [DRAWER, CLOSE, DRAWER, CLOSE]
    with ThreadPoolExecutor(4) as pool:
        driven = list(pool.map(_drive, [url] * 4, orders, texts))
    for actions, order, text in zip(driven, orders, texts, strict=True):
        np.testing.assert_allclose(actions, _alone(policy, order, text), atol=1e-4)  # batches round otherwise


def test_an_image_of_a_large_camera_is_acted_on_as_the_policy_does(start: Start, policy: Policy) -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (2, 16, 17, 3), dtype=np.uint8)
    coarse[:, 8:] = 255  # where rounding could pass the largest value
    large = coarse.repeat(66, axis=1).repeat(66, axis=2)
    np.testing.assert_array_equal(_drive(start().url, large, DRAWER), _alone(policy, large, DRAWER))


def _array_map(**changes: Any) -> bytes:
    fields = {"__ndarray__": True, "data": bytes(12), "dtype": "|u1", "shape": [2, 2, 3], **changes}
    return bytes(msgpack.packb({"image": {key.encode(): value for key, value in fields.items()}, "prompt": DRAWER}))


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (_array_map(dtype="|O"), "must be of bool, integers or floats"),
        (_array_map(shape=[9, 9, 3]), "but 12 came"),
        (_array_map(dtype="<i4", shape=[1, 1, 3]), "must be uint8 RGB"),
        (b"\x91" * 100_000, "within each other"),
        (b"\xdf\xff\xff\xff\xff", "more than 4096 values"),
        (msgpack.packb([[[]] * 1000] * 1000), "more than 4096 values"),
        (msgpack.packb({"prompt": DRAWER, "image": msgpack.ExtType(5, bytes(99))}), "extension"),
        (b"cos\nsystem\n(S'id'\ntR.", "not whole, valid msgpack"),
        (encode({"image": b"\xff\xd8\xff", "prompt": DRAWER}), "ends within its header. Send a whole JPEG or PNG"),
        (encode({"reset": True, "prompt": "open the draw"}), "did you mean 'open the drawer'"),
        ("a text", "An observation is a binary msgpack message"),
    ],
)
def test_a_bad_request_gets_one_line_and_the_others_see_nothing(
    start: Start, images: Images, policy: Policy, message: bytes | str, reason: str
) -> None:
    running = start()
    with Client(running.url) as other:
        other.reset(DRAWER)
        actions = [other.act_vector(images[0])]
        text, code = _refusal(running.url, message)
        assert reason in text
        assert "\n" not in text
        assert "Traceback" not in text
        assert code == 1011
        actions.append(other.act_vector(images[1]))
    np.testing.assert_array_equal(actions, _alone(policy, images[:2], DRAWER))


def test_a_failure_inside_stays_in_the_log(
    start: Start, policy: Policy, images: Images, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: str) -> NDArray[np.float32]:
        raise RuntimeError("the secret of the house")

    running = start(Policy(policy.stepper, policy.action_spec, encode_text=fail))
    text, code = _refusal(running.url, encode({"image": images[0], "prompt": DRAWER}))
    assert (text, code) == ("the server failed at this request. Its log says why. Connect again", 1011)
    assert "the secret of the house" in caplog.text
    with Client(running.url) as other:
        other.reset(np.zeros(8, np.float32))
        assert other.act_vector(images[0]).shape == (3,)


def test_logits_that_are_not_finite_reach_the_robot_as_an_error_and_no_action(
    start: Start, make_policy: MakePolicy, blocked: Any, images: Images, caplog: pytest.LogCaptureFixture
) -> None:
    blocked.no_numbers_at = images[1]
    running = start(make_policy(blocked))
    with Client(running.url) as other, Client(running.url) as robot:
        for client in (other, robot):
            client.reset(DRAWER)
            client.act_vector(images[0])
        with pytest.raises(ClientError, match="logits are not finite"):
            robot.act_vector(images[1])
        assert other.act_vector(images[2]).shape == (3,)
    assert _count(running, "rt1_errors_total", fault="server") == 1
    assert "not finite" in caplog.text


def test_a_message_beyond_the_limit_is_refused(start: Start, images: Images) -> None:
    running = start(max_message_mb=0.1)
    with connect(running.url, compression=None) as connection:
        connection.recv(timeout=20)
        # The header of a gigabyte: the server must not wait for it.
        connection.socket.sendall(bytes([0x82, 0xFF]) + (10**9).to_bytes(8, "big") + bytes(4))
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(timeout=20)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
    assert len(_drive(running.url, images[:1], DRAWER)) == 1


def _frame(opcode: Opcode, data: bytes, *, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin=fin).serialize(mask=True)


@pytest.mark.parametrize(
    "sent",
    [
        _frame(Opcode.BINARY, b"a", fin=False) + 10_000 * _frame(Opcode.CONT, b"a", fin=False),
        _frame(Opcode.BINARY, b"", fin=False) + 10_000 * _frame(Opcode.CONT, b"", fin=False),
        _frame(Opcode.TEXT, b"\xff\xfe"),
        _frame(Opcode.CONT, b"of nothing"),
        b"\xff" * 100,
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=["a message in crumbs", "a message of nothing", "no unicode", "no beginning", "ones", "http"],
)
def test_what_is_no_websocket_message_ends_its_own_connection_only(
    start: Start, images: Images, policy: Policy, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    running = start()
    with Client(running.url) as other:
        other.reset(DRAWER)
        actions = [other.act_vector(images[0])]
        with connect(running.url, compression=None) as connection:
            connection.recv(timeout=20)
            with suppress(OSError):  # the server may hang up before it has all
                connection.socket.sendall(sent)
            with pytest.raises(ConnectionClosed) as closed:
                connection.recv(timeout=20)
            assert closed.value.rcvd is None or "Traceback" not in closed.value.rcvd.reason
        actions.append(other.act_vector(images[1]))
    np.testing.assert_array_equal(actions, _alone(policy, images[:2], DRAWER))
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02", b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100_000])
def test_what_is_no_handshake_disturbs_nobody(
    start: Start, images: Images, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    running = start()
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as stranger:
        stranger.sendall(sent)
        stranger.shutdown(socket.SHUT_WR)
        with suppress(ConnectionResetError):
            while stranger.recv(4096):
                pass
    assert len(_drive(running.url, images[:1], DRAWER)) == 1
    assert "Traceback" not in caplog.text


def test_two_robots_of_one_name_have_an_episode_each(start: Start, images: Images, policy: Policy) -> None:
    url = start().url
    named = {"session": "robot-1", "session_id": "robot-1", "name": "robot-1", "prompt": DRAWER}
    with connect(url) as one, connect(url) as two:
        actions: dict[Any, list[FloatArray]] = {one: [], two: []}
        for connection in (one, two):
            connection.recv(timeout=20)
        for connection, index in ((one, 0), (one, 1), (two, 3), (one, 2), (two, 4)):
            connection.send(encode({"image": images[index], **named}))
            reply = connection.recv(timeout=20)
            assert isinstance(reply, bytes)
            actions[connection].append(decode(reply)["actions"][0])
    np.testing.assert_array_equal(actions[one], _alone(policy, images[:3], DRAWER))
    np.testing.assert_array_equal(actions[two], _alone(policy, images[3:], DRAWER))


@pytest.mark.parametrize("jump", [-1e9, 86_400.0, 1e9])
def test_a_clock_that_jumps_changes_nothing(
    start: Start, images: Images, policy: Policy, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    running, told = start(idle_seconds=60.0), time.time
    with Client(running.url, timeout=20.0) as client:
        client.reset(DRAWER)
        actions = [client.act_vector(images[0])]
        monkeypatch.setattr(time, "time", lambda: told() + jump)
        actions.append(client.act_vector(images[1]))
        with Client(running.url) as newcomer:
            assert newcomer.connected
        actions.append(client.act_vector(images[2]))
    np.testing.assert_array_equal(actions, _alone(policy, images[:3], DRAWER))


def test_told_to_stop_under_load_every_robot_gets_its_answer_or_one_clear_error(
    start: Start, images: Images, policy: Policy
) -> None:
    running = start()
    alone = _alone(policy, np.repeat(images[:1], 3, axis=0), DRAWER)[-1]  # a full window of one image

    def ask_until_refused() -> tuple[int, str]:
        answers = 0
        try:
            with Client(running.url) as client:
                client.reset(DRAWER)
                while True:
                    action = client.act_vector(images[0])
                    answers += 1
                    assert answers < 3 or np.allclose(action, alone, atol=1e-4)
        except ClientError as error:
            return answers, str(error)

    with ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(ask_until_refused) for _ in range(4)]
        _wait_until(lambda: _count(running, "rt1_request_seconds_count") > 60)
        running.stop()
        ended = [load.result(timeout=20) for load in loads]
    running.join()
    for answers, error in ended:
        assert answers > 3
        assert re.search("the server stops|is lost", error)
        assert "\n" not in error


def test_over_tls_the_server_shows_its_certificate_and_the_client_asks_for_it(
    start: Start, images: Images, policy: Policy, authority: trustme.CA, tmp_path: Path
) -> None:
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(tmp_path / "certificate.pem", append=True)
    running = start(certificate=tmp_path / "certificate.pem", private_key=tmp_path / "key.pem")
    url, trust = running.url.replace("ws://", "wss://"), ssl.create_default_context()
    with pytest.raises(ClientError, match=r"cannot be trusted: .*certificate verify failed"):
        Client(url, tls=trust)
    with pytest.raises(ClientError):
        Client(running.url)  # not encrypted
    authority.configure_trust(trust)
    with Client(url, tls=trust) as client:
        client.reset(DRAWER)
        actions = [client.act_vector(image) for image in images]
    np.testing.assert_array_equal(actions, _alone(policy, images, DRAWER))


def test_half_a_frame_and_a_lost_client_disturb_nobody(start: Start, images: Images, policy: Policy) -> None:
    running = start()
    with Client(running.url) as other:
        other.reset(DRAWER)
        actions = [other.act_vector(images[0])]
        with connect(running.url, compression=None) as connection:
            connection.recv(timeout=20)
            frame = Frame(Opcode.BINARY, encode({"image": images[0], "prompt": DRAWER})).serialize(mask=True)
            connection.socket.sendall(frame[: len(frame) // 2])
            actions.append(other.act_vector(images[1]))
            connection.socket.shutdown(2)
        actions.append(other.act_vector(images[2]))
    np.testing.assert_array_equal(actions, _alone(policy, images[:3], DRAWER))


def test_a_client_gone_while_the_network_works_for_it_disturbs_nobody(
    start: Start, images: Images, blocked: Any, make_policy: MakePolicy
) -> None:
    running = start(make_policy(blocked))
    blocked.block()
    with connect(running.url, compression=None) as connection:
        connection.recv(timeout=20)
        connection.send(encode({"image": images[0], "prompt": DRAWER}))
        assert blocked.entered.acquire(timeout=20)
        assert _get(running.port, "/healthz") == (200, "OK\n")  # the event loop is free meanwhile
        connection.ping().wait(timeout=20)
        connection.socket.shutdown(2)
    blocked.let_go()
    with Client(running.url) as other:
        other.reset(DRAWER)
        assert other.act_vector(images[0]).shape == (3,)


def test_a_full_server_refuses_in_words_and_takes_the_next_after_one_leaves(start: Start) -> None:
    running = start(max_sessions=1)
    with Client(running.url) as first:
        first.reset(DRAWER)
        with pytest.raises(InvalidStatus) as refused:
            connect(running.url).__enter__()
        assert refused.value.response.status_code == 503
        assert refused.value.response.body == b"the server has its 1 sessions. Close one, or raise max_sessions\n"
        assert first.connected
    with Client(running.url) as second:
        assert second.connected


def test_steps_that_wait_together_are_taken_together(
    start: Start, images: Images, policy: Policy, blocked: Any, make_policy: MakePolicy
) -> None:
    running = start(make_policy(blocked))
    blocked.block()
    with ExitStack() as stack:
        connections = [stack.enter_context(connect(running.url)) for _ in range(4)]
        for index, connection in enumerate(connections):
            connection.recv(timeout=20)
            connection.send(encode({"image": images[index], "prompt": DRAWER}))
            if index == 0:
                assert blocked.entered.acquire(timeout=20)  # the others come while the first one's step is taken
        _wait_until(lambda: running.server.batcher.waiting == 3)
        blocked.let_go()
        for index, connection in enumerate(connections):
            reply = connection.recv(timeout=20)
            assert isinstance(reply, bytes)
            alone = _alone(policy, images[index : index + 1], DRAWER)
            np.testing.assert_allclose(decode(reply)["actions"], alone, atol=1e-4)
    lines = _get(running.port, "/metrics")[1].splitlines()
    assert 'rt1_batch_size_bucket{le="1.0"} 1.0' in lines
    assert 'rt1_batch_size_bucket{le="4.0"} 2.0' in lines
    assert "rt1_batch_size_count 2.0" in lines
    assert "rt1_batch_size_sum 4.0" in lines


def test_a_step_that_fails_takes_nobody_with_it(
    start: Start, images: Images, policy: Policy, blocked: Any, make_policy: MakePolicy, caplog: Any
) -> None:
    blocked.fails_at = images[2]
    running = start(make_policy(blocked))
    with ExitStack() as stack:
        first, bad, good = (stack.enter_context(connect(running.url)) for _ in range(3))
        for connection in (first, bad, good):
            connection.recv(timeout=20)
        blocked.block()
        first.send(encode({"image": images[0], "prompt": DRAWER}))
        assert blocked.entered.acquire(timeout=20)
        bad.send(encode({"image": images[2], "prompt": DRAWER}))
        good.send(encode({"image": images[1], "prompt": DRAWER}))
        _wait_until(lambda: running.server.batcher.waiting == 2)
        blocked.let_go()
        assert bad.recv(timeout=20) == "the server failed at this request. Its log says why. Connect again"
        for connection, index in ((first, 0), (good, 1)):
            reply = connection.recv(timeout=20)
            assert isinstance(reply, bytes)
            np.testing.assert_allclose(decode(reply)["actions"], _alone(policy, images[index : index + 1], DRAWER))
        assert "the accelerator is on fire" in caplog.text
        assert 'rt1_errors_total{fault="server"} 1.0' in _get(running.port, "/metrics")[1]


def test_a_server_takes_no_more_sessions_than_the_machine_carries(start: Start, images: Images) -> None:
    running = start(max_latency=1e-9)  # one is always carried
    with Client(running.url) as first:
        first.reset(DRAWER)
        with pytest.raises(ClientError, match="HTTP 503, the server is too busy for another session: it has 1 and"):
            Client(running.url)
        assert first.act_vector(images[0]).shape == (3,)
        lines = _get(running.port, "/metrics")[1].splitlines()
    assert "rt1_capacity_sessions 1.0" in lines
    assert 'rt1_sessions_refused_total{reason="busy"} 1.0' in lines


def test_a_server_whose_steps_hang_takes_no_further_session(
    start: Start, images: Images, blocked: Any, make_policy: MakePolicy
) -> None:
    running = start(make_policy(blocked), max_latency=2.0)
    blocked.block()

    def is_refused() -> bool:
        try:
            Client(running.url).close()
        except ClientError as error:
            return "too busy" in str(error)
        return False

    with connect(running.url) as one, connect(running.url) as two:
        for connection in (one, two):
            connection.recv(timeout=20)
            connection.send(encode({"image": images[0], "prompt": DRAWER}))
        assert blocked.entered.acquire(timeout=20)
        _wait_until(is_refused)
        blocked.let_go()
        assert [type(connection.recv(timeout=20)) for connection in (one, two)] == [bytes, bytes]


def test_a_silent_connection_is_closed_in_words(start: Start) -> None:
    with connect(start(idle_seconds=0.05).url) as connection:
        connection.recv(timeout=20)
        assert connection.recv(timeout=20) == "no request came for 0.05 s. Connect again"


@pytest.mark.parametrize("shown", [None, "Api-Key wrong", "Api-Key ", "secret", "Bearer secret", "Api-Key sécret"])
def test_without_the_key_nobody_gets_in(start: Start, tmp_path: Path, shown: str | None) -> None:
    (tmp_path / "key").write_text("secret\n")
    running = start(api_key_file=tmp_path / "key")
    headers = {} if shown is None else {"Authorization": shown}
    with pytest.raises(InvalidStatus) as refused:
        connect(running.url, additional_headers=headers).__enter__()
    assert refused.value.response.status_code == 401
    assert _get(running.port, "/metrics")[0] == 401
    assert _get(running.port, "/healthz") == (200, "OK\n")
    assert _get(running.port, "/metrics", {"Authorization": "Api-Key secret"})[0] == 200


def test_a_web_page_may_not_connect(start: Start) -> None:
    with pytest.raises(InvalidStatus) as refused:
        connect(start().url, additional_headers={"Origin": "http://example.org"}).__enter__()
    assert refused.value.response.status_code == 403


def test_metrics_count_requests_sessions_and_errors(start: Start, images: Images) -> None:
    running = start()
    _drive(running.url, images[:2], DRAWER)
    _refusal(running.url, b"")
    with Client(running.url):
        lines = _get(running.port, "/metrics")[1].splitlines()
    assert "rt1_request_seconds_count 3.0" in lines  # one reset, two images
    assert "rt1_sessions_started_total 3.0" in lines
    assert 'rt1_errors_total{fault="request"} 1.0' in lines
    assert "rt1_step_seconds_count 2.0" in lines


def test_told_to_stop_it_answers_what_is_under_way_and_says_goodbye(
    start: Start, images: Images, blocked: Any, make_policy: MakePolicy
) -> None:
    running = start(make_policy(blocked))
    blocked.block()
    with connect(running.url) as busy, connect(running.url) as idle:
        for connection in (busy, idle):
            connection.recv(timeout=20)
        busy.send(encode({"image": images[0], "prompt": DRAWER}))
        assert blocked.entered.acquire(timeout=20)
        running.stop()
        with pytest.raises(ConnectionClosed) as closed:
            idle.recv(timeout=20)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
        blocked.let_go()
        reply = busy.recv(timeout=20)
        assert isinstance(reply, bytes)
        assert decode(reply)["actions"].shape == (1, 3)
        with pytest.raises(ConnectionClosed, match="the server stops"):
            busy.recv(timeout=20)
    running.join()


def test_a_taken_port_is_an_error(start: Start, policy: Policy) -> None:
    second = PolicyServer(policy, ServerSettings(port=start().port))
    with pytest.raises(OSError, match=f"port {second.settings.port}.* in use"):
        asyncio.run(second.run(asyncio.Event(), lambda _: None))


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 300])
def test_a_host_that_is_not_found_is_named(policy: Policy, host: str) -> None:
    server = PolicyServer(policy, ServerSettings(host=host, port=0))
    with pytest.raises(OSError, match=f"host is '{host}', which is not found"):
        asyncio.run(server.run(asyncio.Event(), lambda _: None))


def _raw_status(port: int, path: str, headers: bytes) -> bytes:
    """Send headers as they are, which HTTP libraries do not; return the first line of the answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"GET " + path.encode() + b" HTTP/1.1\r\n" + headers + b"\r\n")
        return connection.makefile("rb").readline()


@pytest.mark.parametrize(
    "headers",
    [
        b"Host: a\r\nHost: b\r\n",
        b"Host: a\r\nAuthorization: Api-Key secret\r\nAuthorization: Api-Key secret\r\n",
    ],
)
def test_a_header_sent_twice_is_refused_with_one_line_in_the_log(
    start: Start, tmp_path: Path, headers: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "key").write_text("secret")
    assert (
        _raw_status(start(api_key_file=tmp_path / "key").port, "/metrics", headers) == b"HTTP/1.1 400 Bad Request\r\n"
    )
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        f"a request with 2 {'Host' if b'Host: b' in headers else 'Authorization'} headers was refused"
    ]


def test_a_key_that_is_no_text_is_a_wrong_key(start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "key").write_text("secret")
    status = _raw_status(start(api_key_file=tmp_path / "key").port, "/", b"Host: a\r\nAuthorization: \xff\xfe\r\n")
    assert b"401" in status
    assert "Traceback" not in caplog.text


def test_an_episode_that_starts_slowly_keeps_no_other_robot_waiting(
    start: Start, images: Images, policy: Policy
) -> None:
    entered, go = threading.Event(), threading.Event()

    def encode_text(text: str) -> NDArray[np.float32]:
        if text == CLOSE:
            entered.set()
            assert go.wait(timeout=20)
        return np.ones(8, np.float32)

    running = start(Policy(policy.stepper, policy.action_spec, encode_text=encode_text))
    with Client(running.url) as robot, connect(running.url) as slow:
        robot.reset(DRAWER)
        slow.recv(timeout=20)
        slow.send(encode({"reset": True, "prompt": CLOSE}))
        assert entered.wait(timeout=20)
        assert robot.act_vector(encode_jpeg(images[0])).shape == (3,)
        go.set()
        assert isinstance(slow.recv(timeout=20), bytes)


def test_metrics_say_how_late_the_event_loop_is(start: Start) -> None:
    running = start()
    _wait_until(lambda: len(running.server.counters.loop_stalls) > 10)
    assert 'rt1_loop_stall_seconds{quantile="0.99"} ' in _get(running.port, "/metrics")[1]
