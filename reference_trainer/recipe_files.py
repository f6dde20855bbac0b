"""Recipes as files and as typed: YAML that extends YAML, `key.path=value` over it, and errors that name file and key."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from reference_trainer.config import Frozen, Recipe
from sbv2bench import paths
from sbv2bench.errors import InputError
from sbv2bench.strict_yaml import read_yaml

RECIPES = files("reference_trainer") / "recipes"


def read_recipe(reference: str, overrides: Iterable[str] = ()) -> Recipe:
    """The recipe that a user names: `mini/sbv2-a` of the package, or a YAML file; then `key.path=value` over it.

    A recipe may say `extends: NAME`, whose keys it takes and changes. Raises InputError: file and key, found, expected.
    """
    tree, where = _read_tree(reference)
    for override in overrides:
        _override(tree, override)
    return _validated(tree, where)


def changed(recipe: Recipe, changes: Mapping[str, object]) -> Recipe:
    """The recipe with `key.path` -> value over it. Raises InputError for a key or a value that cannot be."""
    tree = recipe.model_dump()
    for path, value in changes.items():
        _place(tree, path, value)
    return _validated(tree, f"recipe {recipe.name}")


def parse_override(text: str) -> tuple[str, object]:
    """("key.path", value) of `key.path=value`, the value as YAML reads it. Raises InputError for anything else."""
    path, equals, written = text.partition("=")
    if not equals or not all(path.split(".")):
        raise InputError(f"override {text!r}: expected key=value or key.path=value", "student.learning_rate=1e-5")
    value = read_yaml(written, f"override {text!r:.200}: its value")
    with suppress(ValueError):  # YAML reads 1e-5 as text
        value = float(value) if isinstance(value, str) else value
    return path, value


def _validated(tree: Mapping[str, object], where: str) -> Recipe:
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise _readable(error, where) from error


def flat(tree: Mapping[str, Any], above: str = "") -> dict[str, object]:
    """Every leaf of a tree of settings by its `key.path`; parts of a list by their number."""
    found: dict[str, object] = {}
    for key, value in tree.items():
        several = isinstance(value, list | tuple) and value and isinstance(value[0], dict)
        below = {str(number): part for number, part in enumerate(value)} if several else value
        found |= flat(below, f"{above}{key}.") if isinstance(below, dict) and below else {f"{above}{key}": value}
    return found


def recipe_names() -> list[str]:
    """Every recipe of the package, `family/name`, sorted; those of base models (which say `stage`) are not among them."""
    found = []
    for family in RECIPES.iterdir():
        for path in family.iterdir():
            tree = read_yaml(path.read_text("utf-8"), path.name) if path.name.endswith(".yaml") else None
            if isinstance(tree, dict) and "stage" not in tree:
                found.append(f"{family.name}/{path.name.removesuffix('.yaml')}")
    return sorted(found)


def _read_tree(reference: str, seen: tuple[str, ...] = ()) -> tuple[dict[str, object], str]:
    path = paths.as_typed(reference)
    packaged = RECIPES / f"{reference}.yaml"
    if path.suffix in {".yaml", ".yml"} and path.is_file():
        text, where = _text(path), str(path)
    elif packaged.is_file():
        text, where = packaged.read_text("utf-8"), f"recipes/{reference}.yaml"
    else:
        known = recipe_names()
        hint = _hint(reference, [*known, *(name.partition("/")[2] for name in known)])
        raise InputError(
            f"recipe {reference!r}: neither a YAML file nor a recipe of the package{hint}", f"one of {', '.join(known)}"
        )
    tree = read_yaml(text, where)
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise InputError(f"{where}: found {type(tree).__name__}, expected keys and values")
    parent = tree.pop("extends", None)
    if parent is None:
        return tree, where
    if parent in seen:
        raise InputError(f"{where}: extends {parent!r}, which extends it")
    base, _ = _read_tree(str(parent), (*seen, str(parent)))
    return _merged(base, tree), where


def _hint(found: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(found, list(known), 1)
    return f", did you mean {close[0]!r}?" if close else ""


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error})") from error


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, object]:
    """The changes over the base; mappings are merged key by key, anything else is replaced."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _override(tree: dict[str, object], override: str) -> None:
    _place(tree, *parse_override(override))


def _place(tree: dict[str, Any], path: str, value: object) -> None:
    *parents, last = path.split(".")
    for key in parents:
        if not isinstance(tree.setdefault(key, {}), dict):
            tree[key] = {}
        tree = tree[key]
    tree[last] = value


def _readable(error: ValidationError, where: str) -> InputError:
    """The first complaint, with the nearest name where a key is unknown."""
    first = error.errors()[0]
    keys = (str(part) for part in first["loc"])  # pydantic puts names of a union's types among them
    location = ".".join(key for key in keys if (key.isidentifier() and key != "float") or key.isdecimal())
    if first["type"] == "extra_forbidden":
        hint = _hint(str(first["loc"][-1]), _keys_beside(first["loc"]))
        return InputError(f"{where}: unknown key {location!r}{hint}")
    if first["type"] == "missing":
        return InputError(f"{where}: {location} is missing")
    said = first["msg"].removeprefix("Value error, ")
    return InputError(f"{where}: {location}: {said}" if location else f"{where}: {said}")


def _keys_beside(location: tuple[int | str, ...]) -> list[str]:
    """Names of the fields that stand where an unknown key was found."""
    model: type[BaseModel] = Recipe
    for part in location[:-1]:
        annotation = model.model_fields[str(part)].annotation if part in model.model_fields else None
        inner = [kind for kind in _kinds(annotation) if issubclass(kind, Frozen)]
        model = inner[0] if inner else model
    return list(model.model_fields)


def _kinds(annotation: object) -> list[type]:
    """Classes named in an annotation such as `Lora | None`."""
    if isinstance(annotation, type):
        return [annotation]
    return [kind for part in getattr(annotation, "__args__", ()) for kind in _kinds(part)]
