"""Result files: whole or absent, found again, refused when they are not what they must be."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from sample_results import sample_result

from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.results import store


def test_written_where_the_contract_says_and_read_back_equal(tmp_path: Path) -> None:
    result = sample_result()
    path = store.write(result, tmp_path)
    digest = store.result_fingerprint(result)[:8]
    assert path.relative_to(tmp_path).as_posix() == f"mini/sd21/mini-5k@v1/20261122T100000Z-{digest}.json"
    assert store.load(path) == result
    assert store.load(path).metrics["fid"].value == 12.345678901234567
    assert store.find(tmp_path) == [path]


def test_a_second_result_of_the_same_second_does_not_replace_the_first(tmp_path: Path) -> None:
    first = store.write(sample_result(fid=1.0), tmp_path)
    second = store.write(sample_result(fid=2.0), tmp_path)
    assert first != second
    assert [store.load(path).metrics["fid"].value for path in (first, second)] == [1.0, 2.0]


@pytest.mark.parametrize("name", ["../x", "local/..", "local/../..\\x y", "/etc/x"])
def test_names_that_would_leave_the_folder_stay_in_it(tmp_path: Path, name: str) -> None:
    result = sample_result()
    odd = result.model_copy(update={"model": result.model.model_copy(update={"id": name})})
    path = store.write(odd, tmp_path / "results")
    assert (tmp_path / "results").resolve() == path.resolve().parents[3]


def test_nothing_is_left_when_the_disk_fails_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = store.write(sample_result(), tmp_path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(IntegrityError, match="No space left") as caught:
        store.write(sample_result(fid=1.0), tmp_path)
    assert caught.value.exit_code == 4
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [good]


def test_a_folder_that_cannot_be_written_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="results folder"):
        store.write(sample_result(), tmp_path / "file" / "results")
    store.write(sample_result(), tmp_path / "folder" / "results")


def test_a_number_that_is_not_finite_is_refused_and_named(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="fid"):
        store.write(sample_result(fid=float("nan")), tmp_path)
    assert list(tmp_path.rglob("*.json")) == []


EDITS: list[tuple[str, object]] = [
    ("metrics", {}),
    ("metrics.fid.fingerprint", "0" * 64),
    ("metrics.fid.details", {"one_run_std_err": "low"}),
    ("metrics.fid.details", {"one_run_method": 3}),
    ("provenance.protocols", [1]),
    ("provenance.protocols", {}),
    ("provenance.suite", "mini"),
    ("provenance.own", 3),
]


def changed(field: str, value: object) -> Callable[[str], str]:
    """An edit of a result file's text: a field, by its dotted path, has another value."""

    def edit(text: str) -> str:
        content = json.loads(text)
        *parents, last = field.split(".")
        functools.reduce(dict.__getitem__, parents, content)[last] = value
        return json.dumps(content)

    return edit


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda content: content[: len(content) // 2], IntegrityError),
        (lambda content: content.replace('"schema_version": 2', '"schema_version": 99'), InputError),
        (lambda content: content.replace('"resumed_images"', '"resumed_pictures"'), IntegrityError),
        (lambda content: content.replace('"schema_version": 2', '"schema_version": true'), InputError),
        (lambda content: "[]", InputError),
        (lambda content: "[" * 100_000, IntegrityError),
        (lambda content: content.replace("12.345678901234567", "NaN"), IntegrityError),
        (lambda content: content.replace('"std_err": 0.00123', '"std_err": -1'), IntegrityError),
        (lambda content: content.replace('"prompts_sha256": "ab"', '"prompts_sha256": "cd"'), IntegrityError),  # the protocols'
        *((changed(field, value), IntegrityError) for field, value in EDITS),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, damage, error) -> None:  # type: ignore[no-untyped-def]
    path = store.write(sample_result(), tmp_path)
    store.load(path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(error, match=str(path)):
        store.load(path)


def test_no_file_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        store.load(tmp_path / "none.json")


def test_the_fingerprint_in_the_name_says_what_was_asked() -> None:
    same, other = sample_result(fid=1.0), sample_result(fid=1.0, guidance=3.0)
    assert store.result_fingerprint(same) == store.result_fingerprint(sample_result(fid=9.0))
    assert store.result_fingerprint(same) != store.result_fingerprint(other)


def test_the_file_is_plain_json(tmp_path: Path) -> None:
    content = json.loads(store.write(sample_result(), tmp_path).read_text())
    assert content["schema_version"] == 2
    assert content["model"]["nfe"] == 25
    assert content["suite"]["seeds"] == [0, 1, 2]
