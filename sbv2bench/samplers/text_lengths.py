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
    diffusers has them. Where a pipeline makes a conversation of a caption, by its tokenizer's template, that is what is counted.
    """
    found: dict[str, tuple[int, int]] = {}
    kind, folders = _folders(spec, registry)
    for slot, folder in folders.items():
        tokenizer = _tokenizer(folder)
        if tokenizer is None:
            continue
        length = _length(tokenizer, kind, spec.max_sequence_length)
        if length is not None:
            tokens = tokenizer(_as_read(captions, tokenizer, kind), truncation=False, verbose=False).input_ids
            found[slot.replace("tokenizer", "text_encoder")] = (sum(len(ids) > length for ids in tokens), length)
    return found


def _folders(spec: ModelSpec, registry: Registry) -> tuple[type | None, dict[str, Path]]:
    """A model's pipeline class, and the folder of each of its tokenizers, named by its spec or the first in its chain.

    A merge has its first end's.
    """
    try:
        if spec.merge and not spec.location:
            return _folders(registry.model(spec.merge.a), registry)
        if not spec.location or not spec.has_network():
            return None, {}
        links = chain(spec)
    except SBV2BenchError:  # a plugin's location may be no folder of ours
        return None, {}
    alone = {link.holds: link.folder for link in links if link.holds in SLOTS}
    folders = [link.folder for link in links if link.holds in {"model", "configs"}]
    places = {slot: next((folder / slot for folder in folders if (folder / slot).is_dir()), None) for slot in SLOTS}
    kind = next(filter(None, map(_pipeline_class, folders)), None)
    return kind, {slot: place for slot, place in (places | alone).items() if place is not None}


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError):  # of a kind that the sampler loads and this does not
        return None


def _pipeline_class(model: Path) -> type | None:
    import diffusers

    index = model / "model_index.json"
    kind = getattr(diffusers, str(read_json(index).get("_class_name")), None) if index.is_file() else None
    return kind if inspect.isclass(kind) else None


def _length(tokenizer: PreTrainedTokenizerBase, kind: type | None, said: int | None) -> int | None:
    """Tokens that the text encoder gets: of CLIP the tokenizer's length, of others the spec's, or their pipeline's own."""
    if "CLIP" in type(tokenizer).__name__:
        return _known(tokenizer.model_max_length)
    if said is not None:
        return said
    asked = None if kind is None else inspect.signature(kind.__call__).parameters.get("max_sequence_length")
    return asked.default if asked is not None and isinstance(asked.default, int) else _known(tokenizer.model_max_length)


def _as_read(captions: Sequence[str], tokenizer: PreTrainedTokenizerBase, kind: type | None) -> list[str]:
    if kind is None or not tokenizer.chat_template or "tokenizer.apply_chat_template" not in inspect.getsource(kind):
        return list(captions)
    try:
        talks = [[{"role": "user", "content": caption}] for caption in captions]
        made: list[str] = tokenizer.apply_chat_template(talks, tokenize=False, add_generation_prompt=True)
        return made
    except Exception:  # a template that wants more than a caption, as FLUX.2-dev's; jinja's errors have no common kind
        return list(captions)


def _known(length: int) -> int | None:
    return length if length < _NO_LIMIT else None
