"""The package's catalog with its default suite cut to a few captions, so that a shipped model is measured in seconds."""

from __future__ import annotations

from sbv2bench.registry import Registry

IMAGES = 8


def small_mini() -> Registry:
    """Built-in but for `mini`: 8 captions, 12 in the reference, metrics that need no covariance."""
    registry = Registry.built_in()
    suite = registry.suite("mini")
    kept = tuple(metric for metric in suite.metrics if metric.id in {"clip", "attributes", "latency"})
    cut = {"num_generated": IMAGES, "num_reference": 12, "metrics": kept, "block_size": 4}
    registry.add("suite", suite.model_copy(update=cut), replaces=True)
    return registry
