"""What two processes do in `trainer/test_shared.py`, in a module of its own so that spawned processes can import it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.distributed as dist
from tiny_recipe import CLIP, PAIRED, make_trainer, save_checkpoint, take_steps, weights

from reference_trainer.step import Trainer
from reference_trainer.training.checkpoint import resume

# Micro-batches on both sources, a share that leaves one process without a scored image, updates that wait for each other.
SETTINGS = {
    "clip": CLIP | {"share": 0.5},
    "regularisation": PAIRED,
    "losses": {"gan": {"weight": 0.1, "learning_rate": 1e-2, "images": "world:training", "pictures": 8}},
    "micro_batch_size": 1,
    "optimiser": {"epsilon": 1e-3, "gradient_clip": 1e9},
    "lora_teacher": {"lora": {"rank": 3, "alpha": 6, "targets": ["to_q"]}, "learning_rate": 1e-2, "steps_per_student_step": 2},
}


def trainer_of(family: Path, rank: int, processes: int) -> Trainer:
    trainer, _ = make_trainer(family, rank, processes, **SETTINGS)
    if processes > 1:
        trainer.share()
    return trainer


def gradients(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Of the first update of each network, as they are when it begins."""
    found: dict[str, torch.Tensor] = {}
    update = trainer.update

    def noted(name: str, figures: dict[str, float]) -> bool:
        for key, parameter in trainer.trained(name).items():
            assert parameter.grad is not None
            found.setdefault(f"{name}.{key}", parameter.grad.clone())
        return update(name, figures)

    trainer.update = noted  # type: ignore[method-assign]
    figures = take_steps(trainer, 1)[0]
    trainer.update = update  # type: ignore[method-assign]
    return found | {"figures": torch.tensor([figures[name] for name in sorted(figures)])}


def work(rank: int, family: Path, out: Path) -> None:
    """One of two processes: a run of five steps, one that goes on after three, and the first gradients."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=(out / "meeting").as_uri(), rank=rank, world_size=2)
    whole = trainer_of(family, rank, 2)
    take_steps(whole, 5)
    broken = trainer_of(family, rank, 2)
    take_steps(broken, 3)
    if rank == 0:
        save_checkpoint(broken, out / "checkpoints")
    dist.barrier()
    resumed = trainer_of(family, rank, 2)
    resume(resumed, out / "checkpoints", {})
    take_steps(resumed, 2)
    same = all(torch.equal(value, weights(resumed)[key]) for key, value in weights(whole).items())
    (out / f"{rank}.json").write_text(json.dumps(same))
    torch.save(gradients(trainer_of(family, rank, 2)), out / f"{rank}.pt")
    dist.destroy_process_group()
