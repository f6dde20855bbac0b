"""How much of a caption a model's own text encoders read, from their tokenizers alone: no network is loaded, no file hashed."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sbv2bench.data.assets import read_json
from sbv2bench.data.chain import chain
from sbv2bench.errors import SBV2BenchError
from sbv2bench.specs import ModelSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sbv2bench.registry import Registry

SLOTS = ("tokenizer", "tokenizer_2", "tokenizer_3")
_NO_LIMIT = 10**6  # tokenizers without a length of their own name an astronomic one


def cut_by_model(spec: ModelSpec, captions: Sequence[str], registry: Registry) -> dict[str, tuple[int, int]]:
    """Of each of a model's text encoders: (captions that are longer, tokens that are read), its end tokens counted.

    By "text_encoder", "text_encoder_2", ... Empty for a model that reads no captions, or whose tokenizers are not where
    diffusers has them.
    """
    found: dict[str, tuple[int, int]] = {}
    for slot, folder in _folders(spec, registry).items():
        tokenizer = _tokenizer(folder)
        length = None if tokenizer is None else _length(tokenizer, folder.parent)
        if tokenizer is not None and length is not None:
            tokens = tokenizer(list(captions), truncation=False, verbose=False).input_ids
            found[slot.replace("tokenizer", "text_encoder")] = (sum(len(ids) > length for ids in tokens), length)
    return found


def _folders(spec: ModelSpec, registry: Registry) -> dict[str, Path]:
    """The folder of each tokenizer that a model has, the first in its chain; a merged model's are its first end's."""
    try:
        if spec.merge and not spec.location:
            return _folders(registry.model(spec.merge.a), registry)
        if not spec.location or not spec.has_network():
            return {}
        folders = [link.folder for link in chain(spec) if link.holds == "model"]
    except SBV2BenchError:  # a plugin's location may be no folder of ours
        return {}
    places = {slot: next((folder / slot for folder in folders if (folder / slot).is_dir()), None) for slot in SLOTS}
    return {slot: place for slot, place in places.items() if place is not None}


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError):  # of a kind that the sampler loads and this does not
        return None


def _length(tokenizer: PreTrainedTokenizerBase, model: Path) -> int | None:
    """Tokens that the text encoder gets: of CLIP the tokenizer's length, of others what their pipeline asks for by default."""
    if "CLIP" in type(tokenizer).__name__:
        return _known(tokenizer.model_max_length)
    import diffusers

    index = model / "model_index.json"
    kind = getattr(diffusers, str(read_json(index).get("_class_name")), None) if index.is_file() else None
    asked = None if kind is None else inspect.signature(kind.__call__).parameters.get("max_sequence_length")
    return asked.default if asked is not None and isinstance(asked.default, int) else _known(tokenizer.model_max_length)


def _known(length: int) -> int | None:
    return length if length < _NO_LIMIT else None
