"""Contenders timed in alternated rounds: what speed gates compare, on one thread of CPU time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from threadpoolctl import threadpool_limits

ROUNDS = 5


def cpu_seconds(benchmark: Any, contenders: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Least one-thread CPU seconds of each contender over alternated rounds, since what else runs only adds to them.

    The last is also timed by pytest-benchmark.
    """
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
    least = {name: min(times) for name, times in seconds.items()}
    benchmark.extra_info.update({f"cpu_s {name}": round(best, 5) for name, best in least.items()})
    print({name: round(best, 4) for name, best in least.items()})
    return least
