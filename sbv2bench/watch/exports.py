"""What is in a training run's folder, as the trainer writes it; nothing here changes it."""

from __future__ import annotations

from pathlib import Path

from sbv2bench.data.assets import read_json
from sbv2bench.errors import InputError

FOLDER = "watch"  # in a run's folder: the result files, the curve and its page


def check_run(run: Path) -> None:
    """Raises InputError for a folder that is no training's."""
    if not run.is_dir() or not any((run / name).exists() for name in ("recipe.json", "exports", "export")):
        what = "no recipe.json, exports/ or export/" if run.is_dir() else "no folder"
        raise InputError(f"watch: {run}: found {what}, expected the folder of a training run", "sbv2bench watch runs/RECIPE")


def exports(run: Path) -> dict[int, Path]:
    """Step -> folder of every export that is whole, in the order of steps: the trainer renames a folder when it is."""
    found = {int(path.name): path for path in (run / "exports").glob("[0-9]" * 8) if (path / "sbv2bench.json").is_file()}
    last = run / "export"
    if (last / "training.json").is_file():
        found[steps_of(last)] = last
    return dict(sorted(found.items()))


def steps_of(export: Path) -> int:
    """The steps that the student of an export had taken."""
    return int(read_json(export / "training.json").get("steps") or 0)


def is_over(run: Path) -> bool:
    """Whether the training has ended, so that no export will follow."""
    return (run / "done.json").is_file()
