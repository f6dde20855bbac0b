"""The suites of few-step papers, tiny: preparation by name and by extractor, FID by category, four images of a prompt."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from photographs import photograph
from PIL import Image
from standin_networks import write_standin

from sbv2bench.data.archive import ImageArchive
from sbv2bench.data.preparation import prepare
from sbv2bench.errors import InputError, PrerequisiteError
from sbv2bench.evaluation.evaluate import evaluate
from sbv2bench.evaluation.measure import by_size
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.evaluation.plan import plan
from sbv2bench.features.base import load_extractor
from sbv2bench.metrics import frechet_distance
from sbv2bench.registry import Registry
from sbv2bench.specs import ExtractorSpec, SuiteSpec

IMAGES, REAL = 12, 14
SHOWN = {"prepared": {}, "small": {"shown": "centre-16"}, "native": {"shown": "native"}}


def write_images(folder: Path) -> None:
    folder.mkdir()
    for i in range(IMAGES):
        pixels = np.random.default_rng(i).integers(0, 256, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Suites ten (as DMD2's), mjhq and geneval, each an extension of the real one; a model that is a folder of images."""
    folder = tmp_path_factory.mktemp("few")
    write_images(folder / "images")
    with zipfile.ZipFile(folder / "coco10k.zip", "w") as target:
        target.writestr("coco10k/all_prompts.pkl", pickle.dumps([f"caption {i}" for i in range(IMAGES)]))
        for i in range(REAL):
            target.writestr(f"coco10k/subset/{i}.png", photograph(i, 48 + 4 * (i % 3), 40, form="PNG"))
    with zipfile.ZipFile(folder / "mjhq.zip", "w") as target:
        for i in range(REAL):
            target.writestr(f"{'art' if i % 2 else 'food'}/{i}.png", photograph(i, 64, 64, form="PNG"))
    (folder / "meta_data.json").write_text(
        json.dumps({f"p{i}": {"category": "food" if i < 5 else "art", "prompt": f"prompt {i}"} for i in range(IMAGES)})
    )
    write_standin(folder / "network", seed=0)
    extractors = {
        name: {"kind": "standin_networks:Scorer", "gives": "paired", "location": "network", **shown}
        for name, shown in SHOWN.items()
    }
    ten: dict[str, Any] = {
        "extends": "coco2014-10k", "num_generated": IMAGES, "num_reference": REAL, "preparation": "centre-32", "block_size": 5,
        "prompts": {"location": "coco10k.zip"}, "reference": {"location": "coco10k.zip"},
        "metrics": {"fid": {"extractor": "prepared"}, "patch-fid": {"extractor": "native"}, "clip": {"extractor": "small"}},
    }  # fmt: skip
    mjhq: dict[str, Any] = {
        "extends": "mjhq-30k", "num_generated": IMAGES, "num_reference": REAL,
        "prompts": {"location": "meta_data.json"}, "reference": {"location": "mjhq.zip"},
        "metrics": {"fid": {"extractor": "prepared"}},
    }  # fmt: skip
    models = {"local/made": {"sampler": "image_folder", "location": "images"}}
    path = folder / "catalog.yaml"
    path.write_text(yaml.safe_dump({"extractors": extractors, "suites": {"ten": ten, "mjhq": mjhq}, "models": models}))
    return Registry.load(path)


def test_each_extractor_sees_its_own_preparation(registry: Registry) -> None:
    result = evaluate("made", "ten", registry=registry)
    planned = plan("made", "ten", EvalOptions.validated(), registry)
    network = load_extractor(planned.extractors["native"])
    archive = ImageArchive(Path(planned.suite.reference.location))  # type: ignore[union-attr]
    folder = Path(planned.model.location)
    generated = np.stack([np.asarray(Image.open(folder / f"{i}.png")) for i in range(IMAGES)])
    real = by_size(lambda images, _: network.embed_images(images), archive.read(0, REAL))  # type: ignore[union-attr]
    prepared = network.embed_images(archive.read_prepared(0, REAL, side=32))  # type: ignore[union-attr]
    own = network.embed_images(prepare(generated, side=32))  # type: ignore[union-attr]
    assert result.metrics["fid"].value == pytest.approx(frechet_distance(own, prepared))
    assert result.metrics["patch_fid"].value == pytest.approx(
        frechet_distance(network.embed_images(generated), real)  # type: ignore[union-attr]
    )
    said = {key: result.protocol(key)["preparation"] for key in ("fid", "patch_fid", "clip_score")}
    expected = {"fid": "centre-crop-lanczos-32", "patch_fid": None, "clip_score": "centre-crop-lanczos-16"}
    assert said == expected and result.suite.preparation == "centre-crop-lanczos-32"


@pytest.mark.parametrize(
    ("named", "kept"), [("native", None), ("centre-512", "centre-crop-lanczos-512"), ("centre-crop-lanczos-256",) * 2]
)
def test_a_preparation_has_one_name_in_a_protocol(named: str, kept: str | None, registry: Registry) -> None:
    suite = registry.suite("ten")
    written = SuiteSpec.model_validate(suite.model_dump() | {"preparation": named})
    assert written.preparation == kept
    metric, extractor = registry.metric("fid"), registry.extractor("prepared")
    assert written.metric_protocol(metric, extractor, "")["preparation"] == kept
    seen = ExtractorSpec.model_validate(extractor.model_dump() | {"shown": named})
    assert suite.metric_protocol(metric, seen, "") == written.metric_protocol(metric, extractor, "")


def test_another_word_is_refused(registry: Registry) -> None:
    with pytest.raises(ValueError, match="expected native, or centre-N"):
        SuiteSpec.model_validate(registry.suite("ten").model_dump() | {"preparation": "centre"})


def test_fid_of_a_category_is_of_its_images_in_both_sets(registry: Registry) -> None:
    result = evaluate("made", "mjhq", registry=registry)
    styles = result.metrics["fid"].styles
    assert styles is not None and {name: own["n"] for name, own in styles.items()} == {"art": 7.0, "food": 5.0}
    planned = plan("made", "mjhq", EvalOptions.validated(), registry)
    network, archive = load_extractor(planned.extractors["prepared"]), planned.archive
    assert archive is not None and planned.suite.preparation is None
    folder = Path(planned.model.location)
    generated = network.embed_images(np.stack([np.asarray(Image.open(folder / f"{i}.png")) for i in range(5)]))  # type: ignore[union-attr]
    pictures = [picture for picture, own in zip(archive.read(0, REAL), archive.folders, strict=True) if own == "food"]
    real = network.embed_images(np.stack(pictures))  # type: ignore[union-attr]
    assert styles["food"]["value"] == pytest.approx(frechet_distance(generated, real))
    assert styles["food"]["value"] != pytest.approx(result.metrics["fid"].value)


def test_a_folder_has_one_image_of_each_caption(registry: Registry) -> None:
    with pytest.raises(InputError, match="found 2, and local/made is a folder with one image of each caption"):
        plan("made", "ten", EvalOptions.validated(images_per_prompt=2), registry)
    with pytest.raises(InputError, match="a folder of images has one of each") as caught:
        plan("made", "ten", EvalOptions.validated(metrics="fid,diversity"), registry)
    assert caught.value.fix == "--metrics fid"


@pytest.mark.parametrize("suite", ["coco2014-10k", "coco2014-5k", "mjhq-30k", "geneval-prompts", "dpg-prompts"])
def test_files_that_are_not_here_are_listed_with_the_command_that_brings_them(suite: str) -> None:
    metrics = "clip-l14" if suite == "coco2014-5k" else None  # whose own need a teacher
    with pytest.raises(PrerequisiteError, match="not on this machine") as caught:
        plan("full/sd-turbo", suite, EvalOptions.validated(metrics=metrics), Registry.built_in())
    assert "HF_HUB_OFFLINE=0 SBV2BENCH_OFFLINE=0 sbv2bench download" in str(caught.value.fix)
