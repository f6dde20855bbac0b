"""Which of a model's files are read: in a folder, or in a repository's listing before anything is fetched. No torch here.

Repositories hold the same network several times: by dtype (`model.fp16.safetensors`), in shards, pickled, for other libraries.
One set of each network is read, and it is the same set whether it lies in a hub repository, its cache or a folder.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

# The safety checker replaces whole pictures by black ones, which would count against a model: it is never loaded.
NEVER_LOADED = frozenset({"safety_checker"})
# Folders of a network that model_index.json does not name: an averaged UNet, and an adapter of the UNet.
_BESIDE = frozenset({"unet", "unet_ema", "unet_lora"})
_CONFIGS = (".json", ".txt", ".model")  # .model: a tokenizer of sentencepiece
# Variants by their suffix, best first, for what a run computes in; "" is the plain file.
ORDER = {
    "float32": ("", "fp32", "fp16", "bf16"),
    "float16": ("fp16", "", "fp32", "bf16"),
    "bfloat16": ("bf16", "", "fp32", "fp16"),
}
_VARIANT = r"fp16|bf16|fp32|ema|non_ema"
_WEIGHTS = re.compile(
    rf"(?P<stem>.+?)(?:\.(?P<variant>{_VARIANT}))?(?:-\d{{5}}-of-(?P<of>\d{{5}}))?(?:\.(?P<late>{_VARIANT}))?\.(?P<kind>safetensors|bin|pt|ckpt|pth|pkl)"
)
_INDEX = re.compile(
    rf"(?P<stem>.+?)(?:\.(?P<early>{_VARIANT}))?\.(?P<kind>safetensors|bin)\.index(?:\.(?P<variant>{_VARIANT}))?\.json"
)
# What libraries call a model's weights. Beside them lie OpenVINO's *.bin, checkpoints in one file, an optimiser's state.
OF_LIBRARIES = re.compile(r"(diffusion_)?(pytorch_)?model|adapter_model|pytorch_lora_weights|open_clip(_pytorch)?_model")


@dataclass(frozen=True)
class Selection:
    """The files that are read of a model. Paths are below its folder, sorted.

    weights, configs: those read. variants: folder of a network -> suffix of the set that is read ("" for the plain one).
    pickled: what would be read if pickles were allowed: the only weights of a network. cut: sets that lack shards.
    """

    weights: tuple[str, ...] = ()
    configs: tuple[str, ...] = ()
    variants: Mapping[str, str] = field(default_factory=dict)
    pickled: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """Weights and configs."""
        return tuple(sorted((*self.weights, *self.configs)))

    def has(self, network: str) -> bool:
        """Whether there are weights of a network, by its folder."""
        return any(_parent(path) == network for path in (*self.weights, *self.pickled, *self.cut))


@dataclass
class _Set:
    """Files that are one copy of a network's weights."""

    variant: str
    shards: int
    files: list[str]

    def whole(self) -> bool:
        return len(self.files) == self.shards


def select(
    names: Iterable[str],
    dtype: str = "float32",
    index: Mapping[str, object] | None = None,
    *,
    unused: Collection[str] = (),
    pickles: bool = False,
) -> Selection:
    """The files of a model that are read, from the names of all that there are.

    dtype: what the run computes in; its variant is taken where there is one, and any other where that is all there is.
    index: the content of the folder's model_index.json, if it has one: networks that it does not name are not read. unused:
    folders of networks whose weights another link of a chain supplies. pickles: whether they may be read; they are where a
    network has nothing else, so that the switch changes nothing of a model that has safetensors.
    """
    kept = [name for name in sorted(names) if _belongs(name, index)]
    weights: list[str] = []
    pickled: list[str] = []
    cut: list[str] = []
    variants: dict[str, str] = {}
    dropped: set[str] = set()  # lists of shards that are not read
    folders: dict[str, list[str]] = {}
    for name in kept:
        folders.setdefault(_parent(name), []).append(name)
    for folder, files in folders.items():
        if folder in unused:
            dropped |= {file for file in files if _INDEX.fullmatch(_name(file))}
            continue
        taken: list[tuple[str, str, str]] = []  # kind, stem, variant
        for kind, stem, sets in _sets(files):
            best = _best(sets, dtype)
            if best is None:
                cut += [f"{file} and others: {len(found.files)} of {found.shards} shards" for found in sets
                        if found.variant in ORDER[dtype] for file in found.files[:1]]  # fmt: skip
            elif kind == "safetensors":
                weights += best.files
                taken.append((kind, stem, best.variant))
            elif not any(other == "safetensors" for other, *_ in taken) and OF_LIBRARIES.fullmatch(stem):
                pickled += best.files
                taken.append((kind, stem, best.variant))
        if taken:
            variants[folder] = taken[0][2]
        dropped |= {file for file in files if (found := _INDEX.fullmatch(_name(file))) and _key(found) not in taken}
    configs = [name for name in kept if name.endswith(_CONFIGS) and name not in dropped]
    read = sorted((*weights, *(pickled if pickles else ())))
    return Selection(tuple(read), tuple(configs), variants, () if pickles else tuple(pickled), tuple(cut))


def _belongs(name: str, index: Mapping[str, object] | None) -> bool:
    """Whether a file is in a folder that a model is read from; beside a model_index.json no weights are."""
    top, slash, _ = name.partition("/")
    if not slash:
        return index is None or name.endswith(_CONFIGS)
    if any(part.startswith(".") for part in name.split("/")) or top in NEVER_LOADED:
        return False
    return index is None or top in _BESIDE or _is_named(index.get(top))


def _is_named(entry: object) -> bool:
    return isinstance(entry, list) and entry[:1] not in ([], [None])


def named_parts(index: Mapping[str, Any]) -> dict[str, list[str]]:
    """Part -> [library, class] of every part that a model_index.json names and has."""
    return {name: entry for name, entry in index.items() if not name.startswith("_") and _is_named(entry)}


def networks(index: Mapping[str, Any]) -> list[str]:
    """The parts that a model_index.json names and that are loaded."""
    return [name for name in named_parts(index) if name not in NEVER_LOADED]


def _sets(files: Iterable[str]) -> Iterator[tuple[str, str, list[_Set]]]:
    """(kind, stem, copies) of each network in a folder, safetensors before pickles."""
    found: dict[tuple[str, str], dict[tuple[str, int], _Set]] = {}
    for file in files:
        match = _WEIGHTS.fullmatch(_name(file))
        if match is None:
            continue
        variant, shards = match["variant"] or match["late"] or "", int(match["of"] or 1)
        copies = found.setdefault((match["kind"], match["stem"]), {})
        copies.setdefault((variant, shards), _Set(variant, shards, [])).files.append(file)
    for kind, stem in sorted(found, key=lambda key: (key[0] != "safetensors", key[1])):
        yield kind, stem, list(found[kind, stem].values())


def _best(sets: list[_Set], dtype: str) -> _Set | None:
    """The whole copy that a run in a dtype reads; of two of one variant the sharded one, as diffusers does."""
    for variant in ORDER[dtype]:
        whole = [copy for copy in sets if copy.variant == variant and copy.whole()]
        if whole:
            return max(whole, key=lambda copy: copy.shards)
    return None


def _key(index: re.Match[str]) -> tuple[str, str, str]:
    return index["kind"], index["stem"], index["variant"] or index["early"] or ""


def _parent(name: str) -> str:
    return name.rpartition("/")[0]


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def plain_name(path: str) -> str:
    """Where a library looks for a file of weights, or for the list of its shards, that is asked for no variant."""
    folder, slash, file = path.rpartition("/")
    if index := _INDEX.fullmatch(file):
        file = f"{index['stem']}.{index['kind']}.index.json"
    elif (weights := _WEIGHTS.fullmatch(file)) and weights["of"] is None:  # shards go by the names in their list
        file = f"{weights['stem']}.{weights['kind']}"
    return f"{folder}{slash}{file}"
