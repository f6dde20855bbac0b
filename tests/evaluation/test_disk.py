"""What a run says it will write beside what it writes."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from sbv2bench.evaluation.disk import cache_bytes
from sbv2bench.evaluation.evaluate import evaluate_and_store
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.evaluation.plan import plan
from sbv2bench.registry import Registry
from sbv2bench.report.terminal import about, print_plan


@pytest.mark.ci
def test_estimates_are_within_30_percent_of_what_is_written(home: Path, tmp_path: Path) -> None:
    registry = Registry.load()
    options = EvalOptions.validated(
        limit=60, metrics="fid,pr,clip,hps,attributes", save_images="all", results=tmp_path / "r", device="cpu"
    )
    planned = plan("sd-turbo", "mini", options, registry)
    cache, images = planned.cache_bytes(), planned.saved_bytes()
    evaluate_and_store(planned, registry)
    written = sum(path.stat().st_size for path in (home / "features").rglob("*.safetensors"))
    saved = sum(path.stat().st_size for path in (tmp_path / "r").rglob("*.png"))
    assert cache == pytest.approx(written, rel=0.3)
    assert images == pytest.approx(saved, rel=0.3)
    assert plan("sd-turbo", "mini", options, registry).cache_bytes() == 0  # all of it is there


def test_the_papers_suite_by_its_arithmetic() -> None:
    """30,000 images in three rows of 2,048 floats and one of 1,024, and 40,504 of the reference in the first three."""
    registry = Registry.load()
    suite = registry.suite("coco2014-30k")
    rows = [*registry.extractors_of(registry.metrics_of(suite)).values()]
    inception, clip = [spec for spec in rows if spec.kind == "inception"], 4096
    assert len(inception) == 3 and len(rows) == 4
    image = 3 * 8192 + clip
    found = cache_bytes([rows], suite.num_generated, inception, suite.num_reference)
    # at the end of the images their blocks are still there; texts are twice a row, the second for hard negatives
    assert found == pytest.approx(30_000 * (2 * image + 2 * clip) + 3 * 8192 * 40_504, rel=0.01)
    assert cache_bytes([], suite.num_generated, inception, suite.num_reference) == pytest.approx(3 * 8192 * 40_504, rel=0.01)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (520_000, "about 6 days"),
        (7_200, "about 2 hours"),
        (90, "about 2 minutes"),
        (80, "about 80 seconds"),
        (0.1, "about 1 second"),
    ],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert about(seconds) == words


def test_an_estimate_of_which_nothing_is_known_names_no_duration() -> None:
    console = Console(file=io.StringIO(), width=200)
    unknown = {"networks": 0.0, "rate_gflops": 9.0, "unknown": ["text", "denoise"]}
    print_plan(console, {"model": "x", "estimated_seconds": unknown, "fetched_when_run": True, "download_bytes": {}})
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    assert "not known of text, denoise" in said and "about" not in said and "fetched" not in said


def test_saved_images_are_counted_by_both_their_sides() -> None:
    square, wide = (EvalOptions.validated(limit=8, save_images="all", resolution=size) for size in ("32", "32x64"))
    suite = Registry.load().suite("mini")
    one, two = (plan("sd21", suite, options, Registry.load()).saved_bytes() for options in (square, wide))
    assert two == 2 * one > 0
