"""Settings of a run that may change while it goes on, each change written down with the step from which it holds."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reference_trainer.config import Recipe
from reference_trainer.recipe_files import changed, parse_override
from sbv2bench.atomic import write_whole
from sbv2bench.errors import InputError, IntegrityError

FILE = "changes.json"
MAY_CHANGE = (
    "steps",
    "student.learning_rate",
    "lora_teacher.learning_rate",
    "micro_batch_size",
    "precision",
    "teacher_dtype",
    "compile",
)


class Continuation:
    """The changes of a run so far, and those that are asked for now.

    recipe: the recipe with all of them. changes: [{"step": from which step on, "changes": {key.path: value}}, ...].
    """

    def __init__(self, recipe: Recipe, run: Path, wanted: Sequence[str], step: int) -> None:
        """wanted: `key.path=value` each. step: of the run's newest checkpoint.

        Raises InputError for a key that must stay, a value that cannot be, or a length that is behind; IntegrityError for a
        damaged file of changes.
        """
        self._path = run / FILE
        self.changes = _read(self._path)
        for entry in self.changes:
            try:
                recipe = changed(recipe, entry["changes"])
            except InputError as error:
                raise IntegrityError(f"{self._path}: {error.message}", "another --output folder") from error
        self.new: dict[str, object] = {}
        for text in wanted:
            key, value = parse_override(text)
            _check(key, text)
            after = changed(recipe, {key: value})
            if after != recipe:  # what is so already, by an earlier try of the same command, is no change
                self.new[key], recipe = value, after
        if "steps" in self.new and recipe.steps <= step:
            raise InputError(f"--continue-with steps={recipe.steps}: found {step} steps done, expected more than these")
        self.recipe = recipe
        if self.new:
            earlier = self.changes.pop()["changes"] if self.changes and self.changes[-1]["step"] == step else {}
            self.changes.append({"step": step, "changes": earlier | self.new})

    def write(self) -> None:
        """Keep what is new in the run's folder. Raises OSError."""
        if self.new:
            write_whole(self._path, json.dumps(self.changes, indent=1) + "\n")

    def sentence(self) -> str | None:
        """What was changed, in words; None where nothing ever was."""
        parts = [f"from step {e['step']}: " + ", ".join(f"{k}={v}" for k, v in e["changes"].items()) for e in self.changes]
        return f"continued with changes, {'; '.join(parts)}" if parts else None


def _check(key: str, text: str) -> None:
    if key not in MAY_CHANGE:
        close = difflib.get_close_matches(key, MAY_CHANGE, 1, cutoff=0.5)
        raise InputError(
            f"--continue-with {text}: {key} must stay as it is in a run, expected one of {', '.join(MAY_CHANGE)}",
            f"--continue-with {close[0]}=VALUE" if close else None,
        )


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        found = json.loads(path.read_text("utf-8"))
        if isinstance(found, list) and all(
            type(entry["step"]) is int and {*entry["changes"]} <= {*MAY_CHANGE} for entry in found
        ):
            return found
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        pass
    raise IntegrityError(f"{path}: not the changes of a run", "another --output folder")
