"""What the key of kept rows and the fingerprint of a metric depend on, and what they do not."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from tiny_suite import write_tiny_suite

from sbv2bench import provenance
from sbv2bench.evaluation import plan as plan_module
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.evaluation.plan import EvalPlan, plan
from sbv2bench.registry import Registry
from sbv2bench.specs import ExtractorSpec


def planned(registry: Registry, model: str = "student", **options: object) -> EvalPlan:
    return plan(model, "tiny", EvalOptions.validated(**options), registry)  # type: ignore[arg-type]


def key_of(found: EvalPlan, seed: int = 0, k: int = 0) -> str:
    return found.generated_key("tiny-clip", seed, k)


def test_keys_change_with_what_can_change_a_number(registry: Registry) -> None:
    base = key_of(planned(registry, "teacher"))
    assert key_of(planned(registry, "teacher")) == base
    others = {
        "seed": key_of(planned(registry, "teacher"), seed=1),
        "image": key_of(planned(registry, "teacher"), k=1),
        "extractor": planned(registry, "teacher").generated_key("tiny-hps", 0),
        "guidance": key_of(planned(registry, "teacher", guidance_scale=3.0)),
        "steps": key_of(planned(registry, "teacher", steps=4)),
        "dtype": key_of(planned(registry, "teacher", dtype="bfloat16")),
        "limit": key_of(planned(registry, "teacher", limit=20)),
        "model": key_of(planned(registry, "student")),
    }
    assert len({base, *others.values()}) == len(others) + 1
    # where files lie, what the results folder is called, how many are made at a time and what else is measured changes nothing
    same = {"results": "elsewhere", "batch_size": 5, "metrics": "clip"}
    assert key_of(planned(registry, "teacher", **same)) == base


def test_code_and_libraries_are_in_every_key(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def keys() -> list[str]:
        found = planned(registry)
        return [key_of(found), found.reference_key("tiny-world"), found.text_key("tiny-clip")]

    before = keys()
    for name, value in (("measuring_fingerprint", lambda: "other"), ("library_version", lambda package: "other")):
        with monkeypatch.context() as patch:
            patch.setattr(plan_module.provenance, name, value)
            assert not {*keys()} & {*before}


ROOMS = {  # a file of each, of which an edit may change pixels or features, and those of which none does
    True: [
        "samplers/one_step.py", "features/clip.py", "mini/rendering.py", "mini/world.py", "evaluation/generate.py",
        "diffusion.py", "weights.py", "data/preparation.py", "data/images.py",
    ],
    False: [
        "evaluation/evaluate.py", "evaluation/score.py", "evaluation/set_metrics.py",
        "latency/measure.py", "compare/compare.py",
        "boards/boards.py",
        "report/terminal.py", "metrics/frechet.py", "data/hub.py", "catalog/suites.yaml", "cli/eval.py", "registry.py",
        "specs.py", "reproduce/table.py", "errors.py", "provenance.py",
    ],
}  # fmt: skip


def test_an_edit_is_a_miss_where_it_may_change_pixels_or_features(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a copy of the package; cached rows are asked for again with the hash of what it is then."""
    found = planned(registry)
    place = tmp_path / "sbv2bench"
    shutil.copytree(provenance.PACKAGE, place, ignore=shutil.ignore_patterns("weights", "__pycache__"))

    def keys() -> list[str]:
        source = provenance.modules_fingerprint(provenance.MEASURING, place)
        monkeypatch.setattr(plan_module.provenance, "measuring_fingerprint", lambda: source)
        fresh = replace(found)
        return [key_of(fresh), fresh.reference_key("tiny-world")]

    for name, misses in ((name, misses) for misses, names in ROOMS.items() for name in names):
        before = keys()
        (place / name).write_text((place / name).read_text("utf-8") + "\n# mended\n", "utf-8")
        assert (keys() != before) == misses, name


def test_an_edit_of_a_plugin_is_a_miss_for_what_it_measures(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "somebodys_extractor.py"
    module.write_text("class Own: ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = planned(registry)
    own = {**found.extractors, "own": ExtractorSpec(id="own", kind="somebodys_extractor:Own")}
    found = replace(found, extractors=own)
    before = found.generated_key("own", 0), key_of(found)
    module.write_text("class Own: ...  # mended\n")
    provenance.plugin_fingerprint.cache_clear()
    after = found.generated_key("own", 0), key_of(found)
    assert after[0] != before[0] and after[1] == before[1]


def fingerprints(found: EvalPlan) -> dict[str, str]:
    return {metric.id: found.fingerprint_of(metric) for metric in found.metrics}


def test_a_metrics_fingerprint_does_not_depend_on_how_a_run_is_cut(registry: Registry) -> None:
    """One column of a leaderboard: seeds, blocks, models and asked-for metrics may differ; captions and N may not."""
    base = fingerprints(planned(registry, "teacher"))
    assert len({*base.values()}) == len(base)
    for same in ({"model": "student"}, {"seed": 4}, {"batch_size": 3}, {"metrics": "fid"}, {"repeats": 2}, {"dtype": "bfloat16"}):
        found = fingerprints(planned(registry, **{"model": "teacher", **same}))  # type: ignore[arg-type]
        assert found.items() <= base.items()
    assert not {*fingerprints(planned(registry, "teacher", limit=20)).values()} & {*base.values()}


def test_naming_one_more_metric_moves_no_other_fingerprint(tmp_path: Path) -> None:
    """Nor do labels, targets and descriptions; a version, a parameter, an extractor or the reference's number do."""
    document = yaml.safe_load(write_tiny_suite(tmp_path / "own").read_text())

    def found(**suite: object) -> dict[str, str]:
        changed = {**document, "suites": {"tiny": {**document["suites"]["tiny"], **suite}}}
        (tmp_path / "changed.yaml").write_text(yaml.safe_dump(changed))
        return fingerprints(planned(Registry.load(tmp_path / "changed.yaml")))

    base, metrics = found(), document["suites"]["tiny"]["metrics"]
    more = found(metrics={**metrics, "latency": {}}, label_suffix="-x", description="y", look=2, block_size=3)
    assert base.items() <= more.items() and set(more) - set(base) == {"latency"}
    other = found(metrics={**metrics, "pr": {"extractor": "tiny-world", "parameters": {"k": 2}}})
    assert {name for name in base if base[name] != other[name]} == {"pr"}
    other = found(num_reference=39)
    assert {name for name in base if base[name] != other[name]} == {"fid", "pr", "kid"}
    assert not {*found(caption_offset=1).values()} & {*base.values()}


def test_the_gpus_number_is_in_no_key(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    found = plan("student", "tiny", EvalOptions.validated(), registry)
    assert key_of(replace(found, block_size=3)) == key_of(found)
    monkeypatch.setattr("sbv2bench.provenance.device_name", lambda _: "one GPU")
    keys = {key_of(replace(found, device=device)) for device in ("cuda", "cuda:0", "cuda:1")}
    assert len(keys) == 1 and key_of(replace(found, device="cpu")) not in keys
