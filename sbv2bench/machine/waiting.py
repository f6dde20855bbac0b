"""How long a thread stood in line for a processor core: what tells a busy machine from a slow model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

BUSY = 0.1  # of the time that a thread ran or could have run: above it, times are no longer the model's own
_SCHEDULE = Path("/proc/thread-self/schedstat")  # nanoseconds on a core, nanoseconds in line for one, slices (Linux)


def waiting() -> Callable[[], float | None]:
    """Begins to watch the calling thread. What it returns gives the share of its time, 0 to 1, that it waited until then.

    Sleep, and waiting for a device or for other threads, is none of it. None where the system does not say.
    """
    began = _spent()

    def share() -> float | None:
        now = _spent()
        if began is None or now is None:
            return None
        ran, waited = (after - before for before, after in zip(began, now, strict=True))
        return waited / (ran + waited) if ran + waited else 0.0

    return share


def is_busy(share: float | None) -> bool:
    """Whether somebody else had so much of the machine that times of this share are marked."""
    return share is not None and share > BUSY


def _spent() -> tuple[int, int] | None:
    try:
        ran, waited, _ = _SCHEDULE.read_text("ascii").split()
        return int(ran), int(waited)
    except (OSError, ValueError):
        return None
