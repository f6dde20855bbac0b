"""What is said of a metric beside its declaration: its networks, their cost, and words for people on every built-in one."""

from __future__ import annotations

import pytest

from sbv2bench.errors import InputError
from sbv2bench.evaluation.metric_card import CPU, GPU, metric_card
from sbv2bench.registry import Registry
from sbv2bench.specs import ExtractorSpec, MetricSpec

REGISTRY = Registry.built_in()


@pytest.mark.parametrize("name", REGISTRY.metrics)
def test_every_built_in_metric_has_words_for_people(name: str) -> None:
    metric = REGISTRY.metric(name)
    for field in ("title", "description", "confused_with", "punishes", "rewards_wrongly", "printed_by"):
        assert getattr(metric, field).strip(), field


@pytest.mark.parametrize("name", [name for name, metric in REGISTRY.metrics.items() if metric.extractor])
def test_every_network_of_a_built_in_metric_was_counted(name: str) -> None:
    found = metric_card(name, REGISTRY)["extractors"]
    assert isinstance(found, dict) and REGISTRY.metric(name).extractor in found
    for one in found.values():
        assert one["seconds_cpu"] == pytest.approx(one["tflop_1000_images"] / (0.3 * CPU), rel=0.05)
        assert one["seconds_gpu"] == pytest.approx(one["tflop_1000_images"] / (0.3 * GPU), rel=0.05)


def test_captions_count_where_they_are_read() -> None:
    found = metric_card("clip-l14", REGISTRY)["extractors"]
    assert isinstance(found, dict)
    assert found["clip-vit-l-14-openai"]["tflop_1000_images"] == pytest.approx(162.0 + 13.3, rel=0.005)


def test_what_nobody_has_counted_is_said() -> None:
    registry = Registry.built_in()
    registry.add("extractor", ExtractorSpec(id="mine", kind="module:Class"))
    metric = MetricSpec(id="m", target="m:f", keys=("m",), reads="features", extractor="mine", higher_is_better=True)
    registry.add("metric", metric)
    card = metric_card("m", registry)
    assert card["direction"] == "higher is better"
    assert card["extractors"] == {
        "mine": {"used": ["unless a suite names another"], "description": "", "tflop_1000_images": None}
    }
    assert metric_card("latency", registry) == {"direction": "lower is better"}
    with pytest.raises(InputError, match="unknown metric"):
        metric_card("n", registry)


def test_numbers_that_other_papers_print_stand_with_their_source() -> None:
    rows = metric_card("patch-fid-t", REGISTRY)["published"]
    assert isinstance(rows, list) and len(rows) == 14
    (hyper,) = [row for row in rows if row["method"] == "Hyper-FLUX"]
    assert (hyper["value"], hyper["nfe"]) == (23.47, 4) and "XingtongGe/SenseFlow@03091c5" in hyper["source"]
    every = [row for name in REGISTRY.metrics for row in metric_card(name, REGISTRY).get("published", ())]  # type: ignore[attr-defined]
    assert {row["metric"] for row in every} == {"fid", "fid_t", "patch_fid_t", "pickscore", "image_reward"}
    assert len(every) == 73 and all(row["protocol"] and "@" in row["source"] for row in every)
