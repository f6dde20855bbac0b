"""Which device a process takes, by a CUDA that is only pretended, and what of a launcher's settings is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_recipe import tiny_recipe

from reference_trainer import devices
from reference_trainer.devices import choose_device, find_place, refuse_half_a_launch, refuse_unhonoured
from sbv2bench.errors import InputError, PrerequisiteError, SBV2BenchError

FOUR_GPUS = 4


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: FOUR_GPUS)


def environment(rank: int, processes: int) -> dict[str, str]:
    address = {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    return {"WORLD_SIZE": str(processes), "LOCAL_RANK": str(rank), "RANK": str(rank), **address}


@pytest.mark.usefixtures("cuda")
def test_each_rank_takes_a_gpu_of_its_own() -> None:
    for wanted in ("auto", "cuda"):
        found = [choose_device(wanted, environment(rank, FOUR_GPUS)) for rank in range(FOUR_GPUS)]
        assert found == [torch.device("cuda", rank) for rank in range(FOUR_GPUS)]
    assert choose_device("cuda:2", {}) == torch.device("cuda", 2)
    assert choose_device("cuda", {}) == choose_device("auto", {}) == torch.device("cuda", 0)
    assert choose_device("cpu", environment(1, 2)) == torch.device("cpu")


@pytest.mark.usefixtures("cuda")
def test_the_ranks_gpu_is_the_current_one_and_the_group_is_patient(family: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL's collectives run on the current device; its own ten minutes are less than an export of rank 0 may take."""
    seen: list[object] = []
    monkeypatch.setattr(torch.cuda, "set_device", seen.append)
    monkeypatch.setattr(devices, "Accelerator", lambda **given: seen.append(given))
    for name, value in environment(3, FOUR_GPUS).items():
        monkeypatch.setenv(name, value)
    find_place("auto", tiny_recipe(family))
    assert seen[0] == torch.device("cuda", 3)
    assert seen[1]["cpu"] is False and seen[1]["kwargs_handlers"][0].timeout.total_seconds() >= 3600  # type: ignore[index]


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize(
    ("wanted", "where", "kind", "words"),
    [
        ("cuda:7", {}, PrerequisiteError, r"--device cuda:7: torch sees no such device here \(4 found\)"),
        ("cuda:1", environment(0, 2), InputError, "each of several processes takes a GPU of its own"),
        ("cuda", environment(5, 8), PrerequisiteError, r"process 5 of this machine has no GPU of its own \(4 found\)"),
        ("gpu", {}, InputError, "--device: found 'gpu', expected auto, cpu, cuda, cuda:N or mps"),
        ("cuda:one", {}, InputError, "--device: found 'cuda:one'"),
    ],
)
def test_a_device_that_cannot_be_is_refused(wanted: str, where: dict[str, str], kind: type[SBV2BenchError], words: str) -> None:
    with pytest.raises(kind, match=words):
        choose_device(wanted, where)


def test_no_gpu_at_all() -> None:
    assert torch.cuda.is_available() or choose_device("auto", {}).type in {"cpu", "mps"}
    if not torch.cuda.is_available():
        with pytest.raises(PrerequisiteError, match="--device cuda: torch sees no such device"):
            choose_device("cuda", {})


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("ACCELERATE_MIXED_PRECISION", "fp16", "--mixed_precision fp16: the recipe's precision is float32"),
        ("ACCELERATE_MIXED_PRECISION", "bf16", "--mixed_precision bf16: the recipe's precision is float32"),
        ("ACCELERATE_USE_FSDP", "true", "--use_fsdp"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "--use_deepspeed"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "--dynamo_backend"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "--gradient_accumulation_steps"),
    ],
)
def test_settings_of_a_launcher_that_would_be_ignored_are_refused_by_name(
    family: Path, variable: str, value: str, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        refuse_unhonoured({variable: value}, tiny_recipe(family))


def test_what_accelerate_launch_passes_on_by_itself_is_no_setting(family: Path) -> None:
    plain = {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "NO", "ACCELERATE_USE_FSDP": "false"}
    plain |= {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1", "ACCELERATE_USE_CPU": "False"}
    refuse_unhonoured(plain, tiny_recipe(family))
    refuse_unhonoured({"ACCELERATE_MIXED_PRECISION": "bf16"}, tiny_recipe(family, precision="bfloat16"))


def test_half_of_a_launch_is_refused_and_not_waited_for() -> None:
    """WORLD_SIZE=2 without the others would wait for them for hours, deaf to Ctrl-C."""
    whole = environment(0, 2)
    refuse_half_a_launch(whole)
    refuse_half_a_launch({})
    for name in whole:
        if name != "WORLD_SIZE":
            with pytest.raises(InputError, match=f"{name} not: expected all of them"):
                refuse_half_a_launch({key: value for key, value in whole.items() if key != name})
    for variable in ("WORLD_SIZE", "LOCAL_RANK"):
        with pytest.raises(InputError, match=f"{variable}=abc: expected a whole number"):
            devices.devices.number_of({variable: "abc"}, variable, 0)
