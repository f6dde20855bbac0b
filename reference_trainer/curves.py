"""A sweep as one HTML page that needs nothing else: a curve for each metric, drawn as SVG."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from sbv2bench.results.records import MetricValue

if TYPE_CHECKING:
    from reference_trainer.sweep import Sweep

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 380, 280, 64, 16, 34, 62  # pixels of a panel, and of its margins
_STYLE = """
body { font: 14px system-ui, sans-serif; margin: 24px; color: #222; background: #fff; }
svg { margin: 0 12px 12px 0; } text { font: 12px system-ui, sans-serif; fill: #222; }
.title { font-weight: 600; font-size: 14px; }
.axis { stroke: #999; } .grid { stroke: #e5e5e5; } .curve { fill: none; stroke: #2458a6; stroke-width: 2; }
.error { stroke: #2458a6; } .point { fill: #2458a6; } .best { fill: #d9480f; }
"""


def curves_page(sweep: Sweep) -> str:
    """The page: a panel for each metric; bars are 95 % intervals where there is an error, the best point is marked."""
    suite = sweep.first.suite
    panels = [_panel(sweep.curve(key), sweep.best(key), sweep) for key in sweep.first.metrics]
    title = f"{sweep.a.name} merged with {sweep.b.name}"
    about = (
        f"{suite.id}@v{suite.version}, {suite.num_generated:,} images a seed, {len(suite.seeds)} seed(s). "
        "Bars: 95 % intervals, where the metric has an error. Orange: the best weight."
    )
    head = f'<head><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style></head>'
    return (
        f'<!doctype html>\n<html lang="en">{head}'
        f"<body><h1>{escape(title)}</h1><p>{escape(about)}</p>\n" + "\n".join(panels) + "\n</body></html>\n"
    )


def _short(name: str) -> str:
    """A name that fits under a panel: the end of a long path."""
    return name if len(name) <= 34 else f"…{name[-33:]}"


def _interval(metric: MetricValue) -> tuple[float, float]:
    if metric.ci95 is not None:
        return metric.ci95
    reach = 1.96 * (metric.std_err or 0.0)
    return metric.value - reach, metric.value + reach


def _panel(curve: dict[float, MetricValue], best: float, sweep: Sweep) -> str:
    spans = {weight: _interval(metric) for weight, metric in curve.items()}
    low, high = min(span[0] for span in spans.values()), max(span[1] for span in spans.values())
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)

    def x(weight: float) -> str:
        return f"{LEFT + weight * (WIDTH - LEFT - RIGHT):.1f}"

    def y(value: float) -> str:
        return f"{HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM):.1f}"

    first = next(iter(curve.values()))
    better = {"lower": "lower is better", "higher": "higher is better"}[first.direction]
    parts = [f'<text class="title" x="{LEFT}" y="18">{escape(first.label)} ({better})</text>']
    for step in range(5):
        value = low + step / 4 * (high - low)
        parts.append(f'<line class="grid" x1="{x(0)}" x2="{x(1)}" y1="{y(value)}" y2="{y(value)}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(value)}" dy="4" text-anchor="end">{value:.4g}</text>')
        parts.append(f'<text x="{x(step / 4)}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{step / 4:g}</text>')
    parts.append(f'<line class="axis" x1="{x(0)}" x2="{x(1)}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>')
    for line, text in enumerate((f"weight of A = {_short(sweep.a.name)}", f"(0 is B = {_short(sweep.b.name)})")):
        parts.append(f'<text x="{x(0.5)}" y="{HEIGHT - 22 + 15 * line}" text-anchor="middle">{escape(text)}</text>')
    points = " ".join(f"{x(weight)},{y(metric.value)}" for weight, metric in curve.items())
    parts.append(f'<polyline class="curve" points="{points}"/>')
    for weight, metric in curve.items():
        bottom, top = spans[weight]
        if top > bottom:
            parts.append(f'<line class="error" x1="{x(weight)}" x2="{x(weight)}" y1="{y(bottom)}" y2="{y(top)}"/>')
        kind = "best" if weight == best else "point"
        tip = f"<title>{weight:g}: {metric.value:.6g}</title>"
        parts.append(f'<circle class="{kind}" cx="{x(weight)}" cy="{y(metric.value)}" r="4">{tip}</circle>')
    return f'<svg width="{WIDTH}" height="{HEIGHT}" role="img">' + "".join(parts) + "</svg>"
