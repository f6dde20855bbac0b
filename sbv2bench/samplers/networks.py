"""A Stable Diffusion model's networks, read from its folders with every file proved first.

A model's folder has the layout of diffusers' StableDiffusionPipeline. It may lack what its base supplies: a student's
folder can hold only `unet/` (or `unet_ema/`), or only `unet_lora/`, a peft adapter on its base's UNet.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, AutoencoderTiny, SchedulerMixin, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from sbv2bench.data.assets import pickles_allowed, read_json
from sbv2bench.data.chain import ADAPTER, UNETS, chain, hash_chain
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError
from sbv2bench.samplers.schedulers import load_scheduler, reading
from sbv2bench.specs import ModelSpec, PredictionType
from sbv2bench.weights import StateDict, fold_lora, interpolate, load_adapter, some

if TYPE_CHECKING:
    from sbv2bench.registry import Registry

SLOTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
_AUTOENCODERS = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}


@dataclass(frozen=True)
class StoredModel:
    """A model on disk. Each part is read when it is asked for, on the CPU, in eval mode, from the first folder that has it.

    folders: the model's chain, every file proved whole. registry: where a merge finds its models.
    """

    spec: ModelSpec
    folders: tuple[Path, ...]
    registry: Registry | None = None

    @classmethod
    def find(cls, spec: ModelSpec, registry: Registry | None = None) -> StoredModel:
        """Raises InputError, PrerequisiteError or IntegrityError where a folder or a file is not as it must be."""
        if spec.merge and not spec.location:  # its parts besides the UNet are its first end's
            return cls(spec, cls.find(_named(spec.merge.a, registry), registry).folders, registry)
        links = chain(spec)
        hash_chain(links)
        return cls(spec, tuple(link.folder for link in links), registry)

    def unet(self, dtype: torch.dtype) -> UNet2DConditionModel:
        """The UNet as the spec says: as stored, merged (weights.interpolate), or with adapters folded in (weights.fold_lora).

        Merging and folding are done in float32; an adapter on an adapter's model is folded in after it.
        """
        if self.spec.merge:
            ends = (_named(self.spec.merge.a, self.registry), _named(self.spec.merge.b, self.registry))
            unet, other = (StoredModel.find(end, self.registry).unet(torch.float32) for end in ends)
            return _with_state(unet, interpolate(unet.state_dict(), other.state_dict(), self.spec.merge.weight), dtype)
        folder = self._slot(*UNETS)
        outer = self.folders[: self.folders.index(folder.parent)]
        adapters = [above / ADAPTER for above in outer if (above / ADAPTER).is_dir()]
        if not adapters:
            return _load_network(UNet2DConditionModel, folder, dtype)
        unet = _load_network(UNet2DConditionModel, folder, torch.float32)
        state: StateDict = unet.state_dict()
        for adapter in reversed(adapters):
            state = _folded(state, adapter, folder)
        return _with_state(unet, state, dtype)

    def vae(self, dtype: torch.dtype) -> AutoencoderKL | AutoencoderTiny:
        """The autoencoder."""
        folder = self._slot("vae")
        name = read_json(folder / "config.json").get("_class_name") if (folder / "config.json").is_file() else None
        if name not in _AUTOENCODERS:
            raise InputError(f"{folder}/config.json: _class_name is {name!r}, expected {' or '.join(_AUTOENCODERS)}")
        return _load_network(_AUTOENCODERS[name], folder, dtype)

    def text_encoder(self, dtype: torch.dtype) -> CLIPTextModel:
        """The text encoder; extra tensors are allowed: stored encoders often have a projection or position ids besides."""
        folder = self._slot("text_encoder")
        with quiet(), reading(folder):
            network, found = CLIPTextModel.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=_safetensors_only(),
                ignore_mismatched_sizes=True,  # so that they are listed
                output_loading_info=True,
            )
        _check_loaded(folder, missing=found["missing_keys"], reshaped=[str(key[0]) for key in found["mismatched_keys"]])
        return network.to(dtype).eval().requires_grad_(False)

    def tokenizer(self) -> CLIPTokenizer:
        """The tokenizer."""
        folder = self._slot("tokenizer")
        with quiet(), reading(folder):
            return CLIPTokenizer.from_pretrained(folder, local_files_only=True)

    def scheduler(self) -> SchedulerMixin:
        """The folder's own scheduler: the noise schedule, and the prediction type where the spec does not say it."""
        return load_scheduler(self._slot("scheduler"))

    def prediction_type(self, scheduler: SchedulerMixin) -> PredictionType:
        """What the UNet predicts. scheduler: the model's."""
        found: PredictionType = self.spec.prediction_type or scheduler.config.get("prediction_type", "epsilon")
        return found

    def require_pipeline(self) -> None:
        """Raises InputError where no folder is a pipeline's, or it is of a kind that only `sampler: pipeline` can run."""
        indices = [folder / "model_index.json" for folder in self.folders if (folder / "model_index.json").is_file()]
        if not indices:
            raise InputError(f"{self.folders[0]}: no model_index.json found, expected a diffusers pipeline folder")
        parts = read_json(indices[0])
        beyond = sorted(
            name for name, part in parts.items() if name in {"text_encoder_2", "transformer", "prior"} and part[:1] != [None]
        )
        if beyond:
            kind = f"{parts.get('_class_name')} has {some(beyond)}"
            raise InputError(f"{indices[0]}: {kind}, which only `sampler: pipeline` can run")

    def _slot(self, *names: str) -> Path:
        """The first folder that has a part, under one of its names. Raises PrerequisiteError where none has."""
        for folder in self.folders:
            for name in names:
                if (folder / name).is_dir():
                    return folder / name
        raise PrerequisiteError(
            f"{self.folders[0]}: no folder {names[0]}/ found, expected {', '.join(SLOTS)}", "copy or download the whole model"
        )


def _named(model: str, registry: Registry | None) -> ModelSpec:
    from sbv2bench.registry import Registry

    return (registry or Registry.load()).model(model)


def _with_state(unet: UNet2DConditionModel, state: StateDict, dtype: torch.dtype) -> UNet2DConditionModel:
    unet.load_state_dict(state)
    with quiet():
        return unet.to(dtype)


def _folded(state: StateDict, adapter: Path, base: Path) -> StateDict:
    tensors, settings = load_adapter(adapter)
    try:
        return fold_lora(state, tensors, settings)
    except IntegrityError as error:
        raise IntegrityError(
            f"{adapter}: does not fit {base}: {error.message}", "name the model that it was trained on as its base"
        ) from error


def _load_network(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    """A diffusers network in eval mode; every parameter from the file, and every tensor of the file used."""
    with quiet(), reading(folder):
        network, found = kind.from_pretrained(
            folder, torch_dtype=dtype, local_files_only=True, use_safetensors=_safetensors_only(), output_loading_info=True
        )
    _check_loaded(folder, missing=found["missing_keys"], extra=found["unexpected_keys"])
    return network.eval().requires_grad_(False)


def _check_loaded(folder: Path, **wrong: Any) -> None:
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
        yield
    finally:
        for library, (verbosity, bar) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if bar:
                library.enable_progress_bar()
