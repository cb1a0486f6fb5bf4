"""The small files of recorded numbers against the full recording."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tests.reference.expand import HERE, compared, expand


def test_the_small_files_hold_the_numbers_of_the_full_recording(shared: Path, tmp_path: Path) -> None:
    expand(tmp_path)
    files = sorted(tmp_path.rglob("*.npz"))
    assert len(files) == 17
    for file in files:
        full, small = np.load(shared / "reference" / file.relative_to(tmp_path)), dict(np.load(file))
        for name in full.files:
            if name in small:
                ours, recorded = compared(full[name], small, name)
                if f"{name}.step" not in small and full[name].shape != small[name].shape:  # the first ones of each row
                    ours = full[name][..., : small[name].shape[-1]].reshape(-1)
                np.testing.assert_array_equal(ours, recorded, err_msg=f"{file.name} {name}")


def test_the_small_files_are_below_one_and_a_half_megabytes() -> None:
    assert sum(file.stat().st_size for file in HERE.iterdir() if file.is_file()) < 1_500_000
