"""A training run from recipe to export, on one process or many: read this file to see everything that happens, in order."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console

from reference_trainer import health, run_folder
from reference_trainer.config import Recipe
from reference_trainer.continuation import Continuation
from reference_trainer.devices import Place, find_place, steps_explained, tune
from reference_trainer.export import export_student
from reference_trainer.hub import check_hub, push
from reference_trainer.identity import identity_of, is_finished, training_code
from reference_trainer.measure import check_measure, measure_student
from reference_trainer.needed_weights import require_weights
from reference_trainer.networks import Networks
from reference_trainer.pairs import Pairs
from reference_trainer.pictures import GRID, write_panels, write_samples
from reference_trainer.prompts import PromptSource
from reference_trainer.recipe_files import flat
from reference_trainer.run_folder import full_disk_said
from reference_trainer.step import Trainer
from reference_trainer.training.checkpoint import CheckpointWriter, checkpoint_step, resume
from reference_trainer.training.monitor import Monitor
from reference_trainer.training.sitting import SAME_AGAIN, Sitting
from reference_trainer.training.stopping import Stop, signals_noted
from reference_trainer.training.trackers import check_trackers, start_trackers
from sbv2bench import provenance
from sbv2bench.atomic import write_whole
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.registry import Registry

_CONSOLE = Console(stderr=True)


@dataclass(frozen=True)
class Asked:
    """What a call of `train` asks for besides the recipe.

    device: as `find_place` takes it. whole_export: as `export_student`. continue_with: `key.path=value` for settings that may
    change while a run goes on. A resumed run has the bits of an unbroken one on a CPU; on a GPU only with deterministic, which
    costs speed, else cuDNN may choose other kernels, whose sums round differently. push_to_hub: id of a repository, for the
    finished export.
    """

    device: str = "auto"
    whole_export: bool = True
    stop_after_seconds: float | None = None
    continue_with: Sequence[str] = ()
    deterministic: bool = False
    push_to_hub: str | None = None


def train(recipe: Recipe, run: Path, asked: Asked = Asked()) -> bool:
    """Train in the folder `run` until done (True) or until the sitting's time is over (False); call again to resume.

    Leaves recipe.json, log.jsonl, tensorboard/, samples/, validation/, exports/, checkpoints/ and, at the end, export/ and
    done.json. Under torchrun or accelerate launch all processes share the batch.
    Raises InputError, PrerequisiteError, IntegrityError before compute is spent where it can; IntegrityError when gradients
    are not numbers again and again; InterruptedRun on Ctrl-C and TerminatedRun on SIGTERM, after a checkpoint.
    """
    with signals_noted() as stop:
        try:
            with full_disk_said(run):
                return _train(recipe, run, stop, asked)
        except KeyboardInterrupt as interrupt:  # where it could not wait for the end of a step
            kept = checkpoint_step(run / "checkpoints")
            what = "no checkpoint was written yet" if kept is None else f"the checkpoint of {kept} is kept"
            raise stop.error(f"{run}: stopped at once; {what}", SAME_AGAIN) from interrupt


def _train(recipe: Recipe, run: Path, stop: Stop, asked: Asked) -> bool:
    registry, kept = Registry.load(), checkpoint_step(run / "checkpoints")
    continuation = Continuation(recipe, run, asked.continue_with, 0 if kept is None else kept.step)
    prompts = PromptSource(recipe.prompts)
    require_weights(recipe, registry)
    identity = identity_of(recipe, prompts, registry)
    recipe = continuation.recipe
    check_measure(recipe, registry)
    check_trackers(recipe.report_to)
    if asked.push_to_hub is not None:
        check_hub(asked.push_to_hub)
    if is_finished(run, recipe, identity):
        if continuation.new:
            raise InputError(
                f"{run}: finished at step {recipe.steps}, so {', '.join(continuation.new)} would change nothing",
                f"--continue-with steps={2 * recipe.steps} beside it",
            )
        _CONSOLE.print(f"{recipe.name} is done already: {run / 'export'}", markup=False, soft_wrap=True)
        if os.environ.get("RANK", "0") == "0":
            _push(run, asked)
        return True
    place = find_place(asked.device, recipe)
    tune(place.device, asked.deterministic)
    if place.main:
        _CONSOLE.print(_chosen(recipe, place), markup=False, highlight=False, soft_wrap=True)
        _CONSOLE.print(f"loading the networks of {recipe.name}", markup=False, highlight=False, soft_wrap=True)
    networks = Networks(recipe, place.device, registry)
    run_folder.prepare(run)
    if place.processes > 1:
        run_folder.check_shared(run)
    with run_folder.locked(run, place.main):
        return _train_in(
            run, stop, place, asked, networks=networks, prompts=prompts, continuation=continuation, identity=identity
        )


def _train_in(
    run: Path,
    stop: Stop,
    place: Place,
    asked: Asked,
    *,
    networks: Networks,
    prompts: PromptSource,
    continuation: Continuation,
    identity: dict[str, object],
) -> bool:
    """What is left once the folder is this training's own."""
    recipe = continuation.recipe

    def tell(done: int, count: int) -> None:
        if place.main:
            _CONSOLE.print(f"pairs {done}/{count}", end="\r")

    pairs = Pairs(recipe, networks, prompts, tell) if recipe.regularisation else None
    trainer = Trainer(recipe, networks, prompts, pairs, rank=place.rank, processes=place.processes)
    if place.processes > 1:
        trainer.share()
    writer = CheckpointWriter(run / "checkpoints", recipe.keep_checkpoints)
    before = resume(trainer, writer.folder, identity)
    if place.main:
        run_folder.check_disk(trainer, run)
        write_whole(run / "recipe.json", recipe.model_dump_json(indent=1))
        continuation.write()
        (run / "done.json").unlink(missing_ok=True)  # it was of fewer steps
    monitor = None
    if place.main:
        trackers = start_trackers(check_trackers(recipe.report_to), run, recipe.name, flat(recipe.model_dump(mode="json")))
        monitor = Monitor(recipe, run, trainer.step, trainer.warmed, trackers=trackers, console=_CONSOLE)
    if monitor is not None:
        remarks = [remark for part in prompts.parts for remark in part.remarks]
        for line in (*remarks, *filter(None, [continuation.sentence()])):
            monitor.say(line)
    sitting = StudentSitting(
        trainer, run, stop, writer, identity | {"changes": continuation.changes}, before, asked.stop_after_seconds,
        main=place.main, processes=place.processes, device=str(place.device), monitor=monitor, place=place,
        whole_export=asked.whole_export,
    )  # fmt: skip
    try:
        with steps_explained(recipe, place.device, running=True):
            done = sitting.run_to_the_end()
        if not done:
            place.accelerator.end_training()
            return False
    finally:
        writer.close()
        if monitor is not None:
            monitor.close()
    if trainer.skipped:
        raise IntegrityError(
            f"{run}: the gradients of the last {trainer.skipped} steps were not numbers, so the student is not exported",
            f"--continue-with steps={recipe.steps + 100} "
            f"--continue-with student.learning_rate={recipe.student.learning_rate / 2:g}",
        )
    if place.main:
        sitting.export(run / "export")
        write_whole(run / "done.json", json.dumps(sitting.record(), indent=1))
        _CONSOLE.print(f"{recipe.name} done in {sitting.spent() / 60:.1f} min: {run / 'export'}", markup=False)
        _push(run, asked)
    place.accelerator.wait_for_everyone()
    place.accelerator.end_training()  # leaves the process group: a process that others still talk to must not just exit
    return True


@dataclass
class StudentSitting(Sitting):
    """The steps of one call of `train`, and what is to be seen of them."""

    trainer: Trainer  # type: ignore[assignment]  # which is one
    monitor: Monitor | None = None
    place: Place = field(kw_only=True)
    whole_export: bool = True

    def __post_init__(self) -> None:
        self.recipe, self.networks = self.trainer.recipe, self.trainer.networks
        assert isinstance(self.trainer.prompts, PromptSource)
        self.prompts = self.trainer.prompts
        self.shown = self.prompts[range(min(GRID, len(self.prompts)))]
        self.looked_at = -1

    def run_to_the_end(self) -> bool:
        """Warm-up, steps, pictures, checkpoints; False where the time is over first. Raises as `train`."""
        trainer, recipe = self.trainer, self.recipe
        self.stop.patient = True  # from here on a step is worth its end
        while trainer.step == 0 and trainer.warmed < trainer.warm_up_steps:
            figures = trainer.warm_up_lora_teacher()
            if self.monitor is not None:
                self.monitor.warm_up(trainer.warmed, trainer.warm_up_steps, figures)
            if self.keep_and_leave(trainer.warmed % recipe.checkpoint_every == 0, last=False):
                return False
        if trainer.step == 0:
            self.look()
        while trainer.step < recipe.steps:
            figures = trainer.take_step()
            if self.monitor is not None:
                if self.monitor.due(trainer.step):
                    figures |= health.held_out(self.networks, self.shown)
                self.monitor.add(trainer.step, figures)
            last = trainer.step == recipe.steps
            if trainer.step % recipe.sample_every == 0 or last:
                self.look()
            if recipe.measure is not None and trainer.step % recipe.measure.every == 0:
                self.measure()
            due = last or trainer.step % recipe.checkpoint_every == 0
            if due and recipe.validation_prompts:
                self.draw(self.run / "validation", recipe.validation_prompts)
            if recipe.export_every is not None and trainer.step % recipe.export_every == 0 and not last:
                self.export(self.run / "exports" / f"{trainer.step:08d}")
            if self.keep_and_leave(due, last):
                return False
        if self.main:
            self.writer.wait()
        return True

    def look(self) -> None:
        """Grid and panels of this step; a run is not lost for a picture."""
        if self.looked_at != self.trainer.step:
            self.looked_at = self.trainer.step
            self.draw(self.run / "samples", self.shown, panels=True)

    def draw(self, folder: Path, captions: Sequence[str], *, panels: bool = False) -> None:
        """Pictures of captions, and of both teachers' views of them."""
        if not self.main:
            return
        try:
            write_samples(self.networks, captions, folder, self.trainer.step)
            if panels:
                write_panels(self.networks, captions, folder, self.trainer.step)
        except IntegrityError as error:
            if self.monitor is not None:
                self.monitor.say(f"warning: no pictures of step {self.trainer.step}: {error.message}")

    def export(self, folder: Path) -> None:
        """The student of this moment, as a model's folder."""
        if self.main:
            export_student(self.networks, folder, whole=self.whole_export, record=self.record(), prompts=self.prompts)

    def measure(self) -> None:
        """Metrics of the student of this moment, into the log."""
        settings = self.recipe.measure
        assert settings is not None
        values = measure_student(self.networks, settings, self.place)
        if self.monitor is not None:
            self.monitor.write({"step": self.trainer.step, "suite": settings.suite, **values})
            self.monitor.say("  ".join(f"{name} {value:.4g}" for name, value in values.items()))

    def record(self) -> dict[str, object]:
        """How the exported weights came to be."""
        trainer = self.trainer
        return {
            "name": self.recipe.name,
            "fingerprint": self.recipe.fingerprint(),
            **self.identity,
            "steps": trainer.step,
            "seconds": round(self.spent(), 1),
            "processes": trainer.processes,
            "device": provenance.device_name(str(self.networks.device)),
            "code": training_code(),
        }


def _chosen(recipe: Recipe, place: Place) -> str:
    """What a training computes with, as it was chosen."""
    own = recipe.batch_size // place.processes
    micro = recipe.micro_batch_size or own
    several = f" on {place.processes} processes" if place.processes > 1 else ""
    parts = f", micro-batches of {micro}" if micro < own else ""
    threads = f", {torch.get_num_threads()} threads" if place.device.type == "cpu" else ""
    return f"training on {place.device} in {recipe.precision}, batch {recipe.batch_size}{several}{parts}{threads}"


def _push(run: Path, asked: Asked) -> None:
    if asked.push_to_hub is not None:
        where = push(run / "export", asked.push_to_hub)
        _CONSOLE.print(f"{run / 'export'} is at {where}", markup=False, soft_wrap=True)
