"""What a recipe says: one frozen tree, every key checked, overridable by `key.path=value`.

Paper sections are of SwiftBrush v2 (arXiv 2408.14176). Values have no defaults where the method depends on them: a recipe
says them, and a reader of the recipe need not read this file.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sbv2bench.errors import InputError
from sbv2bench.specs import PredictionType, fingerprint

RECIPES = files("reference_trainer") / "recipes"
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Range = tuple[float, float]


class Frozen(BaseModel):
    """Base of every part of a recipe: immutable, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Lora(Frozen):
    """A low-rank adapter: W + (alpha / rank) B A on every module whose name ends in one of `targets`."""

    rank: int = Field(ge=1)
    alpha: Positive
    targets: tuple[str, ...] = Field(min_length=1)


class Student(Frozen):
    """The one-step generator. start: the model whose UNet it begins as; lora: None trains all weights (model A)."""

    start: str
    lora: Lora | None = None
    timestep: int = Field(default=999, ge=0, le=999)
    learning_rate: Positive


class LoraTeacher(Frozen):
    """The adapter on the frozen teacher that learns the score of the student's images (trainer's section 1.6)."""

    lora: Lora
    learning_rate: Positive
    loss_weight: Literal["alpha_bar", "none"] = "alpha_bar"
    first_timestep: int = Field(default=0, ge=0, le=999)
    last_timestep: int = Field(default=999, ge=0, le=999)
    null_share: Share = 0.1
    steps_per_student_step: int = Field(default=1, ge=1)
    warmup_steps: int = Field(default=0, ge=0)  # LoRA-teacher steps before the student's first: our addition, 0 in the paper


class Vsd(Frozen):
    """Variational score distillation (equation 4).

    teacher_guidance_scale: a number, or a range that each step draws from. lora_teacher_guidance_scale: "same" is the
    paper's method. With equal scales the fixed point is the *unguided* teacher and the scale only amplifies the
    conditional part of the gradient; 4.5 on the frozen teacher alone is another algorithm (as in DMD), which aims at the
    over-saturated 4.5-guided teacher.
    """

    teacher_guidance_scale: float | Range
    lora_teacher_guidance_scale: float | Literal["same"]
    weight: Literal["sigma2", "dmd"] = "sigma2"
    first_timestep: int = Field(default=20, ge=0, le=999)
    last_timestep: int = Field(default=980, ge=0, le=999)


class ScoreLoss(Frozen):
    """max(0, threshold - cosine) of decoded student images and their captions, per sample (equation 5; HPS: section 8.1).

    scorer: an extractor id. share: of the samples that are scored, spread evenly. clamped: False is 1 - cosine (Table 6's
    naive loss). decoder: tiny (TAESD's part) or full (the teacher's own).
    """

    scorer: str
    threshold: float = Field(ge=-1, le=1)
    weight: Positive
    schedule: Literal["exponential", "linear", "constant"]
    share: Share = 1.0
    clamped: bool = True
    decoder: Literal["tiny", "full"] = "tiny"


class Regularisation(Frozen):
    """Image regularisation ("Ours*"). The paper gives neither loss nor weight: both kinds are our interpretation.

    paired (R1): the student's image of noise z against the teacher's deterministic sample from the same z (as DMD does).
    real (R2): the student's image of a noised real latent against that latent.
    """

    kind: Literal["paired", "real"]
    weight: Positive
    batch_size: int = Field(ge=1)  # pairs a step, besides the prompts' batch
    distance: Literal["lpips", "pixels", "latents"]
    pairs: int = Field(ge=1)
    images: str = ""  # real only: world:training, or a folder of pictures, each with its caption in a .txt of the same name
    teacher_steps: int = Field(default=50, ge=1)  # paired only
    teacher_guidance_scale: float = 3.0  # paired only


class Prompts(Frozen):
    """Where captions come from: a file (txt, jsonl, csv, parquet), hub:ORG/DATASET, or world:SPLIT of the mini world."""

    source: str
    column: str = "text"
    split: str = "train"  # of a hub dataset
    limit: int | None = Field(default=None, ge=1)  # the first so many


class Ema(Frozen):
    """Moving average of the trained weights: min(decay, (1 + step) / (10 + step)), diffusers' EMAModel."""

    decay: float = Field(ge=0, lt=1)


class Optimiser(Frozen):
    """AdamW for both networks; the learning rates are theirs."""

    betas: Range = (0.9, 0.999)
    epsilon: Positive = 1e-8
    weight_decay: float = Field(default=1e-4, ge=0)
    gradient_clip: Positive = 1.0
    warmup_steps: int = Field(default=0, ge=0)
    final_learning_rate: Share = 1.0  # share of the rate that a cosine ends at; 1 is constant
    kind: Literal["adamw", "adamw8bit"] = "adamw"


class Measure(Frozen):
    """Evaluation in the loop by sbv2bench itself. Choose on a suite that nothing is reported on."""

    every: int = Field(ge=1)
    suite: str
    metrics: str = "fid,pr,clip"
    limit: int | None = Field(default=None, ge=2)


class Recipe(Frozen):
    """A whole training run."""

    name: str
    description: str = ""
    family: Literal["mini", "full", "local"]
    teacher: str
    prediction_type: PredictionType  # of the teacher: checked against its scheduler before anything is spent
    tiny_decoder: str = ""  # location of an AutoencoderTiny
    prompts: tuple[Prompts, ...] = Field(min_length=1)
    student: Student
    lora_teacher: LoraTeacher | None
    vsd: Vsd | None
    clip: ScoreLoss | None = None
    hps: ScoreLoss | None = None
    regularisation: Regularisation | None = None
    ema: Ema | None
    optimiser: Optimiser = Optimiser()
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)  # prompts a step, over all processes and micro-batches
    micro_batch_size: int | None = Field(default=None, ge=1)  # prompts a forward pass; None: all of a process at once
    precision: Literal["float32", "bfloat16"] = "float32"  # of the passes; weights that are trained are float32
    teacher_dtype: Literal["float32", "bfloat16"] = "float32"  # of the frozen base
    gradient_checkpointing: bool = False
    ema_on_cpu: bool = False
    seed: int = Field(ge=0)
    log_every: int = Field(default=50, ge=1)
    sample_every: int = Field(default=1000, ge=1)
    checkpoint_every: int = Field(default=500, ge=1)
    keep_checkpoints: int = Field(default=2, ge=1)
    skips_in_a_row: int = Field(default=5, ge=0)  # steps whose gradient is not a number before the run stops
    measure: Measure | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if (self.vsd is None) != (self.lora_teacher is None):
            raise ValueError("vsd and lora_teacher: both or neither, each is nothing without the other")
        if self.vsd is None and self.regularisation is None:
            raise ValueError("vsd: null needs a regularisation, or there is nothing to train on")
        if self.vsd is None and (self.clip or self.hps):
            raise ValueError("clip and hps: expected null where vsd is null")
        needs = [name for name, loss in (("clip", self.clip), ("hps", self.hps)) if loss and loss.decoder == "tiny"]
        needs += ["regularisation"] if self.regularisation and self.regularisation.distance != "latents" else []
        if needs and not self.tiny_decoder:
            raise ValueError(f"tiny_decoder: {needs[0]} decodes with it, found none")
        for part in (self.vsd, self.lora_teacher):
            if part and part.first_timestep > part.last_timestep:
                raise ValueError("first_timestep: expected at most last_timestep")
        return self

    def identity(self) -> dict[str, Any]:
        """JSON-ready, all that can change the trained weights; where logs, samples and checkpoints go is not in it."""
        remarks = {"name", "description", "log_every", "sample_every", "checkpoint_every", "keep_checkpoints", "measure"}
        return self.model_dump(mode="json", exclude=remarks | {"ema_on_cpu", "gradient_checkpointing", "skips_in_a_row"})

    def fingerprint(self) -> str:
        """SHA-256 (64 hex digits) of the identity."""
        return fingerprint(self.identity())


def read_recipe(reference: str, overrides: Iterable[str] = ()) -> Recipe:
    """The recipe that a user names: `mini/sbv2-a` of the package, or a YAML file; then `key.path=value` over it.

    A recipe may say `extends: NAME`, whose keys it takes and changes. Raises InputError: file and key, found, expected.
    """
    tree, where = _read_tree(reference)
    for override in overrides:
        _override(tree, override)
    return _validated(tree, where)


def changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with `key.path` -> value over it. Raises InputError for a key or a value that cannot be."""
    tree = recipe.model_dump()
    for path, value in changes.items():
        _place(tree, path, value)
    return _validated(tree, f"recipe {recipe.name}")


def parse_override(text: str) -> tuple[str, Any]:
    """("key.path", value) of `key.path=value`, the value as YAML reads it. Raises InputError for anything else."""
    path, equals, written = text.partition("=")
    if not equals or not all(path.split(".")):
        raise InputError(f"override {text!r}: expected key=value or key.path=value", "student.learning_rate=1e-5")
    try:
        value = yaml.safe_load(written)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # dates that are none, tags, depth
        why = " ".join(str(error).split())
        raise InputError(f"override {text!r}: its value is not YAML ({why})") from error
    with suppress(ValueError):  # YAML reads 1e-5 as text
        value = float(value) if isinstance(value, str) else value
    return path, value


def _validated(tree: Mapping[str, Any], where: str) -> Recipe:
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise _readable(error, where) from error


def recipe_names() -> list[str]:
    """Every recipe of the package, `family/name`, sorted; those of base models (which say `stage`) are not among them."""
    found = []
    for family in RECIPES.iterdir():
        for path in family.iterdir():
            if path.name.endswith(".yaml") and "stage" not in (yaml.safe_load(path.read_text("utf-8")) or {}):
                found.append(f"{family.name}/{path.name.removesuffix('.yaml')}")
    return sorted(found)


def _read_tree(reference: str, seen: tuple[str, ...] = ()) -> tuple[dict[str, Any], str]:
    path = Path(reference).expanduser()
    packaged = RECIPES / f"{reference}.yaml"
    if path.suffix in {".yaml", ".yml"} and path.is_file():
        text, where = _text(path), str(path)
    elif packaged.is_file():
        text, where = packaged.read_text("utf-8"), f"recipes/{reference}.yaml"
    else:
        known = recipe_names()
        close = difflib.get_close_matches(reference, [*known, *(name.partition("/")[2] for name in known)], 1)
        hint = f", did you mean {close[0]!r}?" if close else ""
        raise InputError(
            f"recipe {reference!r}: neither a YAML file nor a recipe of the package{hint}", f"one of {', '.join(known)}"
        )
    try:
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # dates that are none, tags, depth
        raise InputError(f"{where}: not YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise InputError(f"{where}: found {type(tree).__name__}, expected keys and values")
    parent = tree.pop("extends", None)
    if parent is None:
        return tree, where
    if parent in seen:
        raise InputError(f"{where}: extends {parent!r}, which extends it")
    base, _ = _read_tree(str(parent), (*seen, str(parent)))
    return _merged(base, tree), where


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error})") from error


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes over the base; mappings are merged key by key, anything else is replaced."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _override(tree: dict[str, Any], override: str) -> None:
    _place(tree, *parse_override(override))


def _place(tree: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for key in parents:
        if not isinstance(tree.setdefault(key, {}), dict):
            tree[key] = {}
        tree = tree[key]
    tree[last] = value


def _readable(error: ValidationError, where: str) -> InputError:
    """The first complaint, with the nearest name where a key is unknown."""
    first = error.errors()[0]
    location = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(first["loc"][-1]), _keys_beside(first["loc"]), 1)
        hint = f", did you mean {close[0]!r}?" if close else ""
        return InputError(f"{where}: unknown key {location!r}{hint}")
    if first["type"] == "missing":
        return InputError(f"{where}: {location} is missing")
    return InputError(f"{where}: {location or 'recipe'}: {first['msg'].removeprefix('Value error, ')}")


def _keys_beside(location: tuple[int | str, ...]) -> list[str]:
    """Names of the fields that stand where an unknown key was found."""
    model: type[BaseModel] = Recipe
    for part in location[:-1]:
        annotation = model.model_fields[str(part)].annotation if part in model.model_fields else None
        inner = [kind for kind in _kinds(annotation) if issubclass(kind, Frozen)]
        model = inner[0] if inner else model
    return list(model.model_fields)


def _kinds(annotation: Any) -> list[type]:
    """Classes named in an annotation such as `Lora | None`."""
    if isinstance(annotation, type):
        return [annotation]
    return [kind for part in getattr(annotation, "__args__", ()) for kind in _kinds(part)]
