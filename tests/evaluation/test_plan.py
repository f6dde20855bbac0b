"""Whatever is cheap to find wrong is found before the first forward pass."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from standin_networks import write_standin
from tiny_suite import BLOCK, GENERATED, write_tiny_suite

from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError, SBV2BenchError
from sbv2bench.evaluation import disk
from sbv2bench.evaluation import evaluate as evaluate_module
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.evaluation.plan import EvalPlan, plan
from sbv2bench.machine import checks
from sbv2bench.machine.checks import available_device, chosen_dtype
from sbv2bench.registry import Registry
from sbv2bench.specs import ExtractorSpec, MetricSpec, ModelSpec, TrainedWith


def planned(registry: Registry, model: str = "student", suite: str = "tiny", **options: object) -> EvalPlan:
    return plan(model, suite, EvalOptions.validated(**options), registry)  # type: ignore[arg-type]


def test_a_good_plan(registry: Registry) -> None:
    found = planned(registry, "teacher", limit=20, seed=3, repeats=2, steps=5, guidance_scale=4.5)
    assert (found.model.id, found.model.steps, found.model.guidance_scale) == ("local/teacher", 5, 4.5)
    assert any(file.path.endswith("diffusion_pytorch_model.safetensors") for file in found.model.weights)
    assert list(found.extractors) == ["tiny-world", "tiny-clip", "tiny-hps", "tiny-attributes"]
    assert all(spec.weights for spec in found.extractors.values())
    assert (found.seeds, found.block_size, found.device, found.dtype) == ((3, 4), BLOCK, "cpu", "float32")
    assert (found.partial, found.suite.num_generated, len(found.prompts)) == (True, 20, 20)
    assert found.references == ("tiny-world",)
    assert not planned(registry, limit=GENERATED).partial
    described = found.describe()
    assert described["num_generated"] == 20
    assert described["seeds"] == [3, 4]


def test_what_trained_a_model_is_read_from_its_folder_and_of_a_merge_from_both(tmp_path: Path) -> None:
    """A catalog's entry need not repeat it, so that boards know it of every student."""
    catalog = write_tiny_suite(tmp_path / "family")
    said = {"losses": ["vsd", "hps"], "scorers": ["tiny-hps"], "prompts": [{"source": "captions.txt"}]}
    (tmp_path / "family" / "model" / "sbv2bench.json").write_text(
        json.dumps({"id": "local/x", "sampler": "one_step", "steps": 1, "trained_with": said})
    )
    registry = Registry.load(catalog)
    merged = {"a": "local/student", "b": "local/student", "weight": 0.5}
    registry.add("model", ModelSpec.model_validate({"id": "local/merged", "sampler": "one_step", "steps": 1, "merge": merged}))
    expected = TrainedWith.model_validate(said)
    for name in ("student", "local/merged"):
        found = planned(registry, name, metrics="clip").model
        assert found.trained_with == expected
        assert found.fingerprint() == found.model_copy(update={"trained_with": None}).fingerprint()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"model": "studnet"}, InputError, "student"),
        ({"suite": "tinny"}, InputError, "tiny"),
        ({"metrics": "fid,klip"}, InputError, "clip"),
        ({"model": "full/sd21"}, InputError, "family"),
        ({"model": "./nowhere"}, InputError, "nowhere"),
        ({"limit": GENERATED + 1}, InputError, "--limit"),
        ({"steps": 4}, InputError, "one_step"),
        ({"guidance_scale": 2.0}, InputError, "--guidance-scale"),
        ({"metrics": "latency", "model": "real"}, InputError, "latency"),
        ({"device": "cuda:7"}, PrerequisiteError, "cuda:7"),
    ],
)
def test_bad_names_and_options(registry: Registry, arguments: dict[str, object], error: type[SBV2BenchError], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        planned(registry, **arguments)  # type: ignore[arg-type]
    assert len(str(caught.value).splitlines()) <= 3


def test_metric_that_the_suite_cannot_give(registry: Registry, catalog: Path, tmp_path: Path) -> None:
    document = yaml.safe_load(catalog.read_text())
    bare = {"num_reference": 0, "metrics": {"clip": {"extractor": "tiny-clip"}}}
    document["suites"]["bare"] = {**document["suites"]["tiny"], **bare}
    path = tmp_path / "bare.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    found = Registry.load(path)
    assert list(planned(found, suite="bare").extractors) == ["tiny-clip"]
    for flag, lacking in (("hps-v21", "images of family full"), ("fid", "reference")):
        with pytest.raises(InputError, match=f"--metrics {flag}: it needs {lacking}"):
            planned(found, suite="bare", metrics=flag)


def test_all_is_what_can_be_had_here(registry: Registry) -> None:
    """By default the suite's own list; all: what it has on request too, and whatever else is here and fits."""
    own = ("fid", "pr", "kid", "clip", "hps", "attributes")
    ids = {asked: tuple(metric.id for metric in planned(registry, metrics=asked).metrics) for asked in (None, "all", "kid,fid")}
    assert ids[None] == own and ids["kid,fid"] == ("kid", "fid")
    # fid-infinity needs more images, the others Inception or another family
    assert set(ids["all"]) == {*own, "patch-fid", "cmmd", "latency"}
    many = registry.suite("mini-5k")
    assert [metric.id for metric in planned(registry, "sd21", many, metrics="all").metrics][3] == "fid-infinity"  # type: ignore[arg-type]


def test_a_metric_whose_extractor_is_not_here_is_not_among_all(registry: Registry, tmp_path: Path) -> None:
    own = Registry.load(write_tiny_suite(tmp_path / "own"))
    own.add("extractor", ExtractorSpec(id="far", kind="world_network", location=str(tmp_path / "nowhere")))
    own.add(
        "metric",
        MetricSpec(
            id="far-fid", target="sbv2bench.evaluation.set_metrics:kid", keys=("kid",), reads="features", extractor="far",
            reference="suite", higher_is_better=False,
        ),
    )  # fmt: skip
    assert "far-fid" not in [metric.id for metric in planned(own, metrics="all").metrics]
    with pytest.raises(InputError, match="nowhere"):
        planned(own, metrics="far-fid")


def test_all_leaves_out_what_takes_images_of_another_size_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = Registry.load(write_tiny_suite(tmp_path / "own"))
    place = str(write_standin(tmp_path / "weights", 0))
    own.add("extractor", ExtractorSpec(id="wide", kind="standin_networks:Features", location=place, gives="features"))
    own.add(
        "metric",
        MetricSpec(
            id="wide-kid", target="sbv2bench.evaluation.set_metrics:kid", keys=("kid",), reads="features", extractor="wide",
            reference="suite", higher_is_better=False,
        ),
    )  # fmt: skip
    assert "wide-kid" not in [metric.id for metric in planned(own, metrics="all").metrics]
    assert "wide-kid is left out, its extractor wide takes 256 px and these are 32" in capsys.readouterr().err


def test_a_metric_of_imported_scores_is_none_of_a_run(registry: Registry, tmp_path: Path) -> None:
    own = Registry.load(write_tiny_suite(tmp_path / "own"))
    own.add("metric", MetricSpec(id="votes", keys=("votes",), reads="scores", higher_is_better=True))
    assert "votes" not in [metric.id for metric in planned(own, metrics="all").metrics]
    with pytest.raises(InputError, match="--metrics votes: it needs scores that were imported"):
        planned(own, metrics="votes")


def test_an_extractor_that_does_not_give_what_its_metric_reads_is_refused(tmp_path: Path) -> None:
    document = yaml.safe_load(write_tiny_suite(tmp_path / "own").read_text())
    document["suites"]["tiny"]["metrics"]["clip"] = {"extractor": "tiny-world"}
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    with pytest.raises(InputError, match="metric clip: it reads paired, its extractor tiny-world gives features"):
        planned(Registry.load(tmp_path / "wrong.yaml"))


@pytest.mark.parametrize("damage", ["cut", "gone", "pickled", "extractor", "config"])
def test_bad_weights(tmp_path: Path, damage: str) -> None:
    catalog = write_tiny_suite(tmp_path / "own")
    unet = tmp_path / "own" / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    if damage == "cut":
        unet.write_bytes(unet.read_bytes()[:-100])
    elif damage == "gone":
        unet.unlink()
    elif damage == "pickled":
        unet.rename(unet.with_suffix(".bin"))
    elif damage == "extractor":
        shutil.rmtree(tmp_path / "own" / "extractor")
    else:
        (unet.parent / "config.json").write_text("{")
    with pytest.raises((IntegrityError, PrerequisiteError, InputError)) as caught:
        planned(Registry.load(catalog))
    assert str(tmp_path / "own") in str(caught.value)


def test_results_folder_is_proven_writable(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="--results"):
            planned(registry, results=folder)
    planned(registry, results=tmp_path / "a" / "new" / "folder")
    assert not (tmp_path / "a").exists()


def test_full_disk(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda place: usage(10**9, 10**9, 2**20))
    with pytest.raises(IntegrityError, match="found 1 MB free"):
        planned(registry)
    planned(registry, use_cache=False)


def test_missing_package(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    real = checks.importlib.util.find_spec
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: None if name == "open_clip" else real(name))
    with pytest.raises(PrerequisiteError, match="open_clip_torch"):
        planned(registry)


def test_image_folder_is_counted(registry: Registry, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(GENERATED):
        Image.fromarray(np.full((32, 32, 3), number, np.uint8)).save(folder / f"{number}.png")
    found = planned(registry, str(folder))
    assert [metric.id for metric in found.metrics] == ["fid", "pr", "kid", "clip", "hps", "attributes"]
    assert len(found.model.weights) == 1
    planned(registry, str(folder), limit=5)
    one_less = folder / "3.png"
    other = found.model.weights[0].sha256
    Image.fromarray(np.full((32, 32, 3), 99, np.uint8)).save(one_less)
    assert planned(registry, str(folder)).model.weights[0].sha256 != other
    one_less.unlink()
    with pytest.raises(IntegrityError, match=f"{GENERATED - 1} images"):
        planned(registry, str(folder))


def test_a_students_part_is_planned_with_its_base(tmp_path: Path) -> None:
    """A folder of a UNet alone: a byte of either folder is another model, where either lies is not."""
    registry = Registry.load(write_tiny_suite(tmp_path / "own"))
    for name in ("one", "two"):
        shutil.copytree(tmp_path / "own" / "model" / "unet", tmp_path / "own" / name / "unet")
        (tmp_path / "own" / name / "sbv2bench.json").write_text('{"id": "x", "sampler": "one_step", "base": "../model"}')
    first, second = (planned(registry, str(tmp_path / "own" / name)) for name in ("one", "two"))
    assert first.images_key(0) == second.images_key(0)
    assert first.model.weights[0].path == "unet/config.json"
    assert any(file.path == "../model:vae/diffusion_pytorch_model.safetensors" for file in first.model.weights)
    config = tmp_path / "own" / "model" / "vae" / "config.json"
    config.write_text(config.read_text() + " ")
    assert planned(registry, str(tmp_path / "own" / "one")).images_key(0) != first.images_key(0)
    weights = config.with_name("diffusion_pytorch_model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="cut"):
        planned(registry, str(tmp_path / "own" / "one"))


def test_nothing_runs_and_nothing_is_written_when_a_plan_fails(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate_module, "load_sampler", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(InputError):
        evaluate_module.evaluate("student", "tiny", registry=registry, metrics="fid,wrong", results=tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_wrong_names_are_found_without_torch() -> None:
    code = """
import sys
from sbv2bench.errors import InputError
from sbv2bench.registry import Registry
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.evaluation.plan import plan
for model, suite, metrics in (("sd2l", "mini", None), ("sd21", "minni", None), ("sd21", "mini", "fod")):
    try:
        plan(model, suite, EvalOptions.validated(metrics=metrics), Registry.load())
    except InputError:
        continue
    raise AssertionError("no error")
assert "torch" not in sys.modules, "torch was imported"
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(("option", "value"), [("repeats", 3), ("seed", 1)])
def test_images_that_exist_have_no_seeds(registry: Registry, tmp_path: Path, option: str, value: int) -> None:
    for i in range(26):
        Image.new("RGB", (32, 32), (i, i, i)).save(tmp_path / f"{i}.png")
    assert planned(registry, str(tmp_path)).seeds == (0,)
    with pytest.raises(InputError, match="exist already and have no seeds") as caught:
        planned(registry, str(tmp_path), **{option: value})
    assert f"--{option}" in str(caught.value)


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """G1: under torchrun by LOCAL_RANK; alone "cuda" is the current one, as it was; the GPU's number is in no key."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [available_device(word) for word in ("auto", "cuda", "cuda:1", "cpu")] == ["cuda", "cuda", "cuda:1", "cpu"]
    for rank in (0, 1):
        for name, value in (("WORLD_SIZE", "2"), ("LOCAL_RANK", str(rank)), ("RANK", str(rank))):
            monkeypatch.setenv(name, value)
        assert available_device("auto") == f"cuda:{rank}"
    with pytest.raises(InputError, match="GPU of its own, by LOCAL_RANK"):
        available_device("cuda:1")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(PrerequisiteError, match="process 2 of this machine has no GPU") as caught:
        available_device("auto")
    assert caught.value.fix == "--nproc_per_node 2"


@pytest.mark.parametrize(
    ("own", "device", "expected"),
    [(None, "cuda", "float16"), ("bfloat16", "cuda:1", "bfloat16"), ("bfloat16", "cpu", "float32"), (None, "mps", "float32")],
)
def test_what_auto_takes(own: str | None, device: str, expected: str) -> None:
    """G3: a model that overflows in float16 says what it runs in."""
    model = ModelSpec(id="local/x", sampler="pipeline", dtype=own)  # type: ignore[arg-type]
    assert chosen_dtype("auto", device, model) == expected
    assert chosen_dtype("float16", device, model) == "float16"
