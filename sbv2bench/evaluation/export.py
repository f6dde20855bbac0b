"""A result's images as PNG files with a manifest, for tools that score images by themselves."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from PIL import Image

from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.evaluation.gather import Draw
from sbv2bench.evaluation.generate import blocks
from sbv2bench.evaluation.manifest import NAME, ExportedImage, Head, ResultFile, image_id, read_manifest, to_text
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.evaluation.own_suite import suite_of_run
from sbv2bench.evaluation.plan import EvalPlan, plan
from sbv2bench.machine.choices import Progress
from sbv2bench.machine.processes import each, exact_arithmetic, turn_on, workers_on
from sbv2bench.provenance import sha256_file
from sbv2bench.registry import OWN_SUITE, Registry
from sbv2bench.results import store
from sbv2bench.results.commands import eval_command, model_word
from sbv2bench.results.records import EvalResult
from sbv2bench.samplers import load_sampler
from sbv2bench.samplers.base import PromptBlock, Stopwatch


def export_images(
    result_file: Path, folder: Path, registry: Registry, *, device: str = "auto", progress: Progress | None = None
) -> int:
    """Write every image of a result, as PNG, and `manifest.jsonl` into a new folder; returns how many images.

    Those that `--save-images all` kept are copied, the others made again, in the blocks of the result. A run that is cut short
    goes on from there; an export of the same result that is there whole stays as it is. Raises InputError (no such result, a
    folder of something else), PrerequisiteError (weights), IntegrityError (the images would not be those that were measured,
    or are not those that were exported, disk).
    """
    result = store.load(result_file)
    if (folder / NAME).is_file() and (there := read_manifest(folder)).head.result.sha256 == sha256_file(result_file):
        there.check_files()
        return len(there.images)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--to {folder}: it is there already, expected a new folder", f"--to {folder}-2")
    planned = _as_it_was(result, registry, device)
    head = Head(
        result=ResultFile(file=result_file.name, sha256=sha256_file(result_file)),
        model=result.model.id,
        suite=f"{result.suite.id}@v{result.suite.version}",
    )
    export = _Export(planned, folder.with_name(f".{folder.name}.{planned.images_key(planned.seeds[0])[:16]}"))
    try:
        export.work.mkdir(parents=True, exist_ok=True)
        export.copy_kept(result_file.with_name(f"{result_file.stem}-images"))
        export.make_missing(registry, progress)
        images = [export.described(draw, row) for draw in export.draws for row in range(len(planned.prompts))]
        for begun in export.work.glob("*.part"):  # by a process that was killed meanwhile
            begun.unlink(missing_ok=True)
        (export.work / NAME).write_bytes(to_text(head, images).encode())
        if folder.exists():
            folder.rmdir()
        export.work.replace(folder)
    except OSError as error:
        why = error.strerror or error
        raise IntegrityError(f"{folder}: images cannot be written ({why})", "--to FOLDER on a disk with room") from error
    return len(images)


def _as_it_was(result: EvalResult, registry: Registry, device: str) -> EvalPlan:
    """The result's own run, planned again. Raises IntegrityError where its images would be others than those measured."""
    model = result.model.spec()
    own = (result.provenance.get("own") or {}) if result.suite.id == OWN_SUITE else {}
    options = EvalOptions.validated(
        metrics=("latency",) if model.has_network() else None,  # reads no other file than the model's
        limit=result.suite.num_generated,
        seed=result.suite.seeds[0],
        repeats=len(result.suite.seeds),
        device=device,
        dtype=result.conditions.dtype or "auto",
        batch_size=result.suite.block_sizes[0],
        images_per_prompt=result.suite.images_per_prompt,
        **{name: own[name] for name in ("prompts", "reference") if own.get(name)},
    )
    base = str(own.get("from", "")).partition(":")[0] or None
    declared = suite_of_run(model_word(model), base, options, registry) if own else registry.suite(result.suite.id)
    planned = plan(model.model_copy(update={"weights": ()}), declared, options, registry)
    others = {
        "its weights or settings": planned.model.fingerprint() != model.fingerprint(),
        "the suite's captions": planned.prompts.sha256 != result.suite.prompts_sha256,
        "the code, the libraries or the kind of device": (
            [planned.images_key(seed) for seed in planned.seeds] != result.provenance.get("images")
        ),
    }
    for what, differ in others.items():
        if differ:
            whose = f"{result.model.id} on {result.suite.id}"
            raise IntegrityError(
                f"{whose}: the images that were measured cannot be made again: {what} are others today", eval_command(result)
            )
    return planned


class _Export:
    """The images of a plan in a hidden folder beside their place, until all are there."""

    def __init__(self, planned: EvalPlan, work: Path) -> None:
        self.plan, self.work = planned, work
        self.draws: list[Draw] = [(seed, k) for seed in planned.seeds for k in range(planned.images_per_prompt)]

    def place(self, draw: Draw, row: int) -> Path:
        """Where image k of a caption and seed lies."""
        return self.work / f"{image_id(self.plan.prompts.first_index + row, *draw)}.png"

    def copy_kept(self, folder: Path) -> None:
        """Take what `--save-images all` wrote of the first seed."""
        for row in range(len(self.plan.prompts)):
            old, place = folder / f"{self.plan.prompts.first_index + row:08d}.png", self.place(self.draws[0], row)
            if old.is_file() and not place.is_file():
                shutil.copyfile(old, _part(place))
                _part(place).replace(place)

    def make_missing(self, registry: Registry, progress: Progress | None) -> None:
        """Sample the blocks of which an image is not there."""
        missing = [
            block
            for draw in self.draws
            for block in blocks(self.plan, self.plan.prompts, *draw)
            if not all(self.place(draw, block.place + row).is_file() for row in range(block.count))
        ]
        if not missing:
            return
        sampler = load_sampler(self.plan.model, self.plan.device, getattr(torch, self.plan.dtype), registry)

        turn = turn_on(self.plan.device)

        def make(block: PromptBlock) -> None:
            with turn:
                images = sampler.generate(block, Stopwatch(self.plan.device))
            for row in range(block.count):
                place = self.place((block.seed, block.k), block.place + row)
                Image.fromarray(images[row]).save(_part(place), format="PNG")
                _part(place).replace(place)

        done, count = 0, sum(block.count for block in missing)
        with exact_arithmetic():
            for block, _ in each(make, missing, workers_on(self.plan.device)):
                done += block.count
                if progress is not None:
                    progress("generate", done, count)

    def described(self, draw: Draw, row: int) -> ExportedImage:
        """An image that is there, as the manifest has it."""
        place = self.place(draw, row)
        return ExportedImage(
            id=place.stem,
            file=place.name,
            caption=self.plan.prompts.captions[row],
            index=self.plan.prompts.first_index + row,
            k=draw[1],
            seed=draw[0],
            sha256=sha256_file(place),
        )


def _part(place: Path) -> Path:
    return place.with_suffix(f".{os.getpid()}.part")
