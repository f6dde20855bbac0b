"""The captions that must not be trained on: those of suites, by their names, and of any file of captions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reference_trainer.prompts.cleaning import cleaned, key
from reference_trainer.prompts.columns import caption_column
from sbv2bench import paths
from sbv2bench.data import caption_files
from sbv2bench.data.assets import resolve_location
from sbv2bench.data.caption_rows import READERS, checked, read_rows, unit_of
from sbv2bench.data.prompts import load_prompts
from sbv2bench.errors import InputError, PrerequisiteError
from sbv2bench.registry import Registry, suggestion
from sbv2bench.specs import SuiteSpec

DEFAULT = ("coco2014", "hpsv2")
_SHORT = {"coco2014": "coco2014-30k"}


@dataclass(frozen=True)
class EvaluationList:
    """name: a suite's, or a file's. count, sha256: of its captions, which are joined with newlines. keys: uint64, sorted."""

    name: str
    count: int
    sha256: str
    keys: NDArray[np.uint64]


def names_in(option: str) -> tuple[str, ...]:
    """`coco2014,hpsv2` -> its names; `none` -> (). Raises InputError where it says neither."""
    names = tuple(filter(None, map(str.strip, option.split(","))))
    if not names:
        raise InputError(f"--exclude: found {option!r}, expected suites or files, or none", f"--exclude {','.join(DEFAULT)}")
    return () if names == ("none",) else names


def evaluation_lists(names: Iterable[str], registry: Registry) -> list[EvaluationList]:
    """The captions of suites (`coco2014` for all 40,504 of coco2014-30k's list), of groups of suites, or of files.

    Raises InputError (neither suite nor file, with the nearest name), PrerequisiteError naming all lists that are not on this
    machine and the commands that bring them, what reading them raises.
    """
    found, absent = [], []
    for name in dict.fromkeys(names):
        try:
            found.append(_list(name, registry))
        except PrerequisiteError as error:
            absent.append((name, error))
    if len(absent) == 1:
        raise absent[0][1]
    if absent:
        raise PrerequisiteError(
            f"captions to leave out are not on this machine: {', '.join(name for name, _ in absent)}",
            " && ".join(error.fix for _, error in absent if error.fix),
        )
    return found


def _list(name: str, registry: Registry) -> EvaluationList:
    suite = _SHORT.get(name, name)
    if suite in registry.suites or suite in registry.groups:
        captions = [caption for one in registry.suites_of(suite) for caption in _of_suite(one, registry)]
    else:
        captions = _of_file(name, registry)
    keys = np.unique(np.fromiter((key(cleaned(caption)) for caption in captions), dtype=np.uint64, count=len(captions)))
    return EvaluationList(Path(name).name, len(captions), caption_files.captions_sha256(captions), keys)


def _of_suite(suite: SuiteSpec, registry: Registry) -> Sequence[str]:
    if suite.prompts.kind != "coco2014":
        return load_prompts(suite, assets=registry.assets).captions
    return _all(resolve_location(suite.prompts.location, assets=registry.assets))


def _all(path: Path) -> list[str]:
    """The captions of a list in any of COCO's forms, also those beyond the suite's first 30,000."""
    return [caption for order in caption_files.all_captions(path) for caption in order]


def _of_file(name: str, registry: Registry) -> list[str]:
    path = paths.as_typed(name)
    if not path.is_file() or path.suffix.lower() not in READERS:
        close = suggestion(name, [*_SHORT, *registry.suites, *registry.groups])
        hint = f", did you mean {close!r}?" if close else ""
        raise InputError(
            f"--exclude: {name!r} is neither a suite nor a file *{', *'.join(READERS)}{hint}", "--exclude coco2014,hpsv2"
        )
    if path.suffix.lower() == ".json":
        return _all(path)
    rows = read_rows(path, (caption_column(path),))
    return list(checked(((number, values[0]) for number, values in rows), str(path), unit_of(path), Counter()))
