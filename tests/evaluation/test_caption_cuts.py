"""Captions of which words are dropped are counted by each text network, stored with the numbers and said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from running import cache_of
from tiny_models import write_tiny_pipeline
from twins import twin_spec, write_twin

from sbv2bench.errors import IntegrityError
from sbv2bench.evaluation.evaluate import evaluate
from sbv2bench.features.base import cut_by_extractor
from sbv2bench.registry import Registry
from sbv2bench.report.result import cut_lines
from sbv2bench.samplers.text_lengths import cut_by_model
from sbv2bench.specs import ExtractorSpec, ModelSpec, PromptSpec

SHORT = "a red star"
LONG = f"{SHORT} " + "above a small orange cross " * 60
COUNT = 26


@pytest.fixture
def registry(registry: Registry, tmp_path: Path) -> Registry:
    """With a suite of 26 captions, of which every second is too long for any network."""
    path = tmp_path / "captions.txt"
    path.write_text("\n".join(LONG if i % 2 else f"{SHORT} {i}" for i in range(COUNT)) + "\n")
    tiny = registry.suite("tiny")
    metrics = tuple(metric for metric in tiny.metrics if metric.id in ("fid", "clip", "hps"))
    own = tiny.model_copy(update={"id": "long", "prompts": PromptSpec(kind="file", location=str(path)), "metrics": metrics})
    registry.add("suite", own, replaces=True)
    return registry


def test_each_metric_says_what_its_networks_did_not_read(registry: Registry) -> None:
    """From the cache, where no network is loaded, as well as from the images."""
    first = evaluate("student", "long", registry=registry)
    again = evaluate("student", "long", registry=registry)
    assert (cache_of(first)[0], cache_of(again)[0]) == ("miss", "hit")
    lengths = {name: cut["tokens"] for name, cut in first.provenance["cut_captions"].items()}
    assert set(lengths) == {"tiny-clip", "tiny-hps", "the model's text_encoder"}
    for result in (first, again):
        said = {key: (value.details or {}).get("cut_captions") for key, value in result.metrics.items()}
        cut = {name: {"captions": COUNT // 2, "tokens": length} for name, length in lengths.items()}
        of_model = {"the model's text_encoder": cut["the model's text_encoder"]}
        assert said == {
            "fid": of_model, "clip_score": {"tiny-clip": cut["tiny-clip"], **of_model},
            "hps": {"tiny-hps": cut["tiny-hps"], **of_model},
        }  # fmt: skip
        lines = cut_lines(result)
        assert len(lines) == 3 and all(line.startswith("cut: 13 of 26 captions") for line in lines)
    assert {key: value.value for key, value in first.metrics.items()} == {
        key: value.value for key, value in again.metrics.items()
    }


def test_where_nothing_is_cut_the_numbers_are_as_they_were_and_the_count_is_0(registry: Registry) -> None:
    path = Path(registry.suite("long").prompts.location)
    path.write_text("\n".join(f"a {i}" for i in range(COUNT)))
    result = evaluate("student", "long", registry=registry, metrics="fid,clip")
    assert {cut["captions"] for cut in result.provenance["cut_captions"].values()} == {0}
    assert result.metrics["fid"].details is None
    assert cut_lines(result) == []


def test_the_limit_itself_is_not_cut() -> None:
    """OpenCLIP's own tokenizer: 75 words of one token each, its two ends, and nothing before them."""
    spec = ExtractorSpec(id="x", kind="open_clip", architecture="ViT-B-32")
    assert cut_by_extractor(spec, [" ".join(["cat"] * 75), " ".join(["cat"] * 76)]) == (1, 77)
    prefixed = spec.model_copy(update={"prefix": "A photo depicts "})
    assert cut_by_extractor(prefixed, [" ".join(["cat"] * 72), " ".join(["cat"] * 73)]) == (1, 77)


def test_extractors_of_images_and_models_without_captions_cut_none(registry: Registry, tmp_path: Path) -> None:
    assert cut_by_extractor(registry.extractor("tiny-world"), [LONG]) is None
    folder = ModelSpec(id="local/x", sampler="image_folder", location=str(tmp_path))
    for spec in (folder, folder.model_copy(update={"sampler": "own", "location": "no such place"})):
        assert cut_by_model(spec, [LONG], registry) == {}


def test_a_pipelines_tokenizers_are_asked_too(registry: Registry, tmp_path: Path) -> None:
    model = write_tiny_pipeline(tmp_path / "model")
    for sampler in ("pipeline", "one_step"):
        spec = ModelSpec(id="local/x", sampler=sampler, location=str(model))
        ((name, (cut, tokens)),) = cut_by_model(spec, [SHORT, LONG], registry).items()
        assert (name, cut) == ("text_encoder", 1) and tokens < 100


def test_blank_captions_are_no_captions(registry: Registry, tmp_path: Path) -> None:
    """Also those of signs that show nothing; the suite is stopped before anything is generated."""
    path = Path(registry.suite("long").prompts.location)
    lines = path.read_text().splitlines()
    for blank in ("", "   ", "\t", "\u00a0", "\u200b\ufeff", "\u2028"):
        path.write_text("\n".join([*lines[:3], blank, *lines[4:]]) + "\n")
        with pytest.raises(IntegrityError, match=r"no caption in line 4 \(blank\)") as caught:
            evaluate("student", "long", registry=registry)
        assert caught.value.exit_code == 4


def test_long_encoders_are_counted_as_their_pipeline_asks_them(registry: Registry, tmp_path: Path) -> None:
    """By the spec's length, or their class's; in a conversation where the caption is put into one."""
    flux = twin_spec("flux-dev", write_twin("flux-dev", tmp_path / "flux"))
    assert cut_by_model(flux, [SHORT, LONG], registry) == {"text_encoder": (1, 16), "text_encoder_2": (1, 512)}
    short = flux.model_copy(update={"max_sequence_length": 5})
    assert cut_by_model(short, [SHORT, LONG], registry)["text_encoder_2"] == (2, 5)
    shutil.copytree(tmp_path / "flux" / "tokenizer_2", tmp_path / "elsewhere")
    swapped = ModelSpec.model_validate(flux.model_dump() | {"parts": {"tokenizer_2": str(tmp_path / "elsewhere")}})
    config = json.loads((tmp_path / "elsewhere" / "tokenizer_config.json").read_text())
    (tmp_path / "elsewhere" / "tokenizer_config.json").write_text(json.dumps(config | {"model_max_length": 9}))
    assert cut_by_model(swapped, [SHORT, LONG], registry)["text_encoder_2"] == (1, 512)  # the pipeline's, as it asks for
    spec = twin_spec("z-image", write_twin("z-image", tmp_path / "z"), max_sequence_length=len(SHORT) + 10)
    assert cut_by_model(spec, [SHORT], registry) == {"text_encoder": (1, len(SHORT) + 10)}
    assert cut_by_model(spec.model_copy(update={"max_sequence_length": 60}), [SHORT], registry) == {"text_encoder": (0, 60)}
