"""What a run tells while it trains: log.jsonl, TensorBoard, a line with the rate and the time left, pictures."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from reference_trainer.base_models.pictures import write_grid
from reference_trainer.config import Recipe
from reference_trainer.networks import Networks
from reference_trainer.noise import guidance_scale
from sbv2bench.diffusion import add_noise, predict_x0
from sbv2bench.samplers.base import PromptBlock, Stopwatch, generators, image_seed, initial_noise
from sbv2bench.samplers.one_step import OneStepSampler

GRID = 16  # captions of a sample grid
PANEL_TIMESTEP = 500  # where the panels of both teachers look at the student's images


class Monitor:
    """Rank 0's voice. Figures are averaged between two log entries."""

    def __init__(self, recipe: Recipe, run: Path, step: int) -> None:
        self.recipe, self.run, self.console = recipe, run, Console(stderr=True)
        self._sums: dict[str, list[float]] = {}
        self._mark = (time.monotonic(), step)
        self._board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(run / "tensorboard"))  # type: ignore[no-untyped-call]
        except ImportError:
            self.console.print('no TensorBoard: pip install "sbv2bench[train]"')

    def add(self, step: int, figures: dict[str, float]) -> None:
        """Figures of one step; every `log_every` steps an entry of their means."""
        for name, value in figures.items():
            self._sums.setdefault(name, []).append(value)
        if step % self.recipe.log_every and step != self.recipe.steps:
            return
        now = time.monotonic()
        rate = (step - self._mark[1]) / max(1e-9, now - self._mark[0])
        self._mark = (now, step)
        means = {name: sum(values) / len(values) for name, values in self._sums.items()}
        self._sums.clear()
        images = rate * self.recipe.batch_size
        self.write({"step": step, "images": step * self.recipe.batch_size, **means, "images_per_second": round(images, 2)})
        shown = ("vsd", "lora_teacher", "clip_cosine", "hps_cosine", "regularisation")
        words = "  ".join(f"{name} {means[name]:.4f}" for name in shown if name in means)
        left = (self.recipe.steps - step) / rate / 60
        self.console.print(f"{self.recipe.name} {step}/{self.recipe.steps}  {words}  {images:.0f} images/s  {left:.1f} min left")

    def write(self, entry: dict[str, Any]) -> None:
        """One line of log.jsonl, and its numbers to TensorBoard."""
        with (self.run / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in entry.items()}) + "\n")
        if self._board is not None:
            for name, value in entry.items():
                if isinstance(value, int | float) and name != "step":
                    self._board.add_scalar(name, value, entry["step"])

    def close(self) -> None:
        """Flush TensorBoard."""
        if self._board is not None:
            self._board.close()


def write_samples(networks: Networks, captions: list[str], folder: Path, step: int) -> None:
    """A grid of the averaged student's images for fixed captions and seeds, by the sampler that sbv2bench evaluates with."""
    folder.mkdir(parents=True, exist_ok=True)
    with networks.averaged():
        images = torch.from_numpy(sample_student(networks, captions))
    write_grid(
        folder / f"{step:08d}.png",
        images.permute(0, 3, 1, 2) / 127.5 - 1,
        columns=min(8, len(images)),
        zoom=_zoom(images.shape[1]),
    )
    (folder / "captions.txt").write_text("\n".join(captions) + "\n", encoding="utf-8")


def sample_student(networks: Networks, captions: list[str], seed: int = 0) -> Any:
    """uint8 [N, H, W, 3]: image i of caption i, with the noise that sbv2bench draws for (seed, i)."""
    sampler = OneStepSampler.of(networks.student_spec(), networks.student_components())
    seeds = tuple(image_seed(seed, i) for i in range(len(captions)))
    return sampler.generate(PromptBlock(0, 0, len(captions), tuple(captions), seeds), Stopwatch(str(networks.device)))


def write_panels(networks: Networks, captions: list[str], folder: Path, step: int) -> None:
    """Rows: the student's images, and what the frozen and the LoRA teacher make of them after noising to the same level.

    Where the third row follows the first and the second does not, the LoRA teacher knows the student (DMD2's panels).
    """
    vsd = networks.recipe.vsd
    if vsd is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    few = captions[:8]
    seeds = [image_seed(0, i) for i in range(len(few))]
    with torch.no_grad():
        text, null = networks.encode_text(few), networks.encode_text([""])
        z = initial_noise(generators(seeds), networks.latent_shape).to(networks.device)
        x0 = networks.generate(z, text)
        timesteps = torch.full((len(few),), PANEL_TIMESTEP, device=networks.device)
        alpha, sigma = networks.levels(timesteps)
        x_t = add_noise(
            x0, initial_noise(generators([s ^ 1 for s in seeds]), networks.latent_shape).to(networks.device), alpha, sigma
        )
        scale = guidance_scale(vsd.teacher_guidance_scale, networks.recipe.seed, step)
        rows: list[Tensor] = [x0]
        for lora in (False, True):
            epsilon = networks.teacher_epsilon(x_t, timesteps, text, null.expand_as(text), scale, lora=lora)
            rows.append(predict_x0(epsilon, x_t, alpha, sigma, "epsilon"))
        pictures = networks.pixels(torch.cat(rows), "tiny" if networks.tiny_decoder is not None else "full")
    write_grid(folder / f"{step:08d}-teachers.png", pictures.cpu() * 2 - 1, columns=len(few), zoom=_zoom(pictures.shape[-1]))


def _zoom(side: int) -> int:
    return max(1, 96 // side)
