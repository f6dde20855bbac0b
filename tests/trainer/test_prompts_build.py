"""`prompts build`: what is cleaned, left out and counted, and that the same inputs give the same bytes or nothing at all."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from paper_suites import CAPTIONS, write_paper_suites

import sbv2bench
from reference_trainer.config import Prompts
from reference_trainer.prompts import PromptSource
from reference_trainer.prompts.build import build_prompts
from reference_trainer.prompts.cleaning import LONGEST, cleaned, normalised, why_left_out
from reference_trainer.prompts.evaluation import names_in
from sbv2bench.data.caption_files import captions_sha256
from sbv2bench.data.prompts import load_prompts
from sbv2bench.errors import InputError, IntegrityError, InterruptedRun, PrerequisiteError
from sbv2bench.evaluation.download import bring
from sbv2bench.registry import Registry

# COCO 2014 val's captions as the paper lists them (40,504), where somebody has the file.
REAL = Path(os.environ["COCO2014_CAPTIONS"]) if "COCO2014_CAPTIONS" in os.environ else None


def built(sources: Path | list[Path], **settings: Any) -> tuple[list[str], dict[str, Any]]:
    """The captions and the manifest as they stand on the disk."""
    sources = [sources] if isinstance(sources, Path) else sources
    output = settings.pop("output", sources[0].parent / "made")
    found = build_prompts(sources, output, **({"exclude": (), "name": "all"} | settings))
    manifest = json.loads((output / "all.manifest.json").read_text("utf-8"))
    assert manifest == found
    return (output / "all.txt").read_text("utf-8").splitlines(), manifest


def text(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return path


def records(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("  a\tcat \x00 and\x1b[0m\r\n a dog ", "a cat and [0m a dog"),
        ("Tom &amp; Jerry &quot;at home&quot; &#39;now&#x27; &amp;lt;", "Tom & Jerry \"at home\" 'now' &lt;"),
        ("black&gold, R&B, AT&T, &copyright", "black&gold, R&B, AT&T, &copyright"),
        ("a\u200bcat\ufeff, so\u00adft \u202eleft", "acat, soft left"),
        ("\U0001f468\u200d\U0001f4bb at work", "\U0001f468\u200d\U0001f4bb at work"),
        ("a\u2028b\x85c\u00a0d", "a b c d"),
    ],
)
def test_cleaned_text_is_one_line_of_the_same_words(written: str, said: str) -> None:
    assert cleaned(written) == said
    assert cleaned(said) == (said if "&lt;" not in said else said.replace("&lt;", "<"))


def test_captions_are_the_same_but_for_case_spaces_and_punctuation() -> None:
    same = ["A cat, on a T-shirt!", "a  CAT on a t shirt", "\uff21 cat on a t\u2011shirt...", "_a cat_ on a T/shirt"]
    assert len(set(map(normalised, same))) == 1
    assert normalised("Stra\u00dfe caf\u00e9") == normalised("STRASSE CAFE\u0301")
    assert normalised("a cat") != normalised("a cat 2") != normalised("a c at")


def test_what_is_no_caption_is_counted_by_reason(tmp_path: Path) -> None:
    source = text(
        tmp_path / "a.txt",
        [
            *("a cat", "", " \t", "\u200b", "https://x.org/a.png www.y.org", "see https://x.org", "ab", "?! #", "A, cat."),
            *("x" * LONGEST, "x" * (LONGEST + 1), "word " * 20_000, "a dog"),
        ],
    )
    captions, manifest = built(source)
    assert sorted(captions) == sorted(["a cat", "see https://x.org", "x" * LONGEST, "a dog"])
    assert manifest["left_out"] == {
        "blank": 3, "web address": 1, "too short": 2, "too long": 2, "repeat": 1, "beyond the limit": 0
    }  # fmt: skip
    assert manifest["rows"] == 13 == manifest["captions"] + sum(manifest["left_out"].values())
    assert why_left_out("cat") is None


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("column", ["prompt", "caption", "TEXT"])
def test_the_columns_of_public_lists_are_known(tmp_path: Path, suffix: str, column: str) -> None:
    rows = [{"URL": "https://x.org/1.png", column: "a cat, sitting"}, {"URL": "https://x.org/2.png", column: "a dog"}]
    captions, manifest = built(records(tmp_path / f"a{suffix}", rows))
    assert sorted(captions) == ["a cat, sitting", "a dog"]
    assert manifest["inputs"][0]["column"] == column


def test_a_list_as_journeydb_writes_it(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"img_path": "./000/1.jpg", "prompt": "a cat --ar 3:2", "Task1": {"Style": []}, "Task2": {"Caption": "A cat sits."}},
        {"img_path": "./000/2.jpg", "prompt": "A cat, --ar 3:2", "Task2": {}},
        {"img_path": "./000/3.jpg", "prompt": None, "Task2": None},
        {"img_path": "./000/4.jpg", "prompt": 2024, "Task2": {"Caption": "\ud800"}},
    ]
    source = records(tmp_path / "train_anno.jsonl", rows)
    captions, manifest = built(source)
    assert captions == ["a cat --ar 3:2"]
    assert manifest["left_out"] == {"null": 1, "not text": 1, "repeat": 1, "beyond the limit": 0}
    captions, manifest = built(source, column="Task2.Caption")
    assert captions == ["A cat sits."]
    assert manifest["left_out"] == {"null": 2, "not text": 1, "repeat": 0, "beyond the limit": 0}
    only = records(tmp_path / "only.jsonl", [{"Task2": {"Caption": "A cat sits."}}])
    assert built(only)[0] == ["A cat sits."]


def test_a_folder_is_its_files_and_the_first_of_repeats_stays(tmp_path: Path) -> None:
    parts = tmp_path / "laion"
    parts.mkdir()
    for number, caption in ((10, "A CAT"), (9, "a cat"), (2, "a dog")):
        records(parts / f"part-{number}.parquet", [{"TEXT": caption}, {"TEXT": f"thing {number}"}])
    (parts / "README.md").write_text("not read")
    captions, manifest = built([parts, text(tmp_path / "b.txt", ["a cow", "A dog"])])
    assert sorted(captions) == ["a cat", "a cow", "a dog", "thing 10", "thing 2", "thing 9"]
    told = [(one["file"], one["rows"], one["captions"]) for one in manifest["inputs"]]
    assert told == [("part-2.parquet", 2, 2), ("part-9.parquet", 2, 2), ("part-10.parquet", 2, 1), ("b.txt", 2, 1)]


def test_the_same_inputs_give_the_same_bytes_and_a_seed_another_order(tmp_path: Path) -> None:
    lines = [f"a photo of thing {number}" for number in range(500)]
    source = text(tmp_path / "a.txt", lines)
    before, _ = built(source, seed=3)
    files = [path.read_bytes() for path in sorted((tmp_path / "made").iterdir())]
    assert len(files) == 2
    assert built(source, seed=3)[0] == before
    assert [path.read_bytes() for path in sorted((tmp_path / "made").iterdir())] == files
    assert sorted(before) == sorted(lines) and before != lines
    assert built(source, seed=4)[0] != before
    limited, other = built(source, seed=3, limit=20)
    assert limited == before[:20] and other["left_out"]["beyond the limit"] == 480
    assert built(source, limit=10**9)[1]["captions"] == 500
    assert before[:3] == ["a photo of thing 100", "a photo of thing 162", "a photo of thing 278"]  # recorded


def test_the_manifest_says_what_it_was_made_of_and_travels_with_the_captions(tmp_path: Path) -> None:
    source, beside = text(tmp_path / "a.txt", ["a cat", "a dog"]), text(tmp_path / "mine.txt", ["A Dog!", "a horse"])
    _, manifest = built(source, exclude=[str(beside)], licence="CC BY 4.0, as its page says", seed=7)
    made = tmp_path / "made" / "all.txt"
    assert manifest["sha256"] == hashlib.sha256(made.read_bytes()).hexdigest()
    assert manifest["inputs"][0] == {
        "file": "a.txt", "sha256": hashlib.sha256(source.read_bytes()).hexdigest(), "column": None, "rows": 2, "captions": 1
    }  # fmt: skip
    assert manifest["exclude"] == [{"name": "mine.txt", "captions": 2, "sha256": captions_sha256(["A Dog!", "a horse"])}]
    assert (manifest["licence"], manifest["seed"], manifest["version"]) == (
        "CC BY 4.0, as its page says", 7, sbv2bench.__version__
    )  # fmt: skip
    assert (manifest["bytes"], manifest["captions"], manifest["left_out"]["in mine.txt"]) == (made.stat().st_size, 1, 1)
    assert str(tmp_path) not in json.dumps(manifest)
    assert PromptSource([Prompts(source=str(made))]).parts[0].manifest == manifest
    assert built(source)[1]["exclude"] == "none"


def test_captions_of_suites_never_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBV2BENCH_CATALOG", str(write_paper_suites(tmp_path / "paper")))
    mini = load_prompts(Registry.load().suite("mini")).captions[700]
    choosing = load_prompts(Registry.load().suite("mini-choosing")).captions[5]
    lines = [CAPTIONS[39].upper(), "caption, 3!", "ANIME 2", mini.upper(), f"{choosing}.", "a tractor on the moon"]
    source = text(tmp_path / "a.txt", lines)
    captions, manifest = built(source, exclude=("coco", "hps", "mini", "mini-choosing"))
    assert captions == ["a tractor on the moon"]
    out = manifest["left_out"]
    assert (out["in coco"], out["in hps"]) == (2, 1)  # the list's 40th caption too, though the suite takes 36
    assert out["in mini"] + out["in mini-choosing"] == 2
    assert [(one["name"], one["captions"]) for one in manifest["exclude"]] == [
        ("coco", 40), ("hps", 16), ("mini", 1000), ("mini-choosing", Registry.load().suite("mini-choosing").num_generated)
    ]  # fmt: skip
    assert len(built(source, exclude=("both",))[0]) == 3  # a group
    assert len(built(source, exclude=(str(tmp_path / "paper" / "dataset.json"),))[0]) == 4


@pytest.mark.skipif(REAL is None, reason="the released caption list is no part of the project; it is fetched by hash")
def test_all_of_the_released_list_is_left_out(tmp_path: Path) -> None:
    assert REAL is not None
    bring(Registry.load(), "coco2014-captions", REAL)
    labels = json.loads(REAL.read_text("utf-8"))
    listed = [caption for _, caption in labels["labels"]] if "labels" in labels else [""]
    source = text(tmp_path / "a.txt", [f"{' '.join(listed[-1].split()).upper()}!", "a tractor on the moon"])
    captions, manifest = built(source, exclude=("coco2014",))
    assert captions == ["a tractor on the moon"]
    assert manifest["exclude"][0]["captions"] == 40_504


def test_lists_that_are_not_on_the_machine_are_named_with_their_commands(tmp_path: Path) -> None:
    source = text(tmp_path / "a.txt", ["a cat"])
    with pytest.raises(PrerequisiteError, match="coco2014, hpsv2") as caught:
        build_prompts([source], tmp_path / "made")
    assert "sbv2bench download coco2014-captions && " in str(caught.value.fix)
    assert str(caught.value.fix).endswith("sbv2bench download hpsv2-prompts")
    assert not (tmp_path / "made").exists()
    assert names_in("none") == () and names_in("a, b") == ("a", "b")
    with pytest.raises(InputError, match="suites or files, or none"):
        names_in(" ,")


@pytest.mark.parametrize(
    ("name", "content", "kind", "says"),
    [
        ("a.txt", b"a cat\nK\xe4se\n", IntegrityError, "line 2 is not UTF-8"),
        ("a.txt", b"", IntegrityError, "no caption is left of 0 rows .the files are empty"),
        ("a.txt", b"\n\nab\n", IntegrityError, "no caption is left of 3 rows .2 blank, 1 too short"),
        ("a.csv", b"URL,TEXT\nu,a, b\n", IntegrityError, "line 2: found 3 cells, expected 2"),
        ("a.csv", b"", IntegrityError, "the files are empty"),
        ("a.csv", b'"URL,TEXT\n', IntegrityError, "not CSV"),
        ("a.csv", b"URL;TEXT\nx;a cat\n", InputError, "found columns separated by ';', expected ','"),
        ("a.csv", b"URL,words\nu,a\n", InputError, "no column prompt, caption, text among URL, words"),
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt": \n', IntegrityError, "line 2 is not JSON"),
        ("a.jsonl", b'{"prompt": "a"}\n{"image": 1}\n', InputError, "line 2: found no column 'prompt'"),
        ("a.parquet", b"PAR1 and no more PAR1", IntegrityError, "cannot be read as parquet"),
        ("a.md", b"a cat", InputError, r"found a.md, expected \*.txt"),
    ],
)
def test_bad_files_are_refused_and_nothing_is_written(
    tmp_path: Path, name: str, content: bytes, kind: type[Exception], says: str
) -> None:
    good = text(tmp_path / "good.txt", ["a cat"] if kind is InputError else [])
    (tmp_path / name).write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(kind, match=says) as caught:
        built([good, tmp_path / name] if "left" not in says and "empty" not in says else tmp_path / name)
    assert len(str(caught.value).splitlines()) <= 3
    assert sorted(tmp_path.rglob("*")) == before


def test_options_that_cannot_be_meant(tmp_path: Path) -> None:
    source = text(tmp_path / "a.txt", ["a cat"])
    (tmp_path / "empty").mkdir()
    mine = text(tmp_path / "mine.txt", ["my own list"])
    for settings, says in (
        ({"name": "../a"}, "--name: found"),
        ({"name": ""}, "--name: found"),
        ({"output": tmp_path, "name": "a"}, "among the files to read"),
        ({"output": tmp_path, "name": "mine"}, "prompts build did not write it"),
        ({"output": mine, "name": "x"}, "cannot be written"),
        ({"exclude": ["minni"]}, "did you mean 'mini'"),
    ):
        with pytest.raises(InputError, match=says):
            built(source, **settings)  # type: ignore[arg-type]
    for wrong, says in ((tmp_path / "none.txt", "is not a file"), (tmp_path / "empty", "has no file")):
        with pytest.raises(InputError, match=says):
            built(wrong)
    with pytest.raises(InputError, match="no column 'captoin' among caption, did you mean 'caption'"):
        built(records(tmp_path / "c.csv", [{"caption": "a cat"}]), column="captoin")
    assert mine.read_text() == "my own list\n"


def test_what_is_interrupted_leaves_what_was_there(tmp_path: Path) -> None:
    source = text(tmp_path / "a.txt", ["a cat", "a dog"])
    built(source)
    before = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(InterruptedRun, match="stopped"):
        built(text(source, ["a cow"]), say=interrupt)
    assert {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()} == before
    assert built(source)[0] == ["a cow"]  # its own file is replaced


@pytest.mark.ci
def test_text_is_not_in_memory(tmp_path: Path) -> None:
    count = 100_000
    lines = (f"a photo of thing number {number} in a wood, {'golden hour ' * 8}" for number in range(count))
    (tmp_path / "a.txt").write_text("\n".join(lines))
    cleaned("")  # its table of characters stays, and is no caption's
    tracemalloc.start()
    manifest = build_prompts([tmp_path / "a.txt"], tmp_path / "made", exclude=())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert manifest["captions"] == count and manifest["bytes"] > 13 * 10**6
    assert peak < 10**7


def test_the_command(tmp_path: Path) -> None:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "reference_trainer", "prompts", "build", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    text(tmp_path / "a-1.0.txt", ["a cat", "A cat", "a dog"])
    done = call("--from", "a-1.0.txt", "--from", "a-1.0.txt", "--exclude", "none", "--licence", "mine", "--limit", "1")
    assert done.returncode == 0 and done.stdout == "", done.stderr
    assert "prompts/a-1.0.txt: captions: 1 of 6 rows; left out: 4 repeat, 1 beyond the limit" in done.stderr
    assert json.loads((tmp_path / "prompts" / "a-1.0.manifest.json").read_text())["licence"] == "mine"
    done = call("--from", "a-1.0.txt")
    assert done.returncode == 3 and "fix: HF_HUB_OFFLINE=0" in done.stderr, done.stderr
    done = call("--from", "none.txt")
    assert done.returncode == 2 and "Traceback" not in done.stderr and len(done.stderr.splitlines()) <= 3


def test_a_list_whose_build_was_killed_before_its_manifest_was_in_place_is_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a new list and of one in place of another: what lies there is known for ours, and is never taken for anybody's."""
    source = text(tmp_path / "a.txt", ["a cat", "a dog"])
    rename = Path.replace

    def killed(path: Path, target: Path) -> Path:
        if target.name == "all.manifest.json":
            raise SystemExit
        return rename(path, target)

    for captions in (["a cat", "a dog"], ["a bird"]):
        text(source, captions)
        with monkeypatch.context() as patch, pytest.raises(SystemExit):
            patch.setattr(Path, "replace", killed)
            built(source)
        found, manifest = built(source)
        assert sorted(found) == captions and manifest["captions"] == len(captions)
        assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["all.manifest.json", "all.txt"]
    (tmp_path / "made" / "all.txt").write_text("my own list\n")
    with pytest.raises(InputError, match="prompts build did not write it"):
        built(source)
