"""One stage of making a family: a network, its data by index, its loss; and the loop that trains any of them.

The loop is data-parallel over processes of one thread each (faster on a CPU than one process of many threads). What a
sample is depends on (seed, step, row) alone, so a stage that is stopped and resumed with the same number of processes
ends with the same bits, and another number changes only the rounding of sums.
"""

from __future__ import annotations

import json
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from pydantic import BaseModel, ConfigDict, field_validator
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.multiprocessing.spawn import spawn

from sbv2bench.atomic import write_whole
from sbv2bench.mini import rendering, world


class StageConfig(BaseModel):
    """What a recipe of a base model says. Extra keys are errors; each stage adds its own fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str
    seed: int
    steps: int
    batch_size: int
    learning_rate: float
    final_learning_rate: float = 0.02  # as a share of learning_rate, reached by a cosine
    warmup_steps: int = 100
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    ema_decay: float = 0.0  # 0: the trained weights themselves are exported
    checkpoint_every: int = 500
    log_every: int = 50
    world_seed: int = 0

    @field_validator("seed")
    @classmethod
    def _keeps_clear_of_the_reference(cls, seed: int) -> int:
        """Pictures of a run have keys from seed * 2**40; those from 2**41 are the suites' reference (data/reference.py)."""
        if seed == 2:
            raise ValueError("found 2, whose pictures would have the keys of the suites' reference; expected another")
        return seed


@dataclass(frozen=True)
class Batch:
    """Rows of one step on one process: scenes, their pictures in [-1, 1] [B, 3, 32, 32], and the keys that made them."""

    scenes: world.Scenes
    images: torch.Tensor
    keys: np.ndarray[Any, np.dtype[np.int64]]
    generator: torch.Generator


class Stage(ABC):
    """What differs between base models. A stage is built once on each process."""

    def __init__(self, config: StageConfig, inputs: dict[str, Path]) -> None:
        """inputs: finished folders of the stages that this one needs, by stage name."""
        self.config = config
        self.inputs = inputs

    @abstractmethod
    def build(self) -> Any:
        """The network to train, freshly initialised from the global torch seed."""

    @abstractmethod
    def loss(self, network: Any, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Mean loss of the batch, and what to log of it."""

    @abstractmethod
    def export(self, network: Any, folder: Path) -> None:
        """Write the trained network (the moving average where there is one) in its genuine layout, float32."""

    @abstractmethod
    def measure(self, network: Any, folder: Path) -> dict[str, float]:
        """Figures of merit on the choosing split, and pictures into the folder."""


def pictures(scenes: world.Scenes, keys: np.ndarray[Any, np.dtype[np.int64]], seed: int) -> torch.Tensor:
    """Renderings as a network sees them: float32 [B, 3, 32, 32] in [-1, 1]."""
    images = torch.from_numpy(rendering.render(scenes, keys, seed))
    return images.permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1.0


def training_batch(config: StageConfig, step: int, rank: int, processes: int) -> Batch:
    """This process's share of step `step`: sample k of the run is caption k and picture k of the training split."""
    share = config.batch_size // processes
    keys = np.arange(share, dtype=np.int64) + step * config.batch_size + rank * share + config.seed * 2**40
    scenes = world.scenes("training", keys, config.world_seed)
    generator = torch.Generator().manual_seed((config.seed * 1_000_003 + step) * 64 + rank)
    return Batch(scenes, pictures(scenes, keys, config.world_seed), keys, generator)


def train(make: Callable[[], Stage], folder: Path, processes: int, stop_after_seconds: float | None = None) -> bool:
    """Train a stage in `folder` until done (True) or until the sitting's time is over (False; call again to resume).

    Writes checkpoint.safetensors (atomic), log.jsonl, and at the end export/ and done.json with the measured figures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "done.json").is_file():
        return True
    if processes == 1:
        _worker(0, make, folder, 1, stop_after_seconds)
    else:
        spawn(_worker, (make, folder, processes, stop_after_seconds), nprocs=processes)
    return (folder / "done.json").is_file()


def _worker(rank: int, make: Callable[[], Stage], folder: Path, processes: int, stop_after_seconds: float | None) -> None:
    """One process of a stage: steps until done or out of time; rank 0 writes the log, the checkpoints and the export."""
    torch.set_num_threads(1)
    if processes > 1:
        meeting = (folder / f".rendezvous-{os.getppid()}").absolute().as_uri()
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=processes)
    stage = make()
    config = stage.config
    torch.manual_seed(config.seed)
    state = _State.start(stage.build().train(), config)
    step, seconds = state.resume(folder)
    log, began = _Log(config, folder, step), time.monotonic()
    out_of_time = False
    while step < config.steps and not out_of_time:
        for group in state.optimizer.param_groups:
            group["lr"] = config.learning_rate * _schedule(config, step)
        loss, figures = stage.loss(state.network, training_batch(config, step, rank, processes), step)
        norm = state.update(loss, config, step, processes)
        step += 1
        spent = time.monotonic() - began
        out_of_time = _any_process(stop_after_seconds is not None and spent > stop_after_seconds, processes)
        if rank == 0:
            log.add(step, float(loss.detach()), {"gradient_norm": norm, **figures})
            if step % config.checkpoint_every == 0 or step == config.steps or out_of_time:
                state.save(folder, step, seconds + spent)
    if rank == 0 and step == config.steps:
        _finish(stage, state, folder, seconds + time.monotonic() - began)
    if processes > 1:
        dist.barrier()
        dist.destroy_process_group()


@dataclass
class _State:
    """What training changes: everything that a checkpoint holds."""

    network: Any
    names: tuple[str, ...]  # of the trained parameters
    parameters: tuple[nn.Parameter, ...]
    average: list[torch.Tensor]  # their moving average; empty without one
    optimizer: torch.optim.AdamW

    @classmethod
    def start(cls, network: Any, config: StageConfig) -> _State:
        trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
        parameters = tuple(trained.values())
        average = [p.detach().clone() for p in parameters] if config.ema_decay else []
        optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
        return cls(network, tuple(trained), parameters, average, optimizer)

    def update(self, loss: torch.Tensor, config: StageConfig, step: int, processes: int) -> float:
        """One optimiser step on the gradient averaged over processes; returns its norm before clipping."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        _average_gradients(self.parameters, processes)
        norm = nn.utils.clip_grad_norm_(self.parameters, config.gradient_clip)
        self.optimizer.step()
        if self.average:
            decay = min(config.ema_decay, (2 + step) / (11 + step))
            torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)
        return float(norm)

    def save(self, folder: Path, step: int, seconds: float) -> None:
        """Write checkpoint.safetensors whole, or leave the old one."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        for name, p in zip(self.names, self.parameters, strict=True):
            tensors |= {f"optimizer.{name}.{k}": v for k, v in self.optimizer.state[p].items()}
        tensors |= {f"average.{name}": value for name, value in zip(self.names, self.average, strict=False)}
        temporary = folder / "checkpoint.safetensors.part"
        whole = {name: value.contiguous() for name, value in tensors.items()}
        save_file(whole, temporary, metadata={"step": str(step), "seconds": str(seconds)})
        temporary.replace(folder / "checkpoint.safetensors")

    def resume(self, folder: Path) -> tuple[int, float]:
        """Load the checkpoint, if there is one. Returns the steps done and the seconds that they took."""
        path = folder / "checkpoint.safetensors"
        if not path.is_file():
            return 0, 0.0
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        tensors = load_file(path)
        prefix = "network."
        self.network.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        for i, (name, p) in enumerate(zip(self.names, self.parameters, strict=True)):
            self.optimizer.state[p] = {k: tensors[f"optimizer.{name}.{k}"] for k in ("step", "exp_avg", "exp_avg_sq")}
            if self.average:
                self.average[i].copy_(tensors[f"average.{name}"])
        return int(metadata["step"]), float(metadata["seconds"])


class _Log:
    """log.jsonl, and a line on the terminal with the rate and the time left."""

    def __init__(self, config: StageConfig, folder: Path, step: int) -> None:
        self.config, self.path = config, folder / "log.jsonl"
        self.console, self.losses, self.mark = Console(stderr=True), list[float](), (time.monotonic(), step)

    def add(self, step: int, loss: float, figures: dict[str, float]) -> None:
        """Every `log_every` steps one entry: the mean loss since the last, the figures of this step."""
        config = self.config
        self.losses.append(loss)
        if step % config.log_every and step != config.steps:
            return
        now = time.monotonic()
        rate = (step - self.mark[1]) * config.batch_size / (now - self.mark[0])
        self.mark = (now, step)
        entry = {"step": step, "loss": float(np.mean(self.losses)), **figures, "images_per_second": round(rate, 1)}
        self.losses.clear()
        with self.path.open("a") as log:
            log.write(json.dumps({k: round(v, 6) for k, v in entry.items()}) + "\n")
        minutes = (config.steps - step) * config.batch_size / rate / 60
        progress = f"{config.stage} {step}/{config.steps}  loss {entry['loss']:.4f}"
        self.console.print(f"{progress}  {rate:.0f} images/s  {minutes:.1f} min left")


def _any_process(flag: bool, processes: int) -> bool:
    """Whether the flag is set on any process: all of them stop at the same step."""
    if processes == 1:
        return flag
    shared = torch.tensor(float(flag))
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return bool(shared)


def _schedule(config: StageConfig, step: int) -> float:
    """Linear warm-up, then a cosine down to `final_learning_rate`, as a share of the learning rate."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    cosine = 0.5 * (1 + math.cos(math.pi * step / config.steps))
    return warm * (config.final_learning_rate + (1 - config.final_learning_rate) * cosine)


def _average_gradients(parameters: tuple[nn.Parameter, ...], processes: int) -> None:
    if processes == 1:
        return
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= processes
    for p, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        p.grad = part.view_as(p)


def _finish(stage: Stage, state: _State, folder: Path, seconds: float) -> None:
    """Export and measure the trained network, or its moving average; done.json is written last."""
    network = state.network
    with torch.no_grad():
        for p, value in zip(state.parameters, state.average, strict=False):
            p.copy_(value)
        network.eval()
        torch.set_num_threads(os.cpu_count() or 1)
        stage.export(network, folder / "export")
        figures = stage.measure(network, folder)
    done = {"stage": stage.config.stage, "steps": stage.config.steps, "seconds": round(seconds, 1), "figures": figures}
    write_whole(folder / "done.json", json.dumps(done, indent=1))
    Console(stderr=True).print(f"{stage.config.stage} done in {seconds / 60:.1f} min: {figures}")
