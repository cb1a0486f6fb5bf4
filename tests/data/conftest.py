"""Small recordings for the tests of the data room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rt1.actions import ActionSpec, Continuous
from rt1.data.rlds.writer import RecordedEpisode, RecordingSettings, RLDSWriter
from rt1.data.sources.images import encode_jpeg

HEIGHT, WIDTH, EMBEDDING = 24, 32, 8


@pytest.fixture(scope="session")
def settings() -> RecordingSettings:
    """Five episodes in three shards."""
    return RecordingSettings(
        name="push_blocks",
        image_size=(HEIGHT, WIDTH),
        action_spec=ActionSpec(parts=(Continuous(name="move", low=(-1.0,) * 3, high=(1.0,) * 3),)),
        episodes=5,
        episodes_per_shard=2,
        text_encoder={"name": "table", "sha256": "0" * 64, "width": EMBEDDING},
    )


@pytest.fixture(scope="session")
def episodes(settings: RecordingSettings) -> list[RecordedEpisode]:
    """Episodes of 1, 2, ... steps, every number in them different."""
    rng = np.random.default_rng(0)
    return [
        RecordedEpisode(
            images=[encode_jpeg(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)) for _ in range(number + 1)],
            actions=rng.uniform(-1, 1, (number + 1, 3)).astype(np.float32),
            instruction=f"push the {('red', 'blue')[number % 2]} block",
            text_embedding=rng.normal(size=EMBEDDING).astype(np.float32),
            task=f"push-{number % 2}",
            success=number != 3,
            seed=1000 + number,
            episode_id=number,
        )
        for number in range(settings.episodes)
    ]


@pytest.fixture
def record(settings: RecordingSettings, episodes: list[RecordedEpisode]) -> Callable[[Path], Path]:
    """Record the episodes into a folder and return it."""

    def _record(folder: Path) -> Path:
        writer = RLDSWriter(folder, settings)
        for shard in writer.missing_shards():
            writer.write_shard(shard, [episodes[i] for i in settings.shard_episodes(shard)])
        writer.finish()
        return folder

    return _record
