"""Images out with a manifest, scores in: the same images as were measured, matched by hash, and every way to mix them up."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_suite import BLOCK, GENERATED

from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError, SBV2BenchError
from sbv2bench.evaluation.evaluate import evaluate_and_store
from sbv2bench.evaluation.export import export_images
from sbv2bench.evaluation.imported_scores import import_scores
from sbv2bench.evaluation.manifest import read_manifest
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.evaluation.plan import plan
from sbv2bench.registry import Registry
from sbv2bench.results import prompt_values, store
from sbv2bench.results.records import EvalResult
from sbv2bench.specs import MetricSpec, SuiteSpec


def measured(registry: Registry, results: Path, **options: object) -> Path:
    chosen = EvalOptions.validated(metrics="clip", device="cpu", results=results, **options)
    path = evaluate_and_store(plan("local/student", "tiny", chosen, registry), registry)[1]
    assert path is not None
    return path


@pytest.fixture
def result(registry: Registry, tmp_path: Path) -> Path:
    return measured(registry, tmp_path / "results")


@pytest.fixture
def exported(registry: Registry, result: Path, tmp_path: Path) -> Path:
    assert export_images(result, tmp_path / "images", registry) == GENERATED
    return tmp_path / "images"


def scores_of(folder: Path, *, name: str = "scores.csv") -> Path:
    """A score of each image that depends on its number alone."""
    images = read_manifest(folder).images
    path = folder.parent / name
    path.write_text("id,value\n" + "".join(f"{image.id},{image.index / 10 + image.k}\n" for image in reversed(images)))
    return path


def imported(registry: Registry, folder: Path, scores: Path, metric: str = "vqascore") -> tuple[EvalResult, Path]:
    manifest, results = folder / "manifest.jsonl", folder.parent / "results"
    return import_scores(scores, manifest, metric, tool="t2v", tool_version="3.1", results=results, registry=registry)


def test_the_images_are_those_that_were_measured(registry: Registry, exported: Path, tmp_path: Path) -> None:
    """As `--save-images all` writes them, and by another thread."""
    kept = measured(registry, tmp_path / "kept", save_images="all", use_cache=False)
    folder = kept.with_name(f"{kept.stem}-images")
    manifest = read_manifest(exported)
    assert [image.index for image in manifest.images] == [*range(GENERATED)]
    for image, old in zip(manifest.images, sorted(folder.iterdir()), strict=True):
        assert np.array_equal(np.asarray(Image.open(exported / image.file)), np.asarray(Image.open(old)))
    manifest.check_files()
    assert export_images(kept, tmp_path / "again", registry) == GENERATED  # copied, not made
    assert [one.sha256 for one in read_manifest(tmp_path / "again").images] == [
        __import__("hashlib").sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())
    ]


def test_an_export_goes_on_where_it_was_stopped(
    registry: Registry, result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sbv2bench.samplers import load_sampler

    real = load_sampler(registry.models["local/student"], "cpu", __import__("torch").float32, registry)

    class Failing:
        made = 0

        def generate(self, block: object, stopwatch: object) -> object:
            Failing.made += 1
            if Failing.made == 3:
                raise KeyboardInterrupt
            return real.generate(block, stopwatch)  # type: ignore[arg-type]

    monkeypatch.setattr("sbv2bench.evaluation.export.load_sampler", lambda *_: Failing())
    monkeypatch.setattr("sbv2bench.evaluation.export.workers_on", lambda device: 1)
    with pytest.raises(KeyboardInterrupt):
        export_images(result, tmp_path / "images", registry)
    assert not (tmp_path / "images").exists()
    done = Failing.made
    (work,) = tmp_path.glob(".images*")
    (work / "00000003-s0-k0.17.part").write_bytes(b"as a process leaves it that is killed")
    assert export_images(result, tmp_path / "images", registry) == GENERATED
    assert Failing.made < done + -(-GENERATED // BLOCK)
    assert not list(tmp_path.glob(".images*")) and not list((tmp_path / "images").glob("*.part"))
    whole = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "images").iterdir()}
    assert export_images(result, tmp_path / "images", registry) == GENERATED  # as it is
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "images").iterdir()} == whole
    (tmp_path / "images" / "00000003-s0-k0.png").unlink()
    with pytest.raises(IntegrityError, match=r"00000003-s0-k0\.png: not found"):
        export_images(result, tmp_path / "images", registry)
    (tmp_path / "images" / "manifest.jsonl").unlink()
    with pytest.raises(InputError, match="it is there already"):
        export_images(result, tmp_path / "images", registry)


def test_another_model_of_the_same_name_is_not_exported(
    registry: Registry, result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = json.loads(result.read_text())
    content["model"]["weights"][0]["sha256"] = "0" * 64
    result.write_text(json.dumps(content))
    with pytest.raises(IntegrityError, match="cannot be made again: its weights or settings are others today"):
        export_images(result, tmp_path / "images", registry)
    monkeypatch.setattr("sbv2bench.provenance.measuring_fingerprint", lambda: "of other code")
    content["model"]["weights"] = json.loads(measured(registry, tmp_path / "other").read_text())["model"]["weights"]
    result.write_text(json.dumps(content))
    with pytest.raises(IntegrityError, match="the code, the libraries or the kind of device are others today"):
        export_images(result, tmp_path / "images", registry)


def test_scores_join_their_result_as_a_metric(registry: Registry, result: Path, exported: Path) -> None:
    before = store.load(result)
    found, path = imported(registry, exported, scores_of(exported))
    value = found.metrics["vqascore"]
    expected = np.arange(GENERATED) / 10
    assert value.value == pytest.approx(expected.mean()) and value.std_err == pytest.approx(
        expected.std(ddof=1) / np.sqrt(GENERATED)
    )
    assert value.details is not None and (value.details["tool"], value.details["tool_version"]) == ("t2v", "3.1")
    assert (len(value.details["scores_sha256"]) == 64 and value.label == "vqascore-mini") or value.label.startswith("VQAScore")
    stored = store.load(path)
    assert stored.metrics["vqascore"] == value and path != result and store.load(result) == before
    assert stored.metrics["clip_score"].model_copy(update={"prompt_values": None}) == before.metrics["clip_score"].model_copy(
        update={"prompt_values": None}
    )
    values = prompt_values.read(stored, path)
    assert values["vqascore"].shape == (1, GENERATED) and "clip_score" in values


def test_a_second_metric_joins_the_first(registry: Registry, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = MetricSpec(id="mine", keys=("mine",), reads="scores", higher_is_better=False)
    monkeypatch.setitem(registry.metrics, "mine", own)
    imported(registry, exported, scores_of(exported))
    found, _ = imported(registry, exported, scores_of(exported), "mine")
    assert {"clip_score", "vqascore", "mine"} == {*found.metrics}
    assert found.metrics["mine"].direction == "lower"


def test_several_images_of_a_caption_are_one_value(registry: Registry, tmp_path: Path) -> None:
    result = measured(registry, tmp_path / "results", images_per_prompt=4, limit=6)
    assert export_images(result, tmp_path / "images", registry) == 4 * 6
    seen = {image.sha256 for image in read_manifest(tmp_path / "images").images}
    assert len(seen) == 4 * 6
    scores = scores_of(tmp_path / "images")
    assert imported(registry, tmp_path / "images", scores, "geneval")[0].metrics["geneval"].value == pytest.approx(0.25 + 1.5)
    assert imported(registry, tmp_path / "images", scores)[0].metrics["vqascore"].value == pytest.approx(0.25)  # k = 0 alone


def test_genevals_score_is_the_mean_over_its_tasks(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [{"tag": "counting" if i < 4 else "colors", "prompt": f"prompt {i}"} for i in range(6)]
    (tmp_path / "evaluation_metadata.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    prompts = {"kind": "geneval", "location": str(tmp_path / "evaluation_metadata.jsonl")}
    changes = {"id": "tasks", "prompts": prompts, "num_generated": 6, "num_reference": 0, "images_per_prompt": 2}
    monkeypatch.setitem(registry.metrics, "geneval", registry.metric("geneval").model_copy(update={"images_per_prompt": 2}))
    metrics = {"clip": {"extractor": "tiny-clip"}, "geneval": {}}
    tasks = SuiteSpec.model_validate(registry.suite("tiny").model_dump() | changes | {"metrics": metrics})
    monkeypatch.setitem(registry.suites, "tasks", tasks)
    chosen = EvalOptions.validated(device="cpu", results=tmp_path / "results")
    result, path = evaluate_and_store(plan("local/student", "tasks", chosen, registry), registry)
    assert path is not None and (result.suite.images_per_prompt, [*result.metrics]) == (2, ["clip_score"])
    assert export_images(path, tmp_path / "images", registry) == 2 * 6
    value = imported(registry, tmp_path / "images", scores_of(tmp_path / "images"), "geneval")[0].metrics["geneval"]
    of_caption = np.arange(6) / 10 + 0.5
    means = {"counting": of_caption[:4].mean(), "colors": of_caption[4:].mean()}
    assert value.styles is not None and value.std_err is not None
    assert {task: own["value"] for task, own in value.styles.items()} == pytest.approx(means)
    assert value.value == pytest.approx(np.mean([*means.values()])) != pytest.approx(of_caption.mean())
    errors = [of_caption[:4].std(ddof=1) / 2, of_caption[4:].std(ddof=1) / np.sqrt(2)]
    assert value.std_err == pytest.approx(np.hypot(*errors) / 2)


def edited(text: str, scores: Path) -> Path:
    scores.write_text(text)
    return scores


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda text: text.replace("\n", "\n", 1) + text.splitlines()[1] + "\n", IntegrityError, "found id '.*' twice"),
        (lambda text: "\n".join(text.splitlines()[:-1]), IntegrityError, "no value for 1 of 26 images, 00000000-s0-k0 first"),
        (lambda text: text.replace(",0.1\n", ",nan\n"), IntegrityError, "line 26: value of 00000001-s0-k0 is 'nan'"),
        (lambda text: text.replace(",0.1\n", ",much\n"), IntegrityError, "expected a finite number"),
        (lambda text: text.replace("00000001-s0", "00000099-s0"), IntegrityError, "line 26: id '00000099-s0-k0' is not in"),
        (lambda text: text.replace("id,value", "name,value"), InputError, "expected id and value"),
        (lambda text: text.replace("00000001-s0-k0,", ","), IntegrityError, "line 26: found no id, expected that of an image"),
    ],
    ids=["twice", "missing", "nan", "word", "other", "columns", "no id"],
)
def test_scores_that_do_not_fit_are_refused(
    registry: Registry, exported: Path, change: object, error: type[SBV2BenchError], words: str
) -> None:
    scores = scores_of(exported)
    scores.write_text(change(scores.read_text()))  # type: ignore[operator]
    with pytest.raises(error, match=words):
        imported(registry, exported, scores)


def test_one_byte_of_the_manifest_or_of_an_image_is_seen(registry: Registry, exported: Path) -> None:
    scores, manifest = scores_of(exported), exported / "manifest.jsonl"
    whole = manifest.read_bytes()
    lines = whole.decode().splitlines()
    content = json.loads(lines[3])
    random = np.random.default_rng(4)
    for place in random.choice(len(whole), 60, replace=False):
        changed = bytearray(whole)
        changed[place] ^= 1 << int(random.integers(0, 7))
        manifest.write_bytes(bytes(changed))
        with pytest.raises(SBV2BenchError) as caught:
            imported(registry, exported, scores)
        assert caught.value.exit_code in (2, 3, 4), place
    sha256 = json.loads(lines[0])["result"]["sha256"]
    manifest.write_bytes(whole.replace(sha256.encode(), b"0" * 64, 1))
    with pytest.raises(PrerequisiteError, match=r"no file .* with sha256 000000000000"):
        imported(registry, exported, scores)
    manifest.write_bytes(whole)
    image = exported / content["file"]
    image.write_bytes(image.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match=r"found sha256 .*, expected .*, image 00000002-s0-k0 of the manifest"):
        imported(registry, exported, scores)


def test_a_metric_that_reads_images_is_not_imported(registry: Registry, exported: Path) -> None:
    with pytest.raises(InputError, match="--metric fid: it reads features"):
        imported(registry, exported, scores_of(exported), "fid")


def test_scores_of_a_result_that_was_copied_without_its_captions_values(registry: Registry, result: Path, exported: Path) -> None:
    prompt_values.path_beside(result).unlink()
    found, path = imported(registry, exported, scores_of(exported))
    assert {key for key, metric in found.metrics.items() if metric.prompt_values} == {"vqascore"}
    assert list(prompt_values.read(store.load(path), path)) == ["vqascore"]
