"""The legs after the first run: each does what a user would, and raises LegFailed where what comes out is not as it must be."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from reference_trainer.loop import Asked, train
from reference_trainer.merge import merge
from reference_trainer.pictures import sample_grid
from reference_trainer.rehearse.redirect import STEPS, SUITE, Rehearsed
from reference_trainer.training.checkpoint import checkpoints
from sbv2bench import load_model
from sbv2bench.samplers.base import PromptBlock, Stopwatch, generators, image_seed, initial_noise
from sbv2bench.samplers.loading import quiet

PATIENCE = 300.0  # seconds for a process to get where it is waited for
GREY_LEVELS = 1  # of 255, the most between any two values of diffusers and sbv2bench, both in float32
# The most on average from the trainer's own grid, which is drawn in the recipe's precision: found are 0.00002, and 0.33 to 1.1;
# pictures of other weights are tens of levels apart.
GRID_GREY_LEVELS = {"float32": 0.05, "bfloat16": 3.0}
TWO_PROCESSES = 0.05  # relative distance of the first step's losses from one process's: batches are rounded otherwise


class LegFailed(Exception):
    """Why a leg did not pass."""


@dataclass(frozen=True)
class Stage:
    """Where a rehearsal's runs lie. run is the one that nobody disturbs."""

    rehearsed: Rehearsed
    folder: Path

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def killed(self) -> Path:
        return self.folder / "killed"

    @property
    def merged(self) -> Path:
        return self.folder / "merged"

    def command(self, *launcher: str, output: Path) -> list[str]:
        """`train` of this recipe as a process."""
        arguments = ["train", self.rehearsed.reference, *self.rehearsed.overrides, "--output", str(output), "--device", "cpu"]
        return [sys.executable, "-m", *launcher, "reference_trainer", *arguments]


def kill(stage: Stage) -> None:
    """Start the recipe in a process of its own and end it by SIGKILL once its first checkpoint is there."""
    log = stage.folder / "killed.log"
    with log.open("w") as file:
        process = subprocess.Popen(stage.command(output=stage.killed), stdout=file, stderr=file)
    deadline = time.monotonic() + PATIENCE
    try:
        while not _stepped(stage.killed):
            if process.poll() is not None:
                raise LegFailed(f"it ended by itself (exit {process.returncode}) before its first checkpoint: {_last_line(log)}")
            if time.monotonic() > deadline:
                raise LegFailed(f"no checkpoint after {PATIENCE:.0f} s: {_last_line(log)}")
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()
    if process.returncode != -signal.SIGKILL or (stage.killed / "done.json").exists():
        raise LegFailed(f"it was done (exit {process.returncode}) before it could be killed")


def stop(stage: Stage) -> None:
    """In place of a kill where that is rehearsed on another recipe: sittings that end after each update, until a first step."""
    while not _stepped(stage.killed):
        before = checkpoints(stage.killed / "checkpoints")
        if train(stage.rehearsed.recipe, stage.killed, Asked(device="cpu", stop_after_seconds=0.0)):
            raise LegFailed("the sitting did not end")
        if checkpoints(stage.killed / "checkpoints") == before:
            raise LegFailed("a sitting left no new checkpoint")


def resume(stage: Stage) -> None:
    """Run the killed recipe again, and compare the last checkpoint and the export with the undisturbed run's, bit by bit."""
    if not train(stage.rehearsed.recipe, stage.killed, Asked(device="cpu")):
        raise LegFailed("the resumed run did not end")
    for part in (Path("checkpoints") / f"{STEPS:08d}", Path("export")):
        files = [_weights(run, part) for run in (stage.run, stage.killed)]
        if not files[0] or files[0].keys() != files[1].keys():
            raise LegFailed(f"{part}: found {len(files[1])} files, expected the {len(files[0])} of the undisturbed run")
        if other := [str(name) for name in files[0] if files[0][name] != files[1][name]]:
            raise LegFailed(f"{other[0]}: other bits than those of the undisturbed run")


def two_processes(stage: Stage) -> None:
    """The recipe under torchrun with two processes (gloo); its first step's losses are those of one process."""
    launcher = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m")
    output, log = stage.folder / "two", stage.folder / "two.log"
    code = _exit_code(stage.command(*launcher, output=output), log)
    if code or not (output / "export" / "sbv2bench.json").is_file():
        raise LegFailed(f"exit {code}: {_last_line(log)}")
    one, two = (_first_losses(run) for run in (stage.run, output))
    if far := [name for name in one if not math.isclose(one[name], two.get(name, math.nan), rel_tol=TWO_PROCESSES, abs_tol=1e-4)]:
        raise LegFailed(f"step 1: {far[0]} is {two.get(far[0])} on two processes, {one[far[0]]} on one")


def stock_diffusers(stage: Stage) -> None:
    """One step of the export by diffusers alone: sbv2bench's image, and the one that the trainer drew last."""
    export, captions = stage.run / "export", (stage.run / "samples" / "captions.txt").read_text("utf-8").splitlines()
    sampler = load_model(export)
    seeds = tuple(image_seed(0, number) for number in range(len(captions)))
    expected = sampler.generate(PromptBlock(0, 0, len(captions), tuple(captions), seeds), Stopwatch())
    with quiet():
        pipeline = StableDiffusionPipeline.from_pretrained(export, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    side = pipeline.unet.config.sample_size
    noise = initial_noise(generators(seeds), (pipeline.unet.config.in_channels, side, side))
    found = pipeline(captions, latents=noise, num_inference_steps=1, guidance_scale=1.0, output_type="np").images
    far = _apart((found * 255.0).round(), expected).max()
    if not far <= GREY_LEVELS:
        raise LegFailed(f"its image is {far:.0f} grey levels from sbv2bench's of the same export, expected at most {GREY_LEVELS}")
    precision = stage.rehearsed.recipe.precision
    drawn = _from_last_grid(stage, expected, captions)
    if not drawn <= GRID_GREY_LEVELS[precision]:
        raise LegFailed(
            f"its image is {drawn:.2f} grey levels from the trainer's last grid on average, "
            f"expected at most {GRID_GREY_LEVELS[precision]:g} in {precision}"
        )


def merge_exports(stage: Stage) -> None:
    """Half of the last export and half of the model that its student began as."""
    merge(str(stage.run / "export"), stage.rehearsed.recipe.student.start, 0.5, stage.merged)
    unet = load_file(stage.merged / "unet" / "diffusion_pytorch_model.safetensors")
    if not all(bool(value.isfinite().all()) for value in unet.values()):
        raise LegFailed(f"{stage.merged}: weights that are no numbers")


def evaluate_merged(stage: Stage) -> None:
    """`sbv2bench eval` of the merged model, as a process."""
    results, log = stage.folder / "results", stage.folder / "eval.log"
    arguments = ["eval", "--model", str(stage.merged), "--suite", SUITE, "--device", "cpu", "--results", str(results)]
    code = _exit_code([sys.executable, "-m", "sbv2bench", *arguments], log)
    written = [path for path in results.rglob("*.json") if "metrics" in json.loads(path.read_text("utf-8"))]
    if code or len(written) != 1:
        raise LegFailed(f"exit {code}, {len(written)} result files: {_last_line(log)}")
    values = {name: metric["value"] for name, metric in json.loads(written[0].read_text("utf-8"))["metrics"].items()}
    if "clip_score" not in values or not all(map(math.isfinite, values.values())):
        raise LegFailed(f"found {values}, expected finite numbers and clip_score among them")


def _exit_code(command: list[str], log: Path) -> int:
    with log.open("w") as file:
        return subprocess.run(command, stdout=file, stderr=file, timeout=PATIENCE, check=False).returncode


def _weights(run: Path, part: Path) -> dict[Path, bytes]:
    return {path.relative_to(run): path.read_bytes() for path in (run / part).rglob("*.safetensors")}


def _stepped(run: Path) -> bool:
    """Whether a checkpoint of a finished step is there, and not one of the warm-up alone."""
    return any(int(folder.name) >= 1 for folder in checkpoints(run / "checkpoints") if folder.name.isdigit())


def log_entries(run: Path) -> list[dict[str, Any]]:
    """The entries of a run's log."""
    return [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]


def _first_losses(run: Path) -> dict[str, float]:
    first = next(entry for entry in log_entries(run) if entry["step"] == 1 and "images" in entry)
    return {name: value for name, value in first.items() if name == "loss" or name.endswith("_loss")}


def _from_last_grid(stage: Stage, images: NDArray[np.uint8], captions: list[str]) -> float:
    """Grey levels, on average, between these images, uint8 [N, H, W, 3], and the grid that was drawn after the last step."""
    drawn = np.asarray(Image.open(stage.run / "samples" / f"{STEPS:08d}.png").convert("RGB"))
    ours, black, white = (np.asarray(sample_grid(one, captions, ())) for one in (images, images * 0, images * 0 + 255))
    if drawn.shape != ours.shape:
        sizes = [f"{shape[1]} x {shape[0]}" for shape in (drawn.shape, ours.shape)]
        raise LegFailed(f"the trainer's last grid is {sizes[0]} pixels, expected {sizes[1]}")
    where = black != white  # the images alone, without captions and labels
    return float(_apart(drawn[where], ours[where]).mean())


def _apart(a: NDArray[np.number], b: NDArray[np.number]) -> NDArray[np.float64]:
    """Grey levels between two sets of pictures [N, H, W, 3], of the first as many as both have."""
    count = min(len(a), len(b))
    return np.abs(a[:count].astype(np.float64) - b[:count].astype(np.float64))


def _last_line(log: Path) -> str:
    """The error that a command told, or else its last line."""
    lines = [line.strip() for line in log.read_text("utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it said nothing"])[-1][:300]
