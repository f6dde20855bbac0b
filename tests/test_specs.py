"""Declarations: frozen, strict, and fingerprinted by what can change a number and by nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from sbv2bench.errors import InputError
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.registry import Registry
from sbv2bench.specs import ExtractorSpec, MergeSpec, MetricSpec, ModelSpec, WeightsFile, fingerprint


def model(**changes: Any) -> ModelSpec:
    return ModelSpec(id="mini/x", family="mini", sampler="multi_step").model_copy(update=changes)


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 24},
        {"guidance_scale": 2.5},
        {"scheduler": "ddim"},
        {"sampler": "one_step"},
        {"timestep": 749},
        {"alpha_T": 0.5},
        {"prediction_type": "epsilon"},
        {"resolution": 64},
        {"revision": "abc"},
        {"weights": (WeightsFile(path="a", sha256="b"),)},
        {"merge": MergeSpec(a="x", b="y", weight=0.5)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_changes_a_number_changes_the_fingerprint(change: dict[str, Any]) -> None:
    assert model(**change).fingerprint() != model().fingerprint()


@pytest.mark.parametrize(
    "change",
    [
        {"id": "mini/y"},
        {"location": "elsewhere"},
        {"base": "elsewhere"},
        {"licence": "MIT"},
        {"description": "d"},
        {"verified": True},
        {"aliases": ("z",)},
        {"trained_with": {"scorers": ("hps-mini-train",)}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_remarks_do_not_change_the_fingerprint(change: dict[str, Any]) -> None:
    assert model(**change) != model()
    assert model(**change).fingerprint() == model().fingerprint()


def test_what_changes_an_extractors_numbers_is_in_its_fingerprint() -> None:
    """And nothing else: neither where its files lie nor how it is named to people."""
    plain = ExtractorSpec(id="x", kind="open_clip", location="here", files=("a",), label="l", description="d")
    assert plain.gives == "paired"
    remarks = {"location": "", "files": (), "label": "", "description": "", "family": "mini"}
    assert plain.model_copy(update=remarks).fingerprint() == plain.fingerprint()
    changes: list[dict[str, Any]] = [{"architecture": "ViT-H-14"}, {"preparation": "antialias"}, {"channels": "bgr"}]
    assert len({plain.model_copy(update=change).fingerprint() for change in [{}, *changes, {"gives": "features"}]}) == 5


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"reads": "features", "target": "m:f"}, "names the extractor"),
        ({"reads": "latency", "target": "m:f", "extractor": "x"}, "neither an extractor nor a reference"),
        ({"reads": "scores", "reference": "suite"}, "neither an extractor nor a reference"),
        ({"reads": "features", "extractor": "x"}, "a target"),
        ({"reads": "pixels", "extractor": "x", "target": "m:f"}, "reads"),
    ],
)
def test_a_metrics_fields_go_together(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        MetricSpec(id="m", keys=("m",), higher_is_better=True, **fields)


def test_a_metric_of_imported_scores_needs_no_target() -> None:
    assert MetricSpec(id="m", keys=("m",), reads="scores", higher_is_better=True).target == ""


def test_fingerprints_do_not_depend_on_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1, "b": [2, 1]}) != fingerprint({"a": 1, "b": [1, 2]})
    assert fingerprint({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"  # sha256 of "{}"


def test_specs_are_frozen_and_know_no_other_keys() -> None:
    with pytest.raises(ValidationError):
        model().steps = 3  # type: ignore[misc]
    with pytest.raises(ValidationError):
        ModelSpec(id="x", sampler="pipeline", stepz=3)  # type: ignore[call-arg]


def test_every_built_in_suite_and_model_can_be_looked_up() -> None:
    registry = Registry.load()
    for suite in registry.suites:
        assert registry.suite(suite).id == suite
    for name in registry.models:
        assert registry.model(name).id == name
    assert registry.suite("mini-choosing").prompts.split == "choosing"
    assert len({registry.suite(name).fingerprint() for name in registry.suites}) == len(registry.suites)


GOOD: dict[str, list[Any]] = {
    "limit": [2, 5000, None],
    "seed": [0, 2**63 - 1],
    "repeats": [1, 1000],
    "steps": [1, 1000, None],
    "guidance_scale": [0.0, 1.0, 100.0, None],
    "device": ["auto", "cpu", "cuda", "cuda:7", "mps"],
    "dtype": ["auto", "float32", "float16", "bfloat16"],
    "batch_size": ["auto", "1", "10000", 50, None],
    "save_images": ["none", "sample", "all"],
    "metrics": ["all", "fid", "fid,pr", " fid , pr ", None],
}
BAD: dict[str, list[Any]] = {
    "limit": [1, 0, -5],
    "seed": [-1, 2**63],
    "repeats": [0, -1, 1001],
    "steps": [0, -1, 1001],
    "guidance_scale": [-0.1, 100.1, float("nan"), float("inf")],
    "device": ["gpu", "cuda:", "cuda:-1", "tpu", "", "CPU"],
    "dtype": ["fp16", "float64", ""],
    "batch_size": ["0", "-1", "10001", "many", "", 0],
    "save_images": ["some", ""],
    "metrics": ["", ",", "fid,,pr"],
}


@pytest.mark.parametrize(("option", "value"), [(option, value) for option, values in GOOD.items() for value in values])
def test_options_that_can_be_meant(option: str, value: Any) -> None:
    EvalOptions.validated(**{option: value})


@pytest.mark.parametrize(("option", "value"), [(option, value) for option, values in BAD.items() for value in values])
def test_options_that_cannot_be_meant(option: str, value: Any) -> None:
    with pytest.raises(InputError) as caught:
        EvalOptions.validated(**{option: value})
    assert caught.value.message.startswith(f"--{option.replace('_', '-')}: found {value!r}, expected ")


def test_the_last_seed_of_the_repeats_must_be_one_too() -> None:
    assert EvalOptions.validated(seed=2**63 - 3, repeats=3).seed == 2**63 - 3
    with pytest.raises(InputError, match="--seed"):
        EvalOptions.validated(seed=2**63 - 3, repeats=4)


@pytest.mark.parametrize(("device", "fix"), [("gpu", "cuda"), ("cdua", "cuda"), ("cpuu", "cpu")])
def test_a_device_gets_a_suggestion(device: str, fix: str) -> None:
    with pytest.raises(InputError) as caught:
        EvalOptions.validated(device=device)
    assert caught.value.fix == f"--device {fix}"


def test_options_as_typed_become_options_as_used() -> None:
    options = EvalOptions.validated(metrics="pr,fid,pr", batch_size="16", results="~/x")
    assert options.metrics == ("pr", "fid")
    assert options.batch_size == 16
    assert options.results == Path("~/x").expanduser()
    assert EvalOptions.validated(metrics="fid,all").metrics == "all"
    assert EvalOptions.validated().metrics is None
