"""Each of today's pipeline classes is timed, and its forward passes are those that were counted."""

from __future__ import annotations

from pathlib import Path

import pytest
from twins import NAMES, twin_spec, write_twin

from sbv2bench.latency import measure as latency
from sbv2bench.latency.arithmetic import CeilingProbe
from sbv2bench.latency.plan import LatencyOptions, LatencyPlan, plan_latency
from sbv2bench.registry import Registry
from sbv2bench.results.records import LatencyProtocol

QUICK = LatencyProtocol(id="full", warm_up=1, runs=1, repeats=2, statistic="median")


@pytest.mark.ci
def test_every_twin_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = lambda device, dtype, clock: CeilingProbe(device, dtype, clock, sizes=(64, (1, 4, 8)))  # noqa: E731
    monkeypatch.setattr(latency, "CeilingProbe", small)
    registry = Registry.built_in()
    for name in NAMES:
        registry.add("model", twin_spec(name, write_twin(name, tmp_path / name)))
    options = LatencyOptions.validated(batch_sizes=(2,), results=tmp_path / "results")
    planned = plan_latency([f"local/{name}" for name in NAMES], options, registry)
    quick = LatencyPlan(planned.rows, LatencyOptions(QUICK, (2,)), planned.device, planned.dtype, (), planned.placements)
    found = {result.model.id.removeprefix("local/"): result for result in latency.measure_latency(quick, registry)}
    assert found.keys() == {*NAMES}
    once = {"lcm", "sana-sprint", "flux-schnell", "flux-dev", "flux2", "flux2-klein"}
    for name, result in found.items():
        assert (result.model.nfe, result.denoiser_calls) == (2, 2 if name in once else 4), name
        assert result.passes_counted and result.offload == "none"
        assert result.batches[0].total.value > 0 and sum(result.batches[0].flop.values()) > 0
        assert {"vae", "text_encoder"} < result.parameters.keys()
