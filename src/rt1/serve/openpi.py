"""openpi's policy protocol: metadata first, then one reply for each observation. An error ends the connection."""

from __future__ import annotations

from typing import Any

from rt1.actions import FloatArray
from rt1.errors import ObservationError
from rt1.serve import protocol


class OpenPi:
    """The messages of openpi's protocol. All connections share one."""

    ping_seconds = 20.0
    """Seconds between two pings. A client that does not answer the last one is gone."""
    closes_after_error = True

    def __init__(self, metadata: dict[str, Any], image_key: str | None) -> None:
        """Encode the metadata. ``image_key`` is where observations have their image, as for :func:`value_at`."""
        self.greeting = protocol.encode(metadata)
        self._image_key = image_key

    def read(self, message: bytes) -> Any:  # noqa: ANN401 (it comes from outside)
        """Return the observation for :meth:`rt1.serve.session.Session.read`."""
        observation, key = protocol.decode(message), self._image_key
        if observation is None:
            raise ObservationError("the observation is nil, must be a map")
        if key is None or not isinstance(observation, dict):
            return observation
        image = value_at(observation, key)
        if image is None and "reset" not in observation:
            raise missing_image(observation, key)
        rest = {name: observation[name] for name in ("instruction", "prompt", "reset") if name in observation}
        return rest if image is None else {"image": image, **rest}

    def reply(self, action: FloatArray | None, *, timing: dict[str, float], is_new_episode: bool) -> bytes:
        """Return the reply with the action (A,) after the last image. None after a reset alone."""
        actions = {} if action is None else {"actions": action[None]}
        return protocol.encode({**actions, "new_episode": is_new_episode, "server_timing": timing})

    def error(self, reason: str) -> str:
        return reason


def value_at(observation: dict[str, Any], key: str) -> Any:  # noqa: ANN401
    """Return the value under a key, which may be a path of keys joined by ``/`` into nested maps. None if none."""
    if key in observation:
        return observation[key]
    first, _, rest = key.partition("/")
    inner = observation.get(first)
    return value_at(inner, rest) if rest and isinstance(inner, dict) else None


def missing_image(observation: dict[str, Any], key: str) -> ObservationError:
    names = ", ".join(map(repr, sorted(observation)))[:200]
    return ObservationError(
        f"the observation has no image under {key!r}, only {names}. Start rt1 serve with another --image-key"
    )
