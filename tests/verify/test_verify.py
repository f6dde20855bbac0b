"""`verify` on a shipped model: what it writes is what `eval` and `grid` give, is admitted, and stands beside what others sent."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_mini import IMAGES, small_mini

from sbv2bench.boards import verifications as boards
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError
from sbv2bench.evaluation.evaluate import evaluate
from sbv2bench.evaluation.grid import sample_grid
from sbv2bench.registry import Registry
from sbv2bench.results import verifications
from sbv2bench.results.verifications import SIDE, Sent, Verification
from sbv2bench.verify import comparison
from sbv2bench.verify.verify import Verified, pixels, subject, verify

MODEL = "mini/sd-turbo"


@pytest.fixture(scope="module")
def registry() -> Registry:
    return small_mini()


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One cache for all of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SBV2BENCH_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="module")
def done(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Verified:
    return verify(MODEL, registry, tmp_path_factory.mktemp("out"), device="cpu")


@pytest.mark.weights
def test_its_numbers_and_pixels_are_those_of_eval_and_grid(done: Verified, registry: Registry) -> None:
    result = evaluate(MODEL, "mini", metrics="clip,attributes", device="cpu", registry=registry, use_cache=False)
    assert {key: score.value for key, score in done.record.scores.items()} == {
        key: metric.value for key, metric in result.metrics.items()
    }
    assert "latency_ms" not in done.record.scores
    images = sample_grid([MODEL], "mini", range(4), (0,), registry, device="cpu").images[0]
    assert [image.sha256 for image in done.record.pixels] == [pixels("", image).sha256 for image in images]
    assert len({image.sha256 for image in done.record.pixels}) == 4
    assert done.record.weights == result.model.weights
    assert done.record.made.dtype == "float32" and done.record.made.card


@pytest.mark.weights
def test_its_file_is_read_back_and_admitted(done: Verified, registry: Registry) -> None:
    assert verifications.load(done.path) == done.record
    assert boards.admit(done.path, registry) == done.record
    assert done.path.name.endswith(f"-{done.record.sha256[:8]}.json") and done.path.parent.name == "sd-turbo"
    with Image.open(done.picture) as picture:
        assert picture.width > 4 * 32
    with pytest.raises(InputError, match="another protocol"):
        boards.admit(done.path)  # the package's own suite has a thousand captions


@pytest.mark.weights
def test_a_second_run_is_what_the_first_found(done: Verified, registry: Registry, tmp_path: Path) -> None:
    again = verify(MODEL, registry, tmp_path, device="cpu").record
    spec = registry.model(MODEL)
    first = sent_by(done.record, "another card")
    lines = comparison.lines(again, spec, [first])
    assert lines and {line.verdict for line in lines} == {"as others found"}
    assert all("the same pixels as 1 of 1" in comparison.pixel_words(place, again.pixels[place], [first]) for place in range(4))


def sent_by(record: Verification, card: str, **scores: float) -> Sent:
    """What another machine would have sent, with other numbers."""
    content = record.sent().model_dump()
    content["made"]["card"] = card
    for key, value in scores.items():
        content["scores"][key]["value"] = value
    return Sent.model_validate(content)


@pytest.mark.weights
def test_numbers_far_from_everybody_elses_are_told(done: Verified, registry: Registry) -> None:
    score = done.record.scores["clip_score"]
    assert score.std_err
    near, far = score.value + 2 * score.std_err, score.value + 10 * score.std_err
    spec = registry.model(MODEL)

    def verdict(*values: float) -> str:
        sent = [sent_by(done.record, f"card {place}", clip_score=value) for place, value in enumerate(values)]
        return next(line.verdict for line in comparison.lines(done.record, spec, sent) if line.key == "clip_score")

    assert verdict(near) == verdict(far, score.value - score.std_err) == "as others found"
    assert "beyond what others found" in verdict(far)
    assert not verdict()
    mine = comparison.lines(done.record, spec, [done.record.sent()])
    assert {line.before for line in mine} == {()}  # its own file is nobody else's


@pytest.mark.weights
def test_scores_of_another_protocol_are_not_beside_it(done: Verified, registry: Registry) -> None:
    content = done.record.sent().model_dump()
    content["made"]["card"] = "other"
    content["scores"]["clip_score"]["fingerprint"] = "0" * 64
    lines = comparison.lines(done.record, registry.model(MODEL), [Sent.model_validate(content)])
    assert {line.key: len(line.before) for line in lines}["clip_score"] == 0
    assert {line.key: len(line.before) for line in lines}["attribute_accuracy"] == 1


def test_pixels_are_hashed_and_reduced() -> None:
    image = np.zeros((32, 24, 3), np.uint8)
    image[:4, :3] = (16, 32, 64)
    found = pixels("a caption", image)
    assert (found.height, found.width) == (32, 24)
    assert bytes.fromhex(found.reduced)[:6] == bytes([16, 32, 64, 0, 0, 0]) and len(found.reduced) == SIDE * SIDE * 6
    image[31, 23, 2] = 1
    assert pixels("a caption", image).sha256 != found.sha256
    other = pixels("a caption", np.full((32, 24, 3), 16, np.uint8))
    sent = Sent.model_construct(pixels=(other,) * 4)
    assert "at most 48 grey levels" in comparison.pixel_words(0, found, [sent])


def test_what_the_paper_prints_stands_beside(registry: Registry) -> None:
    spec = registry.model("full/sd-turbo")
    score = verifications.Score(label="CLIP", value=0.3, n_generated=200, fingerprint="0" * 64)
    record = Verification.model_construct(scores={"clip_score": score}, made=None)
    (line,) = comparison.lines(record, spec, [])
    assert line.printed and all(" on coco2014-30k" in text for text in line.printed)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("full/z-image-turbo", PrerequisiteError, "sbv2bench download full/z-image-turbo"),
        ("full/gigagan", PrerequisiteError, "only published numbers"),
        ("mini/real", InputError, "has no network"),
        ("Tongyi-MAI/Another-Model", InputError, "not of the package's catalog"),
    ],
)
def test_what_cannot_be_verified_is_refused_before_anything_is_sampled(
    name: str, error: type[Exception], words: str, tmp_path: Path
) -> None:
    with pytest.raises(error) as caught:
        verify(name, Registry.built_in(), tmp_path)
    assert words in f"{caught.value} {getattr(caught.value, 'fix', '')}"
    assert not list(tmp_path.iterdir())


def test_a_users_own_model_by_a_catalogs_family_is_refused(tmp_path: Path) -> None:
    registry = Registry.built_in()
    registry.source = "catalog mine.yaml"
    registry.add("model", registry.models["mini/sd21"].model_copy(update={"id": "mini/mine"}))
    with pytest.raises(InputError, match="not of the package's catalog"):
        subject("mini/mine", registry)


@pytest.mark.weights
def test_an_edited_file_is_refused(done: Verified, tmp_path: Path, registry: Registry) -> None:
    content = json.loads(done.path.read_text())
    content["scores"]["clip_score"]["value"] += 0.1
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(content))
    with pytest.raises(IntegrityError, match="edited"):
        boards.admit(path, registry)


def test_the_small_suite_is_of_the_size_that_these_tests_mean(registry: Registry) -> None:
    assert registry.suite("mini").num_generated == IMAGES
