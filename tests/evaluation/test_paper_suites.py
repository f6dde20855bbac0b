"""The paper's suites through the same spine as mini, on stand-ins of the same kinds."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from paper_suites import BLOCK, CAPTIONS, GENERATED, REFERENCE, write_paper_suites
from PIL import Image
from running import block_of, cache_of

from sbv2bench.data import archive as archive_module
from sbv2bench.data.archive import ImageArchive
from sbv2bench.data.caption_files import STYLES, captions_sha256
from sbv2bench.data.preparation import prepare
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError
from sbv2bench.evaluation import costs
from sbv2bench.evaluation.evaluate import evaluate
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.evaluation.plan import plan
from sbv2bench.features.base import load_extractor
from sbv2bench.metrics import frechet_distance, precision_recall
from sbv2bench.metrics.paper_precision_recall import paper_precision_recall
from sbv2bench.registry import Registry
from sbv2bench.results.records import EvalResult


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_paper_suites(tmp_path_factory.mktemp("paper")).parent


@pytest.fixture(scope="module")
def paper(place: Path) -> Registry:
    return Registry.load(place / "catalog.yaml")


def changed(place: Path, tmp_path: Path, **coco: Any) -> Registry:
    """The registry with other fields of the suite coco; files stay where they are."""
    document = yaml.safe_load((place / "catalog.yaml").read_text())
    document["suites"]["coco"].update(coco)
    path = place / f"changed-{tmp_path.name}.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return Registry.load(path)


def run(registry: Registry, **options: Any) -> EvalResult:
    return evaluate("made", "coco", registry=registry, **options)


def test_coco_is_what_the_metrics_say_of_prepared_images(paper: Registry, place: Path) -> None:
    result = run(paper)
    generated = np.stack([np.asarray(Image.open(file)) for file in sorted((place / "images").iterdir())])
    prepared = {"generated": prepare(generated), "reference": ImageArchive(place / "val2014.zip").read_prepared(0, REFERENCE)}
    rows = {name: {side: load_extractor(plan("made", "coco", EvalOptions.validated(), paper).extractors[name])(images)
                   for side, images in prepared.items()} for name in ("s-fid", "s-pr", "s-pr-bgr")}  # fmt: skip
    fixed = precision_recall(rows["s-pr"]["generated"], rows["s-pr"]["reference"])
    as_in_paper = paper_precision_recall(rows["s-pr-bgr"]["generated"], rows["s-pr-bgr"]["reference"])
    metrics = {key: value.value for key, value in result.metrics.items()}
    assert list(metrics) == ["fid", "precision", "recall", "density", "coverage", "precision_paper", "recall_paper", "clip_score"]
    assert metrics["fid"] == pytest.approx(frechet_distance(rows["s-fid"]["generated"], rows["s-fid"]["reference"]))
    assert (metrics["precision"], metrics["recall"]) == (fixed.precision, fixed.recall)
    assert (metrics["precision_paper"], metrics["recall_paper"]) == (as_in_paper.precision, as_in_paper.recall)
    assert result.metrics["recall_paper"].details == {"minus_fixed": as_in_paper.recall - fixed.recall}
    extractors = {key: value.extractor for key, value in result.metrics.items()}
    assert (extractors["fid"], extractors["precision"], extractors["recall_paper"]) == ("s-fid", "s-pr", "s-pr-bgr")
    assert (result.metrics["fid"].label, result.metrics["fid"].n_reference) == ("FID-tiny", REFERENCE)
    assert result.suite.prompts_sha256 == captions_sha256(CAPTIONS[:GENERATED])
    content = ImageArchive(place / "val2014.zip").content_sha256()
    assert result.suite.reference == {"fingerprint": content, "content_sha256": content, "orientation": "exif"}
    assert result.provenance["suite"]["prompts"] == {"kind": "coco2014", "captions_sha256": result.suite.prompts_sha256}


@pytest.mark.ci
def test_caching_repeats_and_one_pass_over_the_photographs(paper: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    real = ImageArchive.decoded

    def counted(self: ImageArchive, name: str, use: Any) -> Any:
        decoded.append(name)
        return real(self, name, use)

    monkeypatch.setattr(archive_module.ImageArchive, "decoded", counted)
    first = run(paper)
    assert sorted(decoded) == sorted(set(decoded))  # each once, for all three networks
    assert len(decoded) == REFERENCE
    again = run(paper)
    assert (cache_of(first), cache_of(again)) == (("miss", "miss"), ("hit", "hit"))
    assert block_of(first) == block_of(again) == block_of(run(paper, use_cache=False))
    assert len(decoded) == 2 * REFERENCE
    alone = run(paper, metrics="kid")  # on request; its row was measured with the others
    assert cache_of(alone) == ("hit", "hit")
    assert list(alone.metrics) == ["kid"]
    assert alone.protocol("kid")["extractor"] == first.protocol("fid")["extractor"]


def test_a_folder_and_another_place_are_the_same_protocol(paper: Registry, place: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(place / "val2014.zip") as source:
        source.extractall(tmp_path / "unpacked")
    moved = changed(place, tmp_path, reference={"location": str(tmp_path / "unpacked" / "val2014")})
    first, second = run(paper), run(moved)
    assert first.metrics["fid"].fingerprint == second.metrics["fid"].fingerprint
    assert cache_of(second) == ("hit", "hit")
    file = next((tmp_path / "unpacked" / "val2014").glob("*7.jpg"))
    with Image.open(file) as image:
        image.rotate(180).save(file)
    third = run(moved)
    assert third.metrics["fid"].fingerprint != first.metrics["fid"].fingerprint
    assert third.metrics["clip_score"].fingerprint == first.metrics["clip_score"].fingerprint
    assert cache_of(third) == ("hit", "miss")


@pytest.mark.ci
def test_resume_with_other_blocks_gives_the_same_numbers(paper: Registry) -> None:
    whole = run(paper, use_cache=False)
    assert block_of(run(paper, batch_size=BLOCK + 3, use_cache=False)) == block_of(whole)
    partial = run(paper, limit=20)
    assert (partial.status, partial.metrics["fid"].label) == ("partial", "FID-tiny@20")


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"prompts": {"location": "dataset.json", "captions_sha256": "0" * 64}}, IntegrityError, "not the suite's"),
        ({"num_generated": 41}, IntegrityError, "holds 36 images for the 41 captions of suite coco, which clip read"),
        ({"num_reference": 51}, IntegrityError, "holds 50 images, expected 51"),
        ({"num_reference": 49}, IntegrityError, "holds 50 images, expected 49"),
        ({"reference": {"location": "val2014.zip", "content_sha256": "0" * 64}}, IntegrityError, "are not the suite's"),
        ({"reference": {"location": "dataset.json"}}, IntegrityError, "no whole zip"),
        ({"reference": {"location": "none.zip"}}, InputError, "does not exist"),
        ({"preparation": "centre-crop"}, InputError, "preparation"),
        ({"prompts": {"location": "none.json"}}, InputError, "does not exist"),
        ({"reference": {"location": "asset:coco2014-val"}}, PrerequisiteError, "val2014.zip"),
        ({"metrics": {"fid": {"extractor": "inception-2015-clean299"}, "clip": {"extractor": "s-clip"}},
          "reference": {"location": "asset:coco2014-val"}}, PrerequisiteError,
         "2 of 4 files are not on this machine"),
    ],
)  # fmt: skip
def test_bad_data_is_refused_before_anything_runs(
    place: Path, tmp_path: Path, fields: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says) as caught:
        plan("made", "coco", EvalOptions.validated(), changed(place, tmp_path, **fields))
    assert len(str(caught.value).splitlines()) <= 3
    if error is PrerequisiteError:
        assert "sbv2bench download" in str(caught.value)


def test_a_photograph_that_is_cut_ends_the_run_with_its_name(place: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(place / "val2014.zip") as source:
        source.extractall(tmp_path / "unpacked")
    folder = tmp_path / "unpacked" / "val2014"
    file = folder / "COCO_val2014_000000000031.jpg"
    file.write_bytes(file.read_bytes()[:-300])
    with pytest.raises(IntegrityError, match=r"000000000031\.jpg: the image is broken or cut"):
        run(changed(place, tmp_path, reference={"location": str(folder)}))
    shutil.rmtree(tmp_path / "unpacked")


def test_hps_by_style_and_by_both_weights(paper: Registry, place: Path) -> None:
    result = evaluate(str(place / "hps-images"), "hps", registry=paper)
    assert list(result.metrics) == ["hps", "hps_v21"]
    assert result.suite.num_reference is None
    for key, label in (("hps", "s-v20"), ("hps_v21", "s-v21")):
        value = result.metrics[key]
        assert (value.label, value.extractor, value.n_generated) == (label, label, 16)
        assert value.styles is not None
        assert tuple(value.styles) == STYLES
        assert {style["n"] for style in value.styles.values()} == {4.0}
        assert np.mean([style["value"] for style in value.styles.values()]) == pytest.approx(value.value)
    assert result.metrics["hps"].value != result.metrics["hps_v21"].value
    with pytest.raises(InputError, match="--metrics fid: it needs reference"):
        plan(str(place / "hps-images"), "hps", EvalOptions.validated(metrics="fid"), paper)


def test_a_group_is_its_suites(paper: Registry) -> None:
    assert [suite.id for suite in paper.suites_of("both")] == ["coco", "hps"]
    assert [suite.id for suite in paper.suites_of("paper")] == ["coco2014-30k", "hpsv2"]
    assert [suite.id for suite in paper.suites_of("coco")] == ["coco"]
    with pytest.raises(InputError, match="did you mean 'paper'"):
        paper.suites_of("papr")


def test_a_dry_run_says_what_is_still_to_compute(paper: Registry) -> None:
    before = costs.describe(plan("made", "coco", EvalOptions.validated(), paper), paper)
    rows = GENERATED + REFERENCE
    assert before["forward_passes"] == {"s-fid": rows, "s-pr": rows, "s-pr-bgr": rows, "s-clip": GENERATED}
    assert before["tflop"] == {}  # nobody has counted the stand-ins
    assert len(before["needs"]) == 6
    run(paper)
    after = costs.describe(plan("made", "coco", EvalOptions.validated(), paper), paper)
    assert set(after["forward_passes"].values()) == {0}
    assert after["reference_in_cache"] == ["s-fid", "s-pr", "s-pr-bgr"]
    passes = {"inception-2015-clean299": 70_504, "clip-vit-g-14-laion2b": 30_000, "s-fid": 5}
    work = costs.Work.of(plan("made", "coco", EvalOptions.validated(), paper))
    named = replace(work, extractors={name: paper.extractor(name) for name in passes})
    assert named.teraflop(passes, {}) == {
        "inception-2015-clean299": pytest.approx(803.7, abs=0.1),
        "clip-vit-g-14-laion2b": pytest.approx(30 * 534 + GENERATED * 0.047),
    }
