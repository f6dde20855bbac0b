"""`score`: images of one's own, with a suite's captions and photographs or one's own, by the numbers that `eval` would give."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from paper_suites import CAPTIONS, GENERATED, write_paper_suites
from running import block_of

from sbv2bench.data.own_captions import read_own_captions
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.evaluation.evaluate import evaluate
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.evaluation.own_suite import suite_of_run
from sbv2bench.registry import Registry
from sbv2bench.specs import SuiteSpec


def own_suite(images: Path, base: str, prompts: Path | None, reference: Path | None, registry: Registry) -> SuiteSpec:
    return suite_of_run(str(images), base, EvalOptions.validated(prompts=prompts, reference=reference), registry)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_paper_suites(tmp_path_factory.mktemp("paper")).parent


@pytest.fixture
def paper(place: Path) -> Registry:
    return Registry.load(place / "catalog.yaml")


@pytest.fixture(scope="module")
def names(place: Path) -> list[str]:
    return sorted(path.name for path in (place / "images").iterdir())


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_without_files_of_ones_own_it_is_the_suite(place: Path, paper: Registry) -> None:
    assert own_suite(place / "images", "coco", None, None, paper) is paper.suite("coco")


def test_the_same_captions_and_photographs_give_the_same_numbers(place: Path, paper: Registry, tmp_path: Path) -> None:
    captions = written(tmp_path / "captions.json", json.dumps(CAPTIONS[:GENERATED]))
    suite = own_suite(place / "images", "coco", captions, place / "val2014.zip", paper)
    files = {"prompts": captions, "reference": place / "val2014.zip"}
    own, usual = (evaluate(place / "images", "coco", registry=paper, **more) for more in (files, {}))
    assert block_of(own) == block_of(usual)  # fingerprints and all: a protocol is what was measured, not how it was named
    assert (own.status, own.suite.id) == ("complete", "own")
    assert own.provenance["suite"] == suite.protocol()


def test_a_manifest_pairs_by_name_and_not_by_row(place: Path, paper: Registry, names: list[str], tmp_path: Path) -> None:
    """Rows in any order, two forms, the same captions; other captions of the same images are other cosines."""
    rows = [{"file": name, "caption": caption} for name, caption in zip(names, CAPTIONS, strict=False)][::-1]
    lines = written(tmp_path / "manifest.jsonl", "\n".join(map(json.dumps, rows)))
    commas = written(tmp_path / "manifest.csv", "file,caption\n" + "\n".join(f'{row["file"]},"{row["caption"]}"' for row in rows))
    assert read_own_captions(lines) == read_own_captions(commas)
    assert list(read_own_captions(lines).captions) == CAPTIONS[:GENERATED]
    right = evaluate(place / "images", "coco", registry=paper, metrics="clip", prompts=lines).metrics["clip_score"].value
    assert right == evaluate(place / "images", "coco", registry=paper, metrics="clip").metrics["clip_score"].value
    swapped = written(tmp_path / "swapped.json", json.dumps(CAPTIONS[:GENERATED][::-1]))
    other = evaluate(place / "images", "coco", registry=paper, metrics="clip", prompts=swapped).metrics["clip_score"].value
    assert other != right


def test_metrics_that_only_the_suites_own_captions_allow_are_left_out(tmp_path: Path, place: Path) -> None:
    registry = Registry.load()
    captions = written(tmp_path / "captions.txt", "\n".join(f"caption {n}" for n in range(GENERATED)))
    suite = own_suite(place / "images", "mini", captions, None, registry)
    assert "attributes" not in suite.flags and "clip" in suite.flags
    assert registry.suite("mini").flags[-2:] == ("attributes", "latency")


@pytest.mark.parametrize(
    ("name", "text", "kind", "sentence"),
    [
        ("c.txt", "one\ntwo", IntegrityError, f"found 2 captions for {GENERATED} images"),
        ("c.txt", "one", InputError, "has 1 captions, expected at least two"),
        ("c.json", '{"a": 1}', IntegrityError, "no list of strings"),
        ("c.json", "[", IntegrityError, "not JSON"),
        ("c.json", '["one", 2]', IntegrityError, r"no caption in row 2 \(a int\)"),
        ("c.csv", "name,caption\na,b", InputError, "no column 'file' among name, caption"),
        ("c.csv", "file;caption\na.png;b", InputError, "found columns separated by ';', expected ','"),
        ("c.csv", "file,caption\na.png,b\na.png,c", IntegrityError, "names a file twice"),
        ("c.jsonl", '{"file": "a.png", "caption": "b"}\n{"file": "b.png", "caption": "b"}', IntegrityError, "no caption for"),
        ("c.jsonl", '{"file": "a.png", "caption": 3}\n{"file": "b.png", "caption": "b"}', IntegrityError, r"line 1 \(a int\)"),
        ("c.jsonl", '{"file": 1, "caption": "a"}\n{"file": "b.png", "caption": "b"}', IntegrityError, "line 1 names no file"),
        ("c.txt", "one\n\ntwo\n \n", IntegrityError, r"no caption in line 2 \(blank\), line 4 \(blank\)"),
        ("c.json", '["one", "", "two", null]', IntegrityError, r"row 2 \(blank\), row 4 \(null\)"),
        ("c.csv", "file,caption\na.png,\nb.png,b", IntegrityError, r"no caption in line 2 \(blank\)"),
        ("c.csv", "file,caption\na.png,a, b\nb.png,b", IntegrityError, "line 2: found 3 cells, expected 2"),
        ("c.csv", 'file,caption\na.png,"a \\"b\\", c"\nb.png,b', IntegrityError, "line 2 is not CSV"),
        ("c.csv", "file,caption,caption\na.png,a,b\nb.png,b,c", IntegrityError, "found 2 columns 'caption'"),
        ("c.parquet", "PAR1", IntegrityError, "cannot be read as parquet"),
        ("c.doc", "x", InputError, "c.doc, expected"),
    ],
)
def test_bad_captions(place: Path, tmp_path: Path, name: str, text: str, kind: type[Exception], sentence: str) -> None:  # noqa: PLR0917
    registry = Registry.load(place / "catalog.yaml")
    with pytest.raises(kind, match=sentence):
        own_suite(place / "images", "coco", written(tmp_path / name, text), None, registry)


def test_a_byte_order_mark_and_separators_that_end_no_line(tmp_path: Path) -> None:
    captions = ["a\x85b", "a\u2028b", "a\x0cb"]
    rows = [{"file": f"{number}.png", "caption": caption} for number, caption in enumerate(captions)]
    plain, lines, commas = tmp_path / "c.txt", tmp_path / "c.jsonl", tmp_path / "c.csv"
    for mark in ("", "\ufeff"):
        for end in ("\n", "\r\n"):
            plain.write_bytes((mark + end.join(captions) + end).encode())
            lines.write_bytes((mark + end.join(json.dumps(row, ensure_ascii=False) for row in rows)).encode())
            commas.write_bytes(
                (mark + f"file,caption{end}" + end.join(f"{row['file']},{row['caption']}" for row in rows)).encode()
            )
            for path in (plain, lines, commas):
                assert list(read_own_captions(path).captions) == captions
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows[::-1]), tmp_path / "c.parquet")
    assert read_own_captions(tmp_path / "c.parquet") == read_own_captions(lines)


def test_captions_that_are_not_text_or_not_there(place: Path, paper: Registry, tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(IntegrityError, match="not UTF-8"):
        own_suite(place / "images", "coco", tmp_path / "c.txt", None, paper)
    with pytest.raises(InputError, match="cannot be read"):
        own_suite(place / "images", "coco", tmp_path / "none.txt", None, paper)


def test_pictures_lie_as_deep_for_images_as_for_a_reference(place: Path, paper: Registry, tmp_path: Path) -> None:
    deep = shutil.copytree(place / "images", tmp_path / "a" / "b" / "c" / "images").parents[2]
    suite = own_suite(deep, "coco", None, deep, paper)
    assert suite.num_generated == suite.num_reference == GENERATED


def test_without_a_reference_no_metric_that_reads_one_is_advised(place: Path, paper: Registry, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted((place / "images").iterdir())[:5]:
        shutil.copy(path, few)
    with pytest.raises(IntegrityError) as caught:
        suite_of_run(str(few), "coco", EvalOptions.validated(reference="none"), paper)
    assert caught.value.fix == "--prompts FILE with a caption for each image"
