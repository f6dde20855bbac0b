"""What a run is: recipe, base models, captions and code, by which a checkpoint or a finished run is known as this one's."""

from __future__ import annotations

import json
from pathlib import Path

from reference_trainer.config import Recipe
from reference_trainer.continuation import Continuation
from reference_trainer.networks import base_hashes
from reference_trainer.prompts import PromptSource
from reference_trainer.training.checkpoint import START_AGAIN, check_identity
from sbv2bench import provenance
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.registry import Registry


def is_done(recipe: Recipe, run: Path, registry: Registry) -> bool:
    """Whether the folder holds this recipe's finished run, with the changes that it was continued with.

    Raises InputError for another's (recipe, base models, prompts, the trainer's code), and what reading those raises.
    """
    if not (run / "done.json").is_file():
        return False
    return is_finished(run, Continuation(recipe, run, (), 0).recipe, identity_of(recipe, PromptSource(recipe.prompts), registry))


def is_finished(run: Path, recipe: Recipe, identity: dict[str, object]) -> bool:
    """As `is_done`. recipe: with the run's changes; identity: of the recipe without them."""
    done = run / "done.json"
    if not done.is_file():
        return False
    try:
        found = json.loads(done.read_text("utf-8"))
        steps, code = int(found["steps"]), found.get("code")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise IntegrityError(f"{done}: not the record of a finished run", START_AGAIN) from error
    check_identity(done, found, identity)
    if steps < recipe.steps or not (run / "export" / "sbv2bench.json").is_file():  # to be continued, or exported again
        return False
    if code != training_code():
        raise InputError(f"{done}: the finished run of another version of the trainer's code", START_AGAIN)
    return True


def identity_of(recipe: Recipe, prompts: PromptSource, registry: Registry) -> dict[str, object]:
    """What must be the same for a checkpoint or a finished run to be this one's."""
    return {"recipe": recipe.identity(), "base_models": base_hashes(recipe, registry), "prompts": {"sha256": prompts.sha256}}


def training_code() -> str:
    """SHA-256 of the source that decides trained weights: not of what tells, shows or writes."""
    own = ["networks", "trainable", "losses", "step", "noise", "pairs", "latent_shards", "config"]
    own += ["prompts/order", "prompts/source", "training/schedule", "training/shared"]
    shared = ("diffusion", "weights", "samplers/components", "samplers/networks", "data/caption_rows")
    here = Path(__file__).parent
    files = [here / f"{name}.py" for name in own] + [provenance.PACKAGE / f"{name}.py" for name in shared]
    files += sorted((here / "terms").glob("*.py"))
    return provenance.source_fingerprint(*files)
