"""`list`, `show`, `doctor`, `leaderboard` and `cache` as a user meets them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from commands_in_process import Done, refused
from sample_results import sample_result, write_safetensors
from sample_verification import MODEL, sample

from sbv2bench import __version__
from sbv2bench.results import store


def test_list(run: Callable[..., Done]) -> None:
    for what, first in (("models", "mini/sd21"), ("suites", "mini"), ("metrics", "fid"), ("extractors", "world-128")):
        rows = json.loads(run("list", what, "--json").out)
        assert rows[0]["id"] == first
        assert {"id", "family", "kind", "origin", "licence", "verified", "what_it_is"} <= set(rows[0])
        shown = run("list", what)
        assert (shown.code, shown.err) == (0, "")
        lines = shown.out.splitlines()
        assert not [row["id"] for row in rows if not any(row["id"] in line and row["what_it_is"] in line for line in lines)]
    assert json.loads(run("list", "plugins", "--json").out) == []
    assert run("list", "plugins") == Done(0, "", "no plugins on this machine\n")
    refused(run("list", "modles"), 2, "modles", "fix: sbv2bench list models")


def test_list_says_what_a_person_chooses_by(run: Callable[..., Done]) -> None:
    rows = {
        what: {row["id"]: row for row in json.loads(run("list", what, "--json").out)} for what in ("models", "suites", "metrics")
    }
    teacher, published = rows["models"]["mini/sd21"], rows["models"]["full/dmd"]
    assert (teacher["steps"], teacher["guidance_scale"], teacher["here"]) == (25, 3.0, True)
    assert (published["steps"], published["here"]) == (None, False)
    assert rows["models"]["full/sd-turbo"]["here"] is False
    assert rows["models"]["mini/sbv2-merged"]["here"] is True  # by its two ends
    group = rows["suites"]["paper"]
    assert (group["captions"], group["reference"], group["here"]) == (33200, 40504, False)
    assert (rows["suites"]["mini"]["captions"], rows["suites"]["mini"]["here"]) == (1000, True)
    fid, clip = rows["metrics"]["fid"], rows["metrics"]["clip"]
    assert (fid["better"], fid["reads_captions"], "mini" in fid["suites"]) == ("lower", False, True)
    assert (clip["better"], clip["reads_captions"]) == ("higher", True)
    assert "\nmachine" in run("list", "suites").out.replace(" ", "")


def test_show(run: Callable[..., Done]) -> None:
    assert json.loads(run("show", "sd21", "--json").out)["id"] == "mini/sd21"
    assert json.loads(run("show", "mini", "--json").out)["num_generated"] == 1000
    assert json.loads(run("show", "pr", "--json").out)["keys"] == ["precision", "recall", "density", "coverage"]
    assert "num_reference: 5000" in run("show", "mini-5k").out
    refused(run("show", "mini-6k"), 2, "did you mean 'mini-5k'")


def test_list_tells_models_apart_at_a_glance(run: Callable[..., Done]) -> None:
    rows = {row["id"]: row for row in json.loads(run("list", "models", "--json").out)}
    for name, sampling, licence, gated in (
        ("mini/sd21", "multi-step UNet", "Apache-2.0", False),
        ("full/sd-turbo", "one-step UNet", "Stability AI Community License", False),
        ("full/sdxl-lightning-8step", "few-step UNet", "OpenRAIL++-M", False),
        ("full/sana-sprint-1step", "one-step transformer", "Apache-2.0", False),
        ("full/z-image-turbo", "few-step transformer", "Apache-2.0", False),
        ("full/flux1-dev", "multi-step transformer", "FLUX.1 [dev] Non-Commercial License", True),
        ("full/gigagan", "published numbers only", "", False),
        ("full/gigagan-images", "images that exist", "unknown", False),
        ("mini/real", "renderings", "Apache-2.0", False),
    ):
        found = rows[name]
        assert (found["sampling"], found["licence"], found["gated"]) == (sampling, licence, gated), name
    shown = next(line for line in run("list", "models").out.splitlines() if line.startswith("full/z-image-turbo "))
    cells = re.split(" {2,}", shown)
    assert cells[:7] == ["full/z-image-turbo", "few-step transformer", "8", "0", "no", "no", "Apache-2.0"]


def test_a_narrow_terminal_has_a_line_for_a_model(run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    from sbv2bench.report import terminal

    monkeypatch.setattr(terminal, "stdout_console", lambda: Console(width=120, highlight=False))
    lines = run("list", "models").out.splitlines()
    rows = [line for line in lines if line.startswith(("full/z-image-turbo ", "full/qwen-image-lightning-8step "))]
    assert len(rows) == 2 and all("Apache-2.0" in row and "transformer" in row for row in rows)
    assert "decoupled DMD" not in "\n".join(lines)


def card(text: str) -> dict[str, str]:
    """The lines of a model's card by heading."""
    lines = [line.strip().split("  ", 1) for line in text.splitlines()[1:]]
    return {heading: words.strip() for heading, words in lines}


def test_show_reads_like_a_model_card(run: Callable[..., Done]) -> None:
    text = run("show", "full/z-image-turbo").out
    assert text.splitlines()[0] == "full/z-image-turbo"
    told = card(text)
    assert told["sampling"] == "few-step transformer: 8 steps, by ZImagePipeline"
    assert told["guidance"].startswith("none: one forward pass a step") and "above 0 each step takes two" in told["guidance"]
    assert (told["dtype"], told["size"]) == ("bfloat16 on a GPU, float32 on a CPU", "32.9 GB to download")
    assert (told["licence"], told["gated"], told["on this machine"]) == ("Apache-2.0", "no", "no")
    assert "its card" in told["settings from"] and "#13730" in told["changes with"] and "diffusers>=0.36" in told["needs"]
    assert told["next"] == "sbv2bench download full/z-image-turbo"
    assert told["verified"].startswith("by nobody yet")


@pytest.mark.parametrize(
    ("name", "heading", "words"),
    [
        ("full/flux1-dev", "guidance", "3.5, an input of the network: one forward pass a step"),
        ("full/flux1-dev", "gated", "yes: accept the licence at https://huggingface.co/black-forest-labs/FLUX.1-dev,"),
        ("full/flux2-dev-turbo", "gated", "https://huggingface.co/black-forest-labs/FLUX.2-dev,"),
        ("full/flux2-dev-turbo", "sampling", "8 steps at sigma = 1, 0.6509,"),
        ("full/pixart-sigma", "guidance", "4.5, as uncond + g (cond - uncond): two forward passes a step"),
        ("full/pixart-sigma", "stated nowhere", "size, what it is called with"),
        ("full/sana-sprint-1step", "called with", "max_timesteps=1.5708, intermediate_timesteps=None"),
        ("full/flux1-schnell", "called with", "max_sequence_length=256"),
        ("full/qwen-image-lightning-8step", "guidance", "scale 1 (true_cfg_scale)"),
        ("full/qwen-image-lightning-8step", "files", "the scheduler of package:catalog/qwen-image-lightning"),
        ("full/nitrosd-realism", "sampling", "one-step UNet: 1 step at t = 249, by StableDiffusionXLPipeline, scheduler lcm"),
        ("full/sd-turbo", "guidance", "none: one forward pass"),
        ("full/sd-turbo-taesd", "files", "the autoencoder of hub:madebyollin/taesd"),
        ("full/gigagan", "published in", "table 3 (GigaGAN), table 8 (GigaGAN)"),
        ("full/gigagan", "next", "sbv2bench reproduce table3 --plan"),
        ("mini/sbv2-merged", "files", "0.5 of mini/sbv2-a and 0.5 of mini/sbv2-b, merged on load"),
        ("mini/sbv2-merged", "next", "sbv2bench verify mini/sbv2-merged"),
        ("mini/sbv2-merged", "on this machine", "yes"),
        ("somebody/some-model-of-theirs", "next", "sbv2bench download hub:somebody/some-model-of-theirs"),
    ],
)
def test_show_says_in_plain_words(name: str, heading: str, words: str, run: Callable[..., Done]) -> None:
    assert words in card(run("show", name).out)[heading]


def test_show_tells_guidance_by_the_pipelines_own_rule() -> None:
    from sbv2bench.machine.model_card import guidance_in_words
    from sbv2bench.registry import Registry

    turbo = Registry.built_in().models["full/z-image-turbo"]
    guided = turbo.model_copy(update={"guidance_scale": 4.0, "guidance": "cfg", "negative_prompt": "blur"})
    assert guidance_in_words(guided) == "4, as cond + g (cond - uncond): two forward passes a step, negative prompt 'blur'"


@pytest.mark.weights
def test_show_says_how_often_a_model_was_verified_and_by_what(run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    from sbv2bench.results import verifications

    first = sample().sent()
    later = sample(made__card="NVIDIA RTX 5090", made__date_utc="2026-12-02T10:00:00Z").sent()
    monkeypatch.setattr(verifications, "shipped", lambda: (first,))
    assert card(run("show", MODEL).out)["verified"] == (
        "once, on NVIDIA H100 (float16, torch 2.14.0+cu130, diffusers 0.42.1, 2026-12-01)"
    )
    monkeypatch.setattr(verifications, "shipped", lambda: (first, later))
    assert card(run("show", MODEL).out)["verified"].startswith("2 times, on NVIDIA RTX 5090 (float16,")
    turbo = later.model_copy(update={"model": "full/z-image-turbo", "settings": fingerprint_of("full/z-image-turbo")})
    monkeypatch.setattr(verifications, "shipped", lambda: (turbo,))
    assert "once, on NVIDIA RTX 5090" in run("show", "full/z-image-turbo").out
    rows = {row["id"]: row for row in json.loads(run("list", "models", "--json").out)}
    assert (rows["full/z-image-turbo"]["verified"], rows["full/sd-turbo"]["verified"]) == (True, False)


def fingerprint_of(name: str) -> str:
    from sbv2bench.registry import Registry

    return Registry.built_in().models[name].fingerprint()


def test_show_says_what_a_metric_is_for(run: Callable[..., Done]) -> None:
    shown = run("show", "pickscore")
    words = ("confused_with: ", "punishes: ", "rewards_wrongly: ", "printed_by: ", "direction: higher is better", "an estimate")
    assert [word for word in words if word not in shown.out] == []
    assert shown.out.index("rewards_wrongly") < shown.out.index("images_per_prompt")
    card = json.loads(run("show", "patch-fid", "--json").out)["extractors"]
    assert card["world-128-patch16"]["used"][0] == "suite mini"
    assert card["inception-2015-patch299"]["tflop_1000_images"] == 11.4


def test_doctor_exits_3_exactly_if_the_default_suite_cannot_run(run: Callable[..., Done], shipped: Path) -> None:
    good = run("doctor", "--json")
    report = json.loads(good.out)
    assert (good.code, report["ok"]) == (0, True)
    statuses = {check["name"]: check["status"] for check in report["checks"]}
    (look,) = [check["found"] for check in report["checks"] if check["name"] == "suite first-look"]
    assert "first-look.txt" not in look  # captions that are shipped, a file and no folder of weights
    assert {statuses[name] for name in ("python", "torch", "device", "home folder", "package weights", "suite mini")} == {"ok"}
    write_safetensors(shipped / "hps" / "model.safetensors", b"changed...!!")
    bad = run("doctor", "--json")
    report = json.loads(bad.out)
    assert (bad.code, report["ok"]) == (3, False)
    broken = next(check for check in report["checks"] if check["name"] == "package weights")
    assert broken["status"] == "broken"
    assert broken["fix"]
    bad = run("doctor")
    assert (bad.code, bad.error().splitlines()[0][:35]) == (3, "error: suite mini cannot run here: ")
    assert "package weights" in bad.out and "package weights" in bad.error()


def test_doctor_says_what_versions_trap(run: Callable[..., Done], shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sbv2bench.machine import doctor

    versions = {"scipy": "1.11.4", "torch": None}
    monkeypatch.setattr(doctor, "library_version", lambda name: versions.get(name, "2.0"))
    done = run("doctor", "--json")
    checks = {(check["name"], check["status"]): check for check in json.loads(done.out)["checks"]}
    assert "sqrtm" in checks["scipy", "note"]["found"]
    assert checks["torch", "missing"]["fix"] == "pip install torch"
    assert done.code == 3
    versions |= {"scipy": "1.17.1", "torch": "2.15.0+cpu"}
    done = run("doctor", "--json")
    assert done.code == 0
    assert "scipy" not in {check["name"] for check in json.loads(done.out)["checks"] if check["status"] == "note"}
    versions["scipy"] = "1.18.0rc1"
    notes = [check["found"] for check in json.loads(run("doctor", "--json").out)["checks"] if check["name"] == "scipy"]
    assert any("clean-fid" in note for note in notes)


@pytest.mark.ci
def test_leaderboard(run: Callable[..., Done]) -> None:
    refused(run("leaderboard", "--check"), 4, "coco2014-30k.csv", "fix: sbv2bench leaderboard")
    paths_ = [str(store.write(sample_result(fid=fid, guidance=fid), Path("results"))) for fid in (4.0, 3.0)]
    partial = str(store.write(sample_result(status="partial"), Path("results")))
    refused(run("leaderboard", "--add", partial), 2, "partial")
    refused(run("leaderboard", "--add", "none.json"), 2, "none.json")
    refused(run("leaderboard", *paths_), 2, "--add")
    assert not Path("leaderboards").exists()
    done = run("leaderboard", "--add", *paths_)
    assert done.code == 0
    assert "FID-mini" in done.out
    assert "leaderboards/index.html" in done.err and "no page was built" not in done.err
    assert run("leaderboard", "--check").code == 0
    table = Path("leaderboards/mini-5k.csv")
    table.write_text(table.read_text().replace("3.0", "2.0"))
    refused(run("leaderboard", "--check"), 4, "mini-5k.csv", "fix: sbv2bench leaderboard")
    assert run("leaderboard").code == 0
    assert run("leaderboard", "--check").code == 0
    refused(run("leaderboard", "--check", "--add", paths_[0]), 2, "--check")


def test_cache(run: Callable[..., Done], own_home: Path) -> None:
    from sbv2bench.features.cache import FeatureCache

    assert run("cache", "path").out.strip() == str(own_home)
    cache = FeatureCache(own_home / "features")
    import numpy as np

    cache.put("a" * 64, {"features": np.zeros((2, 3), dtype=np.float32)}, {})
    assert run("cache", "verify").code == 0
    parts = json.loads(run("cache", "info", "--json").out)["parts"]
    assert str(own_home) in run("cache", "info").out
    assert next(part for part in parts if part["part"] == "features")["bytes"] > 24
    arrays = own_home / "features" / ("a" * 64) / "arrays.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-1] + b"\1")
    refused(run("cache", "verify"), 4, "1 of 1", "fix: sbv2bench cache prune")
    assert run("cache", "prune").code == 0
    assert run("cache", "verify").code == 0
    assert not arrays.exists()


def test_usage_errors_are_short(run: Callable[..., Done]) -> None:
    refused(run("evl"), 2, "evl", "eval")
    refused(run("--foo"), 2, "--foo")
    refused(run("cache", "prnue"), 2, "prnue")
    assert run("--version").out == f"sbv2bench {__version__}\n"


def test_grid(run: Callable[..., Done], tmp_path: Path) -> None:
    done = run("grid", "real", "--captions", "0,2", "--output", "grid.png")
    assert (done.code, done.out) == (0, "") and "written: grid.png" in done.err
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")
    refused(
        run("grid", "real", "--captions", "0-", "--output", "other.png"), 2, "--captions: found '0-'", "fix: --captions 0,1,2"
    )
    assert not (tmp_path / "other.png").exists()


def test_a_grids_name_is_looked_at_before_an_image_is_made(run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    from sbv2bench.evaluation import grid

    monkeypatch.setattr(grid, "sample_grid", lambda *asked, **more: pytest.fail("sampled"))
    refused(run("grid", "real", "--output", "."), 2, ". is a folder", "fix: --output grid.png")
    refused(run("grid", "real", "--output", "a b.jpg"), 2, "ends in .png", "fix: --output 'a b.png'")


def test_export_as_the_hub_shows_results(run: Callable[..., Done], tmp_path: Path) -> None:
    path = store.write(sample_result(), tmp_path / "results")
    done = run("export", str(path), "--format", "hf_eval", "--dataset", "me/bench", "--to", str(tmp_path / "repository"))
    assert (done.code, done.out.strip()) == (0, str(tmp_path / "repository" / ".eval_results" / "sbv2bench-mini-5k.yaml"))
    refused(run("export", str(path), "--format", "hf_eval", "--to", str(tmp_path / "other")), 2, "--dataset")
    refused(run("export", str(path), "--format", "yaml", "--to", str(tmp_path / "other")), 2, "hf_eval")
