"""A model's networks, read from its folders with every file proved first.

A model's folder has the layout of a diffusers pipeline. It may lack what its base supplies: a student's folder can hold only
`unet/` (or `unet_ema/`), or only `unet_lora/`, a peft adapter on its base's UNet; and a spec may name parts of other places.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import diffusers
import torch
from diffusers import AutoencoderKL, SchedulerMixin, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from sbv2bench.data.assets import read_json, selection_in
from sbv2bench.data.chain import Link, chain, hash_chain, named_links
from sbv2bench.data.parts import ADAPTER, DENOISERS, INDEX, REPLACEABLE, check_parts, folders_of, index_parts
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError
from sbv2bench.samplers.adapters import Target, Update, fold_into, read_adapter
from sbv2bench.samplers.loading import load_network, load_text_encoder, quiet
from sbv2bench.samplers.network_files import as_folder, translated
from sbv2bench.samplers.schedulers import load_scheduler, reading
from sbv2bench.samplers.shared_parts import SHARED, check_shared_parts
from sbv2bench.specs import ModelSpec, PredictionType
from sbv2bench.weights import check_finite, interpolate, load_adapter, some

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from diffusers import ModelMixin
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sbv2bench.registry import Registry

SLOTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
AUTOENCODERS = ("AutoencoderKL", "AutoencoderTiny")


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
            if "unet" in spec.parts:
                raise InputError(f"{spec.id}: its UNet is merged, so {spec.parts['unet']} would not be used")
            ends = [cls.find(_named(end, registry), registry, dtype) for end in (spec.merge.a, spec.merge.b)]
            check_shared_parts(spec.merge.a, ends[0].shared_parts(), spec.merge.b, ends[1].shared_parts())
            for end in ends:
                end.refuse_adapted_text()
            if not spec.location:  # its parts besides the UNet are its first end's
                own = named_links(spec, name)
                dropped = {"lora", *(link.holds for link in own)}
                merged = cls(spec, (*(link for link in ends[0].links if link.holds not in dropped), *own), registry, name)
                check_parts(merged.folders, spec)
                return merged
        links = chain(spec, name)
        hash_chain(links)
        return cls(spec, links, registry, name)

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders of the chain that hold parts of models, or their configs alone, by their usual names."""
        return tuple(link.folder for link in self.links if link.holds in {"model", "configs"})

    def unet(self, dtype: torch.dtype) -> UNet2DConditionModel:
        """The UNet as the spec says: as stored, merged (weights.interpolate), with adapters folded in (`adapters.fold_into`).

        Merging and folding are done in float32; an adapter on an adapter's model is folded in after it.
        """
        if self.spec.merge:
            unet = self._merged_unet()
            self.adapt(unet, "unet")
        else:
            self._refuse_one_file()
            unet = self.network(UNet2DConditionModel, "unet", torch.float32 if self._updates("unet") else dtype)
        with quiet():
            return unet.to(dtype)

    def _merged_unet(self) -> UNet2DConditionModel:
        assert self.spec.merge is not None
        names = (self.spec.merge.a, self.spec.merge.b)
        stored = getattr(torch, self.dtype)
        unet, other = (StoredModel.find(_named(end, self.registry), self.registry, stored).unet(torch.float32) for end in names)
        for name, network in zip(names, (unet, other), strict=True):
            check_finite(network.state_dict(), name)
        mixed = interpolate(unet.state_dict(), other.state_dict(), self.spec.merge.weight)
        check_finite(mixed, " and ".join(names))
        unet.load_state_dict(mixed)
        return unet

    def vae(self, dtype: torch.dtype, kind: str = "AutoencoderKL") -> ModelMixin:
        """The autoencoder. kind: the class of the pipeline's own; a Stable Diffusion's may be AutoencoderKL or AutoencoderTiny.

        Raises IntegrityError where its scaling_factor is not the one that the spec expects.
        """
        folder = self._config_folder("vae")
        name = str(read_json(folder / "config.json").get("_class_name")) if (folder / "config.json").is_file() else None
        fitting = AUTOENCODERS if kind in AUTOENCODERS else (kind,)
        if name not in fitting:
            raise InputError(f"{folder}/config.json: _class_name is {name!r}, expected {' or '.join(fitting)}")
        vae = self.network(getattr(diffusers, str(name)), "vae", dtype)
        check_scaling(self.spec, vae, folder)
        return vae

    def text_encoder(
        self, dtype: torch.dtype, name: str = "text_encoder", kind: type[PreTrainedModel] = CLIPTextModel
    ) -> PreTrainedModel:
        """A text encoder; of the tensors that it has no use for, those of CLIP's other half may lie in its file.

        name: its part. kind: a class of transformers, which may keep some of its layers in float32.
        """
        self._check_kind(name, kind)
        with self._as_folder(name) as folder:
            network = load_text_encoder(kind, folder, dtype, self.variant(folder))
        self.adapt(network, name)
        return network

    def tokenizer(self, name: str = "tokenizer", kind: type[PreTrainedTokenizerBase] = CLIPTokenizer) -> PreTrainedTokenizerBase:
        """A tokenizer. name: its part. kind: a class of transformers. Raises InputError for one in the place of another kind."""
        folder, own = self.place(name), self._folder_of(name)
        kinds = [_tokenizer_kind(place) for place in (folder, own) if place is not None]
        if all(kinds) and len({*kinds}) > 1:
            raise InputError(f"{folder}: a {kinds[0]}, expected a {kinds[1]} in the place of the model's {name}")
        with quiet(), reading(folder):
            return kind.from_pretrained(folder, local_files_only=True)

    def scheduler(self) -> SchedulerMixin:
        """The model's own scheduler: the noise schedule, and the prediction type where the spec does not say it."""
        place = self.place("scheduler")
        return load_scheduler(place.parent if place.is_file() else place)

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
                f"{self.place('scheduler')}: prediction_type is {said}, expected {declared}, which {self.spec.id} predicts",
                "give the folder of the model that is meant, or its own prediction_type in a catalog",
            )
        return declared or said or "epsilon"

    def _scheduler_is_the_unets(self) -> bool:
        own = self.links[0].holds == "model" and not self.spec.merge
        return own and self.place("scheduler").parent == self.place("unet").parent

    def shared_parts(self) -> dict[str, Path]:
        """Part -> its weights' folder or file, for what models must share for their UNets to be merged."""
        return {part: self.place(part) for part in SHARED}

    def pipeline_folder(self) -> Path:
        """The first folder that is a pipeline's. Raises InputError where none is."""
        for folder in self.folders:
            if (folder / "model_index.json").is_file():
                return folder
        raise InputError(f"{self.links[0].folder}: no model_index.json found, expected a diffusers pipeline folder")

    def replaced(self, pipeline: Path) -> dict[str, Path]:
        """Part -> what takes its place: what the spec names for it, or what a folder before the pipeline's own brings."""
        names = [name for name in index_parts(pipeline) if REPLACEABLE.fullmatch(name)]
        found = {name: place for name in names if (place := self._find(name)) is not None}
        return {name: place for name, place in found.items() if place not in [pipeline / own for own in folders_of(name)]}

    def refuse_adapted_text(self) -> None:
        """Raises InputError where an adapter changes a text encoder: models whose UNets are merged share theirs."""
        for part, updates in self._adapters.items():
            if part != "unet":
                raise InputError(f"{updates[0].path}: an adapter of {part} too, which ends of a merge have in common")

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
        """A part that is a network of diffusers, with its adapters folded in. kind: its class."""
        place = self.place(name)
        self._check_kind(name, kind)
        try:
            with self._as_folder(name) as folder:
                network = load_network(kind, folder, dtype, self.variant(folder))
        except IntegrityError:
            with quiet():
                found = translated(kind, place, self._config_folder(name), dtype) if place.is_file() else None
            if found is None:
                raise
            network = found
        self.adapt(network, name)
        return network

    def adapt(self, network: torch.nn.Module, name: str) -> None:
        """Fold into a network, which is the part of that name, what adapters add to it."""
        if updates := self._updates(name):
            fold_into(network, updates, self._find(name) or self.folders[0])

    def place(self, name: str) -> Path:
        """The folder or the file of a part: that of a link that holds it alone, else its folder in the first that has one.

        Raises PrerequisiteError where none has.
        """
        found = self._find(name)
        if found is None:
            raise PrerequisiteError(
                f"{self.folders[0]}: no folder {name}/ found, expected {', '.join(SLOTS)}", "copy or download the whole model"
            )
        return found

    def _find(self, name: str) -> Path | None:
        alone = next((link.folder for link in self.links if link.holds == name), None)
        return alone or self._folder_of(name)

    def _folder_of(self, name: str) -> Path | None:
        places = [folder / own for folder in self.folders for own in folders_of(name)]
        return next((place for place in places if place.is_dir()), None)

    def _config_folder(self, name: str) -> Path:
        """The folder of a part's config: of a file that is its model's own."""
        place = self.place(name)
        if place.is_dir():
            return place
        folder = self._folder_of(name)
        if folder is None:
            raise PrerequisiteError(f"{place}: no folder {name}/ with its config found", "name a base that has one")
        return folder

    def _as_folder(self, name: str) -> AbstractContextManager[Path]:
        """A part's folder, or one that is made of its file."""
        place = self.place(name)
        return nullcontext(place) if place.is_dir() else as_folder(place, self._config_folder(name), name)

    def _check_kind(self, name: str, kind: type[ModelMixin | PreTrainedModel]) -> None:
        """InputError where what takes a part's place is of another class than the model's own."""
        place = self.place(name)
        own = place == self._folder_of(name) and (place.parent / INDEX).is_file()
        if own or not (place / "config.json").is_file():
            return
        config = read_json(place / "config.json")
        found, wanted = str(config.get("_class_name")), kind.__name__
        if "_class_name" not in config:  # of transformers; a text encoder may be the half of a model
            found, wanted = str(config.get("model_type")), str(kind.config_class.model_type)
            wanted = found if kind.config_class.base_config_key in config else wanted
        if found != wanted:
            raise InputError(f"{place}: a {found}, expected a {wanted} in the place of the model's {name}")

    def _updates(self, name: str) -> list[Update]:
        """What adapters add to a part, in order: those in folders of the chain, the location's own, those that are named."""
        place = self._find(name) if name == "unet" and not self.spec.merge else None
        outer = self.folders[: self.folders.index(place.parent)] if place is not None and place.parent in self.folders else ()
        inner = [above / ADAPTER for above in reversed(outer) if (above / ADAPTER).is_dir()]
        return [*(Update(path, *load_adapter(path)) for path in inner), *self._adapters.get(name, [])]

    @cached_property
    def _adapters(self) -> dict[str, list[Update]]:
        """Part -> what the adapters that are links of their own add to it."""
        found: dict[str, list[Update]] = {}
        for link in self.links:
            if link.holds == "lora":
                for part, update in read_adapter(link.folder, self._target, link.scale).items():
                    found.setdefault(part, []).append(update)
        return found

    @cached_property
    def _target(self) -> Target:
        folder = next((folder for folder in self.folders if (folder / INDEX).is_file()), None)
        parts = {} if folder is None else index_parts(folder)
        kind = None if folder is None else read_json(folder / INDEX).get("_class_name")
        names = tuple(name for name in parts if name in DENOISERS or name.startswith("text_encoder")) or ("unet", "text_encoder")
        pipeline = getattr(diffusers, str(kind), StableDiffusionPipeline)
        denoiser = next(name for name in names if name in DENOISERS)
        return Target(pipeline, names, read_json(self._config_folder(denoiser) / "config.json"))


def check_scaling(spec: ModelSpec, vae: ModelMixin, folder: Path) -> None:
    """IntegrityError unless an AutoencoderKL divides latents by the number that the spec expects (or by any, where it says none).

    A wrong one makes pictures that are too pale or too harsh, and no error.
    """
    found, expected = vae.config.get("scaling_factor", 1.0), spec.vae_scaling
    if not math.isfinite(found) or found <= 0:
        raise IntegrityError(f"{folder}/config.json: scaling_factor is {found}, expected a positive number")
    if expected is not None and isinstance(vae, AutoencoderKL) and not math.isclose(found, expected, rel_tol=1e-6):
        raise IntegrityError(
            f"{folder}/config.json: scaling_factor is {found}, expected {expected} for {spec.id}",
            "use the model's own autoencoder",
        )


def _tokenizer_kind(folder: Path) -> str:
    """The class of a tokenizer as its config names it, "" where it does not; fast ones read the same files."""
    config = folder / "tokenizer_config.json"
    return str(read_json(config).get("tokenizer_class") or "").removesuffix("Fast") if config.is_file() else ""


def _named(model: str, registry: Registry | None) -> ModelSpec:
    from sbv2bench.registry import Registry

    return (registry or Registry.load()).model(model)
