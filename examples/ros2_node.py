"""A ROS 2 node around the client of `rt1 serve`: camera and instruction in, actions out, a stop when late.

Copy it into a package of your own; it needs rclpy, and of rt1 the client alone (`pip install ./packages/rt1-client`).
JPEG images of a `CompressedImage` topic go to the server as they are. `/act` carries the action in the order of the
action spec; a node of your own turns it into your robot's commands, holds it at `/stop`, and when `/act` falls silent.
"""

from __future__ import annotations

from collections.abc import Callable

import rclpy
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Empty, Float32MultiArray, String

from rt1.actions import FloatArray
from rt1.serve.client import Client, ClientError
from rt1.serve.robot import ActionLimits, StoppedError, Watchdog


class RT1Node(Node):
    """Asks for an action at the policy's rate, with the newest image, once there is an instruction."""

    def __init__(self) -> None:
        super().__init__("rt1")
        url = self.declare_parameter("url", "ws://127.0.0.1:8000").value
        self._client = Client(url, timeout=1.0)
        self._limits = ActionLimits(spec=self._client.action_spec, max_change=0.25)
        self._previous = self._limits.rest()
        self._image: bytes | None = None
        self._instruction = ""
        period = 1.0 / (self._client.metadata.get("control_rate") or 3.0)
        self._actions = self.create_publisher(Float32MultiArray, "act", 1)
        self._stops = self.create_publisher(Empty, "stop", 1)
        self._watchdog = Watchdog(self._send, lambda: self._stops.publish(Empty()), seconds=1.5 * period)
        self.create_subscription(CompressedImage, "image/compressed", self._see, qos_profile_sensor_data)
        self.create_subscription(String, "instruction", self._hear, 1)
        self.create_timer(period, self._step)

    def destroy_node(self) -> None:
        self._watchdog.close()
        self._client.close()
        super().destroy_node()

    def _send(self, action: FloatArray) -> None:
        self._actions.publish(Float32MultiArray(data=action.tolist()))

    def _see(self, message: CompressedImage) -> None:
        self._image = bytes(message.data)

    def _hear(self, message: String) -> None:
        """Start an episode; an empty instruction ends it."""
        self._watchdog.stop()
        self._instruction, self._image = message.data, None
        if self._instruction:
            self._ask(lambda: self._client.reset(self._instruction))

    def _step(self) -> None:
        if self._instruction and self._image is not None:
            image, self._image = self._image, None  # an old image is not acted on twice
            self._ask(lambda: self._act(image))

    def _act(self, image: bytes) -> None:
        if not self._client.connected:
            self._client.reset(self._instruction)  # connects again: a new episode
        if self._watchdog.stopped:
            self._previous = self._limits.rest()
            self._watchdog.start()
        self._previous = self._limits.apply(self._client.act_vector(image), self._previous)
        self._watchdog.command(self._previous)

    def _ask(self, request: Callable[[], None]) -> None:
        try:
            request()
        except (ClientError, StoppedError, ValueError) as error:
            self._watchdog.stop()
            self.get_logger().error(str(error))


def main() -> None:
    rclpy.init()
    node = RT1Node()
    try:
        rclpy.spin(node)
    finally:
        node.destroy_node()
        rclpy.shutdown()


if __name__ == "__main__":
    main()
