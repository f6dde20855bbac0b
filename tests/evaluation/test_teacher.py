"""Metrics that compare with the teacher's images: which images those are, what the numbers mean, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from running import run
from tiny_suite import GENERATED

import sbv2bench
from sbv2bench.errors import InputError
from sbv2bench.evaluation.evaluator import Evaluator
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.evaluation.plan import TEACHER_SEEDS, plan
from sbv2bench.features.base import is_of_images, load_extractor
from sbv2bench.metrics import frechet_distance
from sbv2bench.registry import Registry
from sbv2bench.samplers.base import PromptBlock, Stopwatch, image_seed
from sbv2bench.specs import IN_MEMORY, ModelSpec, SuiteSpec


@pytest.fixture
def with_teacher(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Registry:
    student = registry.models["local/student"].model_copy(update={"teacher": "local/teacher"})
    monkeypatch.setitem(registry.models, "local/student", student)
    suite: SuiteSpec = registry.suite("tiny")
    own = next(one for one in suite.metrics if one.id == "fid")
    added = ("fid-t", "diversity", "diversity-t")
    more = tuple(own.model_copy(update={"id": name, "on_request": True}) for name in added)
    monkeypatch.setitem(
        registry.suites,
        "tiny",
        suite.model_copy(update={"metrics": (*(one for one in suite.metrics if one.id not in added), *more)}),
    )
    return registry


def features_of_teacher(registry: Registry, captions: tuple[str, ...], seed: int) -> np.ndarray:
    """The teacher's images of captions one by one, measured: by what is public, without an evaluation."""
    sampler = sbv2bench.load_model("local/teacher", registry=registry)
    spec = registry.extractor("tiny-world")
    network = load_extractor(spec)
    assert is_of_images(network, spec)
    blocks = [PromptBlock(i, i, 1, (text,), (image_seed(seed, i),)) for i, text in enumerate(captions)]
    return np.concatenate([network(sampler.generate(block, Stopwatch())) for block in blocks])


def test_the_reference_is_the_teachers_own_images_of_the_captions(with_teacher: Registry) -> None:
    result = run(with_teacher, "student", metrics="fid,fid-t")
    planned = plan("local/student", "tiny", EvalOptions.validated(metrics="fid-t", device="cpu"), with_teacher)
    assert planned.teacher is not None and planned.teacher.seeds == TEACHER_SEEDS
    captions = planned.prompts.captions
    first, second = (features_of_teacher(with_teacher, captions, seed) for seed in TEACHER_SEEDS)
    student = sbv2bench.load_model("local/student", registry=with_teacher)
    spec = with_teacher.extractor("tiny-world")
    network = load_extractor(spec)
    assert is_of_images(network, spec)
    own = np.concatenate([
        network(student.generate(PromptBlock(i, i, 1, (text,), (image_seed(0, i),)), Stopwatch()))
        for i, text in enumerate(captions)
    ])  # fmt: skip
    found = result.metrics["fid_t"]
    assert found.value == pytest.approx(frechet_distance(own, first), rel=1e-3)
    assert found.details is not None and found.details["floor"]["value"] == pytest.approx(
        frechet_distance(second, first), rel=1e-3
    )
    assert (found.n_generated, found.n_reference) == (GENERATED, GENERATED)
    said = result.protocol("fid_t")["reference"]
    assert (said["teacher"]["steps"], said["teacher"]["guidance_scale"], said["seed"]) == (3, 2.0, TEACHER_SEEDS[0])
    assert result.metrics["fid"] == run(with_teacher, "student", metrics="fid").metrics["fid"]


@pytest.mark.ci
def test_a_teacher_is_sampled_once_for_all_its_students(with_teacher: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    before = run(with_teacher, "student", metrics="fid-t")
    monkeypatch.setattr("sbv2bench.evaluation.evaluate.load_sampler", lambda *_: pytest.fail("it was in the cache"))
    assert run(with_teacher, "student", metrics="fid-t").metrics == before.metrics


@pytest.mark.ci
def test_another_guidance_of_the_teacher_is_another_metric(with_teacher: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    before = run(with_teacher, "student", metrics="fid-t")
    teacher = with_teacher.models["local/teacher"].model_copy(update={"guidance_scale": 3.0})
    monkeypatch.setitem(with_teacher.models, "local/teacher", teacher)
    after = run(with_teacher, "student", metrics="fid-t")
    assert after.metrics["fid_t"].fingerprint != before.metrics["fid_t"].fingerprint
    assert after.metrics["fid_t"].value != before.metrics["fid_t"].value


@pytest.mark.ci
def test_diversity_is_of_several_images_and_of_the_teacher_too(with_teacher: Registry) -> None:
    result = run(with_teacher, "student", metrics="diversity,diversity-t", images_per_prompt=3)
    distance, ratio = result.metrics["pairwise_distance"], result.metrics["pairwise_distance_ratio"]
    assert distance.label.startswith("pairwise distance K=3") and distance.n_generated == 3 * GENERATED
    assert ratio.n_reference == 3 * GENERATED and ratio.details is not None
    assert ratio.value == pytest.approx(distance.value / ratio.details["teacher"])
    assert ratio.details["floor"]["value"] == pytest.approx(1, abs=0.5)
    assert 1 <= result.metrics["vendi"].value <= 3


def test_a_model_in_memory_has_its_teacher_sampled_for_it(with_teacher: Registry) -> None:
    """By the same spine as the command: the same numbers and floor, and the teacher's rows are kept for the next."""
    held = ModelSpec(id="local/in-memory", sampler=IN_MEMORY, steps=1, teacher="local/teacher")
    evaluator = Evaluator("tiny", "fid-t,diversity-t", model=held, registry=with_teacher, device="cpu", images_per_prompt=2)
    sampler = sbv2bench.load_model("local/student", registry=with_teacher)
    for block in evaluator.blocks():
        evaluator.update(block, sampler.generate(block, Stopwatch()))
    found = evaluator.compute()
    expected = run(with_teacher, "student", metrics="fid-t,diversity-t", images_per_prompt=2)
    for key in ("fid_t", "pairwise_distance_ratio"):
        assert found.metrics[key].value == expected.metrics[key].value
        assert found.metrics[key].fingerprint == expected.metrics[key].fingerprint
        assert (found.metrics[key].details or {})["floor"] == (expected.metrics[key].details or {})["floor"]
    assert evaluator.plan.teacher is not None and evaluator.plan.teacher.is_cached(TEACHER_SEEDS[0])


def test_what_cannot_be_is_refused(with_teacher: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"--metrics fid-t: it needs a teacher, which model local/teacher does not have"):
        run(with_teacher, "teacher", metrics="fid,fid-t")
    with pytest.raises(InputError, match="--images-per-prompt: found 1, metric diversity needs at least 2 images"):
        run(with_teacher, "student", metrics="diversity")
    with pytest.raises(InputError, match="it needs a teacher, which model local/in-memory does not have"):
        Evaluator("tiny", "fid-t", registry=with_teacher, device="cpu")
    lost = with_teacher.models["local/student"].model_copy(update={"teacher": "local/nobody"})
    monkeypatch.setitem(with_teacher.models, "local/student", lost)
    with pytest.raises(InputError, match="teacher of local/student: unknown model 'local/nobody'"):
        run(with_teacher, "student", metrics="fid-t")
