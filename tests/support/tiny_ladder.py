"""`python -m tiny_ladder`: the trainer's ladder with three rungs of a few steps each, whose exports nobody measures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reference_trainer import ladder
from reference_trainer.base_models import autoencoder, extractor

FEW = {"steps": 7, "batch_size": 8, "checkpoint_every": 2, "log_every": 1, "warmup_steps": 2}
RUNGS = ("extractor", "autoencoder", "taesd")


def _few_steps(family: str, name: str, config_type: Any) -> Any:
    recipe = read(family, name, config_type)
    return config_type.model_validate(recipe.model_dump() | FEW)


read, ladder.read_stage_recipe = ladder.read_stage_recipe, _few_steps
for stage in (extractor.ExtractorStage, autoencoder.AutoencoderStage, autoencoder.TinyAutoencoderStage):
    stage.measure = lambda *_: {}  # type: ignore[method-assign]

if __name__ == "__main__":
    ladder.climb("mini", Path("runs"), RUNGS[-1], 1, None)
