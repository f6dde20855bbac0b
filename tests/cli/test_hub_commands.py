"""Commands of somebody whose model is on the hub, against a hub on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from commands_in_process import Done, refused
from standin_hub import StandinHub
from tiny_models import write_tiny_pipeline

Run = Callable[..., Done]
EVAL = ("eval", "--model", "lab/model", "--limit", "4", "--batch-size", "2", "--metrics", "clip", "--device", "cpu")


@pytest.fixture
def served(standin: StandinHub, tmp_path_factory: pytest.TempPathFactory) -> StandinHub:
    standin.repositories["lab/model"] = write_tiny_pipeline(tmp_path_factory.mktemp("served") / "model")
    return standin


def test_a_dry_run_fetches_nothing_and_says_how_much_a_run_would(run: Run, served: StandinHub) -> None:
    done = run(*EVAL, "--dry-run", "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    weights = sum(path.stat().st_size for path in served.repositories["lab/model"].rglob("*.safetensors"))
    assert weights < document["download_bytes"]["hub:lab/model"] < weights + 50_000
    assert served.fetched() <= {"model_index.json"}


@pytest.mark.ci
def test_a_bare_hub_id_is_fetched_evaluated_and_fetched_no_more(
    run: Run,
    served: StandinHub,
    without_network: Callable[[], None],
) -> None:
    done = run(*EVAL, "--guidance-scale", "1", "--json")
    assert done.code == 0, done.err
    assert "50 steps by the defaults of StableDiffusionPipeline" in done.err and done.err.count("note: model") == 1
    model = json.loads(done.out)["model"]
    assert (model["steps"], model["guidance_scale"]) == (50, 1.0)
    again = run(*EVAL, "--dry-run", "--json")
    assert json.loads(again.out)["download_bytes"] == {}
    without_network()
    assert run(*EVAL, "--guidance-scale", "1").code == 0
    assert run("download", "lab/model").code == 0


def test_download_offline_says_what_is_missing_and_what_no_network_brings(
    run: Run,
    served: StandinHub,
    without_network: Callable[[], None],
    own_home: Path,
) -> None:
    catalog = """
models:
  full/ours: {sampler: one_step, location: "home:ours", base: "hub:lab/model", steps: 1,
    origin: "python -m reference_trainer train paper/sbv2-b"}
"""
    Path("own.yaml").write_text(catalog)
    refused(run("download", "full/ours", "--catalog", "own.yaml"), 3, "no network brings home:ours (python -m", "mkdir -p")
    assert "unet/diffusion_pytorch_model.safetensors" in served.fetched()  # what can be had is here already
    without_network()
    Path("own.yaml").write_text(catalog.replace("lab/model", "lab/other"))
    done = run("download", "full/ours", "--catalog", "own.yaml")
    refused(done, 3, "offline, and 2 of its locations", "hub:lab/other", "no network brings home:ours")
    assert "fix: HF_HUB_OFFLINE=0 SBV2BENCH_OFFLINE=0 sbv2bench download full/ours" in done.err
    assert str(own_home) not in done.error()
    done = run("eval", "--model", "full/ours", "--catalog", "own.yaml", "--suite", "hpsv2")
    assert done.code == 3


def test_a_connection_that_breaks_is_exit_3_with_what_is_kept(
    run: Run, served: StandinHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sbv2bench.data import hub

    monkeypatch.setattr(hub, "ATTEMPTS", 1)
    served.resets, served.breaks = True, {"vae/diffusion_pytorch_model.safetensors": 9}
    refused(run(*EVAL), 3, "the connection broke", "are kept", "fix: sbv2bench download hub:lab/model")
    assert not Path("results").exists()
