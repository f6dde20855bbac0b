"""Curves over the merge weight: their shapes by statistics, and their files read strictly."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from sample_results import metric

from sbv2bench.boards.claims import Verdict
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.metrics.comparison import Mean, mean_of
from sbv2bench.registry import Registry
from sbv2bench.reproduce.figure import judge, reproduce_figure
from sbv2bench.results import sweeps
from sbv2bench.results.published import Shape

U_SHAPE, HILL, FALL, FLAT, ZIGZAG = (5, 3, 2, 3, 5.5), (2, 4, 5, 4, 2.5), (5, 4, 3, 2, 1), (2, 2, 2, 2, 2), (5, 4, 4.5, 2, 1)
REGISTRY = Registry.built_in()
MINI_5K = REGISTRY.suite("mini-5k")


def noisy(values: Sequence[float], noise: float = 0.05) -> list[tuple[float, ...]]:
    """Three repeats about each value."""
    return [tuple(value + noise * offset for offset in (-1.0, 0.0, 1.0)) for value in values]


@pytest.mark.parametrize(
    ("shape", "values", "noise", "lower", "verdict"),
    [
        ("between", U_SHAPE, 0.05, True, "agrees"),
        ("between", HILL, 0.05, True, "disagrees"),
        ("between", HILL, 0.05, False, "agrees"),
        ("between", U_SHAPE, 3.0, True, "not separated"),
        ("between", FALL, 0.05, True, "disagrees"),
        ("end", FALL, 0.05, True, "agrees"),
        ("end", U_SHAPE, 0.05, True, "disagrees"),
        ("end", FLAT, 0.05, True, "not separated"),
        ("monotone", FALL, 0.05, True, "agrees"),
        ("monotone", FALL[::-1], 0.05, True, "agrees"),
        ("monotone", ZIGZAG, 0.05, True, "disagrees"),
        ("monotone", FLAT, 0.05, True, "not separated"),
        ("monotone", FALL, 5.0, True, "not separated"),
    ],
)
def test_shapes(shape: Shape, values: Sequence[float], noise: float, lower: bool, verdict: Verdict) -> None:
    points = {place / 4: mean_of(repeats) for place, repeats in enumerate(noisy(values, noise))}
    assert judge(shape, points, lower) == verdict


def test_repeats_that_do_not_scatter_separate_nothing() -> None:
    points = {weight: Mean(value, 0.0, 2) for weight, value in ((0.0, 1.0), (0.5, 0.5), (1.0, 1.0))}
    for shape in ("between", "end", "monotone"):
        assert judge(shape, points, True) == "not separated"  # type: ignore[arg-type]


def test_without_both_ends_and_something_between_there_is_no_shape() -> None:
    points = {weight: mean_of([1.0, 1.1]) for weight in (0.0, 0.5, 1.0)}
    assert judge("between", {weight: points[weight] for weight in (0.0, 1.0)}, True) == "not run"
    assert judge("monotone", {weight: points[weight] for weight in (0.0, 0.5)}, True) == "not run"


def write_sweep(
    folder: Path, a: str, b: str, fids: Sequence[Sequence[float]], *, images: int = 5000, seeds: Sequence[int] = (0, 1, 2)
) -> Path:
    """A sweep of FID alone, as the trainer writes it."""
    rows = []
    for place, repeats in enumerate(fids):
        value = metric(sum(repeats) / len(repeats), "FID-mini", repeats=tuple(repeats) if len(repeats) > 1 else ())
        row = {"weight": place / (len(fids) - 1), "result_fingerprint": "ab", "metrics": {"fid": value.model_dump(mode="json")}}
        rows.append(row)
    content = {
        "axis": f"weight of A = {a} (B = {b})",
        "formula": "weight * a + (1 - weight) * b",
        "a": {"id": a, "location": "", "weights": {}},
        "b": {"id": b, "location": "", "weights": {}},
        "suite": {
            "id": "mini-5k", "version": 1, "fingerprint": "cd", "prompts_sha256": "ab", "reference_fingerprint": None,
            "num_generated": images, "num_reference": 5000, "seeds": list(seeds),
        },
        "rows": rows,
        "provenance": {},
    }  # fmt: skip
    folder.mkdir(parents=True)
    path = folder / sweeps.NAME
    path.write_text(json.dumps(content), "utf-8")
    return path


def test_a_figure_is_over_the_weight_of_its_own_a_whichever_way_the_sweep_was(tmp_path: Path) -> None:
    fids = noisy((5, 2, 3, 6))
    write_sweep(tmp_path / "one" / "any", "mini/swiftbrush", "mini/sd-turbo", fids)
    write_sweep(tmp_path / "two" / "any", "mini/sd-turbo", "mini/swiftbrush", fids)
    own, flipped = (reproduce_figure("fig3", MINI_5K, [tmp_path / name], REGISTRY).panels[0].curves[0] for name in ("one", "two"))
    assert own.best == pytest.approx(1 / 3) and flipped.best == pytest.approx(2 / 3)
    assert (own.verdict, flipped.verdict) == ("agrees", "agrees")
    assert [value.value for value in flipped.points.values()] == [6, 3, 2, 5]


def test_what_was_not_swept_is_not_run_and_one_seed_separates_nothing(tmp_path: Path) -> None:
    write_sweep(tmp_path / "one", "mini/sbv2-a", "mini/sbv2-b", [(5.0,), (2.0,), (5.0,)], seeds=(0,))
    plain, regularised = reproduce_figure("fig7", MINI_5K, [tmp_path], REGISTRY).panels
    assert [curve.verdict for curve in plain.curves] == ["not separated"]
    assert regularised.curves == () and "sweep mini/sbv2-a-reg mini/sbv2-b-reg --suite mini-5k" in regularised.command
    document = reproduce_figure("fig7", MINI_5K, [tmp_path], REGISTRY).document()
    assert [panel["verdict"] for panel in document["panels"]] == [None, "not run"]


def test_sweeps_of_other_numbers_of_images_or_two_of_the_same_are_refused(tmp_path: Path) -> None:
    write_sweep(tmp_path / "small" / "x", "mini/sbv2-a", "mini/sbv2-b", noisy(U_SHAPE), images=500)
    with pytest.raises(InputError, match="500 images, expected version 1 with 5000"):
        reproduce_figure("fig7", MINI_5K, [tmp_path / "small"], REGISTRY)
    for name in ("x", "y"):
        write_sweep(tmp_path / "two" / name, "mini/sbv2-a", "mini/sbv2-b", noisy(U_SHAPE if name == "x" else HILL))
    with pytest.raises(InputError, match="are of the same models on mini-5k, expected one"):
        reproduce_figure("fig7", MINI_5K, [tmp_path / "two"], REGISTRY)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content["rows"].append(content["rows"][-1]), "each once and rising"),
        (lambda content: content["rows"].clear(), "each once and rising"),
        (lambda content: content.update(formula="a + b"), "formula"),
        (lambda content: content.pop("suite"), "suite"),
        (lambda content: content["a"].update(more=1), "a.more"),
    ],
)
def test_bad_sweep_files(change: Callable[[dict[str, Any]], object], words: str, tmp_path: Path) -> None:
    path = write_sweep(tmp_path / "x", "mini/sbv2-a", "mini/sbv2-b", noisy(U_SHAPE))
    assert len(sweeps.load(path).rows) == 5
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(IntegrityError, match=words):
        sweeps.load(path)
    path.write_text(path.read_text("utf-8")[:100], "utf-8")
    with pytest.raises(IntegrityError, match="not JSON"):
        sweeps.load(path)
