"""`eval` as a user meets it: what goes where, exit codes, and errors of at most three lines."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands_in_process import Done, refused
from PIL import Image
from sample_results import sample_result, write_safetensors

from sbv2bench.errors import InterruptedRun
from sbv2bench.results import store


def test_a_run_states_its_suite_first_and_then_all_that_its_reader_needs(run: Callable[..., Done], evaluated: list[Any]) -> None:
    done = run("eval", "--model", "sd21")
    assert done.code == 0
    assert done.err.startswith("suite mini@v1: 1,000 images")
    (path,) = store.find(Path("results"))
    for words in ("FID-mini ↓", "12.346", "95 % [11.846, 12.846]", "CLIP-mini ↑", "± 0.0012", "over prompts", "5,000 / 5,000",
                  "world-128"):  # fmt: skip
        assert words in done.out and words not in done.err
    for words in ("generate 1.5", "cache: not used", str(path), f"sbv2bench leaderboard --add {path}"):
        assert words in done.err and words not in done.out


def test_json_is_one_document_and_nothing_else(run: Callable[..., Done], evaluated: list[Any]) -> None:
    one = run("eval", "--model", "sd21", "--json")
    assert json.loads(one.out) == json.loads(store.dumps(sample_result(suite="mini")))
    assert "a library's chatter" in one.err and "FID-mini" in one.err
    two = json.loads(run("eval", "--model", "sd21", "--model", "mini/sd21", "--json").out)
    assert [result["model"]["id"] for result in two["results"]] == ["mini/sd21", "mini/sd21"]
    assert len(evaluated) == 3


def test_a_dry_run_plans_for_real_and_writes_nothing(run: Callable[..., Done], evaluated: list[Any]) -> None:
    done = run("eval", "--model", "sd21", "--dry-run", "--seed", "3", "--repeats", "2", "--json")
    plan = json.loads(done.out)
    assert done.code == 0
    assert plan["model"] == "mini/sd21"
    assert plan["seeds"] == [3, 4]
    assert evaluated == []
    assert not Path("results").exists()
    assert "plan for mini/sd21" in run("eval", "--model", "sd21", "--dry-run").out


def test_options_reach_the_plan(run: Callable[..., Done], evaluated: list[Any]) -> None:
    words = "--metrics pr,fid --limit 100 --seed 7 --steps 4 --guidance-scale 3 --device cpu --dtype float16 --batch-size 25"
    assert run("eval", "--model", "sd21", "--suite", "mini-5k", *words.split(), "--no-cache", "--results", "out").code == 0
    (plan,) = evaluated
    assert [metric.id for metric in plan.metrics] == ["pr", "fid"]
    assert (plan.suite.id, len(plan.prompts), plan.partial, plan.seeds) == ("mini-5k", 100, True, (7,))
    assert (plan.model.steps, plan.model.guidance_scale, plan.device, plan.dtype, plan.block_size) == (
        4,
        3.0,
        "cpu",
        "float16",
        25,
    )
    assert plan.options.use_cache is False
    assert len(store.find(Path("out"))) == 1


def test_a_partial_result_is_not_offered_to_a_leaderboard(run: Callable[..., Done], evaluated: list[Any]) -> None:
    assert "leaderboard --add" in run("eval", "--model", "sd21").err
    done = run("eval", "--model", "sd21", "--limit", "100")
    assert "leaderboard --add" not in done.err
    assert "partial" in done.err and "mini/sd21 on mini@v1, partial" in done.out


def test_the_variable_changes_the_default_suite(
    run: Callable[..., Done], evaluated: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBV2BENCH_SUITE", "mini-5k")
    assert run("eval", "--model", "sd21").err.startswith("suite mini-5k@v1: 5,000 images")
    assert run("eval", "--model", "sd21", "--suite", "mini").err.startswith("suite mini@v1: 1,000 images")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("--model sd12", 2, ["unknown model 'sd12'", "did you mean 'sd21'", "fix: sbv2bench list models"]),
        ("--model sd21 --model sd12", 2, ["unknown model 'sd12'"]),
        ("--model full/sd21", 2, ["of family full", "fix: sbv2bench eval --model full/sd21 --suite first-look"]),
        (
            "--model full/gigagan",
            3,
            ["only published numbers of it exist, table 3 (GigaGAN)", "fix: sbv2bench show full/gigagan"],
        ),
        ("--model sd21 --suite mini5k", 2, ["unknown suite", "mini-5k"]),
        ("--model sd21 --metrics fid,clpi", 2, ["unknown metric 'clpi'", "did you mean 'clip'"]),
        ("--model sd21 --metrics ,", 2, ["--metrics"]),
        ("--model sd21 --device gpu", 2, ["--device: found 'gpu', expected", "fix: --device cuda"]),
        ("--model sd21 --dtype fp16", 2, ["--dtype: found 'fp16', expected", "fix: --dtype float16"]),
        ("--model sd21 --limit 1", 2, ["--limit: found 1, expected"]),
        ("--model sd21 --limit 1001", 2, ["--limit"]),
        ("--model sd21 --limit many", 2, ["--limit"]),
        ("--model sd21 --seed -1", 2, ["--seed: found -1, expected"]),
        ("--model sd21 --seed 9223372036854775808", 2, ["--seed"]),
        ("--model sd21 --repeats 0", 2, ["--repeats: found 0, expected"]),
        ("--model sd21 --steps 0", 2, ["--steps: found 0, expected"]),
        ("--model sd21 --steps 1001", 2, ["--steps: found 1001, expected"]),
        ("--model sd21 --guidance-scale -1", 2, ["--guidance-scale: found -1.0, expected"]),
        ("--model sd21 --guidance-scale nan", 2, ["--guidance-scale: found nan, expected"]),
        ("--model sd21 --guidance-scale 101", 2, ["--guidance-scale: found 101.0, expected"]),
        ("--model sd21 --batch-size 0", 2, ["--batch-size: found '0', expected"]),
        ("--model sd21 --batch-size big", 2, ["--batch-size: found 'big', expected"]),
        ("--model sd21 --save-images some", 2, ["--save-images: found 'some', expected"]),
        ("--model sd21 --catalog none.yaml", 2, ["--catalog: none.yaml does not exist"]),
        ("--model sd21 --results a-file/results", 2, ["--results", "cannot be written"]),
        ("--model ./no-folder", 2, ["does not exist"]),
        ("--model ./empty", 2, ["neither a model nor images"]),
        ("--model ./pickled", 4, ["pickled", "SBV2BENCH_ALLOW_PICKLE=1"]),
        ("--model ./cut", 4, ["the file was cut"]),
        ("--model ./lacking", 3, ["no weights found"]),
        ("--model somebody/some-model", 3, ["not on this machine (offline)", "sbv2bench download hub:somebody/some-model"]),
        ("", 2, ["Missing option '--model'", "fix: sbv2bench eval --help"]),
        ("--model sd21 --modle x", 2, ["No such option", "--modle"]),
        ("--model sd21 extra", 2, ["extra"]),
    ],
)
def test_bad_input_is_refused_before_anything_is_run(
    run: Callable[..., Done], evaluated: list[Any], words: str, code: int, says: list[str]
) -> None:
    Path("a-file").write_text("")
    Path("empty").mkdir()
    for name in ("pickled", "cut", "lacking", "whole"):
        Path(name).mkdir()
        Path(name, "model_index.json").write_text(
            '{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}'
        )
        weights = write_safetensors(Path(name, "unet", "model.safetensors"))
        weights.with_name("config.json").write_text("{}")
    Path("pickled/unet/model.safetensors").rename("pickled/unet/model.bin")
    Path("cut/unet/model.safetensors").write_bytes(Path("cut/unet/model.safetensors").read_bytes()[:-3])
    Path("lacking/unet/model.safetensors").unlink()
    before = sorted(Path().rglob("*"))
    refused(run("eval", *words.split()), code, *says)
    assert evaluated == []
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    "words",
    [
        "--model mini/sd21 --metrics fid,clip --device cpu --dtype float32 --limit 2 --batch-size auto",
        "--model sd21 --seed 9223372036854775806 --repeats 2 --steps 1 --guidance-scale 0 --save-images sample --results a/b",
        "--model sd21 --steps 1000 --guidance-scale 100 --batch-size 10000 --limit 1000 --suite mini-choosing",
        "--model ./whole",
    ],
)
def test_the_good_twins_run(run: Callable[..., Done], evaluated: list[Any], words: str) -> None:
    Path("whole").mkdir()
    Path("whole/model_index.json").write_text(
        '{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}'
    )
    write_safetensors(Path("whole/unet/model.safetensors")).with_name("config.json").write_text("{}")
    done = run("eval", *words.split())
    assert done.code == 0, done.err
    assert len(evaluated) == 1


def test_shipped_weights_that_were_changed_exit_4(run: Callable[..., Done], evaluated: list[Any], shipped: Path) -> None:
    assert run("eval", "--model", "sd21").code == 0
    write_safetensors(shipped / "sd21" / "model.safetensors", b"changed....!")
    refused(run("eval", "--model", "sd21"), 4, "sd21/model.safetensors", "sha256", "fix: ")
    assert len(evaluated) == 1


def test_weights_that_are_not_shipped_exit_3(run: Callable[..., Done], evaluated: list[Any], shipped: Path) -> None:
    (shipped / "clip").rename(shipped / "away")
    refused(run("eval", "--model", "sd21"), 3, "package:mini/clip")


@pytest.mark.parametrize(
    ("stop", "says"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (InterruptedRun("interrupted: 50 of 1000 images are kept", "run it again"), "50 of 1000"),
    ],
)
def test_ctrl_c_exits_130(
    run: Callable[..., Done], evaluated: list[Any], monkeypatch: pytest.MonkeyPatch, stop: BaseException, says: str
) -> None:
    from sbv2bench.evaluation import evaluate

    def stopped(*_: Any) -> None:
        raise stop

    monkeypatch.setattr(evaluate, "evaluate_and_store", stopped)
    refused(run("eval", "--model", "sd21"), 130, says)


def test_other_processes_of_a_torchrun_are_silent(
    run: Callable[..., Done], evaluated: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    done = run("eval", "--model", "sd21", "--json")
    assert (done.code, done.out) == (0, "")
    assert "suite" not in done.err
    monkeypatch.setenv("RANK", "0")
    assert json.loads(run("eval", "--model", "sd21", "--json").out)["status"] == "complete"


def test_a_users_suite_is_evaluated(run: Callable[..., Done], evaluated: list[Any]) -> None:
    Path("mine.yaml").write_text("suites: {mine: {extends: mini, world_seed: 7, num_generated: 300, num_reference: 400}}")
    refused(run("eval", "--model", "sd21", "--suite", "mine"), 2, "unknown suite 'mine'")
    done = run("eval", "--model", "sd21", "--suite", "mine", "--catalog", "mine.yaml")
    assert done.err.startswith("suite mine@v1: 300 images, 400 in the reference")
    assert evaluated[0].suite.prompts.world_seed == 7


def test_scoring_says_what_was_measured_and_that_photographs_are_turned(run: Callable[..., Done]) -> None:
    """Images that exist have no seeds and no scheduler, and none was generated."""
    turned = Image.Exif()
    turned[0x0112] = 6
    for folder, count in (("images", 4), ("photos", 5)):
        Path(folder).mkdir()
        for number in range(count):
            image = Image.new("RGB", (32, 32), (40 * number, 9, 0))
            image.save(Path(folder, f"{number}.jpg"), exif=turned if number == 1 else Image.Exif())
    done = run("score", "--images", "images", "--reference", "photos", "--metrics", "fid", "--device", "cpu")
    assert done.code == 0, done.err
    assert "photographs are turned as their EXIF orientation says" in done.err
    assert "measured: 4 images, 1 of them turned as their EXIF says" in done.err
    assert "every image was measured in this run" in done.err
    assert "sampled:" not in done.err and "generated in this run" not in done.err
    Image.new("RGB", (16, 32)).save("images/9.png")
    mixed = run("score", "--images", "images", "--reference", "photos")
    refused(mixed, 4, "found 16x32 pixels", "fix: write all generated images in one size")
