"""Files of schema 1 are read as schema 2: values as they are, fingerprints those of a plan of today; nothing is written over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sbv2bench.boards import boards
from sbv2bench.errors import IntegrityError
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.evaluation.plan import plan
from sbv2bench.registry import Registry
from sbv2bench.results import store

RESULTS = Path(__file__).parent.parent / "leaderboards" / "results"
EVALUATIONS = store.find(RESULTS)


def of_schema_1(paths: list[Path]) -> list[Path]:
    return [path for path in paths if json.loads(path.read_text())["schema_version"] == 1]


@pytest.fixture(scope="module")
def planned() -> dict[str, str]:
    """Of each key of `mini-5k`, the fingerprint that a run of today has."""
    found = plan("mini/sd21", "mini-5k", EvalOptions.validated(metrics="all", device="cpu"), Registry.built_in())
    return {key: found.fingerprint_of(metric) for metric in found.metrics for key in metric.keys}


def test_every_committed_result_has_the_fingerprints_of_todays_plan(planned: dict[str, str]) -> None:
    assert len(of_schema_1(EVALUATIONS)) >= 40
    for path in EVALUATIONS:
        result = store.load(path)
        assert result.suite.id == "mini-5k", path
        for key, value in result.metrics.items():
            assert value.fingerprint == planned[key], (path, key)
        boards.check_unedited(path, result)


def test_values_are_as_they_were_and_what_version_1_lacks_is_null() -> None:
    for path in of_schema_1(EVALUATIONS):
        before, result = json.loads(path.read_text()), store.load(path)
        for key, value in before["metrics"].items():
            own = result.metrics[key].model_dump(mode="json")
            assert all(own[name] == found for name, found in value.items() if name != "extractor"), (path, key)
        made = before["provenance"]
        assert (result.schema_version, result.kind, result.forward_passes) == (2, "eval", None)
        assert result.conditions.dtype == made.get("dtype") and "numpy" not in result.conditions.libraries
        assert result.suite.reference is not None
        assert result.suite.reference["fingerprint"] == before["suite"]["reference_fingerprint"]
        assert result.suite.block_sizes == tuple(made.get("block_sizes") or [before["suite"]["block_size"]])
        assert path.stem.split("-")[1] == store.result_fingerprint(result)[:8]


def test_a_latency_of_version_1_names_the_parts_that_were_compiled() -> None:
    paths = of_schema_1(store.find_latency(RESULTS))
    found = {json.loads(path.read_text())["compiled"]: store.load_latency(path).compiled for path in paths}
    assert found[False] == ()
    assert found.get(True, ("denoiser",)) == ("denoiser",)


@pytest.mark.parametrize(
    ("section", "changes", "words"),
    [
        ("suite", {"fingerprint": "0" * 64}, "suite.fingerprint is not that of suite.protocol"),
        ("suite", {"num_generated": 4000}, "suite.num_generated is 4000, its protocol says 5000"),
        ("suite", {"protocol": {}}, r"not a whole result of schema 1 \(no suite\)"),
        ("", {"remark": "mine"}, r"not a whole result of schema 1 \(remark is none of its fields\)"),
    ],
)
def test_a_file_of_version_1_that_was_edited_is_refused(
    tmp_path: Path, section: str, changes: dict[str, object], words: str
) -> None:
    content = json.loads(of_schema_1(EVALUATIONS)[0].read_text())
    (content[section] if section else content).update(changes)
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(content))
    with pytest.raises(IntegrityError, match=words):
        store.load(path)


def test_a_result_of_version_1_is_copied_to_a_leaderboard_as_it_is(tmp_path: Path) -> None:
    from sbv2bench.boards import text as leaderboard

    path = of_schema_1(EVALUATIONS)[0]
    (copy,) = leaderboard.add([path], tmp_path)
    assert copy.read_bytes() == path.read_bytes()
    assert copy.relative_to(tmp_path / "results") == path.relative_to(RESULTS)
