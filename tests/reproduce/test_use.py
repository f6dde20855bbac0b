"""`--use ID=FOLDER`: weights of a user's own in place of a model's, told apart from released ones and known by their hashes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from paper_results import REGISTRY, fid_of, paper_result
from sample_results import metric, sample_result, with_protocols, write_safetensors

from sbv2bench.data.assets import hash_weights
from sbv2bench.errors import InputError, PrerequisiteError
from sbv2bench.registry import model_in_folder
from sbv2bench.reproduce.miniature import Miniature
from sbv2bench.reproduce.request import Request, carry_out, require_tolerance
from sbv2bench.reproduce.table import WITHIN, Line, Reproduction
from sbv2bench.reproduce.use import RELEASED, RETRAINED, SHIPPED
from sbv2bench.results import store
from sbv2bench.results.records import EvalResult, ModelRecord
from sbv2bench.specs import WeightsFile

MODEL_A = "A: full, Turbo, LAION"
ONE_STEP = {"sampler": "one_step", "steps": 1, "guidance_scale": 1.0, "timestep": 999, "resolution": 512}


def student(folder: Path, payload: bytes, **declared: Any) -> Path:
    """A folder of weights; with fields of a spec, as the trainer writes it."""
    write_safetensors(folder / "unet" / "model.safetensors", payload)
    (folder / "unet" / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    if declared:
        (folder / "sbv2bench.json").write_text(json.dumps({"id": "local/mine", "base": "hub:org/base", **ONE_STEP, **declared}))
    return folder


def scored(folder: Path, fid: float) -> EvalResult:
    """A result of a folder that says how it is sampled, on coco2014-30k; the base's files beside its own."""
    spec, made = model_in_folder(folder), paper_result("full/sbv2-a", fid_of(fid))
    weights = (*hash_weights(folder), WeightsFile(path="hub:org/base:vae/model.safetensors", sha256="ab"))
    record = ModelRecord(**spec.model_copy(update={"weights": weights}).model_dump(), nfe=1)
    return made.model_copy(update={"model": record})


def lines_of(results: Path, *use: str) -> tuple[Reproduction, list[Line]]:
    found = carry_out(Request.checked("table5", "coco2014-30k", results, REGISTRY, use))
    assert isinstance(found, Reproduction)
    return found, [line for line in found.lines if line.printed.method == MODEL_A]


def test_released_weights_and_an_own_retraining_are_told_apart(tmp_path: Path) -> None:
    mine = student(tmp_path / "mine", b"mine" * 3, trained_with={"losses": ["vsd"]})
    other = student(tmp_path / "other", b"else" * 3, trained_with={"losses": ["vsd"]})
    for result in (paper_result("full/sbv2-a", fid_of(11.3)), scored(mine, 14.0), scored(other, 20.0)):
        store.write(result, tmp_path / "results")
    alone = lines_of(tmp_path / "results")[1]
    assert [(line.weights, line.cells[0].measured) for line in alone] == [(RELEASED, 11.3)]
    found, lines = lines_of(tmp_path / "results", f"sbv2-a={mine}")
    assert [(line.weights, line.cells[0].measured) for line in lines] == [(RELEASED, 11.3), (RETRAINED, 14.0)]
    assert [line.cells[0].verdict for line in lines] == [WITHIN, "outside"] and lines[1].cells[0].comparable
    require_tolerance(found)  # another training is no miss of the paper's weights
    store.write(scored(mine, 14.0), tmp_path / "alone")
    require_tolerance(lines_of(tmp_path / "alone", f"sbv2-a={mine}")[0])
    rows = [row for row in found.document()["rows"] if row["method"] == MODEL_A]  # type: ignore[attr-defined]
    assert [row["weights"] for row in rows] == [RELEASED, RETRAINED]
    (mine / "unet" / "model.safetensors").write_bytes((other / "unet" / "model.safetensors").read_bytes())
    assert lines_of(tmp_path / "results", f"sbv2-a={mine}")[1][1].cells[0].measured == 20.0  # by content, not by place


def test_weights_that_nobody_describes_are_sampled_as_their_model(tmp_path: Path) -> None:
    """A folder as it was released, whose scores came from a copy of it where the catalog looks."""
    folder = student(tmp_path / "released", b"gift" * 3)
    result = paper_result("full/sbv2-a", fid_of(11.4))
    model = result.model.model_copy(update={"weights": hash_weights(folder)})
    store.write(result.model_copy(update={"model": model}), tmp_path / "results")
    (line,) = lines_of(tmp_path / "results", f"sbv2-a={folder}")[1]
    assert (line.weights, line.cells[0].measured, line.model) == (f"weights of {folder}, re-scored", 11.4, "full/sbv2-a")


def test_what_was_not_measured_says_how(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    mine = student(tmp_path / "mine", b"mine" * 3, trained_with={"losses": ["vsd"]})
    bare = student(tmp_path / "bare", b"bare" * 3)
    for folder, command in ((mine, f"eval --model {mine} --suite coco2014-30k"), (bare, "eval --model full/sbv2-a --suite")):
        with pytest.raises(PrerequisiteError) as caught:
            lines_of(tmp_path / "results", f"sbv2-a={folder}")
        assert command in str(caught.value.fix)


@pytest.mark.parametrize(
    ("use", "says"),
    [
        (["sbv2-a"], "found 'sbv2-a', expected ID=FOLDER"),
        (["sbv2-a=nowhere"], "nowhere is not a folder"),
        (["sbv2-q=mine"], "did you mean"),
        (["sbv2-a=mine", "full/sbv2-a=mine"], "found it twice"),
    ],
)
def test_what_cannot_be_meant_is_refused(use: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    student(tmp_path / "mine", b"mine" * 3)
    with pytest.raises(InputError, match=says):
        Request.checked("table5", "coco2014-30k", None, REGISTRY, use)
    with pytest.raises(InputError, match="fig7 is a sweep"):
        Request.checked("fig7", "mini-5k", None, REGISTRY, ["sbv2-a=mine"])


def test_a_model_without_a_row_is_remarked_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = student(tmp_path / "mine", b"mine" * 3)
    Request.checked("table3", "coco2014-30k", tmp_path, REGISTRY, [f"sbv2-a={folder}"])
    assert "--use sbv2-a: no row is of it" in capsys.readouterr().err


def test_in_miniature_it_takes_the_place_of_the_shipped_model(tmp_path: Path) -> None:
    mine = student(tmp_path / "mine", b"mine" * 3, trained_with={"losses": ["vsd"]}, resolution=None)
    made = with_protocols(sample_result().model_copy(update={"metrics": {"fid": metric(1.0, "FID-mini", repeats=(0.9, 1.1))}}))
    spec = model_in_folder(mine).model_copy(update={"weights": hash_weights(mine)})
    store.write(made.model_copy(update={"model": ModelRecord(**spec.model_dump(), nfe=1)}), tmp_path / "results")
    found = carry_out(Request.checked("table5", "mini-5k", tmp_path / "results", REGISTRY, [f"sbv2-a={mine}"]))
    assert isinstance(found, Miniature)
    weights = {line.printed.method: line.weights for line in found.lines}
    assert (weights[MODEL_A], {*weights.values()}) == (RETRAINED, {RETRAINED, ""}) and SHIPPED not in weights.values()
    (line,) = [line for line in found.lines if line.printed.method == MODEL_A]
    assert line.measured["fid"] is not None and line.measured["fid"].mean.value == pytest.approx(1.0)
