"""`sweep`: every weight evaluated by sbv2bench, and written where a reader sees which end is which."""

from __future__ import annotations

import csv
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from running import block_of
from tiny_models import write_tiny_pipeline
from tiny_suite import GENERATED, write_tiny_suite
from typer.testing import CliRunner

from reference_trainer import sweep as sweep_module
from reference_trainer.__main__ import app
from reference_trainer.sweep import Sweep, parse_weights, sweep
from sbv2bench.compare.differences import leading_values
from sbv2bench.errors import InputError
from sbv2bench.evaluation import evaluate as spine
from sbv2bench.evaluation.evaluate import evaluate
from sbv2bench.registry import Registry
from sbv2bench.results import sweeps

WEIGHTS = (0.0, 0.5, 1.0)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny suite, and local/other, a student with the same parts but for its UNet."""
    path = write_tiny_suite(tmp_path_factory.mktemp("family"))
    other = Path(shutil.copytree(path.parent / "model", path.parent / "other"))
    shutil.rmtree(other / "unet")
    shutil.copytree(write_tiny_pipeline(path.parent / "source", seed=9) / "unet", other / "unet")
    (other / "sbv2bench.json").write_text('{"id": "local/other", "sampler": "one_step", "steps": 1}')
    return path


@pytest.fixture
def registry(catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.chdir(tmp_path)
    return Registry.load(catalog)


@pytest.fixture
def other(catalog: Path) -> str:
    return str(catalog.parent / "other")


def run(registry: Registry, other: str, output: Path, weights: tuple[float, ...] = WEIGHTS, **options: object) -> Sweep:
    return sweep("student", other, weights, "tiny", output, registry=registry, **options)  # type: ignore[arg-type]


@pytest.mark.ci
def test_a_sweep_of_three_weights(registry: Registry, other: str, tmp_path: Path) -> None:
    told: list[str] = []
    models = set(registry.models)
    found = run(registry, other, tmp_path / "out", seeds=2, say=told.append)
    assert list(found.results) == list(WEIGHTS)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["sweep.csv", "sweep.html", "sweep.json", "sweep.md"]
    # the ends are the two models themselves: 1 is A, 0 is B
    for weight, end in ((1.0, "student"), (0.0, other)):
        assert block_of(found.results[weight]) == block_of(evaluate(end, "tiny", registry=registry, repeats=2))
    assert len({block_of(result) for result in found.results.values()}) == 3
    assert [line.partition(":")[0] for line in told] == ["0", "0.5", "1"]
    assert set(registry.models) == models  # a caller's registry is not added to

    axis = f"weight of A = local/student (B = {other})"
    content = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert content["axis"] == axis
    assert sweeps.load(tmp_path / "out" / "sweep.json").axis == axis  # what `reproduce` reads it with
    assert [row["weight"] for row in content["rows"]] == list(WEIGHTS)
    for row, result in zip(content["rows"], found.results.values(), strict=True):
        assert row["metrics"]["fid"]["value"] == result.metrics["fid"].value
        assert row["metrics"].keys() == result.metrics.keys()
    suite = found.first.suite
    assert (content["suite"]["reference_fingerprint"], content["suite"]["seeds"]) == (suite.reference["fingerprint"], [0, 1])
    assert content["suite"]["num_generated"] == GENERATED
    unets = {end: content[end]["weights"]["unet/diffusion_pytorch_model.safetensors"] for end in ("a", "b")}
    hashes = {file.path: file.sha256 for file in found.first.model.weights}
    assert unets["a"] == hashes["local/student:unet/diffusion_pytorch_model.safetensors"]
    assert unets["b"] == hashes[f"{other}:unet/diffusion_pytorch_model.safetensors"] != unets["a"]

    with (tmp_path / "out" / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["a"], row["b"], float(row["weight_of_a"])) for row in rows] == [("local/student", other, w) for w in WEIGHTS]
    for row, result in zip(rows, found.results.values(), strict=True):
        for key, metric in result.metrics.items():
            assert float(row[key]) == metric.value
            assert row[f"{key}_std_err"] == ("" if metric.std_err is None else repr(metric.std_err))

    table = [line for line in (tmp_path / "out" / "sweep.md").read_text().splitlines() if line.startswith("|")]
    assert table[0].startswith(f"| {axis} | FID-mini ↓ | ")
    assert len(table) == 2 + len(WEIGHTS)
    lead = leading_values([found.results[weight].metrics["fid"] for weight in WEIGHTS])
    assert [line.split(" | ")[1].startswith("**") for line in table[2:]] == [place in lead for place in range(len(WEIGHTS))]
    assert lead


class Page(HTMLParser):
    """Counts elements and keeps the text; what a browser would fetch is kept too."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}
        self.fetched: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.fetched += [str(value) for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


@pytest.mark.ci
def test_the_page_needs_nothing_else_and_names_both_ends(registry: Registry, other: str, tmp_path: Path) -> None:
    found = run(registry, other, tmp_path / "out")
    page = Page()
    page.feed((tmp_path / "out" / "sweep.html").read_text())
    assert page.counts["table"] == 1  # without scripts; these draw a curve for each metric
    assert all(value.label in page.text for value in found.first.metrics.values())
    assert not [name for name in page.fetched if not name.startswith(("#", "data:"))]
    assert f"weight of A = local/student (B = {other})" in page.text
    assert "FID-mini" in page.text and "HPS-mini" in page.text


@pytest.mark.ci
def test_a_sweep_goes_on_where_it_was_stopped(
    registry: Registry, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(registry, other, tmp_path / "out", (0.5,))
    first = json.loads((tmp_path / "out" / "sweep.json").read_text())["rows"]
    loaded: list[float] = []
    real = spine.load_sampler

    def watch(spec, *arguments):  # type: ignore[no-untyped-def]
        loaded.append(spec.merge.weight)
        return real(spec, *arguments)

    monkeypatch.setattr(spine, "load_sampler", watch)
    found = run(registry, other, tmp_path / "out", (0.25, 0.5))
    assert loaded == [0.25]
    rows = json.loads((tmp_path / "out" / "sweep.json").read_text())["rows"]
    assert [row["weight"] for row in rows] == [0.25, 0.5]
    assert rows[1] == first[0]
    assert list(found.results) == [0.25, 0.5]


@pytest.mark.ci
def test_tables_are_there_after_each_weight(
    registry: Registry, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sweep_module.evaluate

    def stop_at_the_last(model: str, *arguments: object, **options: object) -> object:
        if model.endswith("-1.0"):
            raise KeyboardInterrupt
        return real(model, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(sweep_module, "evaluate", stop_at_the_last)
    with pytest.raises(KeyboardInterrupt):
        run(registry, other, tmp_path / "out")
    assert [row["weight"] for row in json.loads((tmp_path / "out" / "sweep.json").read_text())["rows"]] == [0.0, 0.5]


def test_another_sweep_is_not_written_over(registry: Registry, other: str, tmp_path: Path) -> None:
    run(registry, other, tmp_path / "out", (0.5,))
    before = (tmp_path / "out" / "sweep.csv").read_text()
    with pytest.raises(InputError, match="holds a sweep of other models"):
        sweep(other, "student", (0.5,), "tiny", tmp_path / "out", registry=registry)
    assert (tmp_path / "out" / "sweep.csv").read_text() == before
    with pytest.raises(InputError, match="cannot be made a folder"):
        run(registry, other, tmp_path / "out" / "sweep.csv")


@pytest.mark.parametrize("text", ["", "0,,1", "0.5;1", "0,1.5", "-0.1", "nan"])
def test_weights_that_cannot_be(text: str) -> None:
    with pytest.raises(InputError, match=r"--weights?"):
        parse_weights(text)


def test_bad_names_are_found_before_anything_runs(
    registry: Registry, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_module, "evaluate", lambda *_, **__: pytest.fail("a weight was evaluated"))
    for a, b, suite, says in (("studnet", other, "tiny", "student"), ("student", other, "tinny", "tiny")):
        with pytest.raises(InputError, match=says):
            sweep(a, b, WEIGHTS, suite, tmp_path / "out", registry=registry)
    with pytest.raises(InputError, match="weight"):
        run(registry, other, tmp_path / "out", ())
    assert not (tmp_path / "out").exists()


def test_the_command(catalog: Path, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBV2BENCH_CATALOG", str(catalog))
    monkeypatch.chdir(tmp_path)
    arguments = ["sweep", "local/student", other, "--weights", "0,1", "--suite", "tiny", "--output", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    assert f"2 values of the weight of A = local/student (B = {other})" in done.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["sweep.csv", "sweep.html", "sweep.json", "sweep.md"]
