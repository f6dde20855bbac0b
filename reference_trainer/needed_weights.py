"""Which of a recipe's models are not on this machine, all of them told at once."""

from __future__ import annotations

from reference_trainer.config import Recipe
from sbv2bench.data.assets import offline, resolve_location
from sbv2bench.data.chain import model_files
from sbv2bench.errors import PrerequisiteError
from sbv2bench.registry import Registry


def require_weights(recipe: Recipe, registry: Registry) -> None:
    """Raises PrerequisiteError naming every model of a recipe that is missing where nothing can be fetched.

    Where the hub may be asked, models are fetched when they are used. Raises what finding a model raises.
    """
    if not offline():
        return
    models = {"teacher": recipe.teacher, "student.start": recipe.student.start, "tiny_decoder": recipe.tiny_decoder}
    models |= {f"{name}.scorer": loss.scorer for name, loss in (("clip", recipe.clip), ("hps", recipe.hps)) if loss}
    missing: dict[str, str] = {}
    for role, name in models.items():
        try:
            if role in {"teacher", "student.start"}:
                model_files(registry.model(name), registry.model)
            elif role.endswith("scorer"):
                extractor = registry.extractor(name)
                resolve_location(extractor.location, files=extractor.files, assets=registry.assets)
            elif name:
                resolve_location(name)
        except PrerequisiteError:
            missing.setdefault(name, role)
    if missing:
        listed = ", ".join(f"{name} ({role})" for name, role in missing.items())
        raise PrerequisiteError(
            f"recipe {recipe.name}: offline, and not on this machine: {listed}",
            f"HF_HUB_OFFLINE=0 SBV2BENCH_OFFLINE=0 sbv2bench download {' '.join(missing)}",
        )
