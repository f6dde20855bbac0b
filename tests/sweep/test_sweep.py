"""A model under several settings: one stored result each, made once, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from sbv2bench.errors import InputError
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.registry import Registry
from sbv2bench.sweep.sweep import columns, sweep


def options(folder: Path) -> EvalOptions:
    return EvalOptions.validated(metrics="fid,clip", device="cpu", limit=12, results=folder / "results")


def test_every_combination_is_measured_once(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    points = sweep("teacher", "tiny", options(tmp_path), registry, guidance_scales=[1, 2, 2], steps=[1, 2], said=said.append)
    settings = [(result.model.steps, result.model.guidance_scale) for result, _ in points]
    assert settings == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert len({result.metrics["fid"].value for result, _ in points}) == 4 and len({path for _, path in points}) == 4
    assert all(line.endswith("evaluated now") for line in said)
    best = min(points, key=lambda point: point[0].metrics["fid"].value)
    column = next(column for column in columns(points) if column.key == "fid")
    assert column.strong is not None and column.strong(best)
    monkeypatch.setattr("sbv2bench.sweep.sweep.evaluate_and_store", lambda *_: pytest.fail("it was stored"))
    again = sweep("teacher", "tiny", options(tmp_path), registry, guidance_scales=[1, 2], steps=[1, 2])
    assert [path for _, path in again] == [path for _, path in points]


def test_a_setting_that_cannot_be_stops_all_before_the_first_image(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to vary"):
        sweep("teacher", "tiny", options(tmp_path), registry)
    with pytest.raises(InputError, match="--guidance-scale: model local/student is sampled by one_step"):
        sweep("student", "tiny", options(tmp_path), registry, guidance_scales=[1, 2])
    assert not list((tmp_path / "results").rglob("*.json"))
