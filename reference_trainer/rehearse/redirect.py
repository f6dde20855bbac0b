"""A recipe led to small copies: a catalog that replaces ids, overrides for everything else, and what they change, in words.

The code that then runs is the very code of `train`, `merge` and `sbv2bench eval`: nothing is patched.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from reference_trainer import architectures
from reference_trainer.config import Recipe
from reference_trainer.recipe_files import read_recipe
from reference_trainer.rehearse import small_base
from reference_trainer.rehearse.cutting import FACTOR, LATENT_SIDE
from sbv2bench.data.assets import COPY_WHOLE, HUB, PACKAGE, resolve_location
from sbv2bench.data.chain import chain
from sbv2bench.errors import PrerequisiteError
from sbv2bench.registry import Registry
from sbv2bench.specs import ModelSpec

SUITE = "rehearsal"
STEPS, WARM_UP, MEASURED_AT = 3, 2, 2
BATCH, MICRO_BATCH, PAIRS = 4, 2, 5
_NETWORKS = ("unet", "text_encoder", "vae")
CONFIGS = ("*.json", "*/*.json", "*/merges.txt")  # of a repository on the hub: everything but weights
# Five captions and batches of four: the runs stop in the middle of an epoch.
CAPTIONS = (
    "a photo of a red circle",
    "two blue squares on a table, oil painting",
    "a large star above the sea at night",
    "an astronaut riding a horse, 4k, highly detailed",
    "a bowl of fruit",
)

Catalog = dict[str, dict[str, Any]]  # section -> its entries by id


@dataclass(frozen=True)
class Rehearsed:
    """A recipe that a laptop can run. reference and overrides: what `train` is given. environment: what it runs in."""

    reference: str
    overrides: tuple[str, ...]
    changes: tuple[str, ...]
    environment: dict[str, str]
    recipe: Recipe
    factor: int  # by which widths and depths are cut; 1 for a recipe of models that are small already


def redirect(reference: str, overrides: Iterable[str], folder: Path, bases: Path, registry: Registry) -> Rehearsed:
    """Write what a recipe's rehearsal needs below `folder`, small copies below `bases` (those that are there are taken).

    registry: where the originals are found. Raises InputError (recipe or names), PrerequisiteError (an original whose config
    files are not on this machine), IntegrityError (broken ones).
    """
    recipe = read_recipe(reference, overrides)
    metrics = _metrics(recipe, registry)
    # Eight captions of the world: enough for every path of an evaluation, and for no number to mean anything.
    suite = {"extends": "mini", "num_generated": 8, "num_reference": 8, "block_size": 4, "metrics": metrics.split(",")}
    catalog: Catalog = {"suites": {SUITE: suite}, "models": {}, "extractors": {}}
    changes, own = _settings(recipe, folder, metrics)
    for key, small in _models(recipe, bases, registry, catalog).items():
        own |= {key: small}
    if recipe.tiny_decoder and not recipe.tiny_decoder.startswith(PACKAGE):
        own["tiny_decoder"] = str(_tiny_decoder(recipe.tiny_decoder, bases))
    for loss in (recipe.clip, recipe.hps):
        if loss is not None:
            _scorer(loss.scorer, bases, registry, catalog)
    copied = [*catalog["models"], *(key for key in own if key in ("teacher", "student.start", "tiny_decoder"))]
    copied += list(catalog["extractors"])
    if copied:
        changes.append(
            f"small copies, widths and depths cut by {FACTOR}, random weights, latents {LATENT_SIDE} x {LATENT_SIDE}: "
            + ", ".join(copied)
        )
    path = folder / "catalog.yaml"
    path.write_text(yaml.safe_dump(catalog), encoding="utf-8")
    environment = {"SBV2BENCH_CATALOG": str(path), "SBV2BENCH_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}
    environment["OMP_NUM_THREADS"] = "1"  # of processes: the same bits as in this one
    if recipe.regularisation is not None and recipe.regularisation.distance == "lpips":
        if not (bases / "torch").is_dir():
            small_base.write_vgg(bases / "torch", _seed("vgg"))
        environment["TORCH_HOME"] = str(bases / "torch")
        changes.append("LPIPS: VGG-16 whole, random weights")
    every = (*overrides, *(f"{key}={json.dumps(value)}" for key, value in own.items()))
    return Rehearsed(reference, every, tuple(changes), environment, read_recipe(reference, every), FACTOR if copied else 1)


def _metrics(recipe: Recipe, registry: Registry) -> str:
    """What can be measured without a download: the shipped network of FID takes the mini family's 32 px alone."""
    return "fid,clip,hps" if _are_small(recipe, registry) else "clip,hps"


def _are_small(recipe: Recipe, registry: Registry) -> bool:
    """Whether teacher and start are both of the package: small already, and of one size only as they are."""
    specs = [registry.model(name) for name in (recipe.teacher, recipe.student.start)]
    return all(spec.location.startswith(PACKAGE) or (spec.merge is not None and spec.family == "mini") for spec in specs)


def _settings(recipe: Recipe, folder: Path, metrics: str) -> tuple[list[str], dict[str, object]]:
    """What is changed besides the models: in words, and as overrides."""
    own: dict[str, object] = {"steps": STEPS, "batch_size": BATCH, "log_every": 1, "sample_every": STEPS, "checkpoint_every": 1}
    if recipe.micro_batch_size is not None and recipe.micro_batch_size < recipe.batch_size:
        own["micro_batch_size"] = MICRO_BATCH
    if recipe.lora_teacher is not None:
        own["lora_teacher.warmup_steps"] = WARM_UP
    if recipe.regularisation is not None:
        own |= {"regularisation.pairs": PAIRS, "regularisation.batch_size": 2, "regularisation.teacher_steps": 2}
        if recipe.regularisation.kind == "real" and not recipe.regularisation.images.startswith("world:"):
            own["regularisation.images"] = str(_pictures(folder / "pictures"))
    before = recipe.model_dump(mode="json")
    if recipe.optimiser.kind != "adamw":
        own["optimiser.kind"] = "adamw"  # bitsandbytes has no kernels for a CPU
    changes = [f"{key} {_at(before, key)} -> {value}" for key, value in own.items() if _at(before, key) != value]
    own["measure"] = {"every": MEASURED_AT, "suite": SUITE, "metrics": metrics}
    changes.append(f"measured in the loop at step {MEASURED_AT} on 8 pictures ({metrics})")
    if not all(source.source.startswith("world:") for source in recipe.prompts):
        path = folder / "prompts.txt"
        path.write_text("\n".join(CAPTIONS) + "\n", encoding="utf-8")
        sources = [{"source": source.source} if source.source.startswith("world:") else {"source": str(path)}
                   for source in recipe.prompts]  # fmt: skip
        own["prompts"] = sources
        changes.append(f"prompts: {len(CAPTIONS)} captions in place of each file or data set")
    return changes, own


def _at(tree: dict[str, Any], key: str) -> object:
    for part in key.split("."):
        tree = tree[part]
    return tree


def _models(recipe: Recipe, bases: Path, registry: Registry, catalog: Catalog) -> dict[str, str]:
    """Small copies of teacher and start: entries of the catalog where they have an id, else overrides (returned)."""
    overrides: dict[str, str] = {}
    teacher: tuple[str, Path] | None = None
    for key, reference in (("teacher", recipe.teacher), ("student.start", recipe.student.start)):
        spec = registry.model(reference)
        if _are_small(recipe, registry):
            continue
        folder = _small_model(reference, spec, bases, registry, teacher)
        teacher = teacher or (reference, folder)
        small = spec.model_copy(
            update={"location": str(folder), "holds": "model", "base": "", "vae": "", "merge": None, "resolution": None}
            | {"parts": {}, "adapters": ()}
            | {"revision": None, "mirrors": (), "weights": (), "published_as": ()}
        )
        fields = small.model_dump(mode="json", exclude_defaults=True, exclude={"id", "family"})
        if registry.models.get(spec.id) is spec:
            catalog["models"][spec.id] = {**fields, "replaces": True}
        else:
            if spec.sampler != "pipeline":
                (folder / "sbv2bench.json").write_text(json.dumps({k: v for k, v in fields.items() if k != "location"}))
            overrides[key] = str(folder)
    return overrides


def _small_model(reference: str, spec: ModelSpec, bases: Path, registry: Registry, teacher: tuple[str, Path] | None) -> Path:
    """The folder of a small copy; one that is like its teacher (name, folder) but for the UNet shares everything else with it."""
    if teacher is not None and reference == teacher[0]:
        return teacher[1]
    folder = bases / _slug(f"{reference}-of-{teacher[0]}" if teacher else reference)
    if folder.is_dir():
        return folder
    at_hand = _configs_at_hand(reference, registry)
    configs = {part: architectures.config(at_hand, part, registry) for part in (*_NETWORKS, "scheduler", "index")}
    if teacher is not None:
        theirs = _configs_at_hand(teacher[0], registry)
        if all(configs[part] == architectures.config(theirs, part, registry) for part in _NETWORKS):
            return small_base.write_other_unet(folder, teacher[1], _seed(reference), configs["scheduler"])
    tokenizer = None if architectures.known(at_hand, registry) else _tokenizer(registry.model(at_hand))
    return small_base.write_pipeline(folder, configs, _seed(reference), tokenizer)


def _configs_at_hand(reference: str, registry: Registry) -> str:
    """A model's name; of one on the hub whose configs are not known here the folder with these alone, fetched if they must be."""
    spec = registry.model(reference)
    if architectures.known(reference, registry) or not spec.location.startswith(HUB) or spec.holds != "model":
        return reference
    return str(resolve_location(spec.location, spec.revision, files=CONFIGS))


def _tokenizer(spec: ModelSpec) -> Path:
    links = chain(spec)
    found = next((link.folder / "tokenizer" for link in links if (link.folder / "tokenizer").is_dir()), None)
    if found is None:
        raise PrerequisiteError(f"{links[0].folder}: no folder tokenizer/ found", COPY_WHOLE)
    return found


def _tiny_decoder(location: str, bases: Path) -> Path:
    folder = bases / _slug(location)
    return (
        folder if folder.is_dir() else small_base.write_tiny_decoder(folder, architectures.tiny_config(location), _seed(location))
    )


def _scorer(name: str, bases: Path, registry: Registry, catalog: Catalog) -> None:
    spec = registry.extractor(name)
    if spec.location.startswith(PACKAGE):
        return
    folder = bases / _slug(name)
    if not folder.is_dir():
        small_base.write_scorer(folder, architectures.scorer_config(name, registry), _seed(name))
    small = spec.model_copy(update={"location": str(folder), "files": (), "architecture": "", "weights": ()})
    catalog["extractors"][name] = small.model_dump(mode="json", exclude_defaults=True, exclude={"id"}) | {"replaces": True}


def _pictures(folder: Path) -> Path:
    """A folder of noise with a caption beside each picture, for regularisation on real images."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number, caption in enumerate(CAPTIONS):
        Image.fromarray(random.integers(0, 256, (8 * LATENT_SIDE, 8 * LATENT_SIDE, 3), np.uint8)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(caption)
    return folder


def _slug(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", name).strip("-.")


def _seed(name: str) -> int:
    return zlib.crc32(name.encode())
