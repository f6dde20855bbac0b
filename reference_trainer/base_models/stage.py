"""One stage of making a family: a network, its data by index, its loss; and the trainer of any of them.

It is data-parallel over processes of one thread each (faster on a CPU than one process of many threads). What a
sample is depends on (seed, step, row) alone, so a stage that is stopped and resumed with the same number of processes
ends with the same bits, and another number changes only the rounding of sums.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, field_validator
from rich.console import Console
from torch import nn
from torch.multiprocessing.spawn import spawn

from reference_trainer.training.checkpoint import CheckpointWriter, resume
from reference_trainer.training.monitor import Monitor
from reference_trainer.training.schedule import rate_share
from reference_trainer.training.shared import SharedNetwork, nothing_of
from reference_trainer.training.sitting import SAME_AGAIN, Sitting
from reference_trainer.training.stopping import Stop, signals_noted
from sbv2bench.atomic import whole_folder, write_whole
from sbv2bench.errors import InterruptedRun
from sbv2bench.machine.processes import threads
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

    @property
    def name(self) -> str:
        """As logs say it."""
        return self.stage

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
    keys: NDArray[np.int64]
    generator: torch.Generator


N = TypeVar("N", bound=nn.Module)  # a stage's network


class Stage(ABC, Generic[N]):
    """What differs between base models. A stage is built once on each process."""

    def __init__(self, config: StageConfig, inputs: dict[str, Path]) -> None:
        """inputs: finished folders of the stages that this one needs, by stage name."""
        self.config = config
        self.inputs = inputs

    def choosing(self, count: int) -> Batch:
        """The first scenes of the choosing split, with their pictures, to measure a network by."""
        keys = np.arange(count, dtype=np.int64)
        scenes = world.scenes("choosing", keys, self.config.world_seed)
        return Batch(scenes, pictures(scenes, keys, self.config.world_seed), keys, torch.Generator().manual_seed(0))

    @abstractmethod
    def build(self) -> N:
        """The network to train, freshly initialised from the global torch seed."""

    @abstractmethod
    def loss(self, network: N, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Mean loss of the batch, and what to log of it."""

    @abstractmethod
    def export(self, network: N, folder: Path) -> None:
        """Write the trained network (the moving average where there is one) in its genuine layout, float32."""

    @abstractmethod
    def measure(self, network: N, folder: Path) -> dict[str, float]:
        """Figures of merit on the choosing split, and pictures into the folder."""


def pictures(scenes: world.Scenes, keys: NDArray[np.int64], seed: int) -> torch.Tensor:
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


def train(make: Callable[[], Stage[nn.Module]], folder: Path, processes: int, stop_after_seconds: float | None = None) -> bool:
    """Train a stage in `folder` until done (True) or until the sitting's time is over (False; call again to resume).

    Writes checkpoints/, log.jsonl, and at the end export/ and done.json with the measured figures. Raises InterruptedRun or
    TerminatedRun after a checkpoint, where Ctrl-C or SIGTERM ends it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "done.json").is_file():
        return True
    with signals_noted() as stop:
        if processes == 1:
            with threads(1):
                _train(StageTrainer(make(), 0, 1), folder, stop_after_seconds, stop)
            return (folder / "done.json").is_file()
        stop.patient, told = True, False
        started = spawn(_worker, (make, folder, processes, stop_after_seconds), nprocs=processes, join=False)
        while not started.join(timeout=0.2):
            if stop.signal and not told:
                told = True
                for process in started.processes:
                    process.terminate()
        if stop.signal and not (folder / "done.json").is_file():
            raise stop.error(f"{folder}: stopped; its checkpoint is written", SAME_AGAIN)
    return (folder / "done.json").is_file()


def _worker(rank: int, make: Callable[[], Stage[nn.Module]], folder: Path, processes: int, seconds: float | None) -> None:
    """One of several processes of a stage. What stops it is said by the process that started it."""
    torch.set_num_threads(1)
    with signals_noted() as stop, suppress(InterruptedRun):
        stop.patient = True
        meeting = (folder / f".rendezvous-{os.getppid()}").absolute().as_uri()
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=processes)
        try:
            _train(StageTrainer(make(), rank, processes), folder, seconds, stop)
            dist.barrier()
        finally:
            dist.destroy_process_group()


def _train(trainer: StageTrainer, folder: Path, seconds: float | None, stop: Stop) -> None:
    """Steps until done, out of time or told to stop; rank 0 writes the log, the checkpoints and the export."""
    config, main = trainer.config, trainer.rank == 0
    writer = CheckpointWriter(folder / "checkpoints", keep=1)
    identity = {"recipe": config.model_dump(mode="json", exclude={"checkpoint_every", "log_every"})}
    before = resume(trainer, writer.folder, identity)
    sitting = Sitting(trainer, folder, stop, writer, identity, before, seconds, main=main, processes=trainer.processes)
    monitor = Monitor(config, folder, trainer.step) if main else None
    stop.patient = True  # from here on a step is worth its end
    try:
        while trainer.step < config.steps:
            figures = trainer.take_step()
            if monitor is not None:
                monitor.add(trainer.step, figures)
            last = trainer.step == config.steps
            if sitting.keep_and_leave(last or trainer.step % config.checkpoint_every == 0, last):
                return
    finally:
        writer.close()
        if monitor is not None:
            monitor.close()
    if main:
        _finish(trainer, folder, sitting.spent())


class _Loss(nn.Module):
    """A stage's loss as the forward pass of its network, which DDP can wrap.

    A loss may pass over weights of which no caption of a batch speaks; among processes their gradient is 0 and not none.
    """

    def __init__(self, stage: Stage[nn.Module], network: nn.Module) -> None:
        super().__init__()
        self.stage, self.network = stage, network

    def forward(self, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        loss, figures = self.stage.loss(self.network, batch, step)
        return loss + nothing_of(self.network), figures


class StageTrainer:
    """A base model's network, its optimiser and how far they are: what a step changes. rank: of this process."""

    def __init__(self, stage: Stage[nn.Module], rank: int, processes: int) -> None:
        config = self.config = stage.config
        torch.manual_seed(config.seed)
        network = stage.build().train()
        self.stage, self.network, self.rank, self.processes, self.step = stage, network, rank, processes, 0
        self._trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().clone() for name, p in self._trained.items()} if config.ema_decay else {}
        optimiser = torch.optim.AdamW(self._trained.values(), lr=config.learning_rate, weight_decay=config.weight_decay)
        self.optimisers: dict[str, torch.optim.Optimizer] = {"network": optimiser}
        self._loss = SharedNetwork(_Loss(stage, network)) if processes > 1 else partial(stage.loss, network)

    def trained(self, network: str) -> dict[str, nn.Parameter]:
        """Name -> parameter of what is trained."""
        return self._trained

    def kept(self) -> dict[str, dict[str, torch.Tensor]]:
        """The moving average and the statistics of normalisations."""
        files = {"average": self.average, "buffers": dict(self.network.named_buffers())}
        return {name: tensors for name, tensors in files.items() if tensors}

    def counters(self) -> dict[str, int]:
        """How far the run is."""
        return {"step": self.step}

    def set_counters(self, counters: Mapping[str, int]) -> None:
        """Go on from there."""
        self.step = counters["step"]

    def take_step(self) -> dict[str, float]:
        """One step on this process's share of the batch, and its figures: the loss, the gradient's norm, the stage's own."""
        config, optimiser = self.config, self.optimisers["network"]
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * rate_share(
                self.step, config.steps, config.warmup_steps, config.final_learning_rate
            )
        loss, figures = self._loss(training_batch(config, self.step, self.rank, self.processes), self.step)
        optimiser.zero_grad(set_to_none=self.processes == 1)
        loss.backward()
        parameters = list(self._trained.values())
        norm = nn.utils.clip_grad_norm_(parameters, config.gradient_clip)
        optimiser.step()
        if self.average:
            decay = min(config.ema_decay, (2 + self.step) / (11 + self.step))
            torch._foreach_lerp_(list(self.average.values()), [p.detach() for p in parameters], 1 - decay)
        self.step += 1
        return {"loss": float(loss.detach()), "gradient_norm": float(norm), **figures}


def _finish(trainer: StageTrainer, folder: Path, seconds: float) -> None:
    """Export and measure the trained network, or its moving average; done.json is written last."""
    stage, network, config = trainer.stage, trainer.network, trainer.config
    with torch.no_grad():
        for name, value in trainer.average.items():
            trainer.trained("network")[name].copy_(value)
        network.eval()
        with whole_folder(folder / "export") as part:  # whoever needs the stage takes a folder that is there for whole
            stage.export(network, part)
        with threads(os.cpu_count() or 1):
            figures = stage.measure(network, folder)
    done = {"stage": config.stage, "steps": config.steps, "seconds": round(seconds, 1), "figures": figures}
    write_whole(folder / "done.json", json.dumps(done, indent=1))
    Console(stderr=True).print(f"{config.stage} done in {seconds / 60:.1f} min: {figures}")
