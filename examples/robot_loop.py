"""A robot of your own under `rt1 serve`: replay a recorded episode (--dry-run) before you drive; it stops when late."""

from __future__ import annotations

import argparse
import time

import numpy as np

from rt1.serve.client import Client, ClientError
from rt1.serve.recording import LoopRecording
from rt1.serve.robot import ActionLimits, Rate, StoppedError, Watchdog


class YourRobot:
    """Three functions of your own."""

    def image(self) -> np.ndarray:
        return np.zeros((256, 320, 3), np.uint8)  # RGB

    def command(self, action: np.ndarray) -> None:  # physical units, in the order of the action spec; returns at once
        print("moves", action.round(3))

    def stop(self) -> None:  # at any time, from another thread, too
        print("stops")


def drive(client: Client, robot: YourRobot, limits: ActionLimits, steps: int, recording: LoopRecording) -> None:
    rate = Rate(client.metadata.get("control_rate") or 3.0)
    with Watchdog(robot.command, robot.stop, seconds=1.5 * rate.period) as watchdog:
        for _ in range(steps):
            try:
                if not client.connected:
                    client.reconnect()  # a new episode: the images before are forgotten
                if watchdog.stopped:  # at the start, and after an action that was late or did not come
                    previous = limits.rest()
                    watchdog.start()
                image, begin = robot.image(), time.perf_counter()
                watchdog.command(previous := limits.apply(client.act_vector(image), previous))
                recording.add(image, previous, milliseconds=1e3 * (time.perf_counter() - begin))
            except (ClientError, StoppedError) as error:
                watchdog.stop()
                print("stopped:", error)
            rate.wait()


parser = argparse.ArgumentParser(description=__doc__)
for option, default in (("--url", "ws://127.0.0.1:8000"), ("--instruction", "open the drawer"), ("--steps", 100)):
    parser.add_argument(option, type=type(default), default=default)
parser.add_argument("--mcap", help="new file for images, actions and latencies, which Foxglove shows")
parser.add_argument("--dry-run", help="data set whose first episode is replayed; needs all of rt1")
choices = parser.parse_args()
try:
    with Client(choices.url, timeout=2.0) as client:
        limits = ActionLimits(spec=client.action_spec, max_change=0.25)  # of a value's range, from one to the next
        if choices.dry_run is None:
            client.reset(choices.instruction)
            with LoopRecording(choices.mcap, client.action_spec, choices.instruction) as recording:
                drive(client, YourRobot(), limits, choices.steps, recording)
        else:
            from rt1.report.dry_run import replay  # nothing moves; look at the page that it writes

            print("see", replay(client, choices.dry_run, limits, page="dry_run.html"))
except ClientError as error:
    parser.exit(1, f"{error}\n")
