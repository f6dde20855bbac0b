"""Rows to numbers: arithmetic by hand, labels that say what was measured, and errors that are honest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sbv2bench.data.prompts import Prompts
from sbv2bench.errors import InputError
from sbv2bench.evaluation import score as scoring
from sbv2bench.evaluation.score import FeatureSets, score
from sbv2bench.metrics import frechet_distance, kernel_distance, precision_recall
from sbv2bench.metrics.blocks import least_share_std_err
from sbv2bench.metrics.frechet_infinity import frechet_infinity
from sbv2bench.metrics.precision_recall import radii
from sbv2bench.metrics.uncertainty import frechet_std_err
from sbv2bench.registry import Registry
from sbv2bench.results.records import MetricValue
from sbv2bench.specs import MetricSpec

N = 40


@pytest.fixture
def sets(registry: Registry) -> FeatureSets:
    rng = np.random.default_rng(0)
    suite = registry.suite("tiny")
    generated = {
        "features": rng.normal(0.3, 1.0, (N, 8)).astype(np.float32),
        "attributes": rng.integers(-1, 2, (N, 9)).astype(np.int8),
        "clip": rng.uniform(-0.2, 0.4, N),
        "hps": rng.uniform(20, 30, N),
    }
    real = rng.normal(0.0, 1.0, (60, 8)).astype(np.float32)
    styles = tuple(("photo", "neon")[i % 4 == 3] for i in range(N))
    prompts = Prompts(tuple(f"caption {i}" for i in range(N)), styles)
    extractors = {
        "features": registry.extractor("tiny-world"),
        "clip": registry.extractor("tiny-clip"),
        "hps": registry.extractor("tiny-hps"),
    }
    return FeatureSets(suite, extractors, prompts, generated, {"features": real, "radii": radii(real, 3)})


def test_distances_are_those_of_metrics(sets: FeatureSets) -> None:
    generated, real = sets.generated["features"], sets.reference["features"]  # type: ignore[index]
    fid = scoring.fid(sets)["fid"]
    assert fid.value == frechet_distance(generated, real)
    assert fid.std_err == frechet_std_err(generated, real)
    assert fid.ci95 == pytest.approx((fid.value - 1.959964 * fid.std_err, fid.value + 1.959964 * fid.std_err), rel=1e-6)
    assert fid.uncertainty == "influence function over images of both sets"
    assert (fid.label, fid.direction, fid.n_generated, fid.n_reference, fid.extractor) == (
        "FID-mini",
        "lower",
        N,
        60,
        "tiny-world",
    )
    kid = scoring.kid(sets)["kid"]
    assert kid.value == kernel_distance(generated, real)
    assert kid.std_err is not None
    assert "U-statistic" in kid.uncertainty
    assert kid.ci95 == pytest.approx((kid.value - 1.959964 * kid.std_err, kid.value + 1.959964 * kid.std_err), rel=1e-6)
    expected = precision_recall(generated, real, k=3)
    found = scoring.pr(sets)
    assert {name: value.value for name, value in found.items()} == {
        name: getattr(expected, name) for name in ("precision", "recall", "density", "coverage")
    }
    assert {value.direction for value in found.values()} == {"higher"}
    # generated and reference are not symmetric here: exchanged they would give other numbers
    swapped = precision_recall(real, generated, k=3)
    assert (swapped.precision, swapped.recall) == (expected.recall, expected.precision) != (expected.precision, expected.recall)
    assert scoring.pr(replace(sets, reference={"features": real}))["recall"].value == expected.recall


def few_features(sets: FeatureSets, dimension: int) -> FeatureSets:
    """The same images by their first features."""
    assert sets.reference is not None
    generated = {**sets.generated, "features": sets.generated["features"][:, :dimension]}
    return replace(sets, generated=generated, reference={"features": sets.reference["features"][:, :dimension]})


def test_no_error_of_fid_where_images_are_too_few(sets: FeatureSets) -> None:
    few = replace(sets, generated={**sets.generated, "features": sets.generated["features"][:8]})
    fid = scoring.fid(few)["fid"]
    assert (fid.std_err, fid.ci95) == (None, None)
    assert fid.uncertainty == "none: influence functions need more than D = 8 images of either set"
    assert scoring.fid(few_features(few, 7))["fid"].std_err is not None


def test_fid_infinity(sets: FeatureSets) -> None:
    with pytest.raises(InputError, match="found 40 rows, at least 48 expected"):
        scoring.fid_infinity(sets)
    enough = few_features(sets, 6)
    found = scoring.fid_infinity(enough)["fid_infinity"]
    expected = frechet_infinity(enough.generated["features"], enough.reference["features"])  # type: ignore[index]
    assert (found.value, found.std_err, found.label) == (expected.value, expected.std_err, "FID-infinity-mini")
    assert found.value < scoring.fid(enough)["fid"].value
    assert found.ci95 is not None
    assert found.details == {"slope": expected.slope, "distances": {"40": expected.distances[40], "20": expected.distances[20]}}


def test_precision_and_recall_have_an_interval_over_blocks(sets: FeatureSets, monkeypatch: pytest.MonkeyPatch) -> None:
    few = scoring.pr(sets)["recall"]
    assert (few.std_err, few.ci95, few.uncertainty) == (None, None, "none: 10 blocks need 1,000 images of either set")
    monkeypatch.setattr(scoring, "_LEAST_IN_BLOCK", 4)
    generated, real = sets.generated["features"], sets.reference["features"]  # type: ignore[index]
    blocks = [precision_recall(generated[b::10], real[b::10], k=3) for b in range(10)]
    for name, value in scoring.pr(sets).items():
        std_err = np.std([getattr(block, name) for block in blocks], ddof=1) / np.sqrt(10)
        if name != "density":
            std_err = max(std_err, least_share_std_err(value.value, N if name == "precision" else 60))
        assert value.value == getattr(precision_recall(generated, real, k=3), name)
        assert value.std_err == pytest.approx(std_err)
        high = value.value + 2.262157 * std_err
        expected = max(value.value - 2.262157 * std_err, 0), high if name == "density" else min(high, 1)
        assert value.ci95 == pytest.approx(expected, rel=1e-6)
        assert value.uncertainty == "10 disjoint blocks of both sets, t interval"
    paper = replace(
        sets,
        generated={"pr_paper": generated},
        reference={"pr_paper": real},
        extractors={"pr_paper": sets.extractors["features"]},
    )
    # float16 distances decide the same here, so both have the same error
    assert scoring.pr_paper(paper)["recall_paper"].std_err == pytest.approx(scoring.pr(sets)["recall"].std_err, rel=0.2)


def test_a_density_of_zero_has_no_interval(sets: FeatureSets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "_LEAST_IN_BLOCK", 4)
    far = replace(sets, generated={**sets.generated, "features": sets.generated["features"] + 100})
    density, precision = (scoring.pr(far)[name] for name in ("density", "precision"))
    assert (density.value, density.std_err, density.ci95) == (0.0, None, None)
    assert density.uncertainty == "none: all 10 blocks have the same value"
    assert precision.value == 0.0 and precision.ci95 is not None and precision.ci95[1] > 0  # a share's error is never 0


def test_clip_is_a_mean_with_its_standard_error(sets: FeatureSets) -> None:
    clip = scoring.clip(sets)["clip_score"]
    values = sets.generated["clip"]
    assert clip.value == pytest.approx(values.mean(), rel=1e-15)
    assert clip.std_err == pytest.approx(values.std(ddof=1) / np.sqrt(N))
    assert (clip.label, clip.uncertainty, clip.extractor) == ("CLIP-mini", "standard error over prompts", "tiny-clip")
    assert clip.n_reference is None


def test_clip_margin_over_hard_negatives(sets: FeatureSets, registry: Registry) -> None:
    assert scoring.clip(sets)["clip_score"].details is None
    rng = np.random.default_rng(1)

    def with_negatives(by: float) -> FeatureSets:
        return replace(sets, generated={**sets.generated, "clip_false": sets.generated["clip"] - by * rng.uniform(0.5, 1.5, N)})

    seeds = [with_negatives(by) for by in (0.1, 0.2, 0.4)]
    differences = [one.generated["clip"] - one.generated["clip_false"] for one in seeds]
    first = scoring.clip(seeds[0])["clip_score"].details
    assert first is not None
    assert first["margin"]["value"] == pytest.approx(differences[0].mean())
    assert first["margin"]["std_err"] == pytest.approx(differences[0].std(ddof=1) / np.sqrt(N))
    over_seeds = score([registry.metric("clip")], seeds)["clip_score"].details
    assert over_seeds is not None
    means = [difference.mean() for difference in differences]
    assert over_seeds["margin"]["value"] == pytest.approx(np.mean(means))
    assert over_seeds["margin"]["std_err"] == pytest.approx(np.std(means, ddof=1) / np.sqrt(3))
    assert over_seeds["margin"]["n"] == N


def test_hps_by_style(sets: FeatureSets) -> None:
    hps = scoring.hps(sets)["hps"]
    values, neon = sets.generated["hps"], np.arange(N) % 4 == 3
    assert hps.value == pytest.approx(values.mean())
    assert hps.styles is not None
    assert hps.styles.keys() == {"photo", "neon"}
    assert hps.styles["neon"]["n"] == 10
    assert hps.styles["neon"]["value"] == pytest.approx(values[neon].mean())
    assert hps.styles["neon"]["std_err"] == pytest.approx(values[neon].std(ddof=1) / np.sqrt(10))
    # ten groups: of one image each in neon, of three in photo
    assert hps.styles["neon"]["group_deviation"] == pytest.approx(values[neon].std())
    assert hps.styles["photo"]["group_deviation"] == pytest.approx(values[~neon].reshape(10, 3).mean(1).std())
    nameless = replace(sets, prompts=Prompts(sets.prompts.captions))
    assert scoring.hps(nameless)["hps"].styles is None


def test_attributes_are_right_when_every_named_one_is(sets: FeatureSets) -> None:
    # style layout shape_0 colour_0 texture_0 size shape_1 colour_1 texture_1
    right = np.array(
        [
            [1, 1, 1, 1, -1, 1, -1, -1, -1],
            [1, 1, 0, 1, -1, -1, -1, -1, -1],
            [1, 1, 1, 1, -1, -1, 0, 1, 1],
            [1, 1, 1, 1, 1, -1, 1, 1, -1],
        ],
        dtype=np.int8,
    )
    found = scoring.attributes(replace(sets, generated={"attributes": right}))["attribute_accuracy"]
    assert found.value == 0.5
    assert found.std_err == pytest.approx(0.25)
    assert found.ci95 == pytest.approx((0.150039, 0.849961), rel=1e-5)  # Wilson's of 2 in 4
    assert found.uncertainty == "binomial over prompts, Wilson interval"
    assert found.details == {
        "style": {"value": 1.0, "n": 4},
        "layout": {"value": 1.0, "n": 4},
        "shape": {"value": 4 / 6, "n": 6},
        "colour": {"value": 1.0, "n": 6},
        "texture": {"value": 1.0, "n": 2},
        "size": {"value": 1.0, "n": 1},
    }
    assert found.label == "attributes-mini"
    assert found.n_reference is None


def test_partial_results_carry_their_n_in_the_label(sets: FeatureSets) -> None:
    cut = replace(sets, partial=True)
    assert scoring.fid(cut)["fid"].label == f"FID-mini@{N}"
    assert scoring.hps(cut)["hps"].label == f"HPS-mini@{N}"
    plain = replace(sets, suite=sets.suite.model_copy(update={"label_suffix": ""}))
    assert scoring.clip(plain)["clip_score"].label == "CLIP"


@pytest.mark.parametrize(
    ("suffix", "n", "partial", "label"),
    [
        ("-30k", 48, False, "FID-48"),
        ("-30k", 48, True, "FID@48"),
        ("-30k-mini", 5000, False, "FID-5k-mini"),
        ("-5000", 48, False, "FID-48"),
        ("-30K", 30_000, False, "FID-30k"),
        ("-256px", 48, False, "FID-256px"),
        ("-mini", 48, False, "FID-mini"),
    ],
)
def test_a_label_that_names_a_count_names_the_one_that_was_measured(
    sets: FeatureSets, suffix: str, n: int, partial: bool, label: str
) -> None:
    suite = sets.suite.model_copy(update={"label_suffix": suffix})
    own = replace(sets, suite=suite, prompts=Prompts(tuple("x" * n)), partial=partial)
    assert own.value("FID", 1.0, "lower", "features").label == label


def test_labels_of_plugins_and_of_stored_files_name_their_own_count() -> None:
    fields: dict[str, Any] = {"value": 1.0, "direction": "lower"}
    assert MetricValue(label="patch-FID-10k", n_generated=48, **fields).label == "patch-FID-48"
    assert (
        MetricValue.model_validate_json('{"value": 1, "label": "FID-30k", "direction": "lower", "n_generated": 48}').label
        == "FID-48"
    )
    for label in ("FID-30k", "FID-30k-own"):
        assert MetricValue(label=label, n_generated=30_000, **fields).label == label
    for label in ("hpsv2-v2.0", "clip-l14-336", "FID-infinity", "precision (paper)"):
        assert MetricValue(label=label, n_generated=48, **fields).label == label


def test_latency_is_labelled_quick(sets: FeatureSets) -> None:
    with pytest.raises(InputError, match="latency"):
        scoring.latency(sets)
    timed = {"median_ms": 12.5, "p5_ms": 11.0, "p95_ms": 20.0, "stages_ms": {"denoise": 10.0}, "runs": 7}
    found = scoring.latency(replace(sets, latency=timed))["latency_ms"]
    assert (found.value, found.unit, found.label, found.n_generated) == (12.5, "ms", "latency (quick)", 7)
    assert found.details is not None
    assert found.details["stages_ms"] == {"denoise": 10.0}
    assert timed["median_ms"] == 12.5  # the input is as it was


def shifted(sets: FeatureSets, by: float) -> FeatureSets:
    moved = {**sets.generated, "clip": sets.generated["clip"] + by, "hps": sets.generated["hps"] + 10 * by}
    return replace(sets, generated=moved)


def test_repeats_are_a_mean_with_an_interval_over_seeds(sets: FeatureSets, registry: Registry) -> None:
    seeds = [shifted(sets, by) for by in (0.0, 0.1, 0.5)]
    block = score([registry.metric("clip"), registry.metric("hps")], seeds)
    each = [scoring.clip(one)["clip_score"].value for one in seeds]
    clip = block["clip_score"]
    assert clip.repeats == tuple(each)
    assert clip.value == pytest.approx(np.mean(each))
    std_err = np.std(each, ddof=1) / np.sqrt(3)
    assert clip.std_err == pytest.approx(std_err)
    assert clip.ci95 == pytest.approx((np.mean(each) - 4.302653 * std_err, np.mean(each) + 4.302653 * std_err), rel=1e-6)
    assert clip.uncertainty == "t interval over generation seeds (generation noise only)"
    one_run = scoring.clip(sets)["clip_score"]  # a shift changes no error
    assert clip.details == {"one_run_std_err": pytest.approx(one_run.std_err), "one_run_method": "standard error over prompts"}
    styles = block["hps"].styles
    assert styles is not None
    neon = [scoring.hps(one)["hps"].styles["neon"]["value"] for one in seeds]  # type: ignore[index]
    assert styles["neon"]["value"] == pytest.approx(np.mean(neon))
    assert styles["neon"]["std_err"] == pytest.approx(np.std(neon, ddof=1) / np.sqrt(3))
    assert styles["neon"]["n"] == 10


def test_one_seed_has_no_repeats(sets: FeatureSets, registry: Registry) -> None:
    block = score([registry.metric("clip"), registry.metric("fid")], [sets])
    assert list(block) == ["clip_score", "fid"]
    assert block["clip_score"].repeats == ()
    clip = block["clip_score"]
    assert clip.uncertainty == "standard error over prompts"
    assert clip.details is None
    assert clip.std_err is not None
    assert clip.ci95 == pytest.approx((clip.value - 1.959964 * clip.std_err, clip.value + 1.959964 * clip.std_err), rel=1e-6)


def test_seeds_that_gave_the_same_images_count_once(sets: FeatureSets, registry: Registry) -> None:
    """But for what a GPU may differ by: no repeats, and the error that one run has."""
    moved = {name: array * (1 + 1e-5) if array.dtype.kind == "f" else array for name, array in sets.generated.items()}
    metrics = [registry.metric("clip"), registry.metric("kid")]
    assert score(metrics, [sets, sets, replace(sets, generated=moved)]) == score(metrics, [sets])
    assert score(metrics, [sets, shifted(sets, 0.1)])["clip_score"].repeats


def test_a_share_at_its_limit_has_no_interval_over_seeds(sets: FeatureSets, registry: Registry) -> None:
    """The images differ and the numbers do not: nothing is known of how far they scatter."""
    rng = np.random.default_rng(0)
    right = {**sets.generated, "attributes": np.ones_like(sets.generated["attributes"])}
    seeds = [replace(sets, generated={**right, "clip": rng.normal(size=N)}) for _ in range(3)]
    found = score([registry.metric("attributes")], seeds)["attribute_accuracy"]
    one_run = scoring.attributes(seeds[0])["attribute_accuracy"]
    assert found.repeats == (1.0, 1.0, 1.0)
    assert (found.ci95, found.uncertainty) == (one_run.ci95, one_run.uncertainty)
    assert found.ci95 is not None and found.ci95[0] < 0.95


def test_a_mean_of_values_that_are_all_the_same_has_no_interval(sets: FeatureSets) -> None:
    found = scoring.clip(replace(sets, generated={**sets.generated, "clip": np.full(N, 0.25)}))["clip_score"]
    assert (found.value, found.std_err, found.ci95) == (0.25, None, None)
    assert found.uncertainty.startswith("none")


def test_latency_is_taken_once_whatever_the_repeats(sets: FeatureSets, registry: Registry) -> None:
    timed = replace(sets, latency={"median_ms": 12.5, "runs": 7})
    found = score([registry.metric("latency")], [timed, timed, timed])["latency_ms"]
    assert found.repeats == ()
    assert found.ci95 is None


def metric(target: str, keys: tuple[str, ...] = ("own",)) -> MetricSpec:
    return MetricSpec(id="own", target=target, keys=keys, needs=("features",), higher_is_better=True)


def own(sets: FeatureSets) -> dict[str, Any]:
    return {"own": sets.value("own", float(len(sets.prompts)), "higher", "features")}


def test_a_metric_of_ones_own(sets: FeatureSets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "own", own, raising=False)
    assert score([metric("sbv2bench.evaluation.score:own")], [sets])["own"].value == N
    with pytest.raises(InputError, match="expected own, more"):
        score([metric("sbv2bench.evaluation.score:own", ("own", "more"))], [sets])
    for target in ("sbv2bench.evaluation.score:nothing", "nowhere:own", "nocolon"):
        with pytest.raises(InputError, match="cannot be imported"):
            score([metric(target)], [sets])


def test_catalog_and_functions_agree(sets: FeatureSets, registry: Registry) -> None:
    """Every built-in metric gives the keys that it declares, in the direction that it declares."""
    sets = few_features(sets, 6)
    assert sets.reference is not None
    timed = replace(
        sets,
        latency={"median_ms": 12.5, "runs": 7},
        generated={**sets.generated, "pr_paper": sets.generated["features"], "hps_v21": sets.generated["hps"]},
        reference={**sets.reference, "pr_paper": sets.reference["features"]},
        extractors={**sets.extractors, "pr_paper": sets.extractors["features"], "hps_v21": sets.extractors["hps"]},
    )
    for spec in registry.metrics.values():
        if spec.target.startswith("sbv2bench."):
            for value in score([spec], [timed]).values():
                assert value.direction == ("higher" if spec.higher_is_better else "lower")


def test_no_reference_is_an_error(sets: FeatureSets) -> None:
    with pytest.raises(InputError, match="no reference"):
        scoring.fid(replace(sets, reference=None))
