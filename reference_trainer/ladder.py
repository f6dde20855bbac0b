"""The ladder: every network of a family in the order in which each can be made, resumable at any rung.

A rung works in `<runs>/<name>/` and leaves `export/` (its genuine layout, float32) and `done.json` there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.resources import files
from pathlib import Path

import yaml

from reference_trainer.base_models.stage import Stage, StageConfig, train
from reference_trainer.base_models.tokenizer import write_tokenizer
from sbv2bench.errors import InputError, PrerequisiteError


@dataclass(frozen=True)
class Rung:
    """target: "module:Stage:Config" under reference_trainer.base_models; needs: rungs whose exports it reads.

    shipped: whether the package carries it by itself; the autoencoder is inside the teacher's folder.
    """

    name: str
    target: str
    needs: tuple[str, ...] = ()
    shipped: bool = True


RUNGS = (
    Rung("extractor", "extractor:ExtractorStage:ExtractorConfig"),
    Rung("autoencoder", "autoencoder:AutoencoderStage:AutoencoderConfig", shipped=False),
    Rung("taesd", "autoencoder:TinyAutoencoderStage:TinyAutoencoderConfig", ("autoencoder",)),
    Rung("clip", "clip:ClipStage:ClipConfig", ("tokenizer",)),
    Rung("clip-train", "clip:ClipStage:ClipConfig", ("tokenizer",)),
    Rung("hps", "clip:PreferenceStage:PreferenceConfig", ("clip",)),
    Rung("hps-train", "clip:PreferenceStage:PreferenceConfig", ("clip-train",)),
    Rung("sd21-start", "teacher:TeacherStage:TeacherConfig", ("autoencoder", "tokenizer"), shipped=False),
    Rung("sd21", "teacher:TeacherStage:TeacherConfig", ("autoencoder", "tokenizer", "sd21-start")),
)


def climb(family: str, runs: Path, until: str, processes: int, sitting_minutes: float | None) -> bool:
    """Train every rung up to and including `until`; True when all are done, False when the sitting's time is over.

    Raises InputError for an unknown family or rung, PrerequisiteError for a rung whose inputs are missing.
    """
    if family != "mini":
        raise InputError(f"ladder: found family {family!r}, expected mini (full families start from published weights)")
    names = [rung.name for rung in RUNGS]
    if until not in names:
        raise InputError(f"ladder --until: found {until!r}, expected one of {', '.join(names)}")
    deadline = None if sitting_minutes is None else time.monotonic() + 60 * sitting_minutes
    for rung in RUNGS[: names.index(until) + 1]:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            return False
        if not climb_rung(family, rung, runs, processes, left):
            return False
    return True


def climb_rung(family: str, rung: Rung, runs: Path, processes: int, seconds: float | None) -> bool:
    """Train one rung until done (True) or out of time (False)."""
    inputs = {}
    for name in rung.needs:
        inputs[name] = runs / name / "export"
        if name == "tokenizer" and not inputs[name].is_dir():
            write_tokenizer(inputs[name])
        if not inputs[name].is_dir():
            fix = f"python -m reference_trainer ladder {family} --until {name}"
            raise PrerequisiteError(f"rung {rung.name} needs {inputs[name]}, which is missing", fix)
    module_name, stage_name, config_name = rung.target.split(":")
    module = import_module(f"reference_trainer.base_models.{module_name}")
    config = read_recipe(family, rung.name, getattr(module, config_name))
    stage: type[Stage] = getattr(module, stage_name)
    return train(partial(stage, config, inputs), runs / rung.name, processes, seconds)


def read_recipe(family: str, name: str, config_type: type[StageConfig]) -> StageConfig:
    """The recipe `recipes/<family>/<name>.yaml`, checked against its stage's fields."""
    text = (files("reference_trainer") / "recipes" / family / f"{name}.yaml").read_text()
    return config_type.model_validate(yaml.safe_load(text))
