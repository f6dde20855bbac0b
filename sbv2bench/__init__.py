"""sbv2bench: evaluate one-step and few-step text-to-image models."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "Evaluator": "sbv2bench.evaluation.evaluator",
    "compare": "sbv2bench.compare.compare",
    "evaluate": "sbv2bench.evaluation.evaluate",
    "load_model": "sbv2bench.samplers",
}
__all__ = ["Evaluator", "__version__", "compare", "evaluate", "load_model"]


def __getattr__(name: str) -> Any:
    """Heavy parts are imported on first use, so that `import sbv2bench` needs no torch."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'sbv2bench' has no attribute {name!r}")
