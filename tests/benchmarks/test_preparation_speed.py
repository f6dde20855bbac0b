"""Speed gate of the road from a generated image to what the extractors see: ours in memory, the released one by two PNGs.

Run with: pytest -m benchmark_gate --benchmark-enable tests/benchmarks/test_preparation_speed.py
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from released_preparation import released_steps

from sbv2bench.data.preparation import prepare

pytestmark = pytest.mark.benchmark_gate
ROUNDS, IMAGES = 5, 8


@pytest.mark.benchmark(timer=time.process_time)
def test_preparation_against_the_released_steps(benchmark: Any, tmp_path: Path) -> None:
    """512 px, one thread of CPU time: the released steps (PNG, resize pass, PNG, read back) take at least 5 times as long."""
    rng = np.random.default_rng(0)
    small = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(IMAGES)]
    images = np.stack([np.asarray(Image.fromarray(one).resize((512, 512), Image.Resampling.BICUBIC)) for one in small])
    seconds: dict[str, list[float]] = {"released": [], "ours": []}
    for _ in range(ROUNDS):
        start = time.process_time()
        theirs = np.stack([released_steps(Image.fromarray(image), tmp_path) for image in images])
        middle = time.process_time()
        ours = prepare(images)
        seconds["released"].append(middle - start)
        seconds["ours"].append(time.process_time() - middle)
    benchmark.pedantic(prepare, args=(images,), rounds=3)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    benchmark.extra_info.update({f"cpu_ms_an_image {name}": 1000 * median / IMAGES for name, median in medians.items()})
    assert np.array_equal(ours, theirs)
    assert medians["released"] > 5 * medians["ours"], medians
