"""What stops a run."""

from __future__ import annotations


class TrainingError(RuntimeError):
    """A run that cannot go on; the message gives the update, the reason and the cure."""
