"""Files that users send in: read back whole, and refused where they were edited or are hostile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sample_verification import MODEL, content, sample

from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.registry import Registry
from sbv2bench.results import verifications
from sbv2bench.specs import fingerprint

pytestmark = pytest.mark.weights


def write(path: Path, fields: dict[str, Any]) -> Path:
    """A file with its hash, as whoever knows the schema would write it."""
    signed = {"schema_version": 1, "kind": "verification", **fields}
    path.write_text(json.dumps({**signed, "sha256": fingerprint(signed)}))
    return path


def test_a_file_is_read_back(tmp_path: Path) -> None:
    record = sample()
    path = tmp_path / "one.json"
    path.write_text(verifications.dumps(record))
    assert verifications.load(path) == record
    assert verifications.is_one(path) and not verifications.is_one(tmp_path / "none.json")
    assert verifications.path_of(record).as_posix() == f"mini/sd-turbo/20261201T100000Z-{record.sha256[:8]}.json"
    assert verifications.load(write(tmp_path / "two.json", content())) == record


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"made__card": "a\x1b[2Jcard"}, "made.card"),
        ({"made__card": "a\ncard"}, "made.card"),
        ({"made__card": "ada\u202ecard"}, "made.card"),
        ({"made__card": "x" * 2000}, "made.card"),
        ({"made__dtype": "int8"}, "made.dtype"),
        ({"made__date_utc": "yesterday"}, "made.date_utc"),
        ({"made__libraries": {f"lib{number}": "1" for number in range(50)}}, "made.libraries"),
        ({"made__extra": 1}, "made.extra"),
        ({"note": "<script>"}, "note"),
        ({"model": "../../etc/passwd"}, "model"),
        ({"model": "mini/../x"}, "model"),
        ({"suite": "mini v1"}, "suite"),
        ({"scores__clip_score__value": 1e999}, "JSON"),
        ({"scores__clip_score__value": "high"}, "scores.clip_score.value"),
        ({"scores__clip_score__std_err": -1.0}, "scores.clip_score.std_err"),
        ({"scores__clip_score__n_generated": 30000}, "n_generated is not that of its protocol"),
        ({"scores__clip_score__fingerprint": "0" * 64}, "fingerprint is of no protocol"),
        ({"scores": {}}, "scores"),
        ({"pixels": []}, "pixels"),
        ({"pixels__0__sha256": "0" * 63}, "pixels.0.sha256"),
        ({"pixels__0__reduced": "00"}, "pixels.0.reduced"),
        ({"pixels__0__width": 10**9}, "pixels.0.width"),
        ({"schema_version": 2}, "schema_version"),
    ],
)
def test_hostile_files_are_refused_by_the_key(changes: dict[str, Any], where: str, tmp_path: Path) -> None:
    fields = content(**changes)
    text = json.dumps({"schema_version": 1, "kind": "verification", "sha256": "0" * 64, **fields})
    path = tmp_path / "hostile.json"
    path.write_text(text)
    with pytest.raises(IntegrityError) as caught:
        verifications.load(path)
    assert where in caught.value.message and len(caught.value.message) < 400 and "\x1b" not in caught.value.message


def test_a_number_beyond_all_numbers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text(verifications.dumps(sample()).replace("0.87,", "1e999,"))
    with pytest.raises(IntegrityError, match=r"scores\.clip_score\.value"):
        verifications.load(path)


def test_a_key_that_is_written_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text(verifications.dumps(sample()).replace('"value": 0.87,', '"value": 0.99,\n   "value": 0.87,'))
    with pytest.raises(IntegrityError, match="a key is written twice"):
        verifications.load(path)


def test_an_edited_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    text = verifications.dumps(sample())
    path.write_text(text.replace("NVIDIA H100", "NVIDIA H200"))
    with pytest.raises(IntegrityError, match="the file was edited"):
        verifications.load(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"a": 1, "a": 2}', "[" * 100_000, '{"value": NaN}'])
def test_what_is_no_such_file_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text(text)
    with pytest.raises(IntegrityError, match=str(path)):
        verifications.load(path)
    assert not verifications.is_one(path)


def test_a_file_that_is_too_long_or_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    with pytest.raises(InputError, match="No such file"):
        verifications.load(path)
    path.write_text(verifications.dumps(sample()) + " " * 1_000_000)
    with pytest.raises(IntegrityError, match="expected at most"):
        verifications.load(path)


def test_it_fits_the_present_settings_with_its_own_weights_only() -> None:
    model = Registry.built_in().models[MODEL]
    assert sample().fits(model)
    assert not sample().fits(model.model_copy(update={"timestep": 500}))
    with pytest.raises(IntegrityError, match="not that of"):
        sample(weights__0__sha256="1" * 64).fits(model)


def test_what_ships_says_how_often_and_by_what(monkeypatch: pytest.MonkeyPatch) -> None:
    record, later = sample(), sample(made__date_utc="2026-12-02T10:00:00Z", made__card="NVIDIA RTX 5090")
    text = verifications.to_ship([later, record])
    sent = [one["made"]["card"] for one in json.loads(text)]
    assert sent == ["NVIDIA H100", "NVIDIA RTX 5090"]
    assert text == verifications.to_ship([record, later])
    assert "protocols" not in json.loads(text)[0] and "weights" not in json.loads(text)[0]
    monkeypatch.setattr(verifications, "shipped", lambda: (record.sent(), later.sent()))
    model = Registry.built_in().models[MODEL]
    assert verifications.of_model(model) == (record.sent(), later.sent())
    assert verifications.of_model(model.model_copy(update={"timestep": 500})) == ()
    assert verifications.of_model(Registry.built_in().models["mini/sbv2-a"]) == ()  # whose settings are the same


def test_the_packages_file_is_read() -> None:
    assert isinstance(verifications.shipped(), tuple)
