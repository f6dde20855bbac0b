"""What `reproduce` may say of a number: whose protocol it is under, which rows it cannot be told from, what is provisional."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from paper_results import REGISTRY, cell, fid_of, paper_result, table
from rich.console import Console
from sample_results import metric, with_these

from sbv2bench.errors import ToleranceError
from sbv2bench.registry import Registry
from sbv2bench.reproduce.report import print_reproduction
from sbv2bench.reproduce.request import Request, carry_out, require_tolerance
from sbv2bench.reproduce.table import WITHIN, Reproduction
from sbv2bench.results import store
from sbv2bench.results.published import declared, published_models, published_numbers
from sbv2bench.results.records import EvalResult

TEACHER = "SDv2.1 cfg=2"  # printed with FID 9.64, and no word of its scheduler


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def said(found: Reproduction) -> str:
    console = Console(file=io.StringIO(), width=300)
    print_reproduction(console, found)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def in_dtype(result: EvalResult, dtype: str) -> EvalResult:
    return result.model_copy(update={"conditions": result.conditions.model_copy(update={"dtype": dtype})})


def test_the_papers_protocol_is_claimed_only_where_it_is_stated(tmp_path: Path) -> None:
    stated = table("table3", tmp_path / "a", paper_result("full/sd-turbo", fid_of(20.0)))
    assert cell(stated, "SD Turbo").inferred == ()
    assert "SD Turbo (full/sd-turbo): under the paper's protocol (fid)" in said(stated)
    with pytest.raises(ToleranceError, match="outside under the paper's protocol"):
        require_tolerance(stated)
    unstated = table("table3", tmp_path / "b", paper_result("full/sd21", fid_of(20.0)))
    assert cell(unstated, TEACHER).inferred == ("scheduler dpmsolver++", "timestep_spacing linspace")
    assert "the paper does not state scheduler dpmsolver++, timestep_spacing linspace" in said(unstated)
    with pytest.raises(ToleranceError) as caught:
        require_tolerance(unstated)
    assert "under the paper's protocol" not in str(caught.value) + said(unstated)
    assert "does not state scheduler dpmsolver++" in str(caught.value) and len(str(caught.value).splitlines()) == 3


def test_the_weights_of_a_preference_score_are_inferred_too(tmp_path: Path) -> None:
    hps = metric(27.5, "HPS", "higher", styles={"anime": {"value": 28.0}})
    found = table("table4", tmp_path, paper_result("full/sd-turbo", {"hps": hps}, suite="hpsv2"))
    assert "weights v2.0" in cell(found, "SD Turbo", "hpsv2_anime").inferred
    assert "under the paper's protocol" not in said(found)


def test_a_twin_by_another_scheduler_is_the_row_as_well(tmp_path: Path) -> None:
    """One of them is within, so the number is reproduced; both are shown. With both outside, it is not."""
    results = [paper_result("full/sd21", fid_of(20.0)), paper_result("full/sd21-ddim", fid_of(9.7))]
    found = table("table3", tmp_path / "a", *results)
    lines = {line.model: line.cells[0] for line in found.lines if line.printed.method == TEACHER}
    assert {name: one.verdict for name, one in lines.items()} == {"full/sd21": "outside", "full/sd21-ddim": WITHIN}
    assert lines["full/sd21-ddim"].inferred == ("scheduler ddim", "timestep_spacing leading")
    require_tolerance(found)
    alone = table("table3", tmp_path / "b", results[1])
    assert [line.model for line in alone.lines if line.printed.method == TEACHER] == ["full/sd21-ddim"]
    with pytest.raises(ToleranceError, match="2 of"):
        require_tolerance(table("table3", tmp_path / "c", results[0], paper_result("full/sd21-ddim", fid_of(30.0))))


def test_a_clip_score_names_every_row_that_it_might_be_of(tmp_path: Path) -> None:
    value = metric(0.320, "CLIP", "higher")
    found = cell(table("table3", tmp_path, paper_result("full/sbv2-merged-reg", {"clip_score": value})), "SBv2*", "clip_score")
    assert found.verdict == WITHIN
    names = " ".join(found.like)
    for name in ("SwiftBrush Turbo-init 3.3M (Table 2)", "SBv2 (Table 3)", "SD Turbo (Table 1)"):
        assert name in names
    models = published_models()
    for row in found.like:  # each within what is allowed of it, and each model once
        method, _, number = row.rpartition(" (Table ")
        assert abs(0.320 - _printed(number.rstrip(")"), method)) <= declared().metrics["clip_score"].allowed() + 1e-9
    ids = [models[f"{row.rpartition(' (Table ')[2].rstrip(')')}/{row.rpartition(' (Table ')[0]}"].id for row in found.like]
    assert len(ids) == len(set(ids)) and "full/sbv2-merged-reg" not in ids
    far = cell(table("table3", tmp_path / "far", paper_result("full/sd-turbo", fid_of(50.0))), "SD Turbo")
    assert far.like == ()


def _printed(number: str, method: str) -> float:
    return published_numbers()[number, method, "clip_score"]


def test_what_a_number_cannot_be_told_from_is_said(tmp_path: Path) -> None:
    found = table("table3", tmp_path, paper_result("full/sbv2-merged", fid_of(8.78)))
    assert "SBv2, FID 8.78: cannot be told from SDv1.5 cfg=3 (Table 3)" in said(found)


def test_rows_of_an_unknown_variant_are_provisional_and_the_tolerance_is_ours(tmp_path: Path) -> None:
    found = table("table3", tmp_path, paper_result("full/sbv2-merged", fid_of(20.0)))
    assert "which of the released variants" in cell(found, "SBv2").provisional
    assert "provisional: which of the released variants" in said(found)
    assert "tolerance of our own" in said(found) and "allowed (ours)" in said(found)
    assert "nobody has published any" in found.document()["tolerance"]
    with pytest.raises(ToleranceError, match="provisional") as caught:
        require_tolerance(found)
    assert "(our tolerance)" in str(caught.value)
    marked = {name for name, model in REGISTRY.models.items() if model.provisional}
    assert marked == {"full/sbv2-a", "full/sbv2-b", "full/sbv2-merged", "full/sbv2-merged-reg"}


def test_a_dtype_that_the_released_script_offers_is_inferred(tmp_path: Path) -> None:
    """The paper states none: a GPU's float16 is as good as float32, and is said."""
    for dtype in ("float16", "float32"):
        found = table("table3", tmp_path / dtype, in_dtype(paper_result("full/sd-turbo", fid_of(20.0)), dtype))
        one = cell(found, "SD Turbo")
        assert (one.comparable, one.inferred, one.note) == (True, (f"dtype {dtype}",), "")
        assert "under the paper's protocol" not in said(found) and f"does not state dtype {dtype}" in said(found)
        with pytest.raises(ToleranceError, match=f"does not state dtype {dtype}"):
            require_tolerance(found)


def test_another_dtype_is_not_comparable_and_never_an_exit_5(tmp_path: Path) -> None:
    dtype = "bfloat16"
    other = in_dtype(paper_result("full/sd-turbo", fid_of(20.0)), dtype)
    found = table("table3", tmp_path / "other", other)
    one = cell(found, "SD Turbo")
    assert (one.verdict, one.comparable) == ("outside", False)
    assert one.note == f"measured in {dtype}, the paper's is float32 or float16"
    require_tolerance(found)
    both = table("table3", tmp_path / "both", other, in_dtype(paper_result("full/sd-turbo", fid_of(16.1)), "float32"))
    assert (cell(both, "SD Turbo").measured, cell(both, "SD Turbo").comparable) == (16.1, True)


def declared_anew(**fields: Any) -> Registry:
    """A registry whose user declares the suite's FID extractor anew."""
    registry = Registry.built_in()
    registry.source = "catalog own.yaml"
    spec = registry.extractor("inception-2015-clean299").model_copy(update=fields)
    registry.add("extractor", spec, replaces=True)
    return registry


def test_an_extractor_declared_anew_is_another_metric(tmp_path: Path) -> None:
    """Both where its declaration differs, and where only its weights may: the result says that it was declared anew."""
    registry = declared_anew(preparation="tf1")
    result = paper_result("full/sd-turbo", fid_of(20.0))
    own = result.protocol("fid")
    other = {**own, "extractor": {**own["extractor"], "preparation": "tf1"}}
    store.write(with_these(result, {"fid": other}), tmp_path)
    found = carry_out(Request.checked("table3", "paper", tmp_path, registry))
    assert isinstance(found, Reproduction)
    assert found.differing == {"coco2014-30k": ("fid.extractor.preparation",)}
    assert not cell(found, "SD Turbo").comparable
    require_tolerance(found)

    assert declared_anew().declared_anew(REGISTRY.suite("coco2014-30k")) == ["extractor inception-2015-clean299"]
    assert REGISTRY.declared_anew(REGISTRY.suite("coco2014-30k")) == []
    anew = result.model_copy(update={"provenance": {**result.provenance, "declared_anew": ["extractor clip-vit-g-14-laion2b"]}})
    alike = table("table3", tmp_path / "alike", anew)
    assert not cell(alike, "SD Turbo").comparable and "declared anew" in said(alike)
