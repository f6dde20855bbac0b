"""An extractor or a metric of somebody else's that does wrong: a short error that names it, never a traceback or a number."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sbv2bench.errors import InputError, PrerequisiteError
from sbv2bench.evaluation.evaluator import Evaluator
from sbv2bench.evaluation.rows import Rows
from sbv2bench.registry import Registry
from sbv2bench.results.records import EvalResult, MetricValue
from sbv2bench.specs import ExtractorSpec, MetricSpec

HERE = sys.modules[__name__]  # the plugin's module is this one: a test exchanges its functions


def made() -> None:
    """What happens while an extractor is made."""


def look(images: NDArray[np.uint8]) -> object:
    """float32 [B, 3]."""
    return images.mean(axis=(1, 2), dtype=np.float32)


def read(captions: list[str]) -> object:
    """float32 [B, 3]."""
    return np.ones((len(captions), 3), np.float32)


def gap(rows: Rows) -> object:
    generated, reference = rows.pair()
    return {"gap": MetricValue(value=float(np.abs(generated.mean(0) - reference.mean(0)).sum()))}


def agree(rows: Rows) -> object:
    assert rows.generated is not None and rows.text is not None
    return {"agree": MetricValue(value=float((rows.generated * rows.text).mean()))}


MEANS, READ, GAP = look, read, gap


class Means:
    image_size = None

    def __init__(self, spec: ExtractorSpec, device: str) -> None:
        made()

    def __call__(self, images: NDArray[np.uint8]) -> object:
        return look(images)


class Pairs(Means):
    def embed_images(self, images: NDArray[np.uint8]) -> object:
        return look(images)

    def embed_text(self, captions: list[str]) -> object:
        return read(captions)


@pytest.fixture
def theirs(catalog: Path) -> Registry:
    """The tiny family with extractors and metrics of this file."""
    registry = Registry.load(catalog)
    registry.add("extractor", ExtractorSpec(id="means", kind=f"{__name__}:Means"))
    registry.add("extractor", ExtractorSpec(id="pairs", kind=f"{__name__}:Pairs", gives="paired"))
    for name in ("gap", "again"):  # `again` reads the same rows after it
        own: dict[str, Any] = {"target": f"{__name__}:{name}", "keys": (name,), "higher_is_better": False}
        registry.add("metric", MetricSpec(id=name, reads="features", extractor="means", reference="suite", **own))
    own |= {"target": f"{__name__}:agree", "keys": ("agree",)}
    registry.add("metric", MetricSpec(id="agree", reads="paired", extractor="pairs", **own))
    return registry


def again(rows: Rows) -> object:
    return {"again": GAP(rows)["gap"]}  # type: ignore[index]


def measured(registry: Registry, metrics: str = "gap") -> EvalResult:
    """The suite `tiny` by some metrics, of random images."""
    evaluator = Evaluator("tiny", metrics, registry=registry)
    rng = np.random.default_rng(0)
    for block in evaluator.blocks():
        evaluator.update(block, rng.integers(0, 256, (len(block.captions), 32, 32, 3), dtype=np.uint8))
    return evaluator.compute()


def raising(error: BaseException) -> Callable[..., object]:
    def fails(*_: object) -> object:
        raise error

    return fails


def growing() -> Callable[[NDArray[np.uint8]], object]:
    """Features of one more column in every call."""
    widths: Iterator[int] = iter(range(1, 100))
    return lambda images: np.zeros((len(images), next(widths)), np.float32)


LOOKS = {
    "one dimension too few": (lambda x: MEANS(x)[:, 0], r"found float32 \[6\], expected float32 \[6, D\]"),
    "a row too few": (lambda x: MEANS(x)[:-1], r"found float32 \[5, 3\], expected float32 \[6, D\]"),
    "no column": (lambda x: MEANS(x)[:, :0], r"found float32 \[6, 0\]"),
    "float64": (lambda x: MEANS(x).astype(np.float64), r"found float64 \[6, 3\], expected float32"),
    "a list": (lambda x: MEANS(x).tolist(), "found list, expected float32"),
    "nothing": (lambda x: None, "found NoneType, expected float32"),
    "ragged": (lambda x: [[1.0], [1.0, 2.0]], "found list, expected float32"),
    "NaN": (lambda x: MEANS(x) * np.float32("nan"), "found NaN or infinity"),
    "an exception": (raising(KeyError("weights")), "test_foreign_code:Means raised KeyError: 'weights'"),
}


@pytest.mark.parametrize("case", LOOKS)
def test_rows_that_are_not_as_promised(case: str, theirs: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    found, expected = LOOKS[case]
    monkeypatch.setattr(HERE, "look", found)
    with pytest.raises(InputError, match=rf"extractor means.*{expected}"):
        measured(theirs)


def test_rows_of_another_width_than_before(theirs: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HERE, "look", growing())
    with pytest.raises(InputError, match=r"extractor means .*found float32 \[6, 2\], expected 1 columns, as before"):
        measured(theirs)


def test_text_that_does_not_fit_the_images(theirs: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HERE, "read", lambda captions: np.ones((len(captions), 4), np.float32))
    with pytest.raises(InputError, match=r"extractor pairs .* expected 3 columns"):
        measured(theirs, "agree")
    monkeypatch.setattr(HERE, "read", raising(OSError("no vocabulary")))
    with pytest.raises(InputError, match=r"extractor pairs: .*test_foreign_code:Pairs raised OSError: no vocabulary"):
        measured(theirs, "agree")
    monkeypatch.setattr(HERE, "read", READ)
    assert measured(theirs, "agree").metrics["agree"].value > 0


def test_an_extractor_that_cannot_be_made(theirs: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HERE, "made", raising(RuntimeError("no licence\nfound")))
    with pytest.raises(InputError, match=r"extractor means: .*test_foreign_code:Means raised RuntimeError: no licence found"):
        measured(theirs)
    monkeypatch.setattr(HERE, "made", raising(PrerequisiteError("weights are missing", "pip install theirs")))
    with pytest.raises(PrerequisiteError, match="pip install theirs"):  # what it says by the package's own errors stands
        measured(theirs)
    monkeypatch.setattr(HERE, "made", raising(MemoryError()))  # a run goes on with smaller blocks
    with pytest.raises(MemoryError):
        measured(theirs)


VALUES = {
    "another key": ({"other": MetricValue(value=1.0)}, "gave other, expected gap"),
    "no key": ({}, "gave nothing, expected gap"),
    "a bare number": (1.0, "gave float, expected a MetricValue by key"),
    "a number for a value": ({"gap": 1.0}, "gave float for gap, expected a MetricValue"),
    "NaN": ({"gap": MetricValue(value=float("nan"))}, "gave nan for gap, expected a finite number"),
    "details": ({"gap": MetricValue(value=1.0, details={"a": object()})}, "gave details for gap that JSON cannot hold"),
    "each": ({"gap": MetricValue(value=1.0, each=[1.0])}, r"gave an `each` of shape \[1\] for gap, expected \[26\]"),
}


@pytest.mark.parametrize("case", VALUES)
def test_values_that_are_not_as_declared(case: str, theirs: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    given, expected = VALUES[case]
    monkeypatch.setattr(HERE, "gap", lambda rows: given)
    with pytest.raises(InputError, match=rf"metric gap: .*test_foreign_code:gap {expected}"):
        measured(theirs)


def test_a_metric_that_raises_is_named_with_its_line(theirs: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HERE, "gap", raising(ZeroDivisionError("division by zero")))
    said = r"metric gap: .*test_foreign_code:gap raised ZeroDivisionError: division by zero \(test_foreign_code\.py, line \d+\)"
    with pytest.raises(InputError, match=said):
        measured(theirs)


def test_what_it_overwrites_is_its_own(theirs: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that an extractor blackens, and rows that a metric clears, are seen whole by the others."""
    expected = {key: value.value for key, value in measured(theirs, "gap,fid,again").metrics.items()}

    def blackening(images: NDArray[np.uint8]) -> object:
        found = MEANS(images)
        images[:] = 0
        return found

    def clearing(rows: Rows) -> object:
        found = GAP(rows)
        for array in rows.pair():
            array[:] = 0
        return found

    monkeypatch.setattr(HERE, "look", blackening)
    monkeypatch.setattr(HERE, "gap", clearing)
    assert {key: value.value for key, value in measured(theirs, "gap,fid,again").metrics.items()} == expected
