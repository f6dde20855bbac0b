"""Which device a process takes, by a CUDA that is only pretended, and what of a launcher's settings is refused."""

from __future__ import annotations

import os
import signal
import socket
import threading
from datetime import timedelta
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from accelerate.state import AcceleratorState
from tiny_recipe import tiny_recipe

from reference_trainer import devices, rendezvous
from reference_trainer.devices import choose_device, find_place, refuse_half_a_launch, refuse_unhonoured, tune
from reference_trainer.training.stopping import ended_by_signals
from sbv2bench.errors import InputError, PrerequisiteError, SBV2BenchError, TerminatedRun

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
    monkeypatch.setattr(devices, "Accelerator", lambda **given: (seen.append(given), Mock())[1])
    monkeypatch.setattr(rendezvous, "rendezvous", lambda *_, timeout: iter([(timeout, 0, 0)]))
    monkeypatch.setattr(rendezvous.distributed, "init_process_group", lambda backend, **given: seen.append((backend, given)))
    for name, value in environment(3, FOUR_GPUS).items():
        monkeypatch.setenv(name, value)
    find_place("auto", tiny_recipe(family))
    assert seen[0] == torch.device("cuda", 3)
    backend, given = seen[1]  # type: ignore[misc]
    assert backend == "nccl" and given["timeout"].total_seconds() >= 3600 and (given["rank"], given["world_size"]) == (3, 4)  # type: ignore[has-type]
    assert given["store"].total_seconds() <= 600  # type: ignore[has-type]
    assert seen[2] == {"cpu": False}


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
    for variable in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE"):
        with pytest.raises(InputError, match=f"{variable} set, and RANK, WORLD_SIZE"):
            refuse_half_a_launch({variable: "2", "MASTER_ADDR": "localhost"})
        refuse_half_a_launch({variable: "1"})


def set_launch(monkeypatch: pytest.MonkeyPatch, rank: str, **others: str) -> None:
    """The environment of one of two processes, the other of which never comes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    for name, value in (environment(0, 2) | {"RANK": rank, "MASTER_PORT": port} | others).items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("rank", ["0", "1"])
def test_processes_that_do_not_come_are_waited_for_within_reason(monkeypatch: pytest.MonkeyPatch, rank: str) -> None:
    assert timedelta(minutes=10) >= rendezvous.WAIT
    monkeypatch.setattr(rendezvous, "WAIT", timedelta(seconds=1))
    set_launch(monkeypatch, rank)
    with pytest.raises(PrerequisiteError, match=f"process {rank} of 2 waited at localhost:\\d+ for the others"):
        rendezvous.join_the_others(torch.device("cpu"))


def test_a_signal_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "WAIT", timedelta(seconds=20))
    set_launch(monkeypatch, "0")
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(TerminatedRun), ended_by_signals("stopped"):
        rendezvous.join_the_others(torch.device("cpu"))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"RANK": "5"}, "RANK=5: expected a number below WORLD_SIZE=2"),
        ({"MASTER_PORT": "99999"}, "MASTER_PORT=99999: expected a port"),
        ({"MASTER_PORT": "web"}, "MASTER_PORT=web: expected a whole number"),
    ],
)
def test_numbers_of_a_launcher_that_cannot_be_are_refused(
    monkeypatch: pytest.MonkeyPatch, wrong: dict[str, str], words: str
) -> None:
    set_launch(monkeypatch, "0", **wrong)
    with pytest.raises(InputError, match=words):
        rendezvous.join_the_others(torch.device("cpu"))


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_CPU", "ACCELERATE_DEBUG_MODE", "ACCELERATE_CPU_AFFINITY", "FORK_LAUNCHED"])
def test_settings_that_accelerate_cannot_read_are_named(family: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setenv(variable, "maybe")
    with pytest.raises(InputError, match=f"accelerate cannot read its settings: .*; found .*{variable}=maybe") as refused:
        find_place("cpu", tiny_recipe(family))
    assert refused.value.fix is not None and variable in refused.value.fix
    monkeypatch.delenv(variable)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert find_place("cpu", tiny_recipe(family)).main


def test_accelerates_cpu_is_no_device_of_a_gpu_run(family: Path) -> None:
    with pytest.raises(InputError, match="accelerate launch --cpu: --device says"):
        refuse_unhonoured({"ACCELERATE_USE_CPU": "true"}, tiny_recipe(family), "cuda")
    refuse_unhonoured({"ACCELERATE_USE_CPU": "true"}, tiny_recipe(family))


def test_a_gpu_is_tuned_for_speed_or_for_the_same_bits_and_a_cpu_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    exact = torch.are_deterministic_algorithms_enabled()
    before = cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        tune(torch.device("cpu"), deterministic=True)
        assert not cudnn.deterministic and "CUBLAS_WORKSPACE_CONFIG" not in os.environ
        tune(torch.device("cuda"))
        assert cudnn.benchmark and not cudnn.deterministic and matmul.allow_tf32
        tune(torch.device("cuda"), deterministic=True)
        assert cudnn.deterministic and not cudnn.benchmark and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32 = before
        torch.use_deterministic_algorithms(exact)
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
