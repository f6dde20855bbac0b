"""Forward passes that were counted are in the result, in the cache, and in what a plan says it will cost."""

from __future__ import annotations

from pathlib import Path

import pytest
from running import AsksMore, cache_of, run

from sbv2bench.errors import IntegrityError
from sbv2bench.evaluation import evaluate as spine
from sbv2bench.evaluation.costs import describe
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.evaluation.plan import plan
from sbv2bench.features.cache import FeatureCache
from sbv2bench.registry import Registry
from sbv2bench.results.records import ForwardPasses


def test_a_result_has_them_and_so_has_one_from_the_cache(registry: Registry, home: Path) -> None:
    result = run(registry, metrics="fid")
    steps, scale = result.model.steps, result.model.guidance_scale
    assert scale > 1
    assert result.forward_passes == ForwardPasses(calls=steps, rows_an_image=2 * steps)
    assert result.model.nfe == steps
    again = run(registry, metrics="fid")
    assert cache_of(again)[0] == "hit"
    assert again.forward_passes == result.forward_passes
    planned = plan("teacher", "tiny", EvalOptions.validated(metrics="fid", repeats=2), registry)
    assert planned.describe()["forward_passes_counted"] is True
    assert describe(planned, registry)["forward_passes"]["denoise"] == len(planned.prompts) * 2 * steps  # type: ignore[index]


def test_what_was_cached_before_they_were_counted_has_none(registry: Registry, home: Path) -> None:
    run(registry, metrics="fid")
    cache = FeatureCache(home / "features")
    for path in (home / "features").glob("*/manifest.json"):
        entry = cache.get(path.parent.name)
        assert entry is not None
        manifest = {name: value for name, value in entry.manifest.items() if name != "forward_passes"}
        cache.put(path.parent.name, entry.arrays, manifest)
    result = run(registry, metrics="fid")
    assert cache_of(result)[0] == "hit"
    assert result.forward_passes is None
    assert result.model.nfe == result.model.steps


def test_a_declared_number_that_is_not_counted_stops_the_run(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    real = spine.load_sampler
    monkeypatch.setattr(spine, "load_sampler", lambda *arguments: AsksMore(real(*arguments)))
    with pytest.raises(IntegrityError, match="local/teacher: NFE 3 is declared, and 4 noise levels in 4 calls were counted"):
        run(registry, metrics="fid")
