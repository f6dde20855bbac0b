"""Image regularisation: pairs are what they say, are made once, and are the student's business through the decoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_recipe import PAIRED, make_trainer, take_steps

from sbv2bench.errors import InputError
from sbv2bench.samplers import load_sampler
from sbv2bench.samplers.base import PromptBlock, Stopwatch


def test_a_pairs_input_leads_the_teacher_to_its_latents(family: Path) -> None:
    """The stored latents, decoded, are the images that sbv2bench's own sampler makes of the regenerated noise."""
    trainer, _ = make_trainer(family, regularisation=PAIRED | {"teacher_steps": 3, "teacher_guidance_scale": 2.0})
    pairs, networks = trainer.pairs, trainer.networks
    captions, z, target = pairs.batch(0, [0, 1])
    spec = networks.teacher_spec.model_copy(
        update={"sampler": "multi_step", "scheduler": "ddim", "steps": 3, "guidance_scale": 2.0}
    )
    sampler = load_sampler(spec, "cpu", torch.float32)
    from sbv2bench.samplers import components

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(components, "initial_noise", lambda rngs, shape: z)
        images = sampler.generate(PromptBlock(0, 0, 2, tuple(captions), (1, 2)), Stopwatch())
    decoded = networks.components.decode(target)
    assert np.abs(images.astype(int) - decoded.astype(int)).max() <= 1  # the latents are kept in float16


def test_pairs_are_made_once_and_shared_by_seeds(family: Path, own_home: Path) -> None:
    make_trainer(family, regularisation=PAIRED)
    (folder,) = (own_home / "pairs").iterdir()
    written = {path: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    make_trainer(family, regularisation=PAIRED | {"weight": 1.0}, seed=9)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")} == written
    make_trainer(family, regularisation=PAIRED | {"teacher_steps": 3})
    assert len(list((own_home / "pairs").iterdir())) == 2


def test_the_paired_loss_pulls_the_student_to_the_teachers_images(family: Path) -> None:
    warm_up = {
        "vsd": None,
        "lora_teacher": None,
        "regularisation": PAIRED | {"distance": "latents", "weight": 1.0, "batch_size": 4},
    }
    trainer, _ = make_trainer(family, steps=40, **warm_up)
    figures = [step["regularisation"] for step in take_steps(trainer, 40)]
    assert np.mean(figures[-5:]) < 0.7 * np.mean(figures[:5])


def test_real_images_of_a_folder_and_of_the_world(family: Path, tmp_path: Path) -> None:
    for n in range(3):
        Image.fromarray(np.full((40, 50, 3), 60 * n, np.uint8)).save(tmp_path / f"{n}.png")
        (tmp_path / f"{n}.txt").write_text(f"picture {n}\n")
    for images, first in ((str(tmp_path), "picture"), ("world:training", "a")):
        trainer, _ = make_trainer(family, regularisation=PAIRED | {"kind": "real", "images": images, "pairs": 3})
        captions, z, target = trainer.pairs.batch(0, [0, 1])
        assert captions[0].split()[0] in {first, "an"}
        alpha, sigma = trainer.networks.alpha_T, trainer.networks.sigma_T
        assert float(((z - alpha * target) / sigma).std()) == pytest.approx(1.0, abs=0.1)
        assert not torch.equal(z, trainer.pairs.batch(1, [0, 1])[1])
        take_steps(trainer, 1)
    (tmp_path / "2.txt").unlink()
    with pytest.raises(InputError, match=r"2\.png has no caption"):
        make_trainer(family, regularisation=PAIRED | {"kind": "real", "images": str(tmp_path), "pairs": 3})
    with pytest.raises(InputError, match="is no folder"):
        make_trainer(family, regularisation=PAIRED | {"kind": "real", "images": "nowhere"})
