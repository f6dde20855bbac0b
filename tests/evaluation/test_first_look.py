"""The suite for a first try on a GPU: captions of ours in eight kinds, two scorers, a grid, and no place on any board."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from sbv2bench.boards.boards import admit
from sbv2bench.data.needs import suite_needs
from sbv2bench.data.prompts import load_prompts
from sbv2bench.errors import InputError
from sbv2bench.evaluation.evaluate import evaluate_and_store
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.evaluation.plan import plan
from sbv2bench.registry import Registry


def test_two_hundred_captions_in_eight_kinds() -> None:
    registry = Registry.built_in()
    suite = registry.suite("first-look")
    prompts = load_prompts(suite)
    kinds = [prompts.captions[start : start + 25] for start in range(0, 200, 25)]
    assert len(prompts) == len(set(prompts.captions)) == 200
    longest, others = kinds[-1], [caption for kind in kinds[:-1] for caption in kind]
    assert min(len(caption.split()) for caption in longest) > max(len(caption.split()) for caption in others)
    assert all(any(word.isupper() or word[0].isdigit() or word == "Q" for word in caption.split()) or " 3 to " in caption
               for caption in kinds[3])  # fmt: skip
    needed = {need.location for need in suite_needs(registry, suite)}  # the scorers, and nothing else that is large
    assert needed == {"package:catalog/first-look.txt", "hub:laion/CLIP-ViT-g-14-laion2B-s12B-b42K", "asset:hpsv2-v2.0"}


@pytest.fixture
def tiny(catalog: Path, tmp_path: Path) -> Registry:
    """The suite with the tiny family's scorers, 32 captions of it."""
    declared = yaml.safe_load(catalog.read_text())
    metrics = {"clip": {"extractor": "tiny-clip"}, "hps": {"extractor": "tiny-hps"}}
    changes = {"family": "local", "metrics": metrics, "num_generated": 200}
    declared["suites"]["look"] = {"extends": "first-look", **changes}
    path = tmp_path / "look.yaml"
    path.write_text(yaml.safe_dump(declared, sort_keys=False))
    return Registry.load(path)


@pytest.mark.ci
def test_a_grid_lies_beside_the_result_and_no_board_takes_it(tiny: Registry, tmp_path: Path) -> None:
    options = EvalOptions.validated(results=tmp_path / "results", device="cpu")
    result, path = evaluate_and_store(plan("student", "look", options, tiny), tiny)
    assert path is not None and result.metrics["clip_score"].label.endswith("-first-look")
    with Image.open(path.with_name(f"{path.stem}-grid.png")) as picture:
        about = json.loads(picture.info["sbv2bench"])
    assert [column["caption"] for column in about["columns"]] == [*range(0, 200, 25)]
    assert not path.with_name(f"{path.stem}-images").exists() and not list((tmp_path / "results").glob(".*"))
    with pytest.raises(InputError, match="for a first look, its numbers are on no leaderboard"):
        admit(path)
    again, second = evaluate_and_store(plan("student", "look", options, tiny), tiny)  # from the cache
    assert second is not None and again.provenance["cache"]["generated"] == "hit"
    grids = [np.asarray(Image.open(file.with_name(f"{file.stem}-grid.png"))) for file in (path, second)]
    assert np.array_equal(*grids)
