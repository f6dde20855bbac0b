"""Threads and processes, kept so that no number depends on how many of them there are."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from threading import Lock
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from threadpoolctl import threadpool_limits

T = TypeVar("T")
R = TypeVar("R")


def cores() -> int:
    """Processor cores that this process may use, shared fairly with the other processes of a torchrun on this machine."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, mine // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def workers_on(device: str) -> int:
    """Threads that have a block of captions each: one for each core on a CPU.

    Beside a CUDA device three: one makes images, one measures the last ones, one prepares or stores. Elsewhere one.
    """
    return cores() if device == "cpu" else 3 if device.startswith("cuda") else 1


def turn_on(device: str) -> AbstractContextManager[object]:
    """What a thread holds while it uses a device for one kind of work: on a CPU nothing, for there all threads do all kinds."""
    return nullcontext() if device == "cpu" else Lock()


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many of torch's threads within an operation, while the block lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """One thread an operation, no TF32, no autotuned convolutions: the same inputs give the same bits. Restored on leaving."""
    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic, torch.backends.cuda.matmul.allow_tf32
    cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic, torch.backends.cuda.matmul.allow_tf32 = False, False, True, False
    try:
        with threads(1), threadpool_limits(1):
            yield
    finally:
        cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic, torch.backends.cuda.matmul.allow_tf32 = before


def each(work: Callable[[T], R], items: Sequence[T], workers: int) -> Iterator[tuple[T, R]]:
    """(item, work(item)) as they finish, from a few threads of one intra-op thread each, on CUDA in a stream of their own.

    When something is raised, here or in a worker, what has begun is finished and nothing more is begun.
    """
    gpu = torch.cuda.current_device() if torch.cuda.is_initialized() else None
    with ThreadPoolExecutor(workers, initializer=_begin_thread, initargs=(gpu,)) as pool:
        futures = {pool.submit(work, item): item for item in items}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _begin_thread(gpu: int | None) -> None:
    torch.set_num_threads(1)
    if gpu is not None:  # a thread begins on the first one; in one stream it would wait for what another asked of the device
        torch.cuda.set_device(gpu)
        torch.cuda.set_stream(torch.cuda.Stream(gpu))


@dataclass(frozen=True)
class Processes:
    """This process among those of a torchrun; alone, rank 0 of 1. Block i belongs to rank i % size."""

    rank: int = 0
    size: int = 1
    group: Any = None  # torch's, whose stubs have numbers among them

    def owns(self, number: int) -> bool:
        """Whether block `number` is this process's."""
        return number % self.size == self.rank

    def broadcast(self, value: object) -> Any:
        """Rank 0's value, on every rank; what the others give is of no matter."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in order, on rank 0; an empty list elsewhere."""
        if self.size == 1:
            return [value]
        values = [value] * self.size if self.rank == 0 else None  # each is overwritten
        dist.gather_object(value, values, dst=0, group=self.group)
        return values or []


def joined_processes() -> Processes:
    """The processes that torchrun started, joined by gloo until they end, or this one alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes()
    # Rank 0 waits for the slowest rank's last block: hours, where networks are large.
    patience = timedelta(days=2)
    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=patience)
        atexit.register(dist.destroy_process_group)
    group = None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo", timeout=patience)
    return Processes(dist.get_rank(), dist.get_world_size(), group)
