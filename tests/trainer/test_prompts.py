"""Captions to train on: every format read alike, every bad file refused before training, and one order for all processes."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import socket
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from reference_trainer.config import Prompts
from reference_trainer.prompts import WORLD_LENGTH, PromptSource, shuffled_index
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError
from sbv2bench.mini import world

CAPTIONS = ["a cat, sitting", 'a "red" ring', "ein Käse über 東京", "None", "2024", " two  spaces "]


def opened(*sources: Any, **settings: Any) -> PromptSource:
    return PromptSource([Prompts(source=str(source), **settings) for source in sources])


def remarks(source: PromptSource) -> list[str]:
    return [remark for part in source.parts for remark in part.remarks]


def all_of(source: PromptSource) -> list[str]:
    return source[range(len(source))]


def written(path: Path, captions: list[Any], column: str = "text") -> Path:
    """The captions in the format of the suffix, with another column beside them where there are columns."""
    if path.suffix == ".txt":
        path.write_text("".join(f"{caption}\n" for caption in captions), "utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(captions), "utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"id": 1, column: caption}) + "\n" for caption in captions), "utf-8")
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["id", column], *([1, caption] for caption in captions)])
    else:
        pyarrow.parquet.write_table(pyarrow.table({"id": [1] * len(captions), column: captions}), path, row_group_size=2)
    return path


def order(seed: int, epoch: int, count: int) -> np.ndarray:
    return shuffled_index(seed, epoch, np.arange(count), count)


@pytest.mark.parametrize("count", [1, 2, 7, 1000, 12345])
def test_an_epoch_has_everything_once(count: int) -> None:
    assert sorted(order(3, 5, count)) == list(range(count))


def test_the_order_is_of_the_seed_and_the_epoch_alone() -> None:
    assert (order(3, 5, 1000) != order(4, 5, 1000)).mean() > 0.98
    assert (order(3, 5, 1000) != order(3, 6, 1000)).mean() > 0.98
    long = order(0, 0, 12345)
    assert abs(np.corrcoef(long[:-1], long[1:])[0, 1]) < 4 / np.sqrt(12345)
    assert abs(np.corrcoef(long, np.arange(12345))[0, 1]) < 4 / np.sqrt(12345)
    alone = [int(shuffled_index(3, 5, np.array([position]), 1000)[0]) for position in (999, 0, 17)]
    assert alone == list(order(3, 5, 1000)[[999, 0, 17]])
    assert list(order(0, 0, 7)) == [5, 3, 2, 0, 1, 4, 6]  # recorded: a run that is resumed must find the same


@pytest.mark.parametrize("count", [2, 7, 60])
def test_every_place_has_everything_equally_often(count: int) -> None:
    epochs = 4000
    orders = shuffled_index(0, np.repeat(np.arange(epochs), count), np.tile(np.arange(count), epochs), count)
    seen = np.zeros((count, count))
    np.add.at(seen, (np.tile(np.arange(count), epochs), orders), 1)
    degrees, expected = (count - 1) ** 2, epochs / count
    chi_squared = ((seen - expected) ** 2 / expected).sum()
    assert abs(chi_squared - degrees) < 4 * np.sqrt(2 * degrees) + 4


def test_processes_take_the_rows_of_one_order_and_a_step_is_all_that_resuming_needs(tmp_path: Path) -> None:
    names = [f"caption {number}" for number in range(10)]
    path = written(tmp_path / "a.txt", names)
    one = opened(path)
    whole = [one.prompts_at(1, step, 4, range(4)) for step in range(15)]
    resumed = opened(path)
    for step in (14, 3, 7):
        assert resumed.prompts_at(1, step, 4, [0, 1]) + resumed.prompts_at(1, step, 4, [2, 3]) == whole[step]
    run = [caption for batch in whole for caption in batch]  # 60 samples: six epochs, whose ends lie inside batches
    assert [sorted(run[begin : begin + 10]) for begin in range(0, 60, 10)] == [names] * 6
    assert run[:10] != run[10:20]
    assert set(one.prompts_at(1, -1, 4, range(4))) <= set(names)  # steps before the first, of a warmup


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".csv", ".parquet", ".json", ".TXT"])
def test_every_format_says_the_same(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a[1]*{suffix}"  # no pattern is seen in the name
    written(tmp_path / f"b{suffix.lower()}", CAPTIONS).rename(path)
    source = opened(path)
    assert all_of(source) == CAPTIONS
    assert source[[5, 0, 0, 3]] == [CAPTIONS[5], CAPTIONS[0], CAPTIONS[0], CAPTIONS[3]]
    assert all_of(opened(path)) == CAPTIONS  # from the cache


def test_a_column_is_chosen_and_a_byte_order_mark_is_no_caption(tmp_path: Path) -> None:
    for suffix in (".jsonl", ".csv", ".parquet"):
        path = written(tmp_path / f"a{suffix}", CAPTIONS, column="caption")
        assert all_of(opened(path, column="caption")) == CAPTIONS
        with pytest.raises(InputError, match=r"no column 'captoin' among id, caption, did you mean 'caption'") as caught:
            opened(path, column="captoin")
        assert path.name in str(caught.value)
    for suffix in (".txt", ".jsonl", ".csv"):
        path = written(tmp_path / f"b{suffix}", CAPTIONS)
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
        assert all_of(opened(path)) == CAPTIONS
    path.write_bytes(b"\xef\xbb\xbftext\na cat\n")
    assert all_of(opened(path)) == ["a cat"]
    assert all_of(opened(path.rename(tmp_path / "c.txt"))) == ["text", "a cat"]  # the same bytes are other captions


def test_sources_follow_each_other_and_a_limit_takes_the_first(tmp_path: Path) -> None:
    first, second = written(tmp_path / "a.txt", ["a", "b", "c"]), written(tmp_path / "b.jsonl", ["d", "e"])
    both = opened(first, second, "world:training", limit=2)
    assert both[[3, 0, 2, 1]] == ["e", "a", "d", "b"]
    assert both[[4, 5]] == world.captions(world.scenes("training", [0, 1]))
    assert len(both) == 6
    assert len(opened("world:training")) == WORLD_LENGTH
    assert len(opened(first, limit=3)) == 3
    with pytest.raises(InputError, match=r"limit 4 of .*: found 3 captions"):
        opened(first, limit=4)


def test_hashes_are_of_contents_and_order(tmp_path: Path) -> None:
    first, second = written(tmp_path / "a.txt", ["a", "b"]), written(tmp_path / "b.txt", ["d", "e"])
    source = opened(first, "world:training")
    digest = hashlib.sha256(first.read_bytes()).hexdigest()
    assert [part.identity for part in source.parts] == [f"sha256:{digest}", "world:training"]
    assert source.sha256 == opened(first.rename(tmp_path / "c.txt"), "world:training").sha256
    hashes = [opened(*files).sha256 for files in ([tmp_path / "c.txt", second], [second, tmp_path / "c.txt"], [second])]
    assert len({*hashes, source.sha256, opened(second, limit=1).sha256}) == 5


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".csv", ".parquet", ".json"])
def test_a_changed_file_is_seen_though_its_time_and_size_are_the_old_ones(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path / f"a{suffix}", ["a cat", "a dog"])
    os.utime(path, (1000, 1000))
    before = opened(path)
    written(path, ["a cow", "a dog"])
    os.utime(path, (1000, 1000))
    after = opened(path)
    assert (all_of(before), all_of(after)) == (["a cat", "a dog"], ["a cow", "a dog"])
    assert before.parts[0].identity != after.parts[0].identity


@pytest.mark.parametrize(
    ("suffix", "content", "says"),
    [
        (".txt", b"", "no captions"),
        (".txt", b"\n \n\t\n\n", "no captions, 4 blank, expected"),
        (".txt", b"a\nK\xe4se\n", r"line 2 is not UTF-8 \(byte 3 of"),
        (".txt", b"\xef\xbb\xbfa\n" + b"a" * 2**20 + "é".encode() + b"b\xff", rf"line 2 is not UTF-8 \(byte {2**20 + 8} of"),
        (".txt", b"a\n\xe6\x9d", r"line 2 is not UTF-8 \(byte 2 of"),
        (".jsonl", b'{"text": "a"}\n{"text": null}\n{"text": 3}\n', r"no caption in line 3 \(a int\), expected"),
        (".jsonl", b'{"text": "a"}\n{"txt": "b"}\n', "line 2: found no column 'text' among txt, did you mean 'txt'"),
        (".jsonl", b'{"text": "a"}\n{"text": "b"\n', "line 2 is not JSON"),
        (".jsonl", b'{"text": "a"}\n["b"]\n', "line 2: found a list, expected a JSON object"),
        (".jsonl", b'{"text": "a"}\n{"text": "\\ud800"}\n', "line 2 .half a surrogate"),
        (".csv", b"text,id\n", "no captions"),
        (".csv", b"text,text\na,b\n", "found 2 columns 'text', expected one"),
        (".csv", b"text,id\ra,1\r", "not CSV .a carriage return outside quotes"),
        (".csv", b'text,id\n"a \\"b\\", c",1\n', "line 2 is not CSV"),
        (".jsonl", b"[" * 100_000, "line 1 is not JSON"),
        (".json", b'["a", 3]', r"no caption in row 2 \(a int\)"),
        (".json", b'{"a": 1}', "no list of strings but a dict"),
        (".json", b"[", "not JSON"),
        (".csv", b"text,id\na, b,1\n", "line 2: found 3 cells, expected 2"),
        (".csv", b'text,id\n"a,1\n', "line 2 is not CSV"),
        (".csv", b"id;text\n1;a, b\n", "found columns separated by ';', expected ','"),
        (".csv", b"id\ttext\n1\ta\n", r"found columns separated by '\\t', expected ','"),
        (".csv", b'"id";"text"\n1;a\n', "(?s)line 1 is not CSV .*fix: save it with commas"),
        (".csv", b'text,id\n"' + b"a" * 200_000 + b'",1\n', "line 2: found a cell of more than 131,072 characters"),
        (".parquet", b"text", "cannot be read as parquet"),
        (".parquet", [None, None], r"no captions, 2 null, expected"),
        (".parquet", [1, 2], r"row 1 \(a int\), row 2 \(a int\), expected"),
        (".parquet", [b"\xff"], "row 1 .a bytes"),
        (".parquet", [], "no captions"),
    ],
)
def test_bad_files_are_refused_by_place(tmp_path: Path, own_home: Path, suffix: str, content: Any, says: str) -> None:
    path = tmp_path / f"a{suffix}"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        written(path, content)
    with pytest.raises((InputError, IntegrityError), match=says) as caught:
        opened(path)
    assert path.name in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3
    assert not list(own_home.rglob("*.*"))  # nothing half written stays
    assert all_of(opened(written(path, CAPTIONS))) == CAPTIONS  # its good twin


def test_unknown_and_missing_sources(tmp_path: Path) -> None:
    for wrong, says in (
        (tmp_path / "a.xlsx", r"expected a file \*.txt, \*.jsonl, \*.csv, \*.parquet, \*.json, hub:ORG/NAME or world:training"),
        ("world:testing", "no split, expected world:training"),
        ("world:reporting", "which suites evaluate on, expected world:training"),
        ("world:choosing", "which suites evaluate on, expected world:training"),
        ("hub:text", "expected hub:ORG/NAME"),
    ):
        with pytest.raises(InputError, match=says):
            opened(wrong)


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".csv", ".parquet", ".json"])
def test_rows_that_hold_nothing_are_left_out_counted_and_told_every_time(tmp_path: Path, own_home: Path, suffix: str) -> None:
    nothing = ["", "\u2003\t", "a dog", "", None] if suffix not in {".txt", ".csv"} else ["", "\u2003\t", "a dog", "", ""]
    path = written(tmp_path / f"a{suffix}", ["a cat", *nothing])
    whole = written(tmp_path / f"b{suffix}", ["a cow"])
    blank = nothing.count("") + 1
    for _ in range(2):  # read, then from the cache
        source = opened(path, whole)
        assert all_of(source) == ["a cat", "a dog", "a cow"]
        (remark,) = remarks(source)
        assert f"{path}: {blank} blank{' and 1 null' if None in nothing else ''} of 6 rows left out" in remark
        assert remarks(opened(whole)) == []
    for counts in own_home.rglob("*.json"):  # a cache without its counts is read again
        counts.unlink()
    assert remarks(opened(path, whole)) == [remark]
    with pytest.raises(InputError, match=r"limit 3 of .*: found 2 captions"):
        opened(path, limit=3)


def test_only_newlines_end_a_line(tmp_path: Path) -> None:
    captions = ["a\x85b\x0bc", "a\u2028b", "a\rb"]
    path = tmp_path / "a.txt"
    path.write_bytes("\n".join(captions).encode())
    assert all_of(opened(path)) == captions
    lines = "".join(json.dumps({"text": caption}, ensure_ascii=False) + "\r\n" for caption in captions)
    (tmp_path / "a.jsonl").write_bytes(lines.encode())
    assert all_of(opened(tmp_path / "a.jsonl")) == captions


def test_a_nested_column_is_null_where_it_is_missing(tmp_path: Path) -> None:
    records = [{"Task2": {"Caption": "a cat"}}, {"Task2": {}}, {"Task2": None}, {"Task2": {"Caption": "a dog"}}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        source = opened(tmp_path / name, column="Task2.Caption")
        assert all_of(source) == ["a cat", "a dog"]
        assert "2 null of 4 rows left out" in remarks(source)[0]
        with pytest.raises(InputError, match=r"no column 'Task3\.Caption' among Task2"):
            opened(tmp_path / name, column="Task3.Caption")


def test_a_long_line_is_a_caption(tmp_path: Path) -> None:
    long = "word " * 20_000
    for suffix in (".txt", ".jsonl", ".csv", ".parquet"):
        assert all_of(opened(written(tmp_path / f"a{suffix}", [long, "a cat"]))) == [long, "a cat"]
    with pytest.raises(IntegrityError, match="line 2: found a cell of more than"):  # a quote that is never closed takes no memory
        opened(written(tmp_path / "b.csv", [long * 2]))


@pytest.mark.parametrize(
    ("name", "says", "fix"),
    [
        (
            "journeydb-1.3m.txt",
            "JourneyDB/JourneyDB",
            "--from train_anno.jsonl --output {} --name journeydb-1.3m --limit 1300",
        ),
        ("laion-2m.txt", "laion/relaion2B-en-research-safe", "--from laion --output {} --name laion-2m --limit 2000000"),
        ("mine.txt", "hub data sets JourneyDB/JourneyDB and laion", "--from FILE --output {} --name mine"),
        ("mine.csv", "is not a file", "put the file there"),
    ],
)
def test_a_list_that_is_not_there_says_how_to_make_it(tmp_path: Path, name: str, says: str, fix: str) -> None:
    with pytest.raises(PrerequisiteError, match="is not a file") as caught:
        opened(tmp_path / name)
    assert says in caught.value.message and name in caught.value.message
    assert fix.format(tmp_path) in str(caught.value.fix)
    assert len(str(caught.value).splitlines()) <= 3


def test_a_manifest_is_had_while_it_is_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path / "a-1.3m.txt", CAPTIONS)
    beside = tmp_path / "a-1.3m.manifest.json"
    content = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "licence": "CC0"}
    beside.write_text(json.dumps(content))
    source = opened(path, "world:training")
    assert ([part.manifest for part in source.parts], remarks(source)) == ([content, None], [])
    for wrong in (json.dumps({"sha256": "0" * 64}), "[", "[]", "[" * 100_000):
        beside.write_text(wrong)
        source = opened(path)
        assert source.parts[0].manifest is None
        assert "does not describe a-1.3m.txt as it is now" in remarks(source)[0]


def test_a_missing_package_and_an_unwritable_cache_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.txt", CAPTIONS)
    monkeypatch.setenv("SBV2BENCH_HOME", str(path))
    with pytest.raises(InputError, match="cannot be written") as caught:
        opened(path)
    assert not isinstance(caught.value, IntegrityError)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(PrerequisiteError, match=r"sbv2bench\[train\]"):
        opened(path)
    assert len(opened("world:training")) == WORLD_LENGTH


@pytest.mark.ci
def test_a_long_file_is_not_in_memory(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", [f"a photo of thing number {number} in a wood, golden hour" for number in range(300_000)])
    assert path.stat().st_size > 15 * 10**6
    tracemalloc.start()
    source = opened(path)
    found = source.prompts_at(0, 1000, 64, range(64)) + source[[299_999, 0, 123_456]]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * 10**6
    assert [caption.split()[5] for caption in found[-3:]] == ["299999", "0", "123456"]


class Hub(datasets.GeneratorBasedBuilder):  # type: ignore[misc]
    """Puts some/captions into the cache of hub data sets."""

    def _info(self) -> Any:
        return datasets.DatasetInfo(features=datasets.Features({"caption": datasets.Value("string")}))

    def _split_generators(self, dl_manager: Any) -> Any:
        return [datasets.SplitGenerator("train")]

    def _generate_examples(self) -> Any:
        yield from enumerate({"caption": caption} for caption in CAPTIONS)


def test_a_hub_data_set_comes_from_its_cache_and_never_from_the_network_when_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    datasets.enable_progress_bars()
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("SBV2BENCH_OFFLINE", "1")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *target, **_: pytest.fail(f"asked {target} though offline"))
    Hub(cache_dir=str(tmp_path), dataset_name="captions", repo_id="some/captions", hash="abc").download_and_prepare()
    source = opened("hub:some/captions", written(tmp_path / "a.txt", ["a"]), column="caption")
    assert all_of(source) == [*CAPTIONS, "a"]
    assert datasets.are_progress_bars_disabled()
    assert source.parts[0].identity == opened("hub:some/captions", column="caption").parts[0].identity
    for settings, says in (({"column": "captions"}, "did you mean 'caption'"), ({"split": "test"}, "Unknown split")):
        with pytest.raises(InputError, match=says):
            opened("hub:some/captions", **settings)
    with pytest.raises(PrerequisiteError, match="offline") as missing:
        opened("hub:some/others", split="test")
    assert (
        missing.value.fix
        == """HF_HUB_OFFLINE=0 python -c 'import datasets; datasets.load_dataset("some/others", split="test")'"""
    )
