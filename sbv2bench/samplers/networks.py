"""A Stable Diffusion model's networks, read from its folders with every file proved first.

A model's folder has the layout of diffusers' StableDiffusionPipeline. It may lack what its base supplies: a student's
folder can hold only `unet/` (or `unet_ema/`), or only `unet_lora/`, a peft adapter on its base's UNet.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, AutoencoderTiny, SchedulerMixin, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from sbv2bench.data.assets import pickles_allowed, read_json, selection_in
from sbv2bench.data.chain import Link, autoencoder, chain, hash_chain
from sbv2bench.data.parts import ADAPTER, REPLACEABLE, UNETS, index_parts
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError
from sbv2bench.samplers.schedulers import load_scheduler, reading
from sbv2bench.samplers.shared_parts import SHARED, check_shared_parts
from sbv2bench.samplers.swaps import WRAPPERS, fold_into, unet_of_file
from sbv2bench.specs import ModelSpec, PredictionType
from sbv2bench.weights import StateDict, check_finite, fold_lora, interpolate, load_adapter, some

if TYPE_CHECKING:
    from collections.abc import Collection

    from diffusers import ModelMixin
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sbv2bench.registry import Registry

SLOTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
# What an image encoder has, and what older releases of transformers wrote, beside a CLIP text encoder's own tensors.
_BESIDE_CLIP = re.compile(r"vision_model\.|visual_projection|text_projection|logit_scale|(text_model\.)?embeddings\.position_ids")
AUTOENCODERS = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}


@dataclass(frozen=True)
class StoredModel:
    """A model on disk. Each part is read when it is asked for, on the CPU, in eval mode, from the first folder that has it.

    links: the model's chain, every file proved whole. registry: where a merge finds its models.
    """

    spec: ModelSpec
    links: tuple[Link, ...]
    registry: Registry | None = None
    dtype: str = "float32"

    @classmethod
    def find(cls, spec: ModelSpec, registry: Registry | None = None, dtype: torch.dtype = torch.float32) -> StoredModel:
        """The model's files for a run in a dtype, which decides what variants of its weights are read.

        Raises InputError, PrerequisiteError or IntegrityError where a folder or a file is not as it must be.
        """
        name = str(dtype).removeprefix("torch.")
        if spec.merge:
            ends = [cls.find(_named(end, registry), registry, dtype) for end in (spec.merge.a, spec.merge.b)]
            check_shared_parts(spec.merge.a, ends[0].shared_parts(), spec.merge.b, ends[1].shared_parts())
            if not spec.location:  # its parts besides the UNet are its first end's
                vae = autoencoder(spec, name)
                kept = tuple(link for link in ends[0].links if not vae or link.holds != "vae")
                return cls(spec, (*kept, *vae), registry, name)
        links = chain(spec, name)
        hash_chain(links)
        return cls(spec, links, registry, name)

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders of the chain that hold parts of models, or their configs alone, by their usual names."""
        return tuple(link.folder for link in self.links if link.holds in {"model", "configs"})

    def unet(self, dtype: torch.dtype) -> UNet2DConditionModel:
        """The UNet as the spec says: as stored, merged (weights.interpolate), or with adapters folded in (weights.fold_lora).

        Merging and folding are done in float32; an adapter on an adapter's model is folded in after it.
        """
        if self.spec.merge:
            names = (self.spec.merge.a, self.spec.merge.b)
            stored = getattr(torch, self.dtype)
            unet, other = (
                StoredModel.find(_named(end, self.registry), self.registry, stored).unet(torch.float32) for end in names
            )
            for name, network in zip(names, (unet, other), strict=True):
                check_finite(network.state_dict(), name)
            mixed = interpolate(unet.state_dict(), other.state_dict(), self.spec.merge.weight)
            check_finite(mixed, " and ".join(names))
            return _with_state(unet, mixed, dtype)
        self._refuse_one_file()
        own = self.links[0]
        if own.holds == "lora":
            unet = StoredModel(self.spec, self.links[1:], self.registry, self.dtype).unet(torch.float32)
            fold_into(unet, own.folder)
            with quiet():
                return unet.to(dtype)
        if own.holds == "unet":
            if own.folder.is_dir():
                return self._load(UNet2DConditionModel, own.folder, dtype)
            with quiet():
                return unet_of_file(own.folder, self._slot(*UNETS), dtype)
        folder = self._slot(*UNETS)
        outer = self.folders[: self.folders.index(folder.parent)]
        adapters = [above / ADAPTER for above in outer if (above / ADAPTER).is_dir()]
        if not adapters:
            return self._load(UNet2DConditionModel, folder, dtype)
        unet = self._load(UNet2DConditionModel, folder, torch.float32)
        state: StateDict = unet.state_dict()
        for adapter in reversed(adapters):
            state = _folded(state, adapter, folder)
        return _with_state(unet, state, dtype)

    def vae(self, dtype: torch.dtype) -> AutoencoderKL | AutoencoderTiny:
        """The autoencoder. Raises IntegrityError where its scaling_factor is not the one that the spec expects."""
        folder = self._slot("vae")
        name = str(read_json(folder / "config.json").get("_class_name")) if (folder / "config.json").is_file() else None
        if name not in AUTOENCODERS:
            raise InputError(f"{folder}/config.json: _class_name is {name!r}, expected {' or '.join(AUTOENCODERS)}")
        vae = self._load(AUTOENCODERS[name], folder, dtype)
        check_scaling(self.spec, vae, folder)
        return vae

    def text_encoder(
        self, dtype: torch.dtype, name: str = "text_encoder", kind: type[PreTrainedModel] = CLIPTextModel
    ) -> PreTrainedModel:
        """A text encoder; of the tensors that it has no use for, those of CLIP's other half may lie in its file.

        name: its part. kind: a class of transformers, which may keep some of its layers in float32.
        """
        folder = self._slot(name)
        with quiet(), reading(folder):
            network, found = kind.from_pretrained(
                folder,
                dtype=dtype,  # or transformers rounds to the one that config.json names, whatever the file holds
                local_files_only=True,
                use_safetensors=_safetensors_only(),
                variant=self.variant(folder),
                ignore_mismatched_sizes=True,  # so that they are listed
                output_loading_info=True,
            )
        extra = [key for key in found["unexpected_keys"] if not _BESIDE_CLIP.match(key)]
        reshaped = [str(key[0]) for key in found["mismatched_keys"]]
        _check_loaded(folder, missing=found["missing_keys"], extra=extra, reshaped=reshaped)
        network = network.to(dtype) if kind.__name__.startswith("CLIPText") else network
        return network.eval().requires_grad_(False)

    def tokenizer(self, name: str = "tokenizer", kind: type[PreTrainedTokenizerBase] = CLIPTokenizer) -> PreTrainedTokenizerBase:
        """A tokenizer. name: its part. kind: a class of transformers."""
        folder = self._slot(name)
        with quiet(), reading(folder):
            return kind.from_pretrained(folder, local_files_only=True)

    def scheduler(self) -> SchedulerMixin:
        """The folder's own scheduler: the noise schedule, and the prediction type where the spec does not say it."""
        return load_scheduler(self._slot("scheduler"))

    def prediction_type(self, scheduler: SchedulerMixin) -> PredictionType:
        """What the UNet predicts. scheduler: the model's.

        The spec's word counts before the scheduler's. Raises IntegrityError where a model's own scheduler says v for a spec's
        epsilon, or the other way round: the files are another model's, such as the 768 px Stable Diffusion 2.1 for its base.
        A UNet that is put on a base may predict what the base does not.
        """
        said: PredictionType | None = scheduler.config.get("prediction_type")
        declared = self.spec.prediction_type
        if {declared, said} == {"epsilon", "v_prediction"} and self._scheduler_is_the_unets():
            raise IntegrityError(
                f"{self._slot('scheduler')}: prediction_type is {said}, expected {declared}, which {self.spec.id} predicts",
                "give the folder of the model that is meant, or its own prediction_type in a catalog",
            )
        return declared or said or "epsilon"

    def _scheduler_is_the_unets(self) -> bool:
        own = self.links[0].holds == "model" and not self.spec.merge
        return own and self._slot("scheduler").parent == self._slot(*UNETS).parent

    def shared_parts(self) -> dict[str, Path]:
        """Part -> folder of its weights, for what models must share for their UNets to be merged."""
        return {part: self._slot(part) for part in SHARED}

    def pipeline_folder(self) -> Path:
        """The first folder that is a pipeline's. Raises InputError where none is."""
        for folder in self.folders:
            if (folder / "model_index.json").is_file():
                return folder
        raise InputError(f"{self.links[0].folder}: no model_index.json found, expected a diffusers pipeline folder")

    def replaced(self, pipeline: Path) -> dict[str, Path]:
        """Part -> folder of what a folder before the pipeline's own brings for it, but for the UNet."""
        before = self.folders[: self.folders.index(pipeline)]
        names = [name for name in index_parts(pipeline) if REPLACEABLE.fullmatch(name) and name != "unet"]
        found = {name: next((above / name for above in before if (above / name).is_dir()), None) for name in names}
        return {name: folder for name, folder in found.items() if folder is not None}

    def unet_is_in(self, folder: Path) -> bool:
        """Whether the UNet is the one of this folder of the chain, with at most an adapter that the location alone holds."""
        links = self.links[1:] if self.links[0].holds == "lora" else self.links
        return links[0].folder == folder and (folder / "unet").is_dir()

    def require_pipeline(self) -> None:
        """Raises InputError where no folder is a pipeline's, or it is of a kind that only `sampler: pipeline` can run."""
        self._refuse_one_file()
        index = self.pipeline_folder() / "model_index.json"
        parts = read_json(index)
        beyond = sorted(
            name for name, part in parts.items() if name in {"text_encoder_2", "transformer", "prior"} and part[:1] != [None]
        )
        if beyond:
            kind = f"{parts.get('_class_name')} has {some(beyond)}"
            raise InputError(f"{index}: {kind}, which only `sampler: pipeline` can run")

    def _refuse_one_file(self) -> None:
        if self.links[0].holds == "checkpoint":
            raise InputError(f"{self.links[0].folder}: a whole model in one file, which only `sampler: pipeline` can run")

    def variant(self, folder: Path) -> str | None:
        """The suffix of the weights that are read of a network's folder; None for the plain ones."""
        return selection_in(folder, self.dtype).variants.get("") or None

    def network(self, kind: type[ModelMixin], name: str, dtype: torch.dtype) -> ModelMixin:
        """A part that is a network of diffusers. kind: its class."""
        return self._load(kind, self._slot(name), dtype)

    def _load(self, kind: type[ModelMixin], folder: Path, dtype: torch.dtype) -> ModelMixin:
        return load_network(kind, folder, dtype, self.variant(folder))

    def _slot(self, *names: str) -> Path:
        """The folder of a part: that of a link that holds it alone, else the first that has it under one of its names.

        Raises PrerequisiteError where none has.
        """
        for link in self.links:
            if link.holds == names[0] == "vae":
                return link.folder
        for folder in self.folders:
            for name in names:
                if (folder / name).is_dir():
                    return folder / name
        raise PrerequisiteError(
            f"{self.folders[0]}: no folder {names[0]}/ found, expected {', '.join(SLOTS)}", "copy or download the whole model"
        )


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
    if any(key.startswith(WRAPPERS) for key in found["unexpected_keys"]):
        file = next(iter(sorted(folder.glob("*.safetensors"))), folder)
        raise IntegrityError(
            f"{folder}: the names of its weights begin with {some(sorted(found['unexpected_keys'])[:1])}, not with a layer's",
            f"location: {file}, holds: unet, in a spec whose base has the other parts: a file's names are read without it",
        )
    _check_loaded(folder, missing=found["missing_keys"], extra=found["unexpected_keys"])
    return network.eval().requires_grad_(False)


def check_scaling(spec: ModelSpec, vae: AutoencoderKL | AutoencoderTiny, folder: Path) -> None:
    """IntegrityError unless an AutoencoderKL divides latents by the number that the spec expects (or by any, where it says none).

    A wrong one makes pictures that are too pale or too harsh, and no error.
    """
    found, expected = vae.config.scaling_factor, spec.vae_scaling
    if not math.isfinite(found) or found <= 0:
        raise IntegrityError(f"{folder}/config.json: scaling_factor is {found}, expected a positive number")
    if expected is not None and isinstance(vae, AutoencoderKL) and not math.isclose(found, expected, rel_tol=1e-6):
        raise IntegrityError(
            f"{folder}/config.json: scaling_factor is {found}, expected {expected} for {spec.id}",
            "use the model's own autoencoder",
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
