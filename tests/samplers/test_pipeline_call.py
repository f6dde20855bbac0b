"""What a pipeline cannot be asked is said before its first image, with both sides; and what it is asked, it is asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from tiny_models import sd_scheduler
from twins import twin_spec, write_twin

from sbv2bench.data import remarks
from sbv2bench.errors import InputError, PrerequisiteError
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.evaluation.sampled_model import with_options
from sbv2bench.registry import Registry
from sbv2bench.samplers import load_sampler
from sbv2bench.samplers.base import PromptBlock, Stopwatch
from sbv2bench.samplers.defaults import settled
from sbv2bench.samplers.pipeline import PipelineSampler

Make = Callable[..., PromptBlock]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Twins by name, each written once."""
    written: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in written:
            written[name] = write_twin(name, tmp_path_factory.mktemp("twins") / name)
        return written[name]

    return folder


def load(name: str, folder: Path, **fields: Any) -> PipelineSampler:
    return PipelineSampler(twin_spec(name, folder, **fields), "cpu", torch.float32)


REFUSED = {
    "lengths beyond what the pipeline takes": ("flux-dev", {"max_sequence_length": 600}, "600.*512 tokens"),
    "lengths beyond the encoder": ("z-image", {"max_sequence_length": 4000}, "4000, its text_encoder reads at most 2048"),
    "a length that nothing reads": ("sd", {"max_sequence_length": 16}, "StableDiffusionPipeline takes no max_sequence_length"),
    "guidance of a student": ("flux-schnell", {"guidance_scale": 3.5}, "guidance_scale 3.5, expected at most 1.*distilled"),
    "guidance that nothing reads": ("flux-schnell", {"guidance_scale": 3.5, "guidance": None}, "is 3.5, .* that reads no scale"),
    "guidance that is ignored": ("flux2-klein", {"guidance_scale": 4.0, "guidance": None}, "is 4, and .* one row a noise level"),
    "guidance of another name": ("qwen-image", {"guidance_argument": "guidance_scale"}, "argument: true_cfg_scale in its spec"),
    "a negative of one pass": ("flux-dev", {"negative_prompt": "blue"}, "negative_prompt is 'blue', and FluxPipeline makes one"),
    "guidance of no name": ("sd", {"guidance_argument": "true_cfg_scale"}, "takes no true_cfg_scale, found 3"),
    "the usual sign of none": ("z-image", {"guidance_scale": 1.0, "no_guidance": 1.0}, "2 rows a level\nfix: no_guidance: 0"),
    "sigmas of a scheduler without": ("sana-sprint", {"sigmas": (1.0, 0.5)}, "takes no sigmas, found"),
    "timesteps of a flow": ("flux-dev", {"timesteps": (999, 500)}, r"takes no timesteps, found \[999, 500\]"),
    "sigmas that rise": ("flux-dev", {"sigmas": (0.5, 1.0)}, "expected each below the one before"),
    "a second scale that nothing reads": ("flux-dev", {"arguments": {"true_cfg_scale": 4}}, "true_cfg_scale, which is said else"),
    "sigmas without their end": (
        "sdxl", {"scheduler": "euler", "sigmas": (3.0, 1.0)}, "steps 2, and Euler.* asks at 1 of sigmas .*fix: end its",
    ),
    "sigmas with a level too many": ("flux-dev", {"sigmas": (1.0, 0.5, 0.0)}, "asks at 3 of sigmas .*fix: steps: 3 in its spec"),
    "an unknown argument": ("sd", {"arguments": {"tau": 1}}, "takes no argument tau"),
    "an argument with a field": ("sd", {"arguments": {"num_inference_steps": 1}}, "num_inference_steps, which is said elsewhere"),
    "a size that would be rounded": ("flux-dev", {"resolution": 18}, "18x18, expected multiples of 4\nfix: --resolution 1[62]x"),
    "LCM beyond its 50 steps": ("sd", {"scheduler": "lcm", "steps": 51}, "LCMScheduler has at most 50\nfix: --steps 50"),
    "TCD beyond its 50 steps": ("sdxl", {"scheduler": "tcd", "steps": 60}, "TCDScheduler has at most 50\nfix: --steps 50"),
    "DDIM, leading, of 1,000 steps": (
        "sd", {"scheduler": "ddim", "timestep_spacing": "leading", "steps": 1000}, "t = 1000 is outside.*at most",
    ),
    "one step of a schedule that ends elsewhere": (
        "qwen-image", {"steps": 1}, "FlowMatchEulerDiscreteScheduler needs at least 2\nfix: --steps 2",
    ),
    "a flow's steps by another scheduler": (
        "flux-schnell", {"scheduler": "ddim"}, "FluxPipeline cannot be asked so: .*; its scheduler is DDIMScheduler$",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_asked_is_refused_with_both_sides(what: str, folder_of: Callable[[str], Path]) -> None:
    name, fields, says = REFUSED[what]
    with pytest.raises(InputError, match=f"(?s){says}"):
        load(name, folder_of(name), **fields)


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        (
            "sd",
            "StableDiffusionImg2ImgPipeline",
            "takes image and no height and width, expected a pipeline that makes images of text",
        ),
        ("sd", "StableDiffusionInpaintPipeline", "it takes image, mask_image.*expected a pipeline that starts from text alone"),
        ("flux-schnell", "FluxImg2ImgPipeline", "it takes image, expected a pipeline that starts from text alone"),
        ("flux-schnell", "FluxFillPipeline", "it takes image, mask_image.*expected a pipeline that starts from text alone"),
    ],
)
def test_a_pipeline_that_starts_from_a_picture_is_refused(name: str, kind: str, says: str, tmp_path: Path) -> None:
    folder = write_twin(name, tmp_path / "m")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": kind}))
    with pytest.raises(InputError, match=f"{kind} .*{says}"):
        load(name, folder)


def test_a_picture_that_is_only_welcome_is_none(tmp_path: Path, make_block: Make) -> None:
    """FLUX.1-Kontext edits a picture, or makes one of text."""
    folder = write_twin("flux-schnell", tmp_path / "m")
    plain = load("flux-schnell", folder, steps=1).generate(make_block(count=1), Stopwatch())
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "FluxKontextPipeline"}))
    other = load("flux-schnell", folder, steps=1, arguments={"_auto_resize": False, "max_area": 32 * 32})
    assert np.array_equal(other.generate(make_block(count=1), Stopwatch()), plain)


def test_a_class_that_diffusers_lacks_names_its_release(
    folder_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = twin_spec("z-image", folder_of("z-image"), requires="diffusers>=0.36")
    monkeypatch.setattr(diffusers, "ZImagePipeline", None)
    with pytest.raises(PrerequisiteError, match=r"has no ZImagePipeline, expected diffusers>=0\.36\nfix: pip install"):
        load_sampler(spec, "cpu", torch.float32)


CONVENTIONS = {
    "z-image": {"steps": 50, "guidance_scale": 5.0, "no_guidance": 0.0},
    "qwen-image": {"steps": 50, "guidance_scale": 4.0, "guidance_argument": "true_cfg_scale"},
    "flux-schnell": {"steps": 28, "guidance_scale": 1.0, "guidance": "none"},
    "flux-dev": {"steps": 28, "guidance_scale": 3.5, "guidance": None, "guidance_argument": "guidance_scale"},
    "flux2-klein": {"steps": 50, "guidance_scale": 1.0, "guidance": "none"},
    "flux2-klein-base": {"steps": 50, "guidance_scale": 4.0, "guidance": None},
    "sana-sprint": {"steps": 2, "guidance_scale": 4.5},
}


@pytest.mark.parametrize("name", CONVENTIONS)
def test_a_bare_folder_is_asked_as_its_class_is(
    name: str, folder_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remarks, "said", set())
    bare = Registry.load().model(str(folder_of(name)))
    found = settled(bare)
    assert {field: getattr(found, field) for field in CONVENTIONS[name]} == CONVENTIONS[name]
    asked = settled(with_options(bare, EvalOptions.validated(steps=1, guidance_scale=2.5)))
    assert (asked.steps, asked.guidance_scale) == (1, 2.5)
    assert (asked.no_guidance, asked.guidance_argument) == (found.no_guidance, found.guidance_argument)


@pytest.mark.parametrize(("name", "donor"), [("flux-dev", "flux-schnell"), ("flux-schnell", "flux-dev")])
def test_a_transformer_in_anothers_place_decides_about_guidance(name: str, donor: str, folder_of: Callable[[str], Path]) -> None:
    bare = Registry.load().model(str(folder_of(name)))
    found = settled(bare.model_copy(update={"parts": {"transformer": str(folder_of(donor) / "transformer")}}))
    assert (found.guidance_scale, found.guidance) == (CONVENTIONS[donor]["guidance_scale"], CONVENTIONS[donor]["guidance"])


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("flux-dev", {"sigmas": (1.0, 0.3)}),
        ("qwen-image", {"negative_prompt": "a star"}),
        ("sd", {"negative_prompt": "a star"}),
        ("sdxl", {"arguments": {"guidance_rescale": 0.9}}),
        ("sana-sprint", {"timesteps": (1.5, 0.7)}),
        ("pixart-sigma", {"timesteps": (999.0, 400.0)}),
        ("sd3", {"max_sequence_length": 20}),
        ("flux2-klein", {"arguments": {"text_encoder_out_layers": (3, 6, 9)}}),
    ],
)
def test_a_setting_changes_what_it_should(
    name: str, fields: dict[str, Any], folder_of: Callable[[str], Path], make_block: Make
) -> None:
    block = make_block(count=1)
    plain, other = load(name, folder_of(name)), load(name, folder_of(name), **_with_own(name, fields))
    assert np.abs(plain.generate(block, Stopwatch()).astype(int) - other.generate(block, Stopwatch())).max() > 0


def _with_own(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    from twins import SETTINGS

    own = SETTINGS.get(name, {}).get("arguments", {})
    return {**fields, "arguments": {**own, **fields.get("arguments", {})}}


@pytest.mark.parametrize(
    ("name", "size"), [("sd3", (32, 32)), ("flux-dev", (256, 256)), ("flux2-klein", (256, 256)), ("qwen-image", (256, 256))]
)
def test_without_a_size_the_pipelines_own_is_taken(name: str, size: tuple[int, int], folder_of: Callable[[str], Path]) -> None:
    sampler = load(name, folder_of(name), resolution=None)
    assert (sampler.resolution, sampler.width) == size


def test_height_and_width_are_apart(folder_of: Callable[[str], Path], make_block: Make) -> None:
    sampler = load("flux2-klein", folder_of("flux2-klein"), resolution=16, width=40)
    assert sampler.generate(make_block(count=2), Stopwatch()).shape == (2, 16, 40, 3)


def test_kdpm2_makes_more_levels_by_design(tmp_path: Path) -> None:
    scheduler = sd_scheduler("epsilon", diffusers.KDPM2DiscreteScheduler, steps_offset=0)
    from tiny_models import write_tiny_pipeline

    folder = write_tiny_pipeline(tmp_path / "m", "epsilon", 4, scheduler=scheduler)
    assert load("sd", folder, steps=3).noise_levels == 5
