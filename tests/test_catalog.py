"""The built-in catalogs: every published row has one model, nothing old changed its fingerprint, entries are complete."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

import pytest

from sbv2bench import catalog
from sbv2bench.data.assets import HOME, HUB
from sbv2bench.errors import InputError, PrerequisiteError
from sbv2bench.machine.inventory import listed
from sbv2bench.registry import Registry
from sbv2bench.specs import AdapterSpec, ModelSpec, SuiteSpec

PUBLISHED = Path(catalog.__file__).parent / "published.csv"
MODELS = Registry.load().models
FULL = {name: model for name, model in MODELS.items() if model.family == "full"}
SAMPLED = [name for name, model in FULL.items() if model.sampler not in {"published", "image_folder"}]
# Before a model of the catalog is resolved to files. Committed results depend on these.
FINGERPRINTS = {
    "mini/sd21": "a9f6f4a4e452cf859a3a556369376263890ad9993a91bf4b2348967342e47946",
    "mini/swiftbrush": "735807ddde33f52bba6f6d556f74e2f69b4fbbf899c7fc7e49ec5624de272766",
    "mini/sd-turbo": "735807ddde33f52bba6f6d556f74e2f69b4fbbf899c7fc7e49ec5624de272766",
    "mini/sbv2-a": "735807ddde33f52bba6f6d556f74e2f69b4fbbf899c7fc7e49ec5624de272766",
    "mini/sbv2-b": "735807ddde33f52bba6f6d556f74e2f69b4fbbf899c7fc7e49ec5624de272766",
    "mini/sbv2-merged": "2e7f144b2762a83a2c359ddfe9c5d264b522c35c793a754bdf63e7ba92fc3193",
    "mini/real": "a54a5ed89b8f6c35110792f5c016331f2bc64309f7484ddac1f8695b0c35812a",
}
LADDER = ("sd21", "sd-turbo", "swiftbrush", "swiftbrush-turbo", "sbv2-a", "sbv2-b", "sbv2-b-hps", "sbv2-merged")


def test_every_published_row_is_named_by_one_model() -> None:
    with PUBLISHED.open(newline="") as file:
        rows = {f"{row['table']}/{row['method']}" for row in csv.DictReader(file)}
    named = Counter(row for model in MODELS.values() for row in model.published_as)
    assert len(rows) == 64
    assert set(named) == rows
    assert {row for row, times in named.items() if times > 1} == set()


def test_guidance_and_nfe_of_an_entry_are_those_of_its_rows() -> None:
    with PUBLISHED.open(newline="") as file:
        nfe = {f"{row['table']}/{row['method']}": int(row["nfe"]) for row in csv.DictReader(file)}
    for model in MODELS.values():
        for row in model.published_as:
            assert model.network_evaluations() == nfe[row], row
            _, _, scale = row.partition("cfg=")
            assert not scale or model.guidance_scale == float(scale)


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_models_with_results_keep_their_fingerprints(name: str) -> None:
    assert MODELS[name].fingerprint() == FINGERPRINTS[name]


@pytest.mark.parametrize("field", sorted(ModelSpec.later))
def test_a_newer_field_counts_where_it_is_said(field: str) -> None:
    values = {
        "holds": "lora", "vae": "x", "timesteps": (999,), "timestep_spacing": "leading", "input_scaling": "sigma", "width": 640,
        "dtype": "bfloat16", "parts": {"vae": "x"}, "adapters": (AdapterSpec(location="x"),), "no_guidance": 0.0,
        "guidance_argument": "true_cfg_scale", "negative_prompt": "x", "max_sequence_length": 8, "sigmas": (1.0,),
        "arguments": {"x": 1},
    }  # fmt: skip
    plain = MODELS["mini/sd-turbo"]
    assert plain.model_copy(update={field: values[field]}).fingerprint() != plain.fingerprint()
    assert field not in plain.protocol()


def test_the_ladder_has_the_same_names_in_both_families() -> None:
    assert {f"full/{rung}" for rung in (*LADDER, "sbv2-merged-reg")} <= set(FULL)


def test_a_name_of_old_means_one_model() -> None:
    named = Counter(alias for model in MODELS.values() for alias in model.aliases)
    assert max(named.values()) == 1
    for alias in ("stabilityai/stable-diffusion-2-1-base", "runwayml/stable-diffusion-v1-5", "XCLIU/instaflow_0_9B_from_sd_1_5"):
        assert Registry.load().model(alias).id in FULL


@pytest.mark.parametrize("name", FULL)
def test_a_full_entry_is_honest(name: str) -> None:
    model = FULL[name]
    assert model.description and model.origin
    assert not model.verified  # nobody has sampled real weights here
    assert model.revision is None or len(model.revision) == 40
    assert all(re.fullmatch(r"hub:[^@]+@[0-9a-f]{40}", place) for place in (model.base, model.vae) if place.startswith(HUB))
    assert set(model.inferred) <= set(ModelSpec.model_fields)


@pytest.mark.parametrize("name", SAMPLED)
def test_an_entry_that_can_be_sampled_says_how(name: str) -> None:
    model = FULL[name]
    assert model.location.startswith((HUB, HOME)) and model.licence and model.resolution
    assert model.guidance is not None
    assert (model.holds == "model") or model.base.startswith(HUB)
    if model.location.startswith(HOME):
        with pytest.raises(PrerequisiteError, match="not on this machine") as caught:
            from sbv2bench.data.chain import chain

            chain(model)
        assert "put its weights at" in str(caught.value)


def test_the_teachers_sampler_is_inferred_and_there_in_both_ways() -> None:
    for name in ("full/sd21", "full/sd21-cfg4.5", "full/sd21-cfg7.5", "full/sd15"):
        one, other = FULL[name], FULL[f"{name}-ddim"]
        assert (one.scheduler, other.scheduler) == ("dpmsolver++", "ddim")
        assert one.steps == other.steps == 25 and one.guidance_scale == other.guidance_scale
        assert "scheduler" in one.inferred and "timestep_spacing" in other.inferred
        assert other.published_as == ()


def a_full_suite() -> SuiteSpec:
    return Registry.load().suite("mini").model_copy(update={"id": "big", "family": "full"})


@pytest.mark.parametrize("suite", ["mini", "full"])
def test_a_model_that_nobody_has_says_so(suite: str) -> None:
    registry = Registry.load()
    with pytest.raises(PrerequisiteError, match=r"only published numbers of it exist, table 3 \(GigaGAN\), table 8") as caught:
        registry.model("full/gigagan", "mini" if suite == "mini" else a_full_suite())
    assert caught.value.exit_code == 3 and len(caught.value.message.splitlines()) == 1
    assert registry.show("full/gigagan")["sampler"] == "published"


def test_steps_are_as_many_as_timesteps(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("models: {x: {sampler: pipeline, location: y, steps: 4, timesteps: [999, 499]}}")
    with pytest.raises(InputError, match="expected 2"):
        Registry.load(path)


def test_rows_of_the_list_say_kind_licence_and_verified() -> None:
    rows = {row["id"]: row for row in listed(Registry.load(), "models")}
    assert (rows["full/gigagan"]["kind"], rows["full/instaflow"]["kind"]) == ("published", "rectified_flow")
    assert (rows["full/instaflow"]["licence"], rows["full/instaflow"]["verified"]) == ("CC BY-NC 4.0", False)
