"""Learning rates over a run."""

from __future__ import annotations

import math


def rate_share(step: int, steps: int, warmup_steps: int, final: float) -> float:
    """A rate as a share of its recipe's: linear warm-up over so many steps, times a cosine from 1 to `final` at the end."""
    warm = min(1.0, (step + 1) / max(1, warmup_steps))
    return warm * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * step / steps)))
