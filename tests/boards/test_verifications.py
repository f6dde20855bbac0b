"""What is counted of the verifications that users sent in, and how one gets into the leaderboards' folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sample_verification import content, sample

from sbv2bench.boards import text, verifications
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.results import verifications as sent
from sbv2bench.results.verifications import Verification

pytestmark = pytest.mark.weights


def written(folder: Path, record: Verification, name: str | None = None) -> Path:
    path = folder / "verifications" / (sent.path_of(record) if name is None else name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(sent.dumps(record))
    return path


def test_a_verification_is_admitted_and_counted(tmp_path: Path) -> None:
    path = written(tmp_path, sample())
    assert verifications.admit(path) == sample()
    assert verifications.counted(tmp_path) == [sample()]


def other_protocol() -> Verification:
    """The numbers of a metric of a user's own, in the name of the suite's."""
    fields = content()
    (protocol,) = fields["protocols"].values()
    protocol["metric"]["parameters"] = {"easier": True}
    digest = sent.fingerprint(protocol)
    fields["protocols"] = {digest: protocol}
    fields["scores"]["clip_score"]["fingerprint"] = digest
    return Verification.model_validate(fields).signed()


OTHERS: dict[str, Any] = {
    "none of the catalog's": {"model": "mini/nobody"},
    "by other settings": {"settings": "0" * 64},
    "is not the one that models of family mini": {"suite": "mini-5k@v1"},
    "is not the one that models": {"suite": "mini@v0"},
    "pixels are of the caption": {"pixels__1__caption": "a caption of my own"},
}


@pytest.mark.parametrize("words", OTHERS)
def test_one_of_another_model_or_suite_is_refused_and_never_counted(words: str, tmp_path: Path) -> None:
    path = written(tmp_path, sample(**OTHERS[words]))
    with pytest.raises(InputError, match=words):
        verifications.admit(path)
    assert verifications.counted(tmp_path) == []


def test_numbers_by_another_protocol_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, other_protocol())
    with pytest.raises(InputError, match="by another protocol than that of suite mini"):
        verifications.admit(path)
    assert verifications.counted(tmp_path) == []


def test_numbers_by_a_name_that_is_no_metric_are_refused(tmp_path: Path) -> None:
    fields = content()
    fields["scores"] = {"my_score": fields["scores"]["clip_score"]}
    path = written(tmp_path, Verification.model_validate(fields).signed())
    with pytest.raises(InputError, match=r"scores\.my_score is no metric"):
        verifications.admit(path)


def test_a_model_trained_anew_is_not_verified_by_runs_of_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, sample())
    monkeypatch.setattr(verifications, "model_files", lambda model, find: sample().weights[:-1])
    with pytest.raises(InputError, match="other weights than the package's"):
        verifications.admit(path)
    assert verifications.counted(tmp_path) == []


def test_an_edited_file_or_one_in_another_place_stops_the_build(tmp_path: Path) -> None:
    path = written(tmp_path, sample(), "mini/sd-turbo/mine.json")
    with pytest.raises(IntegrityError, match="its content says that it is") as caught:
        verifications.counted(tmp_path)
    assert caught.value.fix is not None and caught.value.fix.startswith("mv ")
    fields = json.loads(path.read_text())
    fields["scores"]["clip_score"]["value"] = 1.0
    path.write_text(json.dumps(fields))
    with pytest.raises(IntegrityError, match="edited"):
        verifications.counted(tmp_path)


def test_add_brings_a_file_to_its_place_and_the_build_counts_it(tmp_path: Path) -> None:
    catalog = tmp_path / "sbv2bench" / "catalog" / sent.SHIPPED
    catalog.parent.mkdir(parents=True)
    catalog.write_text("[]\n")
    folder, mine = tmp_path / "leaderboards", tmp_path / "mine.json"
    folder.mkdir()
    mine.write_text(sent.dumps(sample()))
    assert text.add([mine], folder) == [folder / "verifications" / sent.path_of(sample())]
    with pytest.raises(IntegrityError, match=r"catalog/verifications\.json"):
        text.check(folder)
    text.build(folder)
    assert [one["made"]["card"] for one in json.loads(catalog.read_text())] == ["NVIDIA H100"]
    catalog.unlink()  # a folder of somebody's own, with no package beside it
    assert verifications.rendered(folder) == {}
    mine.write_text(sent.dumps(sample(settings="0" * 64)))
    with pytest.raises(InputError, match="other settings"):
        text.add([mine], folder)
