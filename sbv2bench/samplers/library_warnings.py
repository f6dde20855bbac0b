"""Warnings of the libraries that sample: each once a process, and not once a block; none of captions that are cut."""

from __future__ import annotations

import logging
import threading

_LIBRARIES = ("diffusers", "transformers")
# What a result says better, as `cut:`, of all captions and not of the first block's.
_CUTS = ("Token indices sequence length is longer", "The following part of your input was truncated because CLIP")


class _Once(logging.Filter):
    """Lets the first record from each place in the code through; what differs in the next is only whose caption it is about."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[tuple[str, int]] = set()
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record's place has not spoken yet, and not of captions that are cut."""
        if record.getMessage().startswith(_CUTS):
            return False
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
