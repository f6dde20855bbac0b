"""Where figures go besides log.jsonl: TensorBoard, Weights & Biases, Trackio, through accelerate's trackers."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from sbv2bench.errors import PrerequisiteError

PROJECT = "reference_trainer"  # of wandb and trackio, under which a recipe's name is that of the run


def check_trackers(names: Sequence[str] | None) -> tuple[str, ...]:
    """The trackers that a recipe's report_to means; None is TensorBoard where it is installed.

    Raises PrerequisiteError where one is not installed.
    """
    if names is None:
        return ("tensorboard",) if find_spec("tensorboard") else ()
    for name in names:
        if find_spec(name) is None:
            raise PrerequisiteError(f"report_to: {name} is not installed", f"pip install {name}")
    return tuple(names)


def start_trackers(names: Sequence[str], run: Path, name: str, settings: dict[str, object]) -> list[GeneralTracker]:
    """Trackers that have begun. run: the run's folder, where TensorBoard writes. settings: flat, stored with the run."""
    started = []
    for kind in names:
        if kind == "tensorboard":
            tracker: GeneralTracker = LOGGER_TYPE_TO_CLASS[kind](run_name=kind, logging_dir=run)
        else:
            tracker = LOGGER_TYPE_TO_CLASS[kind](run_name=PROJECT, name=name)
        if hasattr(tracker, "start"):  # accelerate before 1.9 begins by itself
            tracker.start()
        if kind != "tensorboard":  # which would open a second run for them; recipe.json has them
            tracker.store_init_configuration(settings)
        started.append(tracker)
    return started
