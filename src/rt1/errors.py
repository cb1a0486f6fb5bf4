"""The tree of errors that rt1 raises for what a user can mend. Each message is one line: the value, the rule, the cure.

Every class also derives from the built-in error that fits, so ``except ValueError`` keeps working::

    RT1Error
        DataError, CheckpointError, ExportError, BundleError, FlaxFileError, UsageError,
        ProtocolError, ObservationError, PolicyError                                    ValueError
        RenderingError, WorkerError, TrainingError, StoppedError                        RuntimeError
        SaveError, LockedError                                                          OSError
        ClientError, LateReplyError, ClientDisconnectedError                                          ConnectionError
"""

from __future__ import annotations


class RT1Error(Exception):
    """Any error that rt1 raises for what a user can mend."""


def first_line(reason: BaseException) -> str:
    """Return the first line of a library's error, at most 200 characters, for a message of ours."""
    return (str(reason).strip() or type(reason).__name__).splitlines()[0][:200]


class DataError(RT1Error, ValueError):
    """A data set that cannot be read as it is. The message gives the file, the rule and the cure."""


class CheckpointError(RT1Error, ValueError):
    """A checkpoint that cannot be used as it is. The message gives the file, the rule and the cure."""


class ExportError(RT1Error, ValueError):
    """An export that cannot be made or used as it is. The message gives the value, the rule and the cure."""


class BundleError(RT1Error, ValueError):
    """A TensorFlow checkpoint that cannot be read. The message names the file, what is wrong and the cure."""


class FlaxFileError(RT1Error, ValueError):
    """A file that is not a flax msgpack checkpoint. The message names the file, what is wrong and the cure."""


class UsageError(RT1Error, ValueError):
    """Words that are no call of the command. One line."""


class ProtocolError(RT1Error, ValueError):
    """A message that is not in the wire format, or beyond its limits. One line."""


class ObservationError(RT1Error, ValueError):
    """An observation that cannot be acted on. The message is sent to the robot."""


class PolicyError(RT1Error, ValueError):
    """A network whose output is no action (its logits are not finite). Nothing is sent to the robot."""


class RenderingError(RT1Error, RuntimeError):
    """No way to render on this machine. The message says what to install."""


class WorkerError(RT1Error, RuntimeError):
    """A worker process ended before its job did. The message gives the cure."""


class TrainingError(RT1Error, RuntimeError):
    """A run that cannot go on. The message gives the update, the reason and the cure."""


class StoppedError(RT1Error, RuntimeError):
    """An action came after the watchdog had stopped the robot. It was not carried out."""


class SaveError(RT1Error, OSError):
    """A file could not be saved (full disk, read-only folder). What was there before is untouched."""


class LockedError(RT1Error, OSError):
    """Another process works in this folder. The message names its pid and host."""


class ClientError(RT1Error, ConnectionError):
    """A request that got no action. One line. The connection is closed and its episode is over."""


class LateReplyError(ClientError):
    """A reply that did not come in time. It is never taken for a later one."""


class ClientDisconnectedError(RT1Error, ConnectionError):
    """Nobody waits for this step any more. It was not taken."""
