"""What a policy server costs and carries: overhead of a call, a fleet at RT-1's rate, more load than it can carry.

    python benchmarks/server.py                   # a fleet of 13 robots at 3 Hz for 60 s, some 2 min in all
    python benchmarks/server.py --seconds 10
    python benchmarks/server.py --fleet           # how many robots RT-1 at full size carries: fleet.py

It serves networks of random weights with `rt1 serve` in a process of its own, drives it through `rt1.serve.client`
over loopback, and holds every reply of the fleet against a policy here that gets the same images. The last line is
JSON: `overhead_ms_p50` a call less the network's time, one robot, raw 256x320 images; `robots`, those `refused`
(not let in), `requests`, `lost` (without a reply, or with the action of other images) and `p99_ms` of the fleet.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from trained import network

from rt1.actions import FloatArray, rt1_action_spec
from rt1.checkpoint import CheckpointInfo, save_checkpoint
from rt1.common.system import commit, describe_machine
from rt1.errors import ClientError
from rt1.policy.policy import Policy
from rt1.presets import preset
from rt1.serve.client import Client
from rt1.serve.robot import Rate
from rt1.text.encoder import TableEncoder

RATE = 3.0  # Hz, RT-1's
SENTENCES = tuple(f"{verb} the {thing}" for verb in ("open", "close") for thing in ("drawer", "door"))
IMAGES = 64
MOST = 128
"""Robots tried on a GPU; all of them are driven by this one process."""
EPISODE = 40  # steps
SPEC = rt1_action_spec()
TIE = 1e-3
"""Logits closer than this may swap places by rounding, which another batch does otherwise."""


@dataclass(kw_only=True)
class Request:
    """One request of a robot and what became of it."""

    starts: str | None
    """Instruction of the episode that begins with it."""
    image: int
    seconds: float = 0.0
    action: FloatArray | None = None


@dataclass(kw_only=True)
class Robot:
    """What one robot saw and got."""

    number: int
    requests: list[Request] = field(default_factory=list)
    error: str = ""
    """What ended it, if not the end of the time."""
    late: int = 0
    """Ticks it came too late for, since the answer before took longer than a period."""


def text_table(width: int) -> TableEncoder:
    """Return a random unit vector for each sentence. Longer ones make the activations of a deep network overflow."""
    vectors = np.random.default_rng(0).normal(size=(len(SENTENCES), width))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return TableEncoder(dict(zip(SENTENCES, unit, strict=True)), "benchmark")


def checkpoint(folder: Path, name: str, table: TableEncoder) -> Path:
    """Save a preset's network with random weights, chosen so that words and images show in the actions."""
    config = dataclasses.replace(
        preset(name).model, action_tokens=SPEC.size, bins=SPEC.bins, text_width=table.identity.width
    )
    model = network(config)
    with torch.no_grad():
        for parameter in model.token_learner.parameters():
            parameter.mul_(10.0)
    return save_checkpoint(
        folder, model=model, info=CheckpointInfo(model=config, action_spec=SPEC, text_encoder=table.identity)
    )


def made_up_images() -> NDArray[np.uint8]:
    """Return images of four colours, uint8 (IMAGES, 256, 320, 3): of finer ones a random network sees the mean."""
    coarse = np.random.default_rng(0).integers(0, 256, (IMAGES, 2, 2, 3), dtype=np.uint8)
    return coarse.repeat(128, axis=1).repeat(160, axis=2)


class Server(NamedTuple):
    """A running server."""

    url: str
    pid: int
    room: int
    """Robots that it expects to carry."""


@contextmanager
def served(folder: Path, table: Path, *options: str) -> Iterator[Server]:
    """Run `rt1 serve` and yield its address."""
    command = [sys.executable, "-m", "rt1", "serve", str(folder), "--port", "0", "--text-encoder", str(table), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8") as process:  # noqa: S603
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            match = re.search(r"(ws://[\d.:]+), .* room for (\d+) ", line)
            if match is None:
                sys.exit(f"rt1 serve did not start: {line}")
            print(line.strip(), flush=True)
            yield Server(match[1], process.pid, int(match[2]))
        finally:
            process.terminate()


def overhead(url: str, images: NDArray[np.uint8], calls: int) -> NDArray[np.float64]:
    """Return the milliseconds (calls, 2) of a call and of the network in it, one robot alone."""
    times = []
    with Client(url) as client:
        client.reset(SENTENCES[0])
        for index in range(calls + 20):
            start = time.perf_counter()
            client.act_vector(images[index % IMAGES])
            times.append((1e3 * (time.perf_counter() - start), client.server_timing["infer_ms"]))
    return np.array(times[20:])  # the first ones fill the window and warm caches


def drive(url: str, robot: Robot, images: NDArray[np.uint8], seconds: float, rate: float) -> Robot:
    """Ask for actions at a fixed rate, a new instruction every EPISODE steps."""
    rng = np.random.default_rng(robot.number)
    time.sleep(rng.uniform(0, 1 / rate))  # robots do not move in step
    ticks, end = Rate(rate), time.monotonic() + seconds
    try:
        with Client(url) as client:
            while time.monotonic() < end:
                index = len(robot.requests)
                starts = None if index % EPISODE else SENTENCES[rng.integers(len(SENTENCES))]
                request = Request(starts=starts, image=int(rng.integers(IMAGES)))
                robot.requests.append(request)
                if starts is not None:
                    client.reset(starts)
                start = time.perf_counter()
                request.action = client.act_vector(images[request.image])
                request.seconds = time.perf_counter() - start
                robot.late += ticks.wait() > 0
    except ClientError as error:
        robot.error = str(error)
    return robot


def fleet(url: str, robots: int, images: NDArray[np.uint8], seconds: float, rate: float) -> list[Robot]:
    """Drive robots at once, a thread each."""
    with ThreadPoolExecutor(robots) as pool:
        running = [pool.submit(drive, url, Robot(number=number), images, seconds, rate) for number in range(robots)]
        return [each.result() for each in running]


def refusals(driven: Sequence[Robot]) -> list[str]:
    """Return why robots were not let in, a line for each of them."""
    return [robot.error for robot in driven if robot.error and not robot.requests]


def judge(robot: Robot, policy: Policy, images: NDArray[np.uint8]) -> tuple[int, int]:
    """Return how many replies are other than a policy's that sees the same, and how many of these are ties."""
    other, ties = 0, 0
    values = SPEC.decode(np.arange(SPEC.bins)[:, None].repeat(SPEC.size, axis=1))
    for request in robot.requests:
        if request.action is None:  # its last one
            break
        if request.starts is not None:
            policy.reset(request.starts)
        logits = policy.logits(images[request.image])
        if np.array_equal(request.action, SPEC.decode(logits.argmax(axis=-1))):
            continue
        other += 1
        tokens = np.abs(values - request.action).argmin(axis=0)  # of equal values the first: an invalid choice
        differs = SPEC.decode(logits.argmax(axis=-1)) != request.action
        gaps = logits.max(axis=-1) - logits[np.arange(SPEC.size), tokens]
        ties += bool((gaps[differs] < TIE).all())
    return other, ties


def overload(url: str, images: NDArray[np.uint8], robots: int, seconds: float) -> tuple[list[float], list[str]]:
    """Let robots connect one after another and ask as fast as they get answers.

    Returns:
        Seconds of the answers of those let in, once all have come; and what the others were told.
    """
    refusals: list[str] = []
    all_here, end = threading.Event(), threading.Event()

    def ask(client: Client) -> list[float]:
        times = []
        with client:
            while not end.is_set():
                start = time.perf_counter()
                client.act_vector(images[0])
                if all_here.is_set():
                    times.append(time.perf_counter() - start)
        return times

    with ThreadPoolExecutor(robots) as pool:
        asking = []
        for _ in range(robots):
            try:
                client = Client(url)
                client.reset(SENTENCES[0])
                asking.append(pool.submit(ask, client))
            except ClientError as error:
                refusals.append(str(error))
        all_here.set()
        time.sleep(seconds)
        end.set()
        return [second for each in asking for second in each.result()], refusals


def percentiles(values: Sequence[float] | NDArray[np.float64]) -> str:
    """Return p50, p95, p99 and the largest of some milliseconds."""
    shown = [*np.percentile(values, (50, 95, 99)), np.max(values)] if len(values) else [float("nan")] * 4
    return " ".join(f"{value:9.2f}" for value in shown)


def measure_overhead(small: Path, table: Path, images: NDArray[np.uint8], calls: int) -> float:
    """Print the first part; return the median overhead in milliseconds."""
    print(f"\n== overhead: one robot, {calls} calls, raw 256x320 images")
    with served(small, table) as server:
        times = overhead(server.url, images, calls)
    spent = times[:, 0] - times[:, 1]
    print(f"{'ms':24}{'p50':>9} {'p95':>9} {'p99':>9} {'max':>9}")
    for label, values in (("call", times[:, 0]), ("network", times[:, 1]), ("overhead", spent)):
        print(f"{label:24}{percentiles(values)}")
    return float(np.median(spent))


def measure_fleet(
    small: Path, table: Path, images: NDArray[np.uint8], robots: int, seconds: float
) -> dict[str, float | int]:
    """Print the second part; return its figures."""
    print(f"\n== fleet: {robots} robots at {RATE:g} Hz for {seconds:g} s")
    with served(small, table) as server:
        driven = fleet(server.url, robots, images, seconds, RATE)
    policy = Policy.from_checkpoint(small, text_encoder=TableEncoder.load(table))
    judged = [judge(robot, policy, images) for robot in driven]
    requests = [request for robot in driven for request in robot.requests]
    answered = [request for request in requests if request.action is not None]
    other, ties = (sum(each) for each in zip(*judged, strict=True))
    distinct = len({request.action.tobytes() for request in answered if request.action is not None})
    milliseconds = [1e3 * request.seconds for request in answered]
    print(f"{'ms':24}{'p50':>9} {'p95':>9} {'p99':>9} {'max':>9}\n{'call':24}{percentiles(milliseconds)}")
    unanswered, late, refused = len(requests) - len(answered), sum(r.late for r in driven), len(refusals(driven))
    print(f"requests {len(requests)}, unanswered {unanswered}, late {late}, robots refused {refused}")
    print(f"not the local policy's action {other}, of these rounding of a tie {ties}; distinct actions {distinct}")
    for error in sorted({robot.error for robot in driven if robot.error}):
        print(f"  {error}")
    return {
        "robots": robots,
        "refused": refused,
        "requests": len(requests),
        "lost": unanswered + other - ties,
        "p99_ms": round(float(np.percentile(milliseconds, 99)), 2) if milliseconds else float("nan"),
    }


def measure_overload(full: Path, table: Path, images: NDArray[np.uint8], robots: int, seconds: float) -> None:
    """Print the third part."""
    print(f"\n== overload: {robots} robots that ask without a pause for {seconds:g} s, RT-1 at full size")
    with served(full, table) as server:
        times, refusals = overload(server.url, images, robots, seconds)
    print(f"let in {robots - len(refusals)}, refused {len(refusals)}")
    print(f"{'ms':24}{'p50':>9} {'p95':>9} {'p99':>9} {'max':>9}")
    print(f"{'call':24}{percentiles([1e3 * second for second in times])}")
    for refusal in sorted({refusal.partition(" refused: ")[2] for refusal in refusals})[:3]:
        print(f"  {refusal}")


def measure_gpu(full: Path, table: Path, images: NDArray[np.uint8], seconds: float) -> None:
    """Print the fourth part: as many robots as the server takes, at 3 Hz."""
    if not torch.cuda.is_available():
        print(f"\n== robots per GPU at {RATE:g} Hz: not run, torch finds no CUDA device here")
        return
    print(f"\n== robots per GPU at {RATE:g} Hz, RT-1 at full size, {torch.cuda.get_device_name()}")
    options = ("--engine", "torch:bf16", "--device", "cuda", "--max-sessions", str(MOST))
    with served(full, table, *options) as server:
        robots = MOST - len(overload(server.url, images, MOST, 1.0)[1])
        driven = fleet(server.url, robots, images, seconds, RATE)
    milliseconds = [1e3 * each.seconds for robot in driven for each in robot.requests if each.action is not None]
    print(f"robots {robots} of at most {MOST}, late {sum(robot.late for robot in driven)} of {len(milliseconds)}")
    print(f"{'ms':24}{'p50':>9} {'p95':>9} {'p99':>9} {'max':>9}\n{'call':24}{percentiles(milliseconds)}")


def main() -> None:
    """Measure everything, print tables, then the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the fleet drives")
    parser.add_argument("--robots", type=int, default=13, help="robots of the fleet")
    parser.add_argument("--calls", type=int, default=1000, help="calls of the one robot alone")
    parser.add_argument("--crowd", type=int, default=16, help="robots that crowd a server with RT-1 at full size")
    parser.add_argument("--fleet", action="store_true", help="only how many robots RT-1 at full size carries")
    parser.add_argument("--engine", help="engine of --fleet, by default auto")
    parser.add_argument("--folder", type=Path, help="where network and export of --fleet stay for the next run")
    choices = parser.parse_args()
    print(f"{describe_machine()}, torch {torch.__version__}, commit {commit()}")
    images = made_up_images()
    with tempfile.TemporaryDirectory() as scratch:
        if choices.fleet:
            from fleet import measure_full_fleet

            folder = choices.folder or Path(scratch)
            measure_full_fleet(folder, images, engine=choices.engine, seconds=choices.seconds)
            return
        folder, table_file = Path(scratch), Path(scratch) / "table.safetensors"
        table = text_table(512)
        table.save(table_file)
        small, full = checkpoint(folder / "small", "demo", table), checkpoint(folder / "full", "paper", table)
        spent = measure_overhead(small, table_file, images, choices.calls)
        figures = measure_fleet(small, table_file, images, choices.robots, choices.seconds)
        measure_overload(full, table_file, images, choices.crowd, min(choices.seconds, 15.0))
        measure_gpu(full, table_file, images, min(choices.seconds, 20.0))
    print(json.dumps({"overhead_ms_p50": round(spent, 3), **figures}))


if __name__ == "__main__":
    main()
