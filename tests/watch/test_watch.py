"""Exports of a run scored as they appear: each once, whatever is stopped and begun again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from safetensors.numpy import load_file, save_file

from sbv2bench.errors import InputError, InterruptedRun
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.registry import Registry
from sbv2bench.results import store
from sbv2bench.watch import report
from sbv2bench.watch.exports import FOLDER, exports
from sbv2bench.watch.watch import Point, curve, watch


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    (folder / "exports").mkdir(parents=True)
    return folder


def export(run: Path, step: int, registry: Registry, *, last: bool = False, scale: float | None = None) -> Path:
    """A tiny student as the trainer exports it, its weights scaled so that every step has its own."""
    folder = run / "export" if last else run / "exports" / f"{step:08d}"
    shutil.copytree(registry.model("local/student").location, folder, dirs_exist_ok=True)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    name = next(name for name in sorted(tensors) if name.startswith("conv_in"))
    save_file(tensors | {name: tensors[name] * np.float32(scale or 1 + step)}, weights, metadata={"format": "pt"})
    declared = registry.model("local/student").model_dump(mode="json", exclude_defaults=True)
    (folder / "sbv2bench.json").write_text(json.dumps({**declared, "location": ""}))
    (folder / "training.json").write_text(json.dumps({"steps": step}))
    return folder


def options(run: Path) -> EvalOptions:
    return EvalOptions.validated(metrics="clip", device="cpu", limit=6, results=run / FOLDER)


def watched(run: Path, registry: Registry, **more: object) -> tuple[list[Point], list[tuple[int, bool]]]:
    """The curve, and the steps that were told with whether they were scored now."""
    told: list[tuple[int, bool]] = []
    found = watch(run, "tiny", options(run), registry, told=lambda one, new: told.append((one.step, new)), **more)  # type: ignore[arg-type]
    return found, told


def test_exports_are_scored_as_they_appear_and_each_once(run: Path, registry: Registry) -> None:
    export(run, 2, registry)

    def next_look(_: float) -> None:
        looks.append(len(looks))
        if len(looks) == 1:
            export(run, 4, registry)
        else:
            export(run, 6, registry, last=True)
            (run / "done.json").write_text("{}")

    looks: list[int] = []
    found, told = watched(run, registry, wait=next_look)
    assert told == [(2, True), (4, True), (6, True)] and [point.step for point in found] == [2, 4, 6]
    assert len({point.result.metrics["clip_score"].value for point in found}) == 3
    before = {path: path.read_bytes() for path in store.find(run / FOLDER)}
    again, told = watched(run, registry)
    assert told == [(2, False), (4, False), (6, False)] and [one.path for one in again] == [one.path for one in found]
    assert {path: path.read_bytes() for path in store.find(run / FOLDER)} == before
    text = report.to_csv(again).splitlines()
    assert text[0].startswith("step,clip_score") and [line.split(",")[0] for line in text[1:]] == ["2", "4", "6"]


def test_a_stop_keeps_what_was_scored(run: Path, registry: Registry) -> None:
    for step in (2, 4):
        export(run, step, registry)

    def stopped(_: Point, __: bool) -> None:
        raise KeyboardInterrupt

    with pytest.raises(InterruptedRun, match="what was scored of"):
        watch(run, "tiny", options(run), registry, once=True, told=stopped)
    assert [point.step for point in curve(run, "tiny")] == [2]
    _, told = watched(run, registry, once=True)
    assert told == [(2, False), (4, True)]


def test_a_step_that_was_trained_anew_is_scored_anew(run: Path, registry: Registry) -> None:
    export(run, 2, registry)
    (old,), _ = watched(run, registry, once=True)
    export(run, 2, registry, scale=9.0)
    (new,), told = watched(run, registry, once=True)
    assert told == [(2, True)] and new.path != old.path and new.result.metrics != old.result.metrics


def test_every_and_what_is_no_export(run: Path, registry: Registry) -> None:
    for step in (2, 3, 4):
        export(run, step, registry)
    (run / "exports" / ".00000006.x").mkdir()  # what a kill of the trainer leaves
    (run / "exports" / "00000008").mkdir()
    assert list(exports(run)) == [2, 3, 4]
    found, _ = watched(run, registry, once=True, every=2)
    assert [point.step for point in found] == [2, 4]


def test_what_is_refused(run: Path, registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found no folder"):
        watch(tmp_path / "nothing", "tiny", options(run), registry)
    with pytest.raises(InputError, match="no recipe"):
        watch(run / "exports", "tiny", options(run), registry)
    (run / FOLDER).mkdir()
    with FileLock(run / FOLDER / ".lock"), pytest.raises(InputError, match="another process is watching"):
        watch(run, "tiny", options(run), registry, once=True)


def test_a_curve_is_drawn_between_its_ends() -> None:
    assert report.drawn([0.0, 1.0, 2.0, 7.0]) == "▁▂▃█"
    assert report.drawn([3.0]) == "▁"
    many = report.drawn([float(n) for n in range(1000)])
    assert len(many) == 32 and many[0] == "▁" and many[-1] == "█"
