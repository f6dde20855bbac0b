"""python -m reference_trainer.staging NAME: the base model of `NAME.yaml` here, from shipped or staged weights."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from torch import nn

from reference_trainer.base_models.decoder import DecoderConfig, DecoderStage
from reference_trainer.base_models.stage import Stage, StageConfig, train
from reference_trainer.base_models.teacher import TeacherConfig, TeacherStage
from reference_trainer.ladder import input_of
from reference_trainer.run_folder import prepare
from sbv2bench.strict_yaml import read_yaml

HERE = Path(__file__).parent
STAGES: dict[str, tuple[type[Stage[nn.Module]], type[StageConfig]]] = {  # by a recipe's `stage`
    "decoder": (DecoderStage, DecoderConfig),  # type: ignore[dict-item]  # its network is a Module
    "sd21": (TeacherStage, TeacherConfig),  # type: ignore[dict-item]
}


def main(
    name: Annotated[str, typer.Argument(help="of a recipe in this folder, without .yaml")],
    runs: Annotated[Path, typer.Option(help="folder of runs")] = Path("runs"),
    processes: Annotated[int, typer.Option(help="of one thread each")] = 2,
    stop_after: Annotated[float | None, typer.Option(help="minutes")] = None,
) -> None:
    """Train until done, or until the time is over; the same command goes on. A teacher starts from `staging/sd21` if there."""
    tree = read_yaml((HERE / f"{name}.yaml").read_text("utf-8"), f"{name}.yaml")
    assert isinstance(tree, dict)
    stage, config = STAGES[str(tree["stage"])]
    prepare(runs, "--runs")
    inputs = {part: input_of("mini", part, runs) for part in ("autoencoder", "tokenizer", "sd21", "clip-train")}
    if (HERE / "sd21").is_dir():
        inputs["sd21"] = HERE / "sd21"
    seconds = None if stop_after is None else 60 * stop_after
    train(partial(stage, config.model_validate(tree), inputs), runs / name, processes, seconds)


if __name__ == "__main__":
    typer.run(main)
