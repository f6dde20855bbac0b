"""Checkpoints: what other optimisers keep, writing beside training, and a writer that is killed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_recipe import make_trainer, save_checkpoint, take_steps, weights

from reference_trainer.step import Trainer
from reference_trainer.training import checkpoint
from reference_trainer.training.checkpoint import CheckpointWriter, checkpoint_step, checkpoints, resume
from sbv2bench.errors import IntegrityError


class EightBitState(torch.optim.Optimizer):
    """Keeps what bitsandbytes' AdamW8bit keeps: bytes of the weight's shape, tables of other shapes, a plain step counter."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 1e-3})
        self.table = torch.linspace(-1, 1, 256)  # one for all weights, as there

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                if not state:
                    state |= {"step": 0, "qmap1": self.table, "absmax1": torch.zeros(-(-weight.numel() // 256))}
                    state["state1"] = torch.zeros_like(weight, dtype=torch.uint8)
                state["step"] += 1
                state["absmax1"] += weight.grad.abs().mean()
                state["state1"] += (weight.grad.abs() > state["absmax1"].mean()).to(torch.uint8)
                weight.sub_(1e-3 * weight.grad.sign() * (1 + state["state1"].float() / 256) / state["step"])


def eight_bit(family: Path) -> Trainer:
    trainer, _ = make_trainer(family)
    trainer.optimisers = {name: EightBitState(trainer.networks.trained(name).values()) for name in trainer.optimisers}
    return trainer


@pytest.mark.ci
def test_the_state_of_an_eight_bit_optimiser_resumes_to_the_same_bits(family: Path, tmp_path: Path) -> None:
    whole, killed = eight_bit(family), eight_bit(family)
    take_steps(whole, 4)
    take_steps(killed, 2)
    save_checkpoint(killed, tmp_path, 1.0)
    resumed = eight_bit(family)
    assert resume(resumed, tmp_path, {}) == 1.0
    for name, optimiser in resumed.optimisers.items():
        for weight, before in zip(resumed.networks.trained(name).values(), killed.networks.trained(name).values(), strict=True):
            found, kept = optimiser.state[weight], killed.optimisers[name].state[before]
            assert found.keys() == kept.keys() and type(found["step"]) is int and found["step"] == 2
            for entry in ("state1", "qmap1", "absmax1"):
                assert found[entry].dtype == kept[entry].dtype and torch.equal(found[entry], kept[entry])
                assert entry != "state1" or found[entry].stride() == weight.stride()
    take_steps(resumed, 2)
    assert all(torch.equal(value, weights(resumed)[key]) for key, value in weights(whole).items())


def test_training_goes_on_while_a_checkpoint_is_written(family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written is the step that it is of, whatever the weights have become meanwhile."""
    trainer, _ = make_trainer(family)
    take_steps(trainer, 1)
    before, may_write, original = weights(trainer), threading.Event(), checkpoint.write_tensors
    monkeypatch.setattr(checkpoint, "write_tensors", lambda *a: (may_write.wait(60), original(*a))[1])
    writer = CheckpointWriter(tmp_path, keep=2)
    writer.save(trainer, {}, 0.0)
    take_steps(trainer, 2)  # while the disk is as slow as can be
    assert checkpoints(tmp_path) == []
    may_write.set()
    writer.wait()
    other, _ = make_trainer(family)
    resume(other, tmp_path, {})
    assert other.step == 1 and all(torch.equal(value, before[key]) for key, value in weights(other).items())
    writer.close()


def test_what_goes_wrong_in_the_background_is_told_by_the_next_call(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, _ = make_trainer(family)
    writer = CheckpointWriter(tmp_path, keep=2)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_tensors", full)
    take_steps(trainer, 1)
    writer.save(trainer, {}, 0.0)
    take_steps(trainer, 1)
    with pytest.raises(IntegrityError, match=r"a checkpoint cannot be written \(No space left"):
        writer.save(trainer, {}, 0.0)
    assert list(tmp_path.iterdir()) == []
    writer.close()


@pytest.mark.ci
def test_checkpoints_of_the_warm_up_come_before_all_others(family: Path, tmp_path: Path) -> None:
    settings = {"lora": {"rank": 2, "alpha": 2, "targets": ["to_q"]}, "learning_rate": 1e-2, "warmup_steps": 12}
    whole, _ = make_trainer(family, lora_teacher=settings)
    killed, _ = make_trainer(family, lora_teacher=settings)
    for trainer, count in ((whole, 12), (killed, 10)):
        for _ in range(count):
            trainer.warm_up_lora_teacher()
    save_checkpoint(killed, tmp_path)
    assert str(checkpoint_step(tmp_path)) == "warm-up step 10"
    resumed, _ = make_trainer(family, lora_teacher=settings)
    resume(resumed, tmp_path, {})
    for _ in range(2):
        resumed.warm_up_lora_teacher()
    for trainer in (whole, resumed):
        take_steps(trainer, 2)
    assert all(torch.equal(value, weights(resumed)[key]) for key, value in weights(whole).items())
    save_checkpoint(resumed, tmp_path)
    assert [path.name for path in checkpoints(tmp_path)] == ["00000000-warm-up-000010", "00000002"]
    assert str(checkpoint_step(tmp_path)) == "step 2"


WRITER = """
import sys
from pathlib import Path
import torch
from reference_trainer.training.checkpoint import write
folder = Path(sys.argv[1])
for step in range(1, 10_000):
    tensors = {f"weights.{i}": torch.full((256, 256), float(step)) for i in range(32)}
    state = {"step": step, "warmed": 0, "skipped": 0, "average_step": 0, "scalars": {}, "seconds": 1.0, "identity": {}}
    write(({"student": tensors}, state), folder, f"{step:08d}", 2)
    print(step, flush=True)
"""


@pytest.mark.ci
def test_a_writer_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    """SIGKILL at several moments of many writes: the newest checkpoint is whole, and the next writer clears what was left."""
    for delay in (0.0, 0.003, 0.011, 0.023):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        told = [int(process.stdout.readline()) for _ in range(3)][-1]
        time.sleep(delay)
        process.kill()
        process.wait()
        found = checkpoints(tmp_path)
        assert found and int(found[-1].name) >= told
        state = checkpoint.verified(found[-1], ("step",))
        tensors = checkpoint.read_tensors(found[-1] / "student.safetensors")
        assert all(bool((value == state["step"]).all()) for value in tensors.values()) and len(tensors) == 32


@pytest.mark.ci
@pytest.mark.parametrize(
    "change",
    [
        {"step": "3"},
        {"step": 99},
        {"step": -1},
        {"warmed": None},
        {"average_step": None},
        {"seconds": "abc"},
        {"seconds": 1e18},
        {"files": []},
        {"files": {}},
        {"identity": None},
        {"scalars": 1},
    ],
)
def test_a_state_that_cannot_be_is_refused(family: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    trainer, _ = make_trainer(family)
    take_steps(trainer, 1)
    path = save_checkpoint(trainer, tmp_path / "a b", 1.0) / checkpoint.STATE
    shutil.copytree(path.parent, path.parent.with_name("00000001.bak"))  # somebody's copy is no checkpoint
    resume(trainer, tmp_path / "a b", {})
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(IntegrityError, match="not a checkpoint's state") as refused:
        resume(trainer, tmp_path / "a b", {})
    assert refused.value.fix == f"rm -r '{path.parent}'"
    assert refused.value.message.endswith("\nit is the only one: training then starts again at step 0")


def test_advice_to_remove_a_checkpoint_says_where_the_run_goes_on(family: Path, tmp_path: Path) -> None:
    trainer, _ = make_trainer(family)
    for _ in range(2):
        take_steps(trainer, 1)
        path = save_checkpoint(trainer, tmp_path, 1.0)
    (path / "student.safetensors").write_bytes(b"cut")
    with pytest.raises(IntegrityError, match=r"student.safetensors: found .*\nthe one before it is 00000001"):
        resume(trainer, tmp_path, {})
