"""The ladder: every network of a family in the order in which each can be made, resumable at any rung.

A rung works in `<runs>/<name>/` and leaves `export/` (its genuine layout, float32) and `done.json` there. What it needs is
taken from the runs' folder, or else from the package's own weights, so any rung can be trained again from a clean clone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.resources import files
from pathlib import Path

from torch import nn

from reference_trainer.base_models.stage import Stage, StageConfig, train
from reference_trainer.base_models.tokenizer import write_tokenizer
from reference_trainer.identity import is_done
from reference_trainer.recipe_files import read_recipe
from reference_trainer.run_folder import prepare
from reference_trainer.training.stopping import signals_noted
from sbv2bench import paths
from sbv2bench.atomic import whole_folder
from sbv2bench.errors import InputError, PrerequisiteError
from sbv2bench.registry import Registry
from sbv2bench.strict_yaml import read_yaml

TRAINING_SEED_STEP = 1000  # between a recipe's seed and that of its repetition: no two recipes are this far apart


@dataclass(frozen=True)
class Rung:
    """target: "module:Stage:Config" under reference_trainer.base_models, or "" for a student, trained by its recipe.

    needs: rungs that a base model reads. shipped: whether the package carries it by itself;
    the autoencoder is inside the teacher's folder. training_seed: of a student that repeats another with other randomness, to
    show how far training itself scatters; what ships is always 0.
    """

    name: str
    target: str = ""
    needs: tuple[str, ...] = ()
    shipped: bool = True
    training_seed: int = 0

    @property
    def recipe(self) -> str:
        """Name of its recipe: a repeated student has that of the one that it repeats."""
        return self.name.removesuffix(f"-seed{self.training_seed}")


# Students in the order in which each can be trained: their recipes say what they are taught by and begin as.
_STUDENTS = (
    *("sd-turbo", "swiftbrush", "sbv2-a", "sbv2-b", "swiftbrush-turbo", "sbv2-b-hps", "sbv2-a-reg", "sbv2-b-reg"),
    *("sbv2-a-reg-unequal", "sbv2-b-reg-unequal", "efficient", "efficient-clip"),
    *("clip-naive", "clip-clamped", "clip-naive-reg-unequal", "sb-a", "sb-b"),
)
RUNGS = (
    Rung("extractor", "extractor:ExtractorStage:ExtractorConfig"),
    Rung("autoencoder", "autoencoder:AutoencoderStage:AutoencoderConfig", shipped=False),
    Rung("taesd", "autoencoder:TinyAutoencoderStage:TinyAutoencoderConfig", ("autoencoder",)),
    Rung("clip", "clip:ClipStage:ClipConfig", ("tokenizer",)),
    Rung("clip-train", "clip:ClipStage:ClipConfig", ("tokenizer",)),
    Rung("hps", "clip:PreferenceStage:PreferenceConfig", ("clip",)),
    Rung("hps-train", "clip:PreferenceStage:PreferenceConfig", ("clip-train",)),
    Rung("sd21-start", "teacher:TeacherStage:TeacherConfig", ("autoencoder", "tokenizer"), shipped=False),
    Rung("sd21", "teacher:TeacherStage:TeacherConfig", ("autoencoder", "tokenizer", "sd21-start")),
    *map(Rung, _STUDENTS),
    *(
        Rung(f"{name}-seed{seed}", shipped=False, training_seed=seed)
        for name in ("swiftbrush", "sbv2-a", "sbv2-b")
        for seed in (1, 2)
    ),
)


def climb(family: str, runs: Path, until: str, processes: int, stop_after: float | None, *, start: str | None = None) -> bool:
    """Train every rung from `start` (default: the first) to `until`; True when all are done, False when the time is over.

    Raises InputError for an unknown family or rung, or a folder that cannot be written;
    PrerequisiteError for a rung whose inputs are missing.
    """
    if family != "mini":
        raise InputError(f"ladder: found family {family!r}, expected mini (full families start from published weights)")
    names = [rung.name for rung in RUNGS]
    for option, name in (("--start", start or names[0]), ("--until", until)):
        if name not in names:
            raise InputError(f"ladder {option}: found {name!r}, expected one of {', '.join(names)}")
    prepare(runs, "--runs")
    deadline = None if stop_after is None else time.monotonic() + 60 * stop_after
    for rung in RUNGS[names.index(start or names[0]) : names.index(until) + 1]:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            return False
        climb_one = climb_rung if rung.target else climb_student
        if not climb_one(family, rung, runs, processes, left):
            return False
    return True


def climb_rung(family: str, rung: Rung, runs: Path, processes: int, seconds: float | None) -> bool:
    """Train one base model until done (True) or out of time (False)."""
    inputs = {name: input_of(family, name, runs) for name in rung.needs}
    module_name, stage_name, config_name = rung.target.split(":")
    module = import_module(f"reference_trainer.base_models.{module_name}")
    config = read_stage_recipe(family, rung.name, getattr(module, config_name))
    stage: type[Stage[nn.Module]] = getattr(module, stage_name)
    return train(partial(stage, config, inputs), runs / rung.name, processes, seconds)


def climb_student(family: str, rung: Rung, runs: Path, processes: int, seconds: float | None) -> bool:
    """Train one student by its recipe in processes of their own, until done (True) or out of time (False).

    Raises InputError where the folder's finished run is of another recipe or from other weights than those of now.
    """
    runs = Path(os.path.relpath(runs))  # a recipe's fingerprint has the paths, so they are always spelt alike
    folder = runs / rung.name
    own = read_recipe(f"{family}/{rung.recipe}")
    teacher, start = (model_of(family, name.removeprefix(f"{family}/"), runs) for name in (own.teacher, own.student.start))
    overrides = [f"teacher={teacher}", f"student.start={start}"]
    if rung.training_seed:
        seed = own.seed + TRAINING_SEED_STEP * rung.training_seed
        overrides += [f"name={family}/{rung.name}", f"seed={seed}"]
    recipe = read_recipe(f"{family}/{rung.recipe}", overrides)
    if is_done(recipe, folder, Registry.load()):
        return True
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command += ["-m", "reference_trainer", "train", f"{family}/{rung.recipe}", *overrides]
    command += ["--output", str(folder), "--device", "cpu", "--no-whole-export"]
    command += [] if seconds is None else ["--stop-after", f"{seconds / 60:.3f}"]
    # One thread a process is what the recipes' times are for; a trained rung's bits depend on both numbers.
    code = train_patiently(command, folder)
    if code:
        raise PrerequisiteError(f"rung {rung.name} did not train (exit code {code}); its own message is above")
    return (folder / "done.json").is_file()


def train_patiently(command: list[str], folder: Path) -> int:
    """Run a training and return its exit code; what stops this process is passed on, and waited for: it writes a checkpoint.

    Raises InterruptedRun or TerminatedRun.
    """
    with signals_noted() as stop:
        stop.patient = True
        process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
        told = False
        while process.poll() is None:
            if stop.signal and not told:
                process.send_signal(signal.SIGTERM)
                told = True
            time.sleep(0.1)
    if stop.signal:
        raise stop.error(f"{folder}: stopped; its own message is above", "run the same command again to go on")
    return process.returncode


def model_of(family: str, name: str, runs: Path) -> str:
    """A model for a student's recipe: the run's export, or the shipped one."""
    found = input_of(family, name, runs)
    return str(found) if found.name == "export" else f"{family}/{name}"


def input_of(family: str, name: str, runs: Path) -> Path:
    """The folder of a rung's weights: the run's export, or what the package has of it."""
    export = runs / name / "export"
    if name == "tokenizer" and not export.is_dir():
        export.parent.mkdir(exist_ok=True)
        with whole_folder(export) as part:
            write_tokenizer(part)
    if export.is_dir():
        return export
    shipped = paths.package_weights() / ("sd21/vae" if name == "autoencoder" else name)
    if shipped.is_dir():
        return shipped
    raise PrerequisiteError(f"{export} is missing", f"python -m reference_trainer ladder {family} --until {name}")


def read_stage_recipe(family: str, name: str, config_type: type[StageConfig]) -> StageConfig:
    """The recipe `recipes/<family>/<name>.yaml`, checked against its stage's fields."""
    text = (files("reference_trainer") / "recipes" / family / f"{name}.yaml").read_text("utf-8")
    return config_type.model_validate(read_yaml(text, f"recipes/{family}/{name}.yaml"))
