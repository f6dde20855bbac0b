"""Contenders timed in alternated rounds: what speed gates compare, on one thread of CPU time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from threadpoolctl import threadpool_limits

ROUNDS = 5


def cpu_seconds(benchmark: Any, contenders: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median one-thread CPU seconds of each contender over alternated rounds; the last is also timed by pytest-benchmark."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            for _ in range(rounds):
                for name, run in contenders.items():
                    start = time.process_time()
                    run()
                    seconds[name].append(time.process_time() - start)
            benchmark.pedantic(run, rounds=3)
    finally:
        torch.set_num_threads(threads)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    benchmark.extra_info.update({f"cpu_s {name}": round(median, 5) for name, median in medians.items()})
    print({name: round(median, 4) for name, median in medians.items()})
    return medians
