"""Networks of transformers for extractors: every parameter from the file, every tensor of the file used."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor
from transformers import BatchEncoding, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from sbv2bench.data.assets import PICKLES, pickles_allowed, read_json
from sbv2bench.data.extractor_files import locate, weights_file
from sbv2bench.errors import IntegrityError
from sbv2bench.specs import ExtractorSpec
from sbv2bench.weights import some

_WHOLE = "copy or download the whole model"
# What older releases of transformers wrote besides: the numbers 0, 1, 2, ...
_COUNTED = "position_ids"

_UNLOADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, EOFError, UnpicklingError, SafetensorError)

_ASKED = threading.Lock()  # a tokenizer sets its padding in place, and must not be asked by two threads at once

M = TypeVar("M", bound=PreTrainedModel)


def network_of(kind: type[M], spec: ExtractorSpec) -> M:
    """The network in an extractor's folder (config.json and weights, as the hub has them): float32, frozen, in eval mode.

    No pickle is read that `weights_file` does not allow. Raises what that raises, and IntegrityError where the files are not this
    network's.
    """
    folder = locate(spec)
    if not (folder / "config.json").is_file():  # the library would go on with its default
        raise IntegrityError(f"extractor {spec.id}: {folder} has no config.json", _WHOLE)
    found, expected = read_json(folder / "config.json").get("model_type"), kind.config_class.model_type
    if found != expected:
        raise IntegrityError(f"{folder}/config.json: model_type is {found!r}, expected {expected!r} for extractor {spec.id}")
    either = None if pickles_allowed() else True  # safetensors first, where there are both
    safe = weights_file(spec).suffix not in PICKLES if spec.files else either
    return _loaded(kind, folder, folder, local_files_only=True, use_safetensors=safe)


def network_with(kind: type[M], config: PreTrainedConfig, state: Mapping[str, Tensor], file: Path, **options: Any) -> M:
    """The network of a config with these tensors, named as the hub names them. file: where they come from, for errors."""
    return _loaded(kind, None, file, config=config, state_dict=dict(state), **options)


def _loaded(kind: type[M], folder: Path | None, where: Path, **options: Any) -> M:
    with reading(where):
        network, found = kind.from_pretrained(
            folder,
            dtype=torch.float32,  # or transformers rounds to the one that config.json names
            ignore_mismatched_sizes=True,  # so that they are listed
            output_loading_info=True,
            **options,
        )
    extra = [name for name in found["unexpected_keys"] if not name.endswith(_COUNTED)]
    reshaped = [mismatch[0] for mismatch in found["mismatched_keys"]]
    wrong = {"missing": found["missing_keys"], "not expected": extra, "of another shape": reshaped}
    if parts := [f"{len(names)} {how} ({some(sorted(names))})" for how, names in wrong.items() if names]:
        raise IntegrityError(f"{where}: its tensors are not a {kind.__name__}'s: {'; '.join(parts)}", _WHOLE)
    loaded: M = network.eval().requires_grad_(False)
    return loaded


def padded(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], length: int) -> BatchEncoding:
    """Texts as tensors of so many tokens, cut or padded."""
    with _ASKED:
        return tokenizer(list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """No progress bars or remarks of the library, and what it raises over a file is an IntegrityError that names the file."""
    library = transformers.utils.logging
    verbosity, bar = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    try:
        yield
    except _UNLOADABLE as error:
        first = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise IntegrityError(f"{path}: cannot be loaded: {first}", _WHOLE) from error
    finally:
        library.set_verbosity(verbosity)
        if bar:
            library.enable_progress_bar()
