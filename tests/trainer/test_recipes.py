"""The paper's and SNOOPI's recipes: each resolves, says what it must, and carries the published numbers and its sources."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from reference_trainer.config import Recipe
from reference_trainer.recipe_files import RECIPES, read_recipe, recipe_names
from reference_trainer.show import describe
from sbv2bench.errors import InputError

PUBLISHED = Path(__file__).parents[2] / "sbv2bench" / "catalog" / "published.csv"
NAMES = [name for name in recipe_names() if name.startswith(("paper/", "nasa/"))]
PAPER = [name for name in NAMES if name.startswith("paper/")]
METRICS = {
    "FID": "fid", "CLIP": "clip_score", "precision": "precision", "recall": "recall", "GPU-days": "training_gpu_days",
    "seconds": "inference_seconds", "HPS anime": "hpsv2_anime", "HPS photo": "hpsv2_photo",
    "HPS concept art": "hpsv2_concept_art", "HPS painting": "hpsv2_painting",
}  # fmt: skip
MARKS = r"\[(stated|code|inferred|unknown: our choice)\]"
WORDS = ("extends", "name", "description", "family")  # keys that are not the method's

# Recipe -> key -> value: what would train another model if it were wrong.
EXPECTED: dict[str, dict[str, Any]] = {
    "paper/swiftbrush": {
        "student.start": "full/sd21", "student.lora": None, "student.learning_rate": 1e-6, "lora_teacher.lora.alpha": 108,
        "optimiser.weight_decay": 0.0, "clip": None, "steps": 60936,
    },
    "paper/swiftbrush-turbo": {
        "teacher": "full/sd21", "prediction_type": "epsilon", "student.start": "full/sd-turbo", "student.timestep": 999,
        "student.learning_rate": 1e-6, "lora_teacher.learning_rate": 1e-3, "lora_teacher.lora.rank": 64,
        "lora_teacher.lora.alpha": 128, "lora_teacher.lora.targets": ("to_q", "to_v"), "lora_teacher.loss_weight": "alpha_bar",
        "lora_teacher.first_timestep": 0, "lora_teacher.last_timestep": 999, "lora_teacher.null_share": 0.1,
        "vsd.teacher_guidance_scale": 4.5, "vsd.lora_teacher_guidance_scale": "same", "vsd.weight": "sigma2",
        "vsd.first_timestep": 20, "vsd.last_timestep": 980, "ema.decay": 0.9999, "optimiser.weight_decay": 1e-4,
        "optimiser.gradient_clip": 1.0, "optimiser.betas": (0.9, 0.999), "batch_size": 64, "steps": 60936, "hps": None,
        "regularisation": None,
    },
    "paper/sbv2-a": {"student.start": "full/sd-turbo", "student.lora": None, "clip": None, "steps": 154686},
    "paper/efficient": {"student.lora.rank": 256, "student.lora.alpha": 512, "clip": None, "student.learning_rate": 1e-6},
    "paper/sbv2-b": {
        "student.start": "full/sd-turbo", "student.lora.rank": 256, "student.lora.alpha": 512, "clip.threshold": 0.35,
        "clip.weight": 0.1, "clip.schedule": "exponential", "clip.share": 0.5, "clip.clamped": True, "clip.decoder": "tiny",
        "clip.scorer": "openclip-b32-laion2b-s34b-b79k", "tiny_decoder": "hub:madebyollin/taesd", "steps": 154686,
        "vsd.teacher_guidance_scale": 4.5,
    },
    "paper/sbv2-b-hps": {"hps.scorer": "hpsv2-v2.0", "hps.clamped": True, "clip.threshold": 0.35},
    "paper/clip-clamped": {"student.lora": None, "clip.clamped": True, "clip.schedule": "constant", "clip.decoder": "full"},
    "paper/clip-naive": {"student.lora": None, "clip.clamped": False, "clip.schedule": "constant", "clip.decoder": "full"},
    "paper/sbv2-a-reg": {"regularisation.kind": "paired", "regularisation.pairs": 200000, "student.lora": None},
    "paper/sbv2-b-reg": {"regularisation.weight": 0.25, "student.lora.rank": 256, "clip.threshold": 0.35},
    "paper/sb-a": {"student.start": "full/swiftbrush", "student.lora": None},
    "paper/sb-b": {"student.start": "full/swiftbrush", "student.lora.rank": 256, "clip.threshold": 0.35},
    "nasa/sbv2-a": {"vsd.teacher_guidance_scale": (0.5, 4.0), "steps": 40000, "precision": "bfloat16", "clip": None},
    "nasa/sbv2-b": {
        "vsd.teacher_guidance_scale": (0.5, 4.0), "vsd.lora_teacher_guidance_scale": "same", "clip.threshold": 0.37,
        "optimiser.weight_decay": 1e-4, "steps": 40000, "student.lora.rank": 256,
    },
    "nasa/sd15-b": {"steps": 60000, "clip.threshold": 0.37, "student.start": "hub:stable-diffusion-v1-5/stable-diffusion-v1-5"},
}  # fmt: skip
# What the paper states (nasa/: what SNOOPI's states), where it is stated; every mark [stated] is one of these.
JOURNEYDB, LAION = "prompts/journeydb-1.3m.txt", "prompts/laion-2m.txt"
STATED: dict[str, dict[str, Any]] = {
    "paper/swiftbrush": {"student.start": "full/sd21"},
    "paper/swiftbrush-turbo": {
        "prompts": [JOURNEYDB], "student.start": "full/sd-turbo", "student.learning_rate": 1e-6, "lora_teacher.lora.rank": 64,
        "lora_teacher.lora.alpha": 128, "lora_teacher.learning_rate": 1e-3, "vsd.teacher_guidance_scale": 4.5,
        "optimiser.kind": "adamw", "batch_size": 64, "micro_batch_size": 16,
    },
    "paper/sbv2-a": {"prompts": [JOURNEYDB, LAION]},
    "paper/efficient": {"student.learning_rate": 1e-6, "student.lora.rank": 256, "student.lora.alpha": 512},
    "paper/efficient-clip": {
        "tiny_decoder": "hub:madebyollin/taesd", "clip.threshold": 0.35, "clip.weight": 0.1, "clip.clamped": True,
        "clip.decoder": "tiny",
    },
    "paper/sbv2-b": {"prompts": [JOURNEYDB, LAION]},
    "paper/sbv2-b-hps": {"hps.clamped": True},
    "paper/clip-clamped": {"clip.threshold": 0.35, "clip.weight": 0.1, "clip.clamped": True},
    "paper/clip-naive": {"clip.clamped": False},
    "paper/sbv2-a-reg": {"regularisation.pairs": 200_000},
    "paper/sbv2-b-reg": {"regularisation.pairs": 200_000},
    "paper/sb-a": {"student.start": "full/swiftbrush"},
    "paper/sb-b": {"student.start": "full/swiftbrush"},
    "paper/sb-a-reg": {"student.start": "full/swiftbrush"},
    "paper/sb-b-reg": {"student.start": "full/swiftbrush"},
    "nasa/sbv2-a": {
        "vsd.teacher_guidance_scale": (0.5, 4.0), "vsd.lora_teacher_guidance_scale": "same", "optimiser.weight_decay": 1e-4,
        "steps": 40_000, "precision": "bfloat16",
    },
    "nasa/sbv2-b": {
        "vsd.teacher_guidance_scale": (0.5, 4.0), "vsd.lora_teacher_guidance_scale": "same", "clip.threshold": 0.37,
        "optimiser.weight_decay": 1e-4, "steps": 40_000, "precision": "bfloat16",
    },
    "nasa/sd15-a": {"teacher": "hub:stable-diffusion-v1-5/stable-diffusion-v1-5", "steps": 60_000},
    "nasa/sd15-b": {"teacher": "hub:stable-diffusion-v1-5/stable-diffusion-v1-5", "steps": 60_000},
}  # fmt: skip
PLAIN = {"name", "description", "prompts", "steps", "seed"}  # keys that no cost an image depends on, nor do rates and weights
UNTRAINED = (
    "SBv2",
    "SBv2*",
    "SD Turbo",
    "merged",
    "merged*",
)  # rows of Tables 2, 5, 6, 7 and 9 that no recipe trains, and SDv2.1
# Recipe -> the recipe that it is a change of, and all that may differ.
STEPS_FROM: dict[str, tuple[str, set[str]]] = {
    "paper/swiftbrush": ("paper/swiftbrush-turbo", {"student", "lora_teacher", "optimiser"}),
    "paper/sbv2-a": ("paper/swiftbrush-turbo", {"prompts", "steps"}),
    "paper/clip-clamped": ("paper/swiftbrush-turbo", {"clip", "micro_batch_size"}),
    "paper/clip-naive": ("paper/clip-clamped", {"clip"}),
    "paper/efficient": ("paper/swiftbrush-turbo", {"student"}),
    "paper/efficient-clip": ("paper/efficient", {"clip", "tiny_decoder"}),
    "paper/sbv2-b": ("paper/efficient-clip", {"prompts", "steps"}),
    "paper/sbv2-b-hps": ("paper/sbv2-b", {"hps"}),
    "paper/sbv2-a-reg": ("paper/sbv2-a", {"regularisation", "tiny_decoder"}),
    "paper/sbv2-b-reg": ("paper/sbv2-b", {"regularisation"}),
    "paper/sb-a": ("paper/sbv2-a", {"student"}),
    "paper/sb-b": ("paper/sbv2-b", {"student"}),
    "paper/sb-a-reg": ("paper/sbv2-a-reg", {"student"}),
    "paper/sb-b-reg": ("paper/sbv2-b-reg", {"student"}),
    "nasa/sbv2-a": ("paper/sbv2-a", {"vsd", "steps"}),
    "nasa/sbv2-b": ("paper/sbv2-b", {"vsd", "clip", "steps"}),
    "nasa/sd15-a": ("nasa/sbv2-a", {"teacher", "student", "steps"}),
    "nasa/sd15-b": ("nasa/sbv2-b", {"teacher", "student", "steps"}),
}


def text(name: str) -> str:
    return (RECIPES / f"{name}.yaml").read_text("utf-8")


def value(recipe: Recipe, key: str) -> Any:
    found: Any = recipe
    for part in key.split("."):
        found = getattr(found, part)
    return found


def published() -> dict[tuple[str, str], dict[str, float]]:
    rows: dict[tuple[str, str], dict[str, float]] = {}
    with PUBLISHED.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rows.setdefault((row["table"], row["method"]), {})[row["metric"]] = float(row["value"])
    return rows


def header_rows(name: str) -> dict[tuple[str, str], dict[str, float]]:
    """Every line `#   Table N "METHOD": FID 1.23, ...` of a recipe."""
    rows = {}
    for table, method, numbers in re.findall(r'^#   Table (\d+) "([^"]+)": (.+)$', text(name), re.MULTILINE):
        pairs = (part.rsplit(" ", 1) for part in numbers.split(", "))
        rows[table, method] = {METRICS[label]: float(number) for label, number in pairs}
    return rows


def test_the_recipes_are_these_and_no_two_are_one() -> None:
    assert set(NAMES) == {*STEPS_FROM, "paper/swiftbrush-turbo"}
    assert len({read_recipe(name).fingerprint() for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_resolves_and_knows_its_name(name: str) -> None:
    recipe = read_recipe(name)
    assert recipe.name == name
    assert recipe.family == "full"
    assert recipe.description


@pytest.mark.parametrize(("name", "key", "expected"), [(n, k, v) for n, keys in EXPECTED.items() for k, v in keys.items()])
def test_a_value_that_makes_the_model(name: str, key: str, expected: Any) -> None:
    assert value(read_recipe(name), key) == expected


@pytest.mark.parametrize("name", STEPS_FROM)
def test_a_recipe_changes_only_what_its_row_changes(name: str) -> None:
    base, allowed = STEPS_FROM[name]
    mine, other = read_recipe(name).model_dump(), read_recipe(base).model_dump()
    assert {key for key in mine if mine[key] != other[key]} == allowed | {"name", "description"}
    assert f"extends: {base}\n" in text(name)


def test_steps_are_three_epochs() -> None:
    for name in PAPER:
        recipe = read_recipe(name)
        captions = {1: 1_300_000, 2: 3_300_000}[len(recipe.prompts)]
        assert recipe.steps == 3 * (captions // recipe.batch_size), name


@pytest.mark.parametrize("name", NAMES)
def test_published_numbers_in_the_header_are_the_papers_and_whole(name: str) -> None:
    expected = published()
    for row, numbers in header_rows(name).items():
        assert numbers == expected[row], (name, row)
    if name.startswith("paper/") and not name.endswith("-reg"):
        assert header_rows(name), f"{name} has no published row"


def test_every_trained_row_of_the_tables_has_a_recipe() -> None:
    covered = {row for name in PAPER for row in header_rows(name)}
    rows = {row for row in published() if row[0] in {"2", "5", "6", "7", "9"}}
    trained = {row for row in rows if row[1] not in UNTRAINED and not row[1].startswith("SDv2.1")}
    assert len(trained) == 18
    assert not trained - covered
    assert {("5", "SBv2"), ("5", "SBv2*"), ("7", "merged"), ("7", "merged*")} <= covered


@pytest.mark.parametrize("name", NAMES)
def test_every_value_says_where_it_comes_from(name: str) -> None:
    for number, line in enumerate(text(name).splitlines(), 1):
        key, _, rest = line.partition(":")
        says_nothing = not line.strip() or line.startswith("#") or not rest.strip()
        if says_nothing or key in WORDS:
            continue
        assert re.search(rf"  # {MARKS}", line), f"{name}, line {number}: {line}"
    assert "Cost, estimated by `show`: " in text(name)


def marked(name: str, mark: str) -> set[str]:
    """Dotted keys of the lines of a recipe's file that carry a mark."""
    path: list[str] = []
    found = set()
    for line in text(name).splitlines():
        content = line.strip()
        if not content or content.startswith("#"):
            continue
        depth = (len(line) - len(line.lstrip())) // 2
        if not content.startswith("- "):  # an entry of a list belongs to the key above it
            path = [*path[:depth], content.partition(":")[0]]
        if f"  # [{mark}]" in line:
            found.add(".".join(path))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_what_is_marked_stated_is_what_was_stated(name: str) -> None:
    recipe, expected = read_recipe(name), STATED.get(name, {})
    assert marked(name, "stated") == set(expected)
    for key, wanted in expected.items():
        found = [prompts.source for prompts in recipe.prompts] if key == "prompts" else value(recipe, key)
        assert found == wanted, key


def test_the_other_alpha_is_noted_with_its_source() -> None:
    line, below = re.search(r"^    alpha: 128  # (.*)\n    # (.*)$", text("paper/swiftbrush-turbo"), re.MULTILINE).groups()  # type: ignore[union-attr]
    assert "108 in v1's README" in line
    assert "vaijsc/onestep-personalization" in below
    assert marked("paper/swiftbrush", "code") >= {"lora_teacher.lora.alpha"}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in {"paper/swiftbrush"} and "prompts" in STATED[name]])
def test_a_recipe_says_how_its_prompts_are_made(name: str) -> None:
    for source in STATED[name]["prompts"]:
        stem = source.removeprefix("prompts/").removesuffix(".txt")
        command = f"python -m reference_trainer prompts build --from FILE --output prompts/ --name {stem}\n"
        assert command in text(name)


def cost_key(recipe: Recipe) -> str:
    """Equal for recipes whose steps cost the same."""
    tree = recipe.model_dump(mode="json", exclude=PLAIN)
    tree["student"] |= {"start": recipe.teacher, "learning_rate": 0}
    tree["optimiser"] |= {"weight_decay": 0}
    tree["vsd"]["teacher_guidance_scale"] = 0  # none of ours is 1, which would save a pass
    tree["lora_teacher"]["lora"]["alpha"] = 0
    if tree["clip"]:
        tree["clip"] |= {"threshold": 0, "clamped": True}
    return json.dumps(tree, sort_keys=True)


def alike() -> list[list[str]]:
    """Names of the recipes, those together whose steps cost the same."""
    groups: dict[str, list[str]] = {}
    for name in NAMES:
        groups.setdefault(cost_key(read_recipe(name)), []).append(name)
    return list(groups.values())


def in_the_gate() -> list[Any]:
    """Groups of recipes whose costs are alike: one of either kind by `-m ci`, the others by `-m slow`."""
    ci = {"paper/sbv2-a", "paper/sbv2-b", "nasa/sbv2-b"}
    return [pytest.param(names, id=names[0], marks=pytest.mark.ci if ci & {*names} else pytest.mark.slow) for names in alike()]


@pytest.mark.parametrize("names", in_the_gate())
def test_costs_in_the_headers_are_what_show_prints(names: list[str]) -> None:
    first = describe(read_recipe(names[0]), processes=4)
    work, memory, storage = (first[part] for part in ("work", "memory", "storage"))
    an_image = work["tflop_an_image"]["total"]
    once = work["tflop"] - work["images"] * an_image  # the pictures of another length are a ten-thousandth more or less
    for name in names:
        recipe = read_recipe(name)
        total = recipe.steps * recipe.batch_size * an_image + once
        header = re.search(
            r"^# Cost, estimated by `show`: (\S+) TFLOP an image, (\S+) EFLOP in all(?:, (\S+) of them for the pairs[^:]*)?:\n"
            r"# (\d+) h on 4 x A100 or (\d+) h on one H200 at 40 % of peak; (\d+) GB of memory a GPU of four, (\d+) GB of disk",
            text(name),
            re.MULTILINE,
        )
        assert header is not None, name
        said = [float(word or 0) for word in header.groups()]
        assert said[0] == pytest.approx(an_image, abs=0.006), name
        assert said[1] == pytest.approx(total / 1e6, abs=0.07), name
        assert said[2] == pytest.approx(work["tflop_for_pairs"] / 1e6, abs=0.06), name
        hours = [total / rate / 3600 for rate in (4 * 125, 0.4 * 989)]
        gigabytes = [memory["peak"] / 1e9, storage["disk"] / 1e9]
        assert said[3:] == pytest.approx([*hours, *gigabytes], abs=0.6), name


def test_merge_commands_name_recipes_whose_students_start_alike() -> None:
    commands = [re.findall(r"merge runs/(\S+)/export runs/(\S+)/export", text(name)) for name in PAPER]
    pairs = [pair for found in commands for pair in found]
    assert len(pairs) == 4
    for a, b in pairs:
        one, other = read_recipe(a), read_recipe(b)
        assert one.student.start == other.student.start
        assert (one.student.lora, one.regularisation) == (None, other.regularisation)
        assert other.student.lora is not None


def test_a_wrong_key_names_the_file_its_path_and_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: paper/sbv2-b\nvsd: {teacher_guidance_scael: 4.5}\n")
    with pytest.raises(InputError) as caught:
        read_recipe(str(path))
    message = str(caught.value)
    assert "mine.yaml" in message
    assert "'vsd.teacher_guidance_scael'" in message
    assert "'teacher_guidance_scale'" in message
    with pytest.raises(InputError, match=r"recipes/paper/sbv2-b\.yaml: unknown key 'clip\.treshold', did you mean 'threshold'"):
        read_recipe("paper/sbv2-b", ["clip.treshold=0.3"])
    with pytest.raises(InputError, match=r"did you mean '(paper/)?sbv2-b-hps'"):
        read_recipe("sbv2-b-hsp")


def test_the_readmes_table_says_what_the_headers_say() -> None:
    readme = (Path(__file__).parents[2] / "reference_trainer" / "README.md").read_text("utf-8")
    assert len(readme.splitlines()) <= 220
    rows = {
        row[0]: row[1:] for row in re.findall(r"^\| `([^`]+)` \|.*\| (\S+) \| (\d+) \| (\d+) \| (\d+) \|$", readme, re.MULTILINE)
    }
    assert set(rows) == set(NAMES)
    for name, (fid, *costs) in rows.items():
        header = re.search(r"^# (\d+) h on 4 x A100 or (\d+) h on one H200[^;]*; (\d+) GB of memory", text(name), re.MULTILINE)
        assert header is not None and list(header.groups()) == costs, name
        of_rows = [numbers["fid"] for numbers in header_rows(name).values() if "fid" in numbers]
        assert fid == "-" or name.endswith("b-reg") or float(fid) in of_rows, name


@pytest.mark.parametrize("text", ["steps=2024-13-45", "description=!!int abc", "description=" + "[" * 3000])
def test_values_that_yaml_itself_trips_over_are_one_line(text: str) -> None:
    with pytest.raises(InputError, match="its value: not YAML"):
        read_recipe("mini/sbv2-a", [text])
