"""Rows to numbers: arithmetic by hand, labels that say what was measured, and errors that are honest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sbv2bench.errors import InputError
from sbv2bench.evaluation import score as scoring
from sbv2bench.evaluation import set_metrics
from sbv2bench.evaluation.caption_metrics import attributes_right, clip_l14, clip_l14_336, image_reward, pickscore
from sbv2bench.evaluation.rows import Rows
from sbv2bench.evaluation.score import Labels, MetricRows, are_alike, score
from sbv2bench.metrics import frechet_distance, kernel_distance, precision_recall
from sbv2bench.metrics.blocks import least_share_std_err
from sbv2bench.metrics.frechet_infinity import frechet_infinity
from sbv2bench.metrics.uncertainty import frechet_statistics
from sbv2bench.mini import world
from sbv2bench.registry import Registry
from sbv2bench.results.records import MetricValue
from sbv2bench.specs import ExtractorSpec, MetricSpec

N = 40
LABELS = Labels("-mini", N)


@pytest.fixture
def features() -> Rows:
    rng = np.random.default_rng(0)
    generated = rng.normal(0.3, 1.0, (N, 8)).astype(np.float32)
    return Rows(generated=generated, reference=rng.normal(0.0, 1.0, (60, 8)).astype(np.float32))


def paired(cosines: NDArray[np.float64], false: NDArray[np.float64] | None = None) -> Rows:
    """Rows whose images have these cosines with their captions, and with the captions' hard negatives."""
    unit = np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1)
    text = np.tile([1.0, 0.0], (len(cosines), 1))
    if false is None:
        return Rows(generated=unit, text=text)
    turned = np.arccos(cosines) - np.arccos(false)
    return Rows(generated=unit, text=text, false_text=np.stack([np.cos(turned), np.sin(turned)], axis=1))


@pytest.fixture
def cosines() -> NDArray[np.float64]:
    return np.random.default_rng(0).uniform(-0.2, 0.4, N)


def block(
    registry: Registry, flag: str, *seeds: Rows, labels: Labels = LABELS, extractor: str | None = None
) -> dict[str, MetricValue]:
    """A metric as the suite `tiny` has it, or by another extractor, of some seeds' rows."""
    metric = registry.suite("tiny").changed(registry.metric(flag))
    name = extractor or metric.extractor
    spec = None if name is None else registry.extractor(name)
    rows = [replace(one, extractor=spec, parameters=metric.parameters) for one in seeds]
    return score([MetricRows(metric, "f" * 64, rows)], labels)[0]


def test_distances_are_those_of_metrics(features: Rows, registry: Registry) -> None:
    generated, real = features.pair()
    fid = block(registry, "fid", features)["fid"]
    assert fid.value == frechet_distance(generated, real)
    assert fid.std_err == frechet_statistics(generated, real)[1]
    assert fid.ci95 == pytest.approx((fid.value - 1.959964 * fid.std_err, fid.value + 1.959964 * fid.std_err), rel=1e-6)
    assert fid.uncertainty == "influence function over images of both sets"
    said = (fid.label, fid.direction, fid.n_generated, fid.n_reference, fid.extractor, fid.fingerprint)
    assert said == ("FID-mini", "lower", N, 60, "tiny-world", "f" * 64)
    kid = block(registry, "kid", features)["kid"]
    assert kid.value == kernel_distance(generated, real)
    assert kid.std_err is not None
    assert "U-statistic" in kid.uncertainty
    assert kid.ci95 == pytest.approx((kid.value - 1.959964 * kid.std_err, kid.value + 1.959964 * kid.std_err), rel=1e-6)
    expected = precision_recall(generated, real, k=3)
    found = block(registry, "pr", features)
    assert {name: value.value for name, value in found.items()} == {
        name: getattr(expected, name) for name in ("precision", "recall", "density", "coverage")
    }
    assert {value.direction for value in found.values()} == {"higher"}
    # generated and reference are not symmetric here: exchanged they would give other numbers
    swapped = precision_recall(real, generated, k=3)
    assert (swapped.precision, swapped.recall) == (expected.recall, expected.precision) != (expected.precision, expected.recall)


def test_the_references_radii_are_kept(features: Rows, registry: Registry) -> None:
    asked: list[str] = []

    def kept(name: str, make: Any) -> Any:
        asked.append(name)
        return make()

    assert block(registry, "pr", replace(features, kept=kept)) == block(registry, "pr", features)
    assert asked == ["radii-3"]


def of_dimension(rows: Rows, dimension: int) -> Rows:
    """The same images by their first features."""
    generated, reference = rows.pair()
    return replace(rows, generated=generated[:, :dimension], reference=reference[:, :dimension])


def test_no_error_of_fid_where_images_are_too_few(features: Rows, registry: Registry) -> None:
    few = replace(features, generated=features.pair()[0][:8])
    fid = block(registry, "fid", few)["fid"]
    assert (fid.std_err, fid.ci95) == (None, None)
    assert fid.uncertainty == "none: influence functions need more than D = 8 images of either set"
    assert block(registry, "fid", of_dimension(few, 7))["fid"].std_err is not None


def test_fid_infinity(features: Rows, registry: Registry) -> None:
    with pytest.raises(InputError, match="found 40 rows, at least 48 expected"):
        block(registry, "fid-infinity", features)
    enough = of_dimension(features, 6)
    found = block(registry, "fid-infinity", enough)["fid_infinity"]
    expected = frechet_infinity(*enough.pair())
    assert (found.value, found.std_err, found.label) == (expected.value, expected.std_err, "FID-infinity-mini")
    assert found.value < block(registry, "fid", enough)["fid"].value
    assert found.ci95 is not None
    assert found.details == {"slope": expected.slope, "distances": {"40": expected.distances[40], "20": expected.distances[20]}}


def test_precision_and_recall_have_an_interval_over_blocks(
    features: Rows, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = block(registry, "pr", features)["recall"]
    assert (few.std_err, few.ci95, few.uncertainty) == (None, None, "none: 10 blocks need 1,000 images of either set")
    monkeypatch.setattr(set_metrics, "_LEAST_IN_BLOCK", 4)
    generated, real = features.pair()
    blocks = [precision_recall(generated[b::10], real[b::10], k=3) for b in range(10)]
    found = block(registry, "pr", features)
    for name, value in found.items():
        std_err = np.std([getattr(part, name) for part in blocks], ddof=1) / np.sqrt(10)
        if name != "density":
            std_err = max(std_err, least_share_std_err(value.value, N if name == "precision" else 60))
        assert value.value == getattr(precision_recall(generated, real, k=3), name)
        assert value.std_err == pytest.approx(std_err)
        high = value.value + 2.262157 * std_err
        expected = max(value.value - 2.262157 * std_err, 0), high if name == "density" else min(high, 1)
        assert value.ci95 == pytest.approx(expected, rel=1e-6)
        assert value.uncertainty == "10 disjoint blocks of both sets, t interval"
    # float16 distances decide the same here, so both have the same error
    paper = block(registry, "pr-paper", features, extractor="tiny-world")["recall_paper"]
    assert paper.std_err == pytest.approx(found["recall"].std_err, rel=0.2)


def test_a_density_of_zero_has_no_interval(features: Rows, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_metrics, "_LEAST_IN_BLOCK", 4)
    far = block(registry, "pr", replace(features, generated=features.pair()[0] + 100))
    density, precision = far["density"], far["precision"]
    assert (density.value, density.std_err, density.ci95) == (0.0, None, None)
    assert density.uncertainty == "none: all 10 blocks have the same value"
    assert precision.value == 0.0 and precision.ci95 is not None and precision.ci95[1] > 0  # a share's error is never 0


def test_clip_is_a_mean_with_its_standard_error(cosines: NDArray[np.float64], registry: Registry) -> None:
    clip = block(registry, "clip", paired(cosines))["clip_score"]
    assert clip.value == pytest.approx(cosines.mean(), rel=1e-12)
    assert clip.std_err == pytest.approx(cosines.std(ddof=1) / np.sqrt(N))
    assert (clip.label, clip.uncertainty, clip.extractor) == ("CLIP-mini", "standard error over prompts", "tiny-clip")
    assert clip.n_reference is None and clip.details is None


def test_clip_margin_over_hard_negatives(cosines: NDArray[np.float64], registry: Registry) -> None:
    rng = np.random.default_rng(1)
    false = [cosines - by * rng.uniform(0.5, 1.5, N) for by in (0.1, 0.2, 0.4)]
    seeds = [paired(cosines, one) for one in false]
    first = block(registry, "clip", seeds[0])["clip_score"].details
    assert first is not None
    assert first["margin"]["value"] == pytest.approx((cosines - false[0]).mean())
    assert first["margin"]["std_err"] == pytest.approx((cosines - false[0]).std(ddof=1) / np.sqrt(N))
    over_seeds = block(registry, "clip", *seeds)["clip_score"].details
    assert over_seeds is not None
    means = [(cosines - one).mean() for one in false]
    assert over_seeds["margin"]["value"] == pytest.approx(np.mean(means))
    assert over_seeds["margin"]["std_err"] == pytest.approx(np.std(means, ddof=1) / np.sqrt(3))
    assert over_seeds["margin"]["n"] == N


STYLES = tuple(("photo", "neon")[i % 4 == 3] for i in range(N))


def test_hps_by_style(cosines: NDArray[np.float64], registry: Registry) -> None:
    hps = block(registry, "hps", replace(paired(cosines), styles=STYLES))["hps"]
    values, neon = 100 * cosines, np.arange(N) % 4 == 3
    assert hps.value == pytest.approx(values.mean())
    assert (hps.label, hps.unit) == ("HPS-mini", "100 x cosine")
    assert hps.styles is not None
    assert hps.styles.keys() == {"photo", "neon"}
    assert hps.styles["neon"]["n"] == 10
    assert hps.styles["neon"]["value"] == pytest.approx(values[neon].mean())
    assert hps.styles["neon"]["std_err"] == pytest.approx(values[neon].std(ddof=1) / np.sqrt(10))
    # ten groups: of one image each in neon, of three in photo
    assert hps.styles["neon"]["group_deviation"] == pytest.approx(values[neon].std())
    assert hps.styles["photo"]["group_deviation"] == pytest.approx(values[~neon].reshape(10, 3).mean(1).std())
    assert block(registry, "hps", paired(cosines))["hps"].styles is None
    full = block(registry, "hps-v21", paired(cosines), labels=Labels("", N))
    assert full["hps_v21"].label == "hpsv2-v2.1"  # which weights, where there are two


def test_attributes_right_counts_only_what_is_named() -> None:
    named = np.array([[0, 2, world.FREE], [1, world.FREE, 4]])
    read = np.array([[0, 1, 5], [1, 3, 4]])
    assert attributes_right(read, named).tolist() == [[1, 0, -1], [1, -1, 1]]
    assert attributes_right(read, named).dtype == np.int8


def test_attributes_are_right_when_every_named_one_is(registry: Registry) -> None:
    # style layout shape_0 colour_0 texture_0 size shape_1 colour_1 texture_1
    right = np.array(
        [
            [1, 1, 1, 1, -1, 1, -1, -1, -1],
            [1, 1, 0, 1, -1, -1, -1, -1, -1],
            [1, 1, 1, 1, -1, -1, 0, 1, 1],
            [1, 1, 1, 1, 1, -1, 1, 1, -1],
        ]
    )
    named = np.where(right < 0, world.FREE, 2)
    rows = Rows(generated=np.where(right == 0, 3, 2), attributes=named)
    found = block(registry, "attributes", rows)["attribute_accuracy"]
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
        ("-mini", 40, True, "FID-mini@40"),
        ("", 48, False, "FID"),
    ],
)
def test_a_label_that_names_a_count_names_the_one_that_was_measured(
    features: Rows, registry: Registry, *, suffix: str, n: int, partial: bool, label: str
) -> None:
    assert Labels(suffix, n, partial).label("FID") == label
    rows = replace(features, generated=np.resize(features.pair()[0], (n, 8)))
    if n < 100:
        assert block(registry, "fid", rows, labels=Labels(suffix, n, partial))["fid"].label == label


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


def test_latency_is_labelled_quick(registry: Registry) -> None:
    timed = {"median_ms": 12.5, "p5_ms": 11.0, "p95_ms": 20.0, "stages_ms": {"denoise": 10.0}, "runs": 7}
    found = block(registry, "latency", Rows(latency=timed))["latency_ms"]
    assert (found.value, found.unit, found.label, found.n_generated) == (12.5, "ms", "latency (quick)", 7)
    assert found.repeats == () and found.ci95 is None
    assert found.details is not None
    assert found.details["stages_ms"] == {"denoise": 10.0}
    assert timed["median_ms"] == 12.5  # the input is as it was


def test_repeats_are_a_mean_with_an_interval_over_seeds(cosines: NDArray[np.float64], registry: Registry) -> None:
    seeds = [replace(paired(cosines + by), styles=STYLES) for by in (0.0, 0.1, 0.5)]
    clip = block(registry, "clip", *seeds)["clip_score"]
    each = [block(registry, "clip", one)["clip_score"].value for one in seeds]
    assert clip.repeats == tuple(each)
    assert clip.value == pytest.approx(np.mean(each))
    std_err = np.std(each, ddof=1) / np.sqrt(3)
    assert clip.std_err == pytest.approx(std_err)
    assert clip.ci95 == pytest.approx((np.mean(each) - 4.302653 * std_err, np.mean(each) + 4.302653 * std_err), rel=1e-6)
    assert clip.uncertainty == "t interval over generation seeds (generation noise only)"
    one_run = block(registry, "clip", seeds[0])["clip_score"]  # a shift changes no error
    assert clip.details == {"one_run_std_err": pytest.approx(one_run.std_err), "one_run_method": "standard error over prompts"}
    styles = block(registry, "hps", *seeds)["hps"].styles
    assert styles is not None
    neon = [block(registry, "hps", one)["hps"].styles["neon"]["value"] for one in seeds]  # type: ignore[index]
    assert styles["neon"]["value"] == pytest.approx(np.mean(neon))
    assert styles["neon"]["std_err"] == pytest.approx(np.std(neon, ddof=1) / np.sqrt(3))
    assert styles["neon"]["n"] == 10


def test_one_seed_has_no_repeats(cosines: NDArray[np.float64], registry: Registry) -> None:
    clip = block(registry, "clip", paired(cosines))["clip_score"]
    assert clip.repeats == ()
    assert clip.uncertainty == "standard error over prompts"
    assert clip.details is None
    assert clip.std_err is not None
    assert clip.ci95 == pytest.approx((clip.value - 1.959964 * clip.std_err, clip.value + 1.959964 * clip.std_err), rel=1e-6)


def test_what_each_caption_scored_is_kept_for_every_seed(cosines: NDArray[np.float64], registry: Registry) -> None:
    metric = registry.suite("tiny").changed(registry.metric("clip"))
    seeds = [replace(paired(cosines + by), extractor=registry.extractor("tiny-clip")) for by in (0.0, 0.1)]
    found, values = score([MetricRows(metric, "f", seeds)], LABELS)
    assert values["clip_score"].shape == (2, N) and values["clip_score"].dtype == np.float32
    np.testing.assert_allclose(values["clip_score"][1], cosines + 0.1, rtol=1e-5)
    assert found["clip_score"].each is None


def test_seeds_that_gave_the_same_images_are_told() -> None:
    """But for what a GPU may differ by."""
    rows = {"a": np.random.default_rng(0).normal(size=(N, 3)), "b": np.arange(N)}
    moved = {"a": rows["a"] * (1 + 1e-5), "b": rows["b"]}
    assert are_alike([rows, rows, moved])
    assert not are_alike([rows, {**rows, "a": rows["a"] + 0.1}])
    assert not are_alike([rows]) and not are_alike([{}, {}])


def test_a_share_at_its_limit_has_no_interval_over_seeds(registry: Registry) -> None:
    """The images differ and the numbers do not: nothing is known of how far they scatter."""
    right = Rows(generated=np.full((N, 9), 2), attributes=np.full((N, 9), 2))
    found = block(registry, "attributes", right, right, right)["attribute_accuracy"]
    one_run = block(registry, "attributes", right)["attribute_accuracy"]
    assert found.repeats == (1.0, 1.0, 1.0)
    assert (found.ci95, found.uncertainty) == (one_run.ci95, one_run.uncertainty)
    assert found.ci95 is not None and found.ci95[0] < 0.95


def test_a_mean_of_values_that_are_all_the_same_has_no_interval(registry: Registry) -> None:
    found = block(registry, "clip", paired(np.full(N, 0.25)))["clip_score"]
    assert (found.value, found.std_err, found.ci95) == (pytest.approx(0.25), None, None)
    assert found.uncertainty.startswith("none")


def own(rows: Rows) -> dict[str, MetricValue]:
    assert rows.generated is not None
    return {"own": MetricValue(value=float(len(rows.generated)))}


def scored(target: str, rows: Rows, keys: tuple[str, ...] = ("own",)) -> MetricValue:
    metric = MetricSpec(
        id="own", target=target, keys=keys, reads="features", extractor="x", higher_is_better=True, title="one's own"
    )
    return score([MetricRows(metric, "f", [rows])], LABELS)[0]["own"]


def test_a_metric_of_ones_own(features: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its function does not say of a value, a run fills in."""
    monkeypatch.setattr(scoring, "own", own, raising=False)
    found = scored("sbv2bench.evaluation.score:own", features)
    assert (found.value, found.label, found.direction, found.n_generated, found.n_reference) == (
        N,
        "one's own-mini",
        "higher",
        N,
        60,
    )
    with pytest.raises(InputError, match="expected own, more"):
        scored("sbv2bench.evaluation.score:own", features, ("own", "more"))
    for target in ("sbv2bench.evaluation.score:nothing", "nowhere:own", "nocolon"):
        with pytest.raises(InputError, match="cannot be imported"):
            scored(target, features)


def test_catalog_and_functions_agree(features: Rows, cosines: NDArray[np.float64], registry: Registry) -> None:
    """Every built-in metric gives the keys that it declares, in the direction that it declares."""
    named = np.full((N, 9), 2)
    by_reads: dict[str, Rows] = {
        "features": of_dimension(features, 6),
        "paired": paired(cosines),
        "attributes": Rows(generated=named, attributes=named),
        "scorer": Rows(generated=cosines.astype(np.float32)),
        "latency": Rows(latency={"median_ms": 12.5, "runs": 7}),
    }
    built_in: Sequence[MetricSpec] = [spec for spec in registry.metrics.values() if spec.target.startswith("sbv2bench.")]
    assert len(built_in) >= 10
    for spec in built_in:
        extractor = {"features": "tiny-world", "paired": "tiny-clip", "attributes": "tiny-attributes"}.get(spec.reads)
        rows = by_reads[spec.reads]
        if spec.images_per_prompt > 1 and rows.text is not None:  # half as many captions, two images each
            rows = replace(rows, images_per_prompt=2, text=rows.text[: len(rows.text) // 2])
        elif spec.images_per_prompt > 1:
            rows = replace(rows, images_per_prompt=2, reference=rows.pair()[1][:N])  # a teacher's are of the same captions
        for value in block(registry, spec.id, rows, extractor=extractor).values():
            assert value.direction == spec.direction


def test_frechet_distances_of_other_features_say_which(features: Rows) -> None:
    expected = set_metrics.fid(features)["fid"]
    patches = ExtractorSpec(id="p", kind="inception", preparation="patch299")
    found = {
        "patch-FID-299px": set_metrics.patch_fid(replace(features, extractor=patches))["patch_fid"],
        "patch-FID-T-299px": set_metrics.patch_fid_t(replace(features, extractor=patches))["patch_fid_t"],
        "patch-FID": set_metrics.patch_fid(features)["patch_fid"],
        "FD-DINOv2": set_metrics.fd_dinov2(features)["fd_dinov2"],
    }
    for label, value in found.items():
        assert value == expected.model_copy(update={"label": label})


def test_scores_are_averaged_with_their_error_and_by_style() -> None:
    scores = np.array([1.0, -2.0, 0.5, 4.5], np.float32)
    for target, key, label in ((pickscore, "pickscore", "PickScore"), (image_reward, "image_reward", "ImageReward")):
        value = target(Rows(generated=scores, styles=("anime", "photo", "anime", "photo")))[key]
        assert (value.value, value.label) == (1.0, label)
        assert value.std_err == pytest.approx(scores.std(ddof=1) / 2, rel=1e-6)
        assert value.styles is not None and value.styles["anime"]["value"] == 0.75
        assert value.each is not None and np.array_equal(value.each, scores)


def test_clip_scores_by_other_networks_have_names_of_their_own(cosines: NDArray[np.float64]) -> None:
    rows = replace(paired(cosines), extractor=ExtractorSpec(id="c", kind="clip"))
    found = {**clip_l14(rows), **clip_l14_336(rows)}
    assert {key: value.label for key, value in found.items()} == {
        "clip_score_l14": "CLIP-L14",
        "clip_score_l14_336": "CLIP-L14-336",
    }
    for value in found.values():
        assert value.value == pytest.approx(cosines.mean())
