"""Networks read from their folders: every parameter from the file, and every tensor of the file used."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import diffusers
import torch
import transformers

from sbv2bench.data.assets import pickles_allowed
from sbv2bench.errors import IntegrityError
from sbv2bench.samplers.network_files import WRAPPERS
from sbv2bench.samplers.schedulers import reading
from sbv2bench.weights import some

if TYPE_CHECKING:
    from diffusers import ModelMixin
    from transformers import PreTrainedModel

# What an image encoder has, and what older releases of transformers wrote, beside a CLIP text encoder's own tensors.
_BESIDE_CLIP = re.compile(r"vision_model\.|visual_projection|text_projection|logit_scale|(text_model\.)?embeddings\.position_ids")


def load_network(kind: type[ModelMixin], folder: Path, dtype: torch.dtype, variant: str | None = None) -> ModelMixin:
    """A diffusers network in eval mode; every parameter from the file, and every tensor of the file used.

    Raises IntegrityError where that cannot be.
    """
    with quiet(), reading(folder):
        network, found = kind.from_pretrained(
            folder,
            torch_dtype=dtype,
            local_files_only=True,
            use_safetensors=_safetensors_only(),
            variant=variant,
            output_loading_info=True,
        )
    own = folder.name.removesuffix("_ema")
    if any(key.startswith((*WRAPPERS, f"{own}.", f"{own}_ema.")) for key in found["unexpected_keys"]):
        file = next(iter(sorted(folder.glob("*.safetensors"))), folder)
        raise IntegrityError(
            f"{folder}: the names of its weights begin with {some(sorted(found['unexpected_keys'])[:1])}, not with a layer's",
            f"parts: {{{own}: {file}}}, in the model's spec: a file's names are read without it",
        )
    _check_loaded(folder, missing=found["missing_keys"], extra=found["unexpected_keys"])
    return network.eval().requires_grad_(False)


def load_text_encoder(
    kind: type[PreTrainedModel], folder: Path, dtype: torch.dtype, variant: str | None = None
) -> PreTrainedModel:
    """A network of transformers in eval mode; of the tensors that it has no use for, those of CLIP's other half may be there.

    kind: its class, which may keep some of its layers in float32. Raises IntegrityError where it is not what its config says.
    """
    with quiet(), reading(folder):
        network, found = kind.from_pretrained(
            folder,
            dtype=dtype,  # or transformers rounds to the one that config.json names, whatever the file holds
            local_files_only=True,
            use_safetensors=_safetensors_only(),
            variant=variant,
            ignore_mismatched_sizes=True,  # so that they are listed
            output_loading_info=True,
        )
    extra = [key for key in found["unexpected_keys"] if not _BESIDE_CLIP.match(key)]
    reshaped = [str(key[0]) for key in found["mismatched_keys"]]
    _check_loaded(folder, missing=found["missing_keys"], extra=extra, reshaped=reshaped)
    network = network.to(dtype) if kind.__name__.startswith("CLIPText") else network
    return network.eval().requires_grad_(False)


def _check_loaded(folder: Path, **wrong: Collection[str]) -> None:
    words = {"missing": "missing", "extra": "not expected", "reshaped": "of another shape"}
    if parts := [f"{len(keys)} {words[kind]} ({some(sorted(keys))})" for kind, keys in wrong.items() if keys]:
        raise IntegrityError(f"{folder}: weights do not fit config.json: {'; '.join(parts)}", "copy or download the whole model")


def _safetensors_only() -> bool | None:
    return None if pickles_allowed() else True


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and remarks of the libraries while they load: what matters in them is an error here."""
    libraries = (diffusers.utils.logging, transformers.utils.logging)
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch_dtype, by which every version that is admitted can be asked
            yield
    finally:
        for library, (verbosity, bar) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if bar:
                library.enable_progress_bar()
