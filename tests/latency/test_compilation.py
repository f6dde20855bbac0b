"""What is compiled of a model, and that nothing is compiled while the clock runs. The compiler is dynamo without inductor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.latency import compilation
from sbv2bench.latency.measure import measure_latency
from sbv2bench.latency.plan import LatencyOptions, plan_latency
from sbv2bench.registry import Registry
from sbv2bench.results.records import LatencyProtocol

SHORT = LatencyProtocol(id="full", warm_up=1, runs=2, repeats=2, statistic="median")


@pytest.fixture(autouse=True)
def without_inductor(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Graphs are made and guarded as ever, and then run as they are."""
    whole = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, dynamic, mode: whole(self, dynamic=dynamic, backend="eager"))
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.weights
def test_all_networks_are_compiled_once_a_batch_size(tmp_path: Path) -> None:
    registry = Registry.built_in()
    options = LatencyOptions(SHORT, (1, 2), compiled=True, device="cpu", results=tmp_path)
    (result,) = measure_latency(plan_latency(["mini/sd-turbo-taesd"], options, registry), registry)
    assert result.compiled == ("text_encoder", "denoiser", "decoder") and not result.cuda_graphs
    assert all(batch.compile_s is not None and 1000 * batch.compile_s > batch.total.value for batch in result.batches)
    assert result.passes_counted  # which needs them as they were


def test_a_decoder_is_compiled_where_its_autoencoder_calls_it() -> None:
    vae = nn.Module()
    vae.decoder = nn.Linear(1, 1)
    networks = {"text_encoder_2": nn.Linear(1, 1), "transformer": nn.Linear(1, 1), "vae": vae, "image_encoder": nn.Linear(1, 1)}
    found = compilation.compilable(networks, "a model")
    assert list(found) == ["text_encoder_2", "denoiser", "decoder"]
    assert found["decoder"] is vae.decoder
    with pytest.raises(InputError, match="a model shows no network that could be compiled"):
        compilation.compilable({"vae": vae}, "a model")


def test_another_graph_while_the_clock_runs_is_no_time_of_compiled_code() -> None:
    network = nn.Linear(2, 2)
    compilation.compile_parts({"denoiser": network}, graphs=False)
    compilation.first_compiled(lambda: network(torch.ones(1, 2)), "the denoiser")
    with compilation.compiled_once(compiled=True):
        network(torch.zeros(1, 2))
    with pytest.raises(IntegrityError, match="made 1 graphs more while the clock ran"), compilation.compiled_once(compiled=True):
        network(torch.ones(3, 2))  # a batch size that was not there before


@pytest.mark.parametrize("compiled", [True, False])
def test_graphs_need_a_card_and_compiled_parts(compiled: bool) -> None:
    with pytest.raises(InputError, match="expected a CUDA device" if compiled else "--compile --cuda-graphs"):
        options = LatencyOptions.validated(compiled=compiled, graphs=True, device="cpu")
        plan_latency(["mini/sd-turbo"], options, Registry.built_in())
