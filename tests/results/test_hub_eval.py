"""The hub's `.eval_results` file of a result: read back by huggingface_hub itself, every metric with its error and protocol."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
import yaml
from sample_results import sample_result

from sbv2bench.errors import InputError
from sbv2bench.results import hub_eval


def test_the_hubs_own_reader_takes_it_and_loses_nothing(tmp_path: Path) -> None:
    result = sample_result(1.5)
    path = hub_eval.write(result, tmp_path, "me/mini-5k", "https://example.org/result.json")
    assert path == tmp_path / ".eval_results" / "sbv2bench-mini-5k.yaml"
    data = yaml.safe_load(path.read_text("utf-8"))
    found = huggingface_hub.parse_eval_result_entries(data)
    assert {entry.task_id: entry.value for entry in found} == {key: value.value for key, value in result.metrics.items()}
    assert {entry.dataset_id for entry in found} == {"me/mini-5k"}
    assert {entry.date for entry in found} == {"2026-11-22T10:00:00Z"}
    assert {entry.source_url for entry in found} == {"https://example.org/result.json"}
    assert huggingface_hub.eval_result_entries_to_yaml(found) == data
    clip = next(entry for entry in found if entry.task_id == "clip_score")
    for word in ("± 0.0012", "5,000 images", "guidance 2", result.metrics["clip_score"].fingerprint[:16], "higher is better"):
        assert word in clip.notes


def test_what_the_hub_would_not_take_is_refused() -> None:
    for bad in ("mini-5k", "me/../x", "a/b/c", ""):
        with pytest.raises(InputError, match="--dataset"):
            hub_eval.entries(sample_result(), bad)
    with pytest.raises(InputError, match="partial"):
        hub_eval.entries(sample_result(status="partial"), "me/x")
    with pytest.raises(InputError, match="--source"):
        hub_eval.entries(sample_result(), "me/x", "javascript:1")
