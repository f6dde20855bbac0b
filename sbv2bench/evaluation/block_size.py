"""How many images are computed at a time: the size that was asked for, or half of it as often as memory makes necessary."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from sbv2bench.data.remarks import say_once
from sbv2bench.errors import PrerequisiteError
from sbv2bench.samplers.base import PromptBlock


class BlockSize:
    """The size in use, which only shrinks."""

    def __init__(self, size: int, device: str) -> None:
        self.size, self._device = size, device
        self._lock = threading.Lock()

    def pieces(self, block: PromptBlock) -> list[PromptBlock]:
        """A block as it stands, or cut into blocks of the size in use, the last one padded as it is."""
        size = self.size
        if size >= len(block.captions):
            return [block]
        found = []
        for start in range(0, block.count, size):
            count = min(size, block.count - start)
            rows = [*range(start, start + count), *[start + count - 1] * (size - count)]
            captions, seeds = (tuple(values[row] for row in rows) for values in (block.captions, block.noise_seeds))
            first = block.first + start
            found.append(replace(block, first=first, count=count, captions=captions, noise_seeds=seeds, row=block.place + start))
        return found

    def halve(self, error: BaseException, kept: str) -> None:
        """Go on with half the size after an error of memory. Raises PrerequisiteError where one image is too much."""
        with self._lock:
            if self.size == 1:
                raise too_little_memory(self._device, "for one image", kept) from error
            before, self.size = self.size, self.size // 2
        free_memory()
        say_once(f"{self._device}: too little memory for {before} images at a time; continuing with {self.size}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or the machine, has too little memory."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


@contextmanager
def enough_memory(device: str, what: str, kept: str = "", fix: str = "--device cpu") -> Iterator[None]:
    """An error of memory within it is a PrerequisiteError that says what there was no room for, and what is kept."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise too_little_memory(device, what, kept, fix) from error


def too_little_memory(device: str, what: str, kept: str = "", fix: str = "--device cpu") -> PrerequisiteError:
    """The error for what cannot be cut any smaller. fix: on a device that is no CPU."""
    more = f"; {kept}" if kept else ""
    return PrerequisiteError(f"{device}: out of memory {what}{more}", fix if device != "cpu" else None)


def free_memory() -> None:
    """Give back what a failed attempt held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
