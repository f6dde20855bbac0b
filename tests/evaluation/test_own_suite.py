"""Own captions and photographs in one command: what suite `own` is, what it needs, what is refused before an image is made."""

from __future__ import annotations

import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from paper_suites import CAPTIONS, GENERATED, REFERENCE, write_paper_suites
from photographs import photograph
from PIL import Image
from running import block_of

from sbv2bench.boards.boards import admit
from sbv2bench.compare.compare import compare
from sbv2bench.data.archive import ImageArchive
from sbv2bench.data.caption_files import captions_sha256
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError
from sbv2bench.evaluation import costs
from sbv2bench.evaluation import evaluate as evaluate_module
from sbv2bench.evaluation.evaluate import evaluate, evaluate_and_store
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.evaluation.plan import plan
from sbv2bench.features.base import load_extractor
from sbv2bench.metrics import frechet_distance
from sbv2bench.registry import Registry
from sbv2bench.results import store

LINES = [f"a {colour} square" for colour in ("red", "green", "blue", "yellow", "orange", "purple")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_paper_suites(tmp_path_factory.mktemp("paper")).parent


@pytest.fixture
def paper(place: Path) -> Registry:
    return Registry.load(place / "catalog.yaml")


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    path = tmp_path / "my.csv"
    path.write_text("caption\n" + "\n".join(LINES) + "\n")
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Eight photographs of 32 px, which the tiny family's extractor takes as they are."""
    return folder_of(tmp_path / "photos", [(32, 32)] * 8)


def folder_of(folder: Path, sizes: list[tuple[int, int]]) -> Path:
    folder.mkdir()
    for number, (width, height) in enumerate(sizes):
        (folder / f"{number}.jpg").write_bytes(photograph(number, width, height))
    return folder


def planned(registry: Registry, model: str | Path = "student", suite: str | None = "tiny", **options: Any) -> Any:
    return plan(str(model), suite, EvalOptions.validated(**options), registry)


def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate_module, "load_sampler", lambda *_: pytest.fail("a model was loaded"))


# What it is


def test_eval_of_own_captions_and_photographs(registry: Registry, captions: Path, photos: Path) -> None:
    result = evaluate("student", "tiny", registry=registry, prompts=captions, reference=photos)
    assert (result.status, result.suite.id, result.suite.num_generated, result.suite.num_reference) == ("complete", "own", 6, 8)
    assert list(result.metrics) == ["fid", "precision", "recall", "density", "coverage", "kid", "clip_score", "hps"]
    suite = result.provenance["suite"]
    assert suite["prompts"] == {"kind": "file", "captions_sha256": captions_sha256(LINES)}
    assert suite["reference"] == {"content_sha256": ImageArchive(photos).content_sha256(), "orientation": "exif"}
    assert (result.metrics["fid"].extractor, result.metrics["clip_score"].extractor) == ("tiny-world", "tiny-clip")
    assert suite["preparation"] is None
    own = result.provenance["own"]
    assert (own["prompts"], own["reference"], own["preparation"]) == (str(captions), str(photos), "none: images as they are")
    assert own["from"] == "tiny: extractors, metrics"
    assert "own" not in registry.suites


def test_the_suite_is_that_of_the_models_family_where_none_is_named(captions: Path, photos: Path) -> None:
    registry = Registry.load()
    assert "world-128" in planned(registry, "sbv2-merged", None, prompts=captions, reference=photos).extractors
    with pytest.raises(PrerequisiteError, match="ViT-g-14"):
        planned(registry, "full/sd-turbo", None, prompts=captions, reference="none", metrics="clip")
    with pytest.raises(InputError, match="family full, expected family mini for suite mini"):
        planned(registry, "full/sd-turbo", "mini", prompts=captions)
    with pytest.raises(InputError, match="it is 2 suites") as caught:
        planned(registry, "full/sd-turbo", "paper", prompts=captions)
    assert caught.value.fix == "--suite coco2014-30k"


def test_a_reference_is_a_folder_a_zip_or_a_tar(registry: Registry, captions: Path, photos: Path, tmp_path: Path) -> None:
    forms = [photos, tmp_path / "p.zip", tmp_path / "p.tar", tmp_path / "p.tar.gz", tmp_path / "p.tar.xz"]
    with zipfile.ZipFile(forms[1], "w") as packed:
        for file in photos.iterdir():
            packed.write(file, f"photos/{file.name}")
    for path, mode in zip(forms[2:], ("w", "w:gz", "w:xz"), strict=True):
        with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
            tar.add(photos, "photos")
    found = [evaluate("student", "tiny", registry=registry, prompts=captions, reference=form, use_cache=False) for form in forms]
    assert len({block_of(result) for result in found}) == 1
    assert len({result.metrics["fid"].fingerprint for result in found}) == 1


def test_no_reference_leaves_what_needs_none(registry: Registry, captions: Path) -> None:
    result = evaluate("student", "tiny", registry=registry, prompts=captions, reference="none")
    assert list(result.metrics) == ["clip_score", "hps"]
    assert result.suite.num_reference is None
    with pytest.raises(InputError, match="--metrics fid: it needs reference, which suite own does not have") as caught:
        planned(registry, prompts=captions, reference="none", metrics="fid")
    assert caught.value.fix == "--metrics clip,hps"


def test_own_captions_do_not_change_the_renderings_of_the_reference(registry: Registry, captions: Path) -> None:
    """The pictures of the suite's own captions, seed and offset too, and not those of the world's first."""
    usual, own = (evaluate("student", "tiny", registry=registry, metrics="fid", **more) for more in ({}, {"prompts": captions}))
    assert own.suite.reference == usual.suite.reference
    assert own.provenance["cache"]["reference"] == "hit"
    assert own.provenance["suite"]["rendered"]["caption_offset"] == 700_000


def test_photographs_of_any_size_are_seen_as_they_are(place: Path, paper: Registry, tmp_path: Path) -> None:
    """Where the suite prepares nothing: each in its own shape, height and width apart."""
    document = yaml.safe_load((place / "catalog.yaml").read_text())
    document["suites"]["coco"] |= {"preparation": None, "metrics": {"fid": {"extractor": "s-clip"}}}
    (place / "native.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    registry = Registry.load(place / "native.yaml")
    sizes = [(72 + 4 * (number % 3), 40) for number in range(9)]
    photos = folder_of(tmp_path / "photos", sizes)
    wide = folder_of(tmp_path / "wide", [(64, 48)] * 5)
    result = evaluate(wide, "coco", registry=registry, reference=photos, metrics="fid", prompts=None)
    network = load_extractor(registry.extractor("s-clip"))
    seen = [
        [network.embed_images(np.stack([np.asarray(Image.open(file).convert("RGB"))]))[0] for file in sorted(folder.iterdir())]
        for folder in (wide, photos)
    ]
    assert result.metrics["fid"].value == pytest.approx(frechet_distance(np.stack(seen[0]), np.stack(seen[1])), rel=1e-6)
    assert result.provenance["suite"]["prompts"] == {"kind": "none"}
    assert (result.suite.prompts_sha256, result.metrics["fid"].n_generated) == ("", 5)


def test_an_extractor_of_one_size_is_shown_images_of_it_and_the_result_says_so(
    registry: Registry, captions: Path, tmp_path: Path
) -> None:
    photos = folder_of(tmp_path / "large", [(90, 64), (60, 80), (50, 50), (33, 47)])
    result = evaluate("student", "tiny", registry=registry, prompts=captions, reference=photos, metrics="fid")
    assert result.suite.preparation == "centre-crop-lanczos-32"
    assert result.provenance["own"]["preparation"] == "centre-crop-lanczos-32"
    alone = planned(registry, prompts=captions, reference=photos, metrics="clip")
    assert alone.suite.preparation is None  # no network that was asked for needs it


def test_height_and_width_are_those_that_were_asked_for(registry: Registry, captions: Path, tmp_path: Path) -> None:
    made = planned(
        registry, "teacher", prompts=captions, resolution="48x40", save_images="all", results=tmp_path / "r", metrics="clip"
    )
    result, path = evaluate_and_store(made, registry)
    assert path is not None
    images = sorted(path.with_name(f"{path.stem}-images").iterdir())
    assert {Image.open(image).size for image in images} == {(40, 48)}
    assert (result.model.resolution, result.model.width) == (48, 40)
    assert planned(registry, "teacher", resolution=48).model.width is None
    assert planned(registry, "teacher", resolution="48").suite.id == "own"
    with pytest.raises(InputError, match="47x33 is not a multiple of 4") as caught:
        evaluate("teacher", "tiny", registry=registry, resolution="47x33", metrics="clip")
    assert caught.value.fix == "--resolution 48x32"
    for wrong in ("0", "7", "64x", "64x64x64", "-64", "9000", "a"):
        with pytest.raises(InputError, match="--resolution: found"):
            EvalOptions.validated(resolution=wrong)


# Captions


def test_captions_are_not_asked_for_by_metrics_that_read_none(paper: Registry, tmp_path: Path) -> None:
    images = folder_of(tmp_path / "images", [(40, 40)] * 6)
    result = evaluate(images, "coco", registry=paper, metrics="fid,pr")
    assert (result.suite.id, result.suite.num_generated, result.suite.num_reference) == ("own", 6, REFERENCE)
    with pytest.raises(IntegrityError, match="holds 6 images for the 36 captions of suite coco, which clip read") as caught:
        planned(paper, images, "coco", metrics="fid,clip")
    assert caught.value.fix == "--prompts FILE with a caption for each image, or --metrics fid"
    both = planned(paper, images, "coco", reference=images)
    assert [metric.id for metric in both.metrics] == ["fid", "pr", "pr-paper"]


def test_a_folder_for_the_suites_captions_is_the_suite(paper: Registry, place: Path) -> None:
    assert planned(paper, place / "images", "coco").suite.id == "coco"
    assert planned(paper, place / "images", "coco", metrics="fid").suite.id == "coco"


def test_a_table_without_files_is_a_list_but_not_beside_another_column(paper: Registry, place: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text("".join(json.dumps({"caption": caption}) + "\n" for caption in CAPTIONS[:GENERATED]))
    assert planned(paper, place / "images", "coco", prompts=path).prompts.captions == tuple(CAPTIONS[:GENERATED])
    path.write_text("".join(json.dumps({"name": "x", "caption": caption}) + "\n" for caption in CAPTIONS[:GENERATED]))
    with pytest.raises(InputError, match="no column 'file'"):
        planned(paper, place / "images", "coco", prompts=path)


# Needs


def lacking(place: Path, name: str) -> Registry:
    """The suites with a CLIP, captions and an archive that are not on this machine."""
    document = yaml.safe_load((place / "catalog.yaml").read_text())
    document["suites"]["coco"]["metrics"]["clip"] = {"extractor": "clip-vit-g-14-laion2b"}
    document["suites"]["coco"]["prompts"] = {"location": "asset:coco2014-captions"}
    document["suites"]["coco"]["prompts"]["captions_sha256"] = captions_sha256(CAPTIONS[:GENERATED])
    (place / name).write_text(yaml.safe_dump(document, sort_keys=False))
    return Registry.load(place / name)


def test_only_what_the_chosen_metrics_take_is_needed(place: Path, paper: Registry) -> None:
    registry = lacking(place, "lacking.yaml")
    images = str(place / "images")
    result = evaluate(images, "coco", registry=registry, metrics="fid")
    assert result.metrics["fid"] == evaluate(images, "coco", registry=paper, metrics="fid").metrics["fid"]
    assert result.suite.prompts_sha256 == captions_sha256(CAPTIONS[:GENERATED])
    made = planned(registry, images, "coco", metrics="fid")
    assert len(costs.describe(made, registry)["needs"]) == 2
    assert costs.describe(made, registry)["missing"] == []
    with pytest.raises(PrerequisiteError, match="2 of 6 files") as caught:
        planned(registry, images, "coco")
    assert caught.value.fix is not None
    assert caught.value.fix.endswith("sbv2bench download coco")
    with pytest.raises(PrerequisiteError) as caught:
        planned(registry, images, "coco", metrics="clip", reference="none")
    assert caught.value.fix is not None
    assert caught.value.fix.endswith("sbv2bench download coco2014-captions clip-vit-g-14-laion2b")


# Before the first image


@pytest.mark.parametrize("limit", [2, 3])
def test_too_few_images_for_a_metric(registry: Registry, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    no_model(monkeypatch)
    with pytest.raises(InputError, match=f"--limit {limit}: metric pr has {limit} images, expected at least 4") as caught:
        evaluate("student", "tiny", registry=registry, limit=limit)
    assert caught.value.fix == "--limit 4"
    with pytest.raises(InputError, match="metric fid-infinity has 26 images, expected at least 768") as caught:
        evaluate("student", "tiny", registry=registry, metrics="clip,fid-infinity")
    assert caught.value.fix == "--metrics clip"


@pytest.mark.parametrize("flag", ["fid", "pr", "kid", "clip", "hps", "attributes", "fid,kid,clip,hps"])
def test_the_fewest_images_that_are_admitted_are_enough(registry: Registry, flag: str) -> None:
    limit = 4 if flag == "pr" else 2
    assert evaluate("student", "tiny", registry=registry, metrics=flag, limit=limit).metrics


def test_too_few_photographs(registry: Registry, captions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = folder_of(tmp_path / "three", [(32, 32)] * 3)
    assert evaluate("student", "tiny", registry=registry, prompts=captions, reference=photos, metrics="fid,kid").metrics
    no_model(monkeypatch)
    with pytest.raises(InputError, match="metric pr has 3 images in the reference, expected at least 4") as caught:
        evaluate("student", "tiny", registry=registry, prompts=captions, reference=photos)
    assert caught.value.fix == "--metrics fid,kid,clip,hps"


@pytest.mark.parametrize(
    ("content", "says"), [(b"I am a text", "not an image"), (photograph(1, mode="CMYK"), "mode CMYK"), (None, "cut")]
)
def test_a_photograph_that_cannot_be_read_is_found_before_the_first_image(  # noqa: PLR0917
    registry: Registry, captions: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, says: str
) -> None:
    no_model(monkeypatch)
    bad = photos / "5.jpg"
    bad.write_bytes(bad.read_bytes()[:-60] if content is None else content)
    with pytest.raises(IntegrityError, match=rf"5\.jpg.*{says}"):
        evaluate("student", "tiny", registry=registry, prompts=captions, reference=photos)


def test_a_plan_reads_every_header_of_a_suites_photographs(place: Path) -> None:
    document = yaml.safe_load((place / "catalog.yaml").read_text())
    document["suites"]["coco"]["reference"] = {"location": "bad"}
    (place / "bad.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    with zipfile.ZipFile(place / "val2014.zip") as packed:
        packed.extractall(place / "bad")
    (place / "bad" / "val2014" / "COCO_val2014_000000000031.jpg").write_bytes(photograph(1, mode="CMYK"))
    registry = Registry.load(place / "bad.yaml")
    with pytest.raises(IntegrityError, match=r"000000000031\.jpg: found pixels of mode CMYK"):
        planned(registry, "made", "coco", metrics="fid")
    assert planned(registry, "made", "coco", metrics="clip").archive is not None  # which looks at none of them


def test_a_metric_that_cannot_be_imported(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    no_model(monkeypatch)
    broken = registry.metric("fid").model_copy(update={"target": "sbv2bench.no_such:fid"})
    monkeypatch.setitem(registry.metrics, "fid", broken)
    with pytest.raises(InputError, match="cannot be imported"):
        evaluate("student", "tiny", registry=registry, metrics="fid")


# Afterwards


def test_results_of_own_data_are_compared_and_reach_no_board(
    registry: Registry, captions: Path, photos: Path, tmp_path: Path
) -> None:
    images = folder_of(tmp_path / "images", [(32, 32)] * 6)
    results = tmp_path / "results"
    for model in ("student", "teacher", str(images)):
        made = planned(registry, model, prompts=captions, reference=photos, results=results)
        _, path = evaluate_and_store(made, registry)
    assert path is not None
    found = compare(["local/student", "teacher", images], "own", results=results, registry=registry)
    assert [one.name for one in found.contestants] == ["local/student", "local/teacher", "local/images"]
    assert len(compare([images, results / "local" / "teacher"], "own", results=results, registry=registry).contestants) == 2
    with pytest.raises(InputError, match="has no result of suite tiny, but of own") as caught:
        compare([results, images], "tiny", results=results, registry=registry)
    assert caught.value.fix == "--suite own"
    with pytest.raises(PrerequisiteError, match=r"no result of local/images on suite tiny in .*, but of own") as missing:
        compare([images, images], "tiny", results=results, registry=registry)
    assert missing.value.fix == "--suite own"
    with pytest.raises(InputError, match="a leaderboard takes suites that everybody has"):
        admit(path)
    turned = tmp_path / "turned.txt"
    turned.write_text("\n".join(LINES[::-1]))
    other = planned(registry, "teacher", prompts=turned, reference=photos, metrics="clip", results=results / "other")
    evaluate_and_store(other, registry)
    with pytest.raises(InputError, match="different protocols") as caught:
        compare([images, *store.find(results / "other")], "own", results=results, registry=registry)
    assert str(caught.value.fix).startswith("sbv2bench eval --model ")
    assert str(caught.value.fix).endswith(f" --suite tiny --prompts {captions} --reference {photos}")


def test_own_is_no_suites_name(registry: Registry) -> None:
    with pytest.raises(InputError, match="expected --prompts or --reference"):
        planned(registry, suite="own")
    with pytest.raises(InputError, match="suite id 'own'"):
        Registry.load().add("suite", registry.suite("tiny").model_copy(update={"id": "own"}))
