"""One call's share of a training: when a checkpoint is kept, and when all processes leave together."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist

from reference_trainer.training.checkpoint import CheckpointWriter, Trained
from reference_trainer.training.stopping import Stop

SAME_AGAIN = "run the same command again to go on"


@dataclass
class Sitting:
    """before: seconds of training behind it. limit: its own seconds, None for all it takes. device: of votes between processes.

    main: whether this process writes, of `processes` that train together.
    """

    trainer: Trained
    run: Path
    stop: Stop
    writer: CheckpointWriter
    identity: Mapping[str, object]
    before: float
    limit: float | None
    main: bool = True
    processes: int = 1
    device: str = "cpu"
    began: float = field(default_factory=time.monotonic)

    def keep_and_leave(self, due: bool, last: bool) -> bool:
        """Write a checkpoint where one is due or the run stops here. Returns whether the sitting's time is over.

        All processes decide alike: what one of them was told, all obey. Raises InterruptedRun or TerminatedRun.
        """
        over = self.limit is not None and time.monotonic() - self.began > self.limit
        told, over = self._of_all(self.stop.signal, over)
        if self.main and (due or told or over):
            self.writer.save(self.trainer, self.identity, self.spent())
        if not told and (not over or last):
            return False
        if self.main:
            self.writer.wait()
        if not told:
            return True
        self.stop.signal = told
        trainer = self.trainer
        where = f"step {trainer.step}" if trainer.step else f"warm-up step {trainer.counters().get('warmed', 0)}"
        raise self.stop.error(f"{self.run}: stopped after {where}, whose checkpoint is written", SAME_AGAIN)

    def spent(self) -> float:
        """Seconds of training so far, those of earlier sittings among them."""
        return self.before + time.monotonic() - self.began

    def _of_all(self, told: int, over: bool) -> tuple[int, bool]:
        """The largest of all processes' values."""
        if self.processes == 1:
            return told, over
        shared = torch.tensor([told, int(over)], device=self.device)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return int(shared[0]), bool(shared[1])
