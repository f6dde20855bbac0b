"""What an export says of where it comes from: scorers and captions that trained it, and the licences of what it began as."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from reference_trainer.config import Recipe
from reference_trainer.prompts import PromptSource
from sbv2bench.data.assets import HUB
from sbv2bench.specs import ModelSpec, TrainedWith, TrainingPrompts

LOSSES = ("vsd", "clip", "hps", "regularisation")
_FILE = "sha256:"  # how a file's identity begins


def trained_with(recipe: Recipe, prompts: PromptSource | None = None) -> TrainedWith:
    """What a recipe trains with. prompts: its captions, opened; without them their hashes, counts and licences are left out.

    A file is named by its name alone. Its licence is the one that its manifest states.
    """
    scorers = [loss.scorer for loss in (recipe.clip, recipe.hps) if loss is not None]
    return TrainedWith(
        losses=tuple(loss for loss in LOSSES if getattr(recipe, loss) is not None),
        scorers=tuple(dict.fromkeys(scorers)),
        prompts=tuple(_sources(recipe, prompts)),
    )


def _sources(recipe: Recipe, prompts: PromptSource | None) -> Iterable[TrainingPrompts]:
    names = [source.source for source in recipe.prompts]
    plain = [name if name.startswith((HUB, "world:")) else Path(name).name for name in names]
    if prompts is None:
        yield from (TrainingPrompts(source=name) for name in plain)
        return
    for name, part in zip(plain, prompts.parts, strict=True):
        yield TrainingPrompts(
            source=name,
            sha256=part.identity.removeprefix(_FILE) if part.identity.startswith(_FILE) else "",
            captions=part.count,
            licence=str((part.manifest or {}).get("licence") or ""),
        )


def licences(specs: Iterable[ModelSpec]) -> str:
    """The licences of all of them, each once, "a; b"."""
    return "; ".join(dict.fromkeys(part for spec in specs for part in spec.licence.split("; ") if part))
