"""Prompts of GenEval, DPG-Bench, MJHQ-30K and DMD2 in the form of their own files, and all that can be wrong with them."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest

from sbv2bench.data.benchmark_prompts import read_benchmark
from sbv2bench.data.caption_files import captions_sha256, read_captions
from sbv2bench.errors import InputError, IntegrityError, SBV2BenchError

GENEVAL = [{"tag": "counting", "include": [], "prompt": "two cats"}, {"tag": "colors", "include": [], "prompt": "a red cat "}]
DPG = 'item_id,text,question\nb2,"a long, long prompt",is it?\nb2,"a long, long prompt",is it not?\na10,another,why?\n'
MJHQ = {"f0": {"category": "food", "prompt": "soup"}, "a1": {"category": "art", "prompt": "a line"}}


def write(folder: Path, kind: str, content: Any) -> Path:
    path = folder / {"geneval": "evaluation_metadata.jsonl", "dpg": "dpg_bench.csv", "mjhq": "meta_data.json"}[kind]
    lines = "".join(f"{json.dumps(line)}\n" for line in content) if kind == "geneval" else None
    path.write_text(lines or (content if kind == "dpg" else json.dumps(content)))
    return path


@pytest.mark.parametrize(
    ("kind", "content", "prompts", "tags"),
    [
        ("geneval", GENEVAL, ("two cats", "a red cat "), ("counting", "colors")),
        ("dpg", DPG, ("a long, long prompt", "another"), None),
        ("mjhq", MJHQ, ("soup", "a line"), ("food", "art")),
    ],
)
def test_the_first_prompts_of_each_file(
    kind: str, content: Any, prompts: tuple[str, ...], tags: tuple[str, ...] | None, tmp_path: Path
) -> None:
    path = write(tmp_path, kind, content)
    assert read_benchmark(kind, path, 2, captions_sha256(prompts)) == (prompts, tags)
    assert read_benchmark(kind, path, 1, None) == (prompts[:1], tags and tags[:1])
    with pytest.raises(IntegrityError, match="found 2 prompts, expected at least 3"):
        read_benchmark(kind, path, 3, None)
    with pytest.raises(IntegrityError, match="not the suite's"):
        read_benchmark(kind, path, 2, "0" * 64)


@pytest.mark.parametrize(
    ("kind", "content", "error", "says"),
    [
        ("geneval", [*GENEVAL, {"tag": "colors", "prompt": " "}], IntegrityError, "line 3"),
        ("geneval", [GENEVAL[0], {"tag": None, "prompt": "x"}], IntegrityError, "line 2: found tag None"),
        ("dpg", DPG + ",a text,who?\n", IntegrityError, "line 5: found item_id ''"),
        ("dpg", DPG + "b2,other,who?\n", IntegrityError, "line 5: item 'b2' has another text"),
        ("dpg", DPG.replace("item_id", "name"), InputError, "item_id"),
        ("mjhq", {**MJHQ, "x": {"category": "art"}}, IntegrityError, "row 3"),
        ("mjhq", {**MJHQ, "x": "soup"}, IntegrityError, "row 3, picture 'x'"),
        ("mjhq", {**MJHQ, "x": {"prompt": "y", "category": 3}}, IntegrityError, "row 3: found category 3"),
        ("mjhq", ["soup"], InputError, "found a list"),
    ],
)
def test_a_row_without_prompt_id_or_task_is_named(
    kind: str, content: Any, error: type[SBV2BenchError], says: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=says):
        read_benchmark(kind, write(tmp_path, kind, content), 2, None)


def archive(path: Path, content: bytes, name: str = "coco10k/all_prompts.pkl") -> Path:
    with zipfile.ZipFile(path, "w") as target:
        target.writestr(name, content)
        target.writestr("coco10k/subset/1.jpg", b"")
    return path


def test_texts_in_the_pickle_of_dmd2s_archive(tmp_path: Path) -> None:
    path = archive(tmp_path / "coco10k.zip", pickle.dumps(["one ", "two", "three"]))
    assert read_captions(path, 2, captions_sha256(["one ", "two"])) == ("one ", "two")


class Code:
    """Would be called as it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("touched"),))


@pytest.mark.parametrize(
    ("content", "name", "error", "says"),
    [
        (pickle.dumps([Code()]), "all_prompts.pkl", IntegrityError, "it names"),
        (pickle.dumps(["one", 2]), "all_prompts.pkl", IntegrityError, "expected a list of strings"),
        (b"no pickle", "all_prompts.pkl", IntegrityError, "no pickled list"),
        (pickle.dumps(["one"]), "prompts.pkl", InputError, "found 0 files all_prompts.pkl"),
    ],
)
def test_nothing_but_texts_is_read_of_it(  # noqa: PLR0917
    content: bytes, name: str, error: type[SBV2BenchError], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=says):
        read_captions(archive(tmp_path / "coco10k.zip", content, name), 1, None)
    assert not (tmp_path / "touched").exists()
