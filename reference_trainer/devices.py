"""Which device a process trains on, and how processes find each other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from reference_trainer.config import Recipe
from reference_trainer.rendezvous import join_the_others
from sbv2bench.errors import InputError, PrerequisiteError
from sbv2bench.machine import devices

# What `accelerate launch` passes on in the environment, what stands for "not asked for", and where a recipe says it instead.
_LAUNCHED = {
    "ACCELERATE_USE_FSDP": (
        "--use_fsdp",
        {"false"},
        "without it: each process holds the whole networks",
    ),
    "ACCELERATE_USE_DEEPSPEED": ("--use_deepspeed", {"false"}, "optimiser.kind=adamw8bit and ema_on_cpu=true save memory"),
    "ACCELERATE_USE_MEGATRON_LM": ("--use_megatron_lm", {"false"}, "without it: processes share the batch alone"),
    "ACCELERATE_USE_PARALLELISM_CONFIG": ("--use_parallelism_config", {"false"}, "without it: processes share the batch alone"),
    "ACCELERATE_DYNAMO_BACKEND": ("--dynamo_backend", {"no"}, "compile=true"),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("--gradient_accumulation_steps", {"1"}, "micro_batch_size=N splits a batch"),
    "ACCELERATE_GRADIENT_CLIPPING": ("--gradient_clipping", set[str](), "optimiser.gradient_clip=X"),
}
# How many processes mpirun and srun say that there are: accelerate would join them.
_MPI_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


@dataclass(frozen=True)
class Place:
    """This process: its device, and its rank among all that share the batch."""

    device: torch.device
    accelerator: Accelerator
    rank: int
    processes: int  # that share the batch
    main: bool  # whether this one writes and speaks


def find_place(wanted: str, recipe: Recipe) -> Place:
    """The device of this process, checked, and the group of all processes, joined.

    wanted: auto (CUDA, else MPS, else the CPU), cpu, cuda, cuda:N or mps. Of several processes each takes the GPU of its
    LOCAL_RANK. Raises InputError for a word that is no device, a GPU's number under several processes, or a setting of
    `accelerate launch` that training does not honour or nobody can read; PrerequisiteError where the device is not there, and
    what `join_the_others` raises.
    """
    device = choose_device(wanted, os.environ)
    refuse_unhonoured(os.environ, recipe, device.type)
    refuse_half_a_launch(os.environ)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    several = devices.number_of(os.environ, "WORLD_SIZE", 1) > 1
    if several or "LOCAL_RANK" in os.environ:
        join_the_others(device)
    try:
        accelerator = Accelerator(cpu=device.type == "cpu")
    except (ValueError, RuntimeError, ImportError) as error:  # what it makes of ACCELERATE_* variables
        why = " ".join(str(error).split())
        names = sorted(name for name in os.environ if name.startswith(("ACCELERATE_", "FORK_LAUNCHED")))
        found = ", ".join(f"{name}={os.environ[name]}" for name in names)[:160]
        raise InputError(f"accelerate cannot read its settings: {why:.160}; found {found}", f"unset {' '.join(names)}") from error
    return Place(device, accelerator, accelerator.process_index, accelerator.num_processes, accelerator.is_main_process)


def tune(device: torch.device, deterministic: bool = False) -> None:
    """Settings that make convolutions faster on a GPU, or repeatable; they change nothing on a CPU."""
    if device.type != "cuda":
        return
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = not deterministic, deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True


def choose_device(wanted: str, environment: Mapping[str, str]) -> torch.device:
    """The device that a process with this environment trains on; see `find_place`."""
    return torch.device(devices.choose_device(wanted, environment, mps_by_itself=True))


def refuse_half_a_launch(environment: Mapping[str, str]) -> None:
    """Raises InputError where only some of what a launcher sets is there: the process would wait for others, or break."""
    sizes = [name for name in ("WORLD_SIZE", *_MPI_SIZES) if devices.number_of(environment, name, 1) > 1]
    told = [*sizes, *(["LOCAL_RANK"] if "LOCAL_RANK" in environment else [])]
    missing = [name for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in environment]
    if told and missing:
        raise InputError(
            f"{' and '.join(told)} set, and {', '.join(missing)} not: expected all of them, as torchrun sets them",
            f"start it by torchrun or accelerate launch, or unset {' '.join(told)}",
        )


def refuse_unhonoured(environment: Mapping[str, str], recipe: Recipe, kind: str = "cpu") -> None:
    """Raises InputError for a setting of `accelerate launch` that would be ignored: the recipe says all that training does.

    kind: of the device, as `torch.device.type`.
    """
    if environment.get("ACCELERATE_USE_CPU", "").lower() in {"y", "yes", "t", "true", "on", "1"} and kind != "cpu":
        raise InputError(f"accelerate launch --cpu: --device says where a training runs, found {kind}", "--device cpu")
    for variable, (option, unset, instead) in _LAUNCHED.items():
        found = environment.get(variable, "")
        if found and found.lower() not in unset:
            raise InputError(f"accelerate launch {option} ({variable}={found}): training does not honour it", instead)
    mixed = environment.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if mixed not in {"no", "", {"bfloat16": "bf16"}.get(recipe.precision, "no")}:
        fix = "precision=bfloat16" if mixed == "bf16" else "--mixed_precision no"
        raise InputError(f"accelerate launch --mixed_precision {mixed}: the recipe's precision is {recipe.precision}", fix)


@contextmanager
def steps_explained(recipe: Recipe, device: torch.device, *, running: bool) -> Iterator[None]:
    """An error of memory or of torch.compile within it is a PrerequisiteError that says what to change.

    running: of a run that can go on.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise _out_of_memory(recipe, device, running=running) from error
    except RuntimeError as error:
        if not type(error).__module__.startswith("torch._dynamo"):
            raise
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise PrerequisiteError(
            f"{recipe.name}: torch.compile failed on {device}: {reason[:160]}",
            f"the same command with {'--continue-with ' if running else ''}compile=false",
        ) from error


def _out_of_memory(recipe: Recipe, device: torch.device, *, running: bool) -> PrerequisiteError:
    """What to say where a step does not fit, with the next thing that makes it smaller. running: of a run that can go on."""
    size = recipe.micro_batch_size or recipe.batch_size
    if size > 1:
        change = f"micro_batch_size={size // 2}"
        return PrerequisiteError(
            f"{recipe.name}: {device} has too little memory for micro-batches of {size}",
            f"the same command with {'--continue-with ' if running else ''}{change}",
        )
    smaller = "ema_on_cpu=true" if recipe.gradient_checkpointing else "gradient_checkpointing=true"
    return PrerequisiteError(f"{recipe.name}: {device} has too little memory for one image", f"the same command with {smaller}")
