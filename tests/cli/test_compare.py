"""`sbv2bench compare`: names, folders and files to a comparison in every format."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands_in_process import Done, refused
from sample_results import metric, sample_result

from sbv2bench.results import store
from sbv2bench.results.records import EvalResult

Command = Callable[..., Done]


def result(model: str, fid: float, **more: Any) -> EvalResult:
    sample = sample_result(model=model, **more)
    value = metric(fid, "FID-mini", n_reference=5000, std_err=0.01, uncertainty="stated")
    return sample.model_copy(update={"metrics": sample.metrics | {"fid": value}})


def done(ended: Done) -> str:
    """What a command wrote to stdout."""
    assert ended.code == 0, ended.err
    return ended.out


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    return [str(store.write(result(model, fid), tmp_path)) for model, fid in (("mini/a_b", 3.0), ("mini/c", 2.0))]


def test_json_has_a_row_for_every_difference(run: Command, two: list[str]) -> None:
    document = json.loads(done(run("compare", *two, "--json")))
    rows = {row["metric"]: row for row in document["differences"]}
    assert rows["fid"]["verdict"] == "better" and rows["fid"]["difference"] == -1.0 and len(rows["fid"]["ci95"]) == 2
    assert rows["clip_score"]["verdict"] == "within noise"
    assert [model["name"] for model in document["models"]] == ["mini/a_b", "mini/c"]


def test_the_terminal_says_better_and_how(run: Command, two: list[str]) -> None:
    ended = run("compare", *two)
    assert (ended.code, ended.err) == (0, "")
    assert "better" in ended.out and "Holm over 2 comparisons" in ended.out


def test_latex_is_booktabs_with_the_best_bold_and_no_loser_set_off(run: Command, two: list[str]) -> None:
    text = done(run("compare", *two, "--format", "latex"))
    assert r"\toprule" in text and r"\bottomrule" in text
    assert r"mini/a\_b" in text
    assert r"\textbf{2.000 $\pm$ 0.010}" in text and r"& 3.000 $\pm$ 0.010 " in text


def test_markdown_and_csv(run: Command, two: list[str], tmp_path: Path) -> None:
    text = done(run("compare", *two, "--format", "md"))
    assert r"| mini/a\_b |" in text and "**2.000 ± 0.010**" in text
    target = tmp_path / "table.csv"
    done(run("compare", *two, "--format", "csv", "--output", str(target)))
    rows = list(csv.DictReader(io.StringIO(target.read_text())))
    assert {row["metric"]: float(row["difference"]) for row in rows} == {"clip_score": 0.0, "fid": -1.0}


def test_the_page_has_the_values_and_the_differences(run: Command, two: list[str], tmp_path: Path) -> None:
    target = tmp_path / "compared.html"
    done(run("compare", *two, "--format", "html", "--output", str(target)))
    text = target.read_text()
    assert text.startswith("<!doctype html>") and 'id="comparisons"' in text
    assert 'data-verdict="better"' in text and "mini/a_b" in text and "Holm over 2 comparisons" in text
    assert text.index('data-row="a-b"') < text.index('data-row="c"')  # they stand in the order of the command
    refused(run("compare", *two, "--worst", "4"), 2, "--worst", "--format html")
    refused(run("compare", *two, "--worst", "4", "--format", "html"), 2, "--worst", "--metric hps")


def test_a_folder_gives_every_model_in_it(run: Command, two: list[str], tmp_path: Path) -> None:
    document = json.loads(done(run("compare", str(tmp_path), "--suite", "mini-5k", "--json")))
    assert sorted(model["id"] for model in document["models"]) == ["mini/a_b", "mini/c"]
    refused(run("compare", str(tmp_path), "--json"), 2, "no result of suite mini")


def test_ids_take_the_result_sampled_as_declared(run: Command, tmp_path: Path) -> None:
    for guidance, fid in ((3.0, 1.0), (7.5, 9.0)):
        plain = result("mini/sd21", fid, guidance=guidance)
        store.write(plain.model_copy(update={"model": plain.model.model_copy(update={"weights": ()})}), tmp_path)
    other = str(store.write(result("mini/c", 2.0), tmp_path))
    document = json.loads(done(run("compare", "sd21", other, "--suite", "mini-5k", "--results", str(tmp_path), "--json")))
    assert document["models"][0]["metrics"]["fid"] == 1.0


def test_one_model_sampled_twice_is_told_apart(run: Command, tmp_path: Path) -> None:
    files = [str(store.write(result("mini/a", 2.0, guidance=guidance), tmp_path)) for guidance in (2.0, 7.5)]
    document = json.loads(done(run("compare", *files, files[0], "--json")))
    names = ["mini/a (NFE 25, guidance 2)", "mini/a (NFE 25, guidance 7.5)", "mini/a (NFE 25, guidance 2) #2"]
    assert [model["name"] for model in document["models"]] == names


def test_a_result_of_other_weights_is_not_taken(run: Command, tmp_path: Path) -> None:
    plain = result("mini/sd21", 1.0, guidance=3.0)
    weights = [{"path": "unet/diffusion_pytorch_model.safetensors", "sha256": "0" * 64}]
    model = type(plain.model).model_validate(plain.model.model_dump() | {"weights": weights})
    store.write(plain.model_copy(update={"model": model}), tmp_path)
    refused(run("compare", "sd21", "sd21", "--suite", "mini-5k", "--results", str(tmp_path)), 3, "sbv2bench eval --model sd21")


def test_a_model_without_results_names_the_command(run: Command, tmp_path: Path) -> None:
    refused(run("compare", "sd21", "swiftbrush", "--results", str(tmp_path)), 3, "sbv2bench eval --model sd21 --suite mini")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--format", "pdf"], "--format: found 'pdf'"),
        (["--suite", "minni"], "minni"),
        (["--output", "no/such/folder/x.md", "--format", "md"], "no/such/folder/x.md"),
        (["--output", "x.txt"], "a table is for the terminal"),
    ],
)
def test_bad_options(run: Command, two: list[str], arguments: list[str], words: str) -> None:
    refused(run("compare", *two, *arguments), 2, words)


def test_damaged_files(run: Command, two: list[str]) -> None:
    good = Path(two[0]).read_text()
    for text, code, words in (
        (good[:-200], 4, "not JSON"),
        (good.replace('"schema_version": 2', '"schema_version": 99'), 2, "schema_version 99"),
        (good.replace('"fid"', '"fld"', 1).replace('"resumed_images"', '"resumed"'), 4, "resumed"),
    ):
        Path(two[0]).write_text(text)
        refused(run("compare", *two), code, words)
