"""What hostile clients do to a policy server: each attack beside one robot at 3 Hz that behaves well.

    python benchmarks/attack.py                           # 50 requests of the robot in each attack, some 5 min
    python benchmarks/attack.py --requests 20 --only scans pixels
    python benchmarks/attack.py --fuzz-examples 100000    # and the fuzzers of tests/fuzz

It starts `rt1 serve` with the demo's network and random weights for each attack, in a process of its own on 127.0.0.1,
and attacks that server alone, from another process. The last line is JSON, the worst of all attacks:
`lost_of_50_worst`: answers that did not come or came later than 333 ms, of 50. `memory_gb_worst`: the server's resident
memory above idle. `loop_stall_ms_p99`: how late the server's event loop was. `fuzz_inputs` and `fuzz_faults` are of the
fuzzers, null if they did not run. The row "none" is what the machine itself does: it should be quiet.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import msgpack
import numpy as np
import torch
from numpy.typing import NDArray
from server import RATE, SENTENCES, checkpoint, made_up_images, text_table
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from rt1.common.system import commit, describe_machine
from rt1.data.sources.images import encode_jpeg
from rt1.errors import ClientError
from rt1.serve.client import Client
from rt1.serve.protocol import encode
from rt1.serve.robot import Rate

LATE = 1 / RATE  # seconds
PAUSE = 0.2  # seconds until an attacker whom the server has closed comes again
ROOT = Path(__file__).resolve().parents[1]
SMALL = np.zeros((64, 64, 3), np.uint8)


def say(url: str, message: bytes) -> None:
    """Connect, send a message again and again, and read what comes back, until the server closes."""
    with connect(url, compression=None, max_size=None, close_timeout=0.2) as connection:
        connection.recv()
        while True:
            connection.send(message)
            connection.recv()


def hold(url: str, size: int) -> None:
    """Leave a message of so many bytes unfinished."""
    header = bytes([0x82, 0xFF]) + size.to_bytes(8, "big") + bytes(4)
    with connect(url, compression=None, close_timeout=0.2) as connection:
        connection.recv()
        connection.socket.sendall(header)
        for _ in range(size // 100_000):
            connection.socket.sendall(bytes(100_000))
        time.sleep(600)


def stay(url: str) -> None:
    """Ask nothing until the server closes."""
    with connect(url, compression=None, close_timeout=0.2) as connection:
        while True:
            connection.recv()


def flood(url: str, frames: bytes) -> None:
    """Send frames without reading."""
    with connect(url, compression=None, close_timeout=0.2) as connection:
        while True:
            connection.socket.sendall(frames)


def shout(url: str, request: bytes) -> None:
    """Send an HTTP request and read the answer."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(request)
        while connection.recv(4096):
            pass


def progressive(side: int, scans: int) -> bytes:
    """Return a progressive JPEG whose last scan comes again and again."""
    data = cv2.imencode(".jpg", np.zeros((side, side, 3), np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    return data[:-2] + scans * data[data.rindex(b"\xff\xda") : -2] + b"\xff\xd9"


def image(data: bytes | NDArray[np.uint8]) -> bytes:
    """Return the message of an image."""
    return encode({"image": data, "instruction": SENTENCES[0]})


def numbers() -> bytes:
    """Return a message of a million numbers under a key that nobody reads."""
    plain = {"image": encode_jpeg(SMALL), "instruction": SENTENCES[0], "other": [[1] * 1000] * 1000}
    return bytes(msgpack.packb(plain))


def saying(message: Callable[[], bytes]) -> Callable[[], Callable[[str], None]]:
    """Return an attack by one message, which is made in the attacker's process alone."""

    def prepare() -> Callable[[str], None]:
        made = message()
        return lambda url: say(url, made)

    return prepare


PING = bytes([0x89, 0x80]) + bytes(4)
TWICE = b"GET /metrics HTTP/1.1\r\nHost: a\r\n" + 2 * b"Authorization: Api-Key a\r\n" + b"\r\n"
ATTACKS: dict[str, tuple[int, Callable[[], Callable[[str], None]]]] = {
    "none": (0, lambda: stay),
    "numbers under another key": (4, saying(numbers)),
    "JPEG of 2,500 scans": (4, saying(lambda: image(progressive(1024, 2500)))),
    "JPEG of 16 scans, 16 MP": (8, saying(lambda: image(progressive(4096, 6)))),
    "JPEG of 16 MP": (8, saying(lambda: image(encode_jpeg(np.zeros((4096, 4096, 3), np.uint8))))),
    "array of 2.5 MP": (4, saying(lambda: image(np.zeros((1600, 1600, 3), np.uint8)))),
    "instruction of 20 MB": (2, saying(lambda: encode({"reset": True, "instruction": "open " * 4_000_000}))),
    "instruction of 7 MB": (4, saying(lambda: encode({"reset": True, "instruction": "open " * 1_400_000}))),
    "new episode each time": (16, saying(lambda: encode({"reset": True, "instruction": SENTENCES[0]}))),
    "60 MB unfinished": (20, lambda: lambda url: hold(url, 60_000_000)),
    "7 MB unfinished": (60, lambda: lambda url: hold(url, 7_000_000)),
    "idle connections": (80, lambda: stay),
    "headers twice": (4, lambda: lambda url: shout(url, TWICE)),
    "silent TCP connections": (600, lambda: lambda url: shout(url, b"")),
    "flood of pings": (4, lambda: lambda url: flood(url, PING * 10_000)),
}
"""Name -> attackers at a time, and what makes the attack that each repeats until the end."""


def attack(name: str, url: str) -> None:
    """Attack until killed; for a process of its own."""
    logging.disable()  # websockets reports each connection that the server cuts off
    attackers, prepare = ATTACKS[name]
    act = prepare()

    def repeat() -> None:
        while True:
            with suppress(OSError, WebSocketException, EOFError):
                act(url)
            time.sleep(PAUSE)

    for _ in range(attackers):
        threading.Thread(target=repeat, daemon=True).start()
    print("attacking", flush=True)
    threading.Event().wait()


@dataclass(kw_only=True)
class Outcome:
    """What the robot and the server saw of one attack."""

    seconds: list[float] = field(default_factory=list)
    """Of the robot's answers."""
    lost: int = 0
    """Requests without an answer, or with a late one."""
    errors: list[str] = field(default_factory=list)
    memory: int = 0
    """Largest resident memory above idle, bytes."""
    stall: float = 0.0
    """99th percentile of the event loop's lateness, seconds."""


def drive(url: str, requests: int, images: NDArray[np.uint8], outcome: Outcome) -> None:
    """Ask for actions at a fixed rate, by arrays and JPEGs in turn."""
    ticks, client = Rate(RATE), None
    for index in range(requests):
        shown = images[index % len(images)]
        start = time.perf_counter()
        try:
            if client is None:
                client = Client(url, timeout=5.0)
                client.reset(SENTENCES[0])
                start = time.perf_counter()
            client.act_vector(shown if index % 2 else encode_jpeg(shown))
            outcome.seconds.append(time.perf_counter() - start)
            outcome.lost += outcome.seconds[-1] > LATE
        except ClientError as error:
            outcome.errors.append(str(error))
            outcome.lost += 1
            client = None
        ticks.wait()
    if client is not None:
        client.close()


def resident(pid: int) -> int:
    """Return the resident memory of a process, bytes."""
    status = Path("/proc", str(pid), "status").read_text(encoding="utf-8")
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])


def stall(url: str) -> float:
    """Return how late the event loop was in the last minute, seconds, 99th percentile."""
    address = urlsplit(url)
    connection = HTTPConnection(str(address.hostname), address.port or 0, timeout=20)
    connection.request("GET", "/metrics")
    line = re.search(r'rt1_loop_stall_seconds\{quantile="0.99"\} (\S+)', connection.getresponse().read().decode())
    connection.close()
    return float(line[1]) if line else float("nan")


@contextmanager
def served(folder: Path, table: Path) -> Iterator[tuple[str, int]]:
    """Run `rt1 serve`; yield its address and process."""
    command = [sys.executable, "-m", "rt1", "serve", str(folder), "--port", "0", "--text-encoder", str(table)]
    with (folder / "log").open("ab") as log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as process:  # noqa: S603
        try:
            assert process.stdout is not None
            match = re.search(rb"ws://127\.0\.0\.1:\d+", process.stdout.readline())
            if match is None:
                sys.exit("rt1 serve did not start")
            yield match[0].decode(), process.pid
        finally:
            process.kill()


def suffer(name: str, folder: Path, table: Path, requests: int) -> Outcome:
    """Let one attack run beside the robot."""
    outcome, images, over = Outcome(), made_up_images(), threading.Event()
    with served(folder, table) as (url, pid):
        with Client(url) as client:  # what idle is: a robot was there
            client.reset(SENTENCES[0])
            client.act_vector(images[0])
        idle = resident(pid)

        def watch() -> None:
            while not over.wait(0.02):
                outcome.memory = max(outcome.memory, resident(pid) - idle)

        watching = threading.Thread(target=watch)
        command = [sys.executable, __file__, "--attack", name, "--url", url]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as attacker:  # noqa: S603
            try:
                assert attacker.stdout is not None
                attacker.stdout.readline()
                watching.start()
                time.sleep(2.0)
                drive(url, requests, images, outcome)
                outcome.stall = stall(url)
            finally:
                over.set()
                attacker.kill()
    return outcome


def fuzz(examples: int, scratch: Path) -> dict[str, int | None]:
    """Run the fuzzers of the tests and return what they report."""
    if not examples:
        return {"fuzz_inputs": None, "fuzz_faults": None}
    report = scratch / "fuzz.json"
    options = [f"--fuzz-examples={examples}", f"--fuzz-report={report}"]
    subprocess.run([sys.executable, "-m", "pytest", "-q", "tests/fuzz", *options], cwd=ROOT, check=False)  # noqa: S603
    counts = json.loads(report.read_text(encoding="utf-8"))
    return {"fuzz_inputs": counts["inputs"], "fuzz_faults": counts["faults"]}


def main() -> None:
    """Let all attacks run, print a table, then the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=50, help="requests of the robot in each attack")
    parser.add_argument("--only", nargs="*", default=[""], help="parts of the names of the attacks to run")
    parser.add_argument("--fuzz-examples", type=int, default=0, help="inputs of each fuzzer; 0 runs none")
    parser.add_argument("--attack", choices=ATTACKS, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    choices = parser.parse_args()
    if choices.attack:
        attack(choices.attack, choices.url)
    print(f"{describe_machine()}, torch {torch.__version__}, commit {commit()}")
    print(f"{'attack':28}{'lost':>6}{'p50 ms':>9}{'max ms':>9}{'memory GB':>11}{'stall p99 ms':>14}", flush=True)
    outcomes = []
    with tempfile.TemporaryDirectory() as scratch:
        table_file = Path(scratch) / "table.safetensors"
        table = text_table(512)
        table.save(table_file)
        folder = checkpoint(Path(scratch) / "demo", "demo", table)
        for name in (name for name in ATTACKS if any(part in name for part in choices.only)):
            outcome = suffer(name, folder, table_file, choices.requests)
            outcomes.append(outcome)
            p50, most = (1e3 * float(f(outcome.seconds or [float("nan")])) for f in (np.median, np.max))
            row = (
                f"{name:28}{outcome.lost:6}{p50:9.1f}{most:9.1f}{outcome.memory / 1e9:11.2f}{1e3 * outcome.stall:14.2f}"
            )
            print(row, flush=True)
            for error in sorted(set(outcome.errors))[:3]:
                print(f"  {error}")
        log = (folder / "log").read_text(encoding="utf-8")
        print(f"lines in the server's log: {len(log.splitlines())}, tracebacks: {log.count('Traceback')}")
        fuzzed = fuzz(choices.fuzz_examples, Path(scratch))
    figures = {
        "lost_of_50_worst": max(50 * outcome.lost / choices.requests for outcome in outcomes),
        "memory_gb_worst": round(max(outcome.memory for outcome in outcomes) / 1e9, 3),
        "loop_stall_ms_p99": round(max(1e3 * outcome.stall for outcome in outcomes), 2),
    }
    print(json.dumps({**figures, **fuzzed}))


if __name__ == "__main__":
    main()
