"""What the student makes now, to look at: sample grids, and what both teachers think of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reference_trainer.networks import Networks
from reference_trainer.noise import guidance_scale
from sbv2bench.atomic import whole_file, write_whole
from sbv2bench.diffusion import add_noise, predict_x0
from sbv2bench.report.picture import draw_rows, stacked
from sbv2bench.samplers.base import Images, PromptBlock, Stopwatch, generators, image_seed, initial_noise
from sbv2bench.samplers.one_step import OneStepSampler

GRID = 16  # captions of a sample grid
_ACROSS = 8  # pictures of a row
PANELS = 8  # captions of a picture of panels
PANEL_TIMESTEP = 500  # where the panels of both teachers look at the student's images
_AT_ONCE = 4  # pictures decoded together: sixteen through the full autoencoder at 512 px would take what a step takes


class StudentSampler(OneStepSampler):
    """The student in memory as a sampler of sbv2bench, in the precision that it trains in."""

    networks_in_training: Networks

    @classmethod
    def of_training(cls, networks: Networks) -> StudentSampler:
        """Of the weights of this moment; within `networks.averaged()` of their moving average."""
        sampler = cls.of(networks.student_spec(), networks.student_components())
        assert isinstance(sampler, StudentSampler)
        sampler.networks_in_training = networks
        return sampler

    def generate(self, block: PromptBlock, stopwatch: Stopwatch) -> Images:
        """As `OneStepSampler.generate`; autocast belongs to a thread, so it is entered here."""
        with self.networks_in_training.autocast():
            return super().generate(block, stopwatch)


def write_samples(networks: Networks, captions: Sequence[str], folder: Path, step: int) -> None:
    """A grid of the averaged student's images under fixed captions, of fixed seeds, by the sampler that sbv2bench evaluates with.

    Raises IntegrityError where pixels are not numbers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with networks.averaged():
        images = sample_student(networks, captions)
    labels = ["student", "moving average" if networks.average is not None else "its weights", f"step {step:,}"]
    _write(folder / f"{step:08d}.png", sample_grid(images, captions, labels))
    write_whole(folder / "captions.txt", "\n".join(captions) + "\n")


def sample_grid(images: Images, captions: Sequence[str], labels: Sequence[str]) -> Image.Image:
    """Images, uint8 [N, H, W, 3], below their N captions, eight in a row; labels: lines before each row."""
    rows = range(0, len(images), _ACROSS)
    return stacked([draw_rows([(labels, images[at : at + _ACROSS])], _heads(captions, at, _ACROSS)) for at in rows])


def sample_student(networks: Networks, captions: Sequence[str], seed: int = 0) -> Images:
    """uint8 [N, H, W, 3]: image i of caption i, with the noise that sbv2bench draws for (seed, i)."""
    sampler, watch = StudentSampler.of_training(networks), Stopwatch(str(networks.device))
    blocks: list[Images] = []
    for start in range(0, len(captions), at_once(networks)):
        part = tuple(captions[start : start + at_once(networks)])
        seeds = tuple(image_seed(seed, start + i) for i in range(len(part)))
        blocks.append(sampler.generate(PromptBlock(len(blocks), start, len(part), part, seeds), watch))
    return np.concatenate(blocks)


def at_once(networks: Networks) -> int:
    """How many pictures are made together: no more than a micro-batch, which is known to fit."""
    return min(_AT_ONCE, networks.recipe.micro_batch_size or _AT_ONCE)


def write_panels(networks: Networks, captions: Sequence[str], folder: Path, step: int) -> None:
    """Labelled rows: the student's images, and what the frozen and the LoRA teacher make of them after noising to one level.

    Where the LoRA teacher's follow the student's and the frozen one's do not, it knows the student (DMD2's panels). A student
    without a moving average is in the grid of samples already, so its row is left out.
    """
    if networks.recipe.vsd is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    few = list(captions[:PANELS])
    parts = [panels(networks, few[i : i + at_once(networks)], i, step) for i in range(0, len(few), at_once(networks))]
    pixels = (torch.cat(parts, 1) * 255 + 0.5).floor().clamp(0, 255).to(torch.uint8).permute(0, 1, 3, 4, 2).numpy()
    noised = [f"from t = {PANEL_TIMESTEP}", f"step {step:,}"]
    labels = [["student", "its weights", f"step {step:,}"], ["frozen teacher", *noised], ["LoRA teacher", *noised]]
    rows = [*zip(labels, pixels, strict=True)]
    shown = rows if networks.average is not None else rows[1:]
    _write(folder / f"{step:08d}-teachers.png", draw_rows(shown, _heads(few, 0, len(few))))


def panels(networks: Networks, captions: list[str], first: int, step: int) -> Tensor:
    """[3, n, 3, H, W] in [0, 1] on the CPU: student, frozen teacher, LoRA teacher."""
    vsd = networks.recipe.vsd
    assert vsd is not None
    seeds = [image_seed(0, first + i) for i in range(len(captions))]
    with torch.no_grad():
        text, null = networks.encode_text(captions), networks.null_text
        z = initial_noise(generators(seeds), networks.latent_shape).to(networks.device)
        noise = initial_noise(generators([s ^ 1 for s in seeds]), networks.latent_shape).to(networks.device)
        x0 = networks.generate(z, text)
        timesteps = torch.full((len(captions),), PANEL_TIMESTEP, device=networks.device)
        alpha, sigma = networks.levels(timesteps)
        x_t = add_noise(x0, noise, alpha, sigma)
        scale = guidance_scale(vsd.teacher_guidance_scale, networks.recipe.seed, step)
        rows: list[Tensor] = [x0]
        for lora in (False, True):
            epsilon = networks.teacher_epsilon(x_t, timesteps, text, null.expand_as(text), scale, lora=lora)
            rows.append(predict_x0(epsilon, x_t, alpha, sigma, "epsilon"))
        decoder = "tiny" if networks.tiny_decoder is not None else "full"
        return torch.stack([networks.pixels(row, decoder).cpu() for row in rows])


def _heads(captions: Sequence[str], start: int, count: int) -> list[tuple[str, str]]:
    return [(f"caption {start + place}, seed 0", text) for place, text in enumerate(captions[start : start + count])]


def _write(path: Path, picture: Image.Image) -> None:
    with whole_file(path) as file:
        picture.save(file, "PNG")
