"""A folder that says nothing about how it is sampled: its pipeline's own defaults, said once, and what may be said instead."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from diffusers.utils import logging

from sbv2bench.data import remarks
from sbv2bench.errors import InputError, PrerequisiteError
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.evaluation.sampled_model import with_options
from sbv2bench.registry import Registry
from sbv2bench.samplers import load_model
from sbv2bench.samplers.base import PromptBlock, Stopwatch
from sbv2bench.samplers.defaults import settled


def test_steps_and_guidance_are_the_pipelines_own(
    epsilon_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remarks, "said", set())
    spec = Registry.load().model(str(epsilon_folder))
    found = settled(spec)
    assert (found.steps, found.guidance_scale, found.unstated) == (50, 7.5, ())  # StableDiffusionPipeline.__call__
    settled(spec)
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"note: model {spec.id}: 50 steps and guidance 7.5 by the defaults of StableDiffusionPipeline; "
        "--steps and --guidance-scale change that"
    ]


def test_what_is_asked_for_wins(epsilon_folder: Path) -> None:
    spec = with_options(Registry.load().model(str(epsilon_folder)), EvalOptions.validated(steps=3))
    found = settled(spec)
    assert (found.steps, found.guidance_scale) == (3, 7.5)
    stated = spec.model_copy(update={"unstated": (), "guidance_scale": 2.0})
    assert settled(stated) is stated


@pytest.mark.parametrize("name", ["OfNoLibrary", "UNet2DConditionModel", "AutoPipelineForText2Image", 7, None])
def test_what_is_no_pipeline_is_refused_by_its_name(tmp_path: Path, name: object) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}))
    with pytest.raises(InputError, match=f"_class_name is {name!r}, expected a pipeline of diffusers"):
        settled(Registry.load().model(str(tmp_path)))


@pytest.mark.parametrize(
    ("kind", "says"), [("StableDiffusionUpscalePipeline", "no height and width"), ("TextToVideoSDPipeline", "num_frames")]
)
def test_a_class_that_makes_no_images_of_text_is_refused_before_its_files_are_hashed(
    tmp_path: Path, kind: str, says: str
) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    with pytest.raises(InputError, match=f"{kind} .*{says}, expected a pipeline that makes images of text"):
        settled(Registry.load().model(str(tmp_path)))


def test_a_class_that_the_library_lacks_is_missing(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "OfNextYearPipeline"}')
    spec = Registry.load().model(str(tmp_path))
    with pytest.raises(PrerequisiteError, match="has no OfNextYearPipeline, expected a newer diffusers"):
        settled(spec)
    with pytest.raises(PrerequisiteError, match=r'expected diffusers>=0\.37\n.*pip install --upgrade "diffusers>=0.37"'):
        settled(spec.model_copy(update={"requires": "diffusers>=0.37"}))


@pytest.mark.ci
def test_a_library_warns_once_and_not_once_a_block(
    epsilon_folder: Path, make_block: Callable[..., PromptBlock], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry.load()
    sampler = load_model(str(epsilon_folder), registry=registry)
    sampler.spec = sampler.spec.model_copy(update={"steps": 1})
    logger = logging.get_logger("diffusers.pipelines.stable_diffusion")
    lines: list[str] = []
    for handler in logging.logging.getLogger("diffusers").handlers:
        monkeypatch.setattr(handler, "emit", lambda record: lines.append(record.getMessage()))
    for number in range(3):
        block = make_block(first=4 * number)
        sampler.generate(block, Stopwatch())
        logger.warning("about block %d", number)
    assert lines.count("about block 0") == 1 and not any("about block 1" in line for line in lines)
    assert sum("truncated" in line for line in lines) <= 1
