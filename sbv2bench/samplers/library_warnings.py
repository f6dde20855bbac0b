"""Warnings of the libraries that sample: each once a process, and not once a block."""

from __future__ import annotations

import logging
import threading

_LIBRARIES = ("diffusers", "transformers")


class _Once(logging.Filter):
    """Lets the first record from each place in the code through; what differs in the next is only whose caption it is about."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[tuple[str, int]] = set()
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record's place has not spoken yet."""
        place = (record.pathname, record.lineno)
        with self._lock:
            new = place not in self._seen
            self._seen.add(place)
        return new


_once = _Once()


def warn_once() -> None:
    """From now on the libraries' loggers say each warning once; calling it again changes nothing."""
    for name in _LIBRARIES:
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(_once)
