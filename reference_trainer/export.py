"""What a run leaves: a folder that sbv2bench and diffusers load, with the moving average for weights where there is one.

A fully trained student is `unet/`, a LoRA student `unet_lora/` (peft's layout) on the model that it started from, and
`sbv2bench.json` names the teacher as the base. A `whole` one is a pipeline of stock diffusers: the student's UNet, the
teacher's other parts, and the scheduler whose one step is the student's. Beside that of a LoRA student lies
`pytorch_lora_weights.safetensors`, which diffusers' `load_lora_weights` puts on the pipeline that the student started from.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from reference_trainer import origins
from reference_trainer.networks import STUDENT, Networks
from reference_trainer.prompts import PromptSource
from sbv2bench.atomic import whole_folder
from sbv2bench.data.adapter_config import lora_settings
from sbv2bench.data.assets import NAMED
from sbv2bench.data.chain import chain
from sbv2bench.data.parts import ADAPTER
from sbv2bench.data.training import trained_with, united
from sbv2bench.samplers.components import load_unet
from sbv2bench.samplers.loading import quiet
from sbv2bench.samplers.networks import StoredModel
from sbv2bench.samplers.one_step import OneStepSampler
from sbv2bench.specs import ModelSpec
from sbv2bench.weights import StateDict, fold_lora


def export_student(
    networks: Networks, folder: Path, *, whole: bool, record: dict[str, object], prompts: PromptSource | None = None
) -> None:
    """Write the student's folder, whole or not at all, in place of what was there; record goes into training.json.

    float32 weights; sbv2bench.json is the ModelSpec by which sbv2bench samples it exactly as the trainer does, with the
    licences of what it began as and what trained it. prompts: the run's captions, for their hashes and licences. A model that
    begins as one that no folder can name as its base (a merge made on load, a UNet alone) is written whole in any case.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    spec = _spec(networks, prompts)
    lora = networks.recipe.student.lora is not None
    base = networks.start_spec if lora else networks.teacher_spec
    with whole_folder(folder) as part:
        if whole or not _can_be_named(base):
            _write_pipeline(networks, part, spec)
        elif lora:  # its base is named by its own config
            _write_adapter(networks, part / ADAPTER, seen_from(folder, base))
        else:
            with networks.averaged():
                _write_unet(networks, part / "unet")
            spec = spec.model_copy(update={"base": seen_from(folder, base)})
        text = json.dumps(spec.model_dump(mode="json", exclude_defaults=True), indent=1)
        (part / "sbv2bench.json").write_text(text)
        (part / "training.json").write_text(json.dumps(record, indent=1))


def _spec(networks: Networks, prompts: PromptSource | None) -> ModelSpec:
    began = (networks.start_spec, networks.teacher_spec)
    inherited = [trained_with(spec, networks.registry.model) for spec in began]
    own = origins.trained_with(networks.recipe, prompts)
    teacher = networks.teacher_spec.id
    origin = {
        "licence": origins.licences(began),
        "trained_with": united([*inherited, own]),
        "teacher": teacher if teacher in networks.registry.models else "",  # a folder's name means nothing elsewhere
    }
    return networks.student_spec().model_copy(update=origin)


def _write_unet(networks: Networks, folder: Path) -> None:
    networks.student.register_to_config(_name_or_path="")  # else the path on this machine is written
    networks.student.save_config(folder)
    tensors = {key: value.detach().cpu().contiguous() for key, value in networks.student.state_dict().items()}
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})


def _can_be_named(spec: ModelSpec) -> bool:
    """Whether a model's location alone leads to all of its parts, without what only its spec says."""
    if not spec.location or spec.holds != "model" or spec.merge is not None:
        return False
    alone = spec.model_copy(update={"base": "", "vae": "", "parts": {}, "adapters": ()})
    return [link.folder.resolve() for link in chain(alone)] == [link.folder.resolve() for link in chain(spec)]


def seen_from(folder: Path, spec: ModelSpec) -> str:
    """A model's location as a folder may name it: a path relative to it, so that both can be moved together."""
    if not spec.location.startswith(NAMED):
        return os.path.relpath(Path(spec.location).expanduser().resolve(), folder.resolve())
    pinned = f"@{spec.revision}" if spec.revision and "@" not in spec.location else ""
    return spec.location + pinned


def _write_adapter(networks: Networks, folder: Path, base: str) -> None:
    folder.mkdir()
    with networks.averaged():
        tensors, config = _adapter(networks)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config |= {"base_model_name_or_path": base, "inference_mode": True}
    config = _in_order(config)
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1, default=str))


def _in_order(config: dict[str, object]) -> dict[str, object]:
    """peft's config with lists for its sets, whose order is another in every process."""
    return {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}


def _adapter(networks: Networks) -> tuple[StateDict, dict[str, object]]:
    """Copies of the student's adapter in peft's names, float32 on the CPU, and peft's config."""
    tensors = get_peft_model_state_dict(networks.student, adapter_name=STUDENT)
    named = {
        f"base_model.model.{key}": value.detach().to("cpu", torch.float32, copy=True).contiguous()
        for key, value in tensors.items()
    }
    return named, networks.student.peft_config[STUDENT].to_dict()


def _write_pipeline(networks: Networks, folder: Path, spec: ModelSpec) -> None:
    """All that stock diffusers needs to make the student's images in one step, in float32 and nothing else.

    The teacher's other parts are read from wherever its chain has them, and written anew: whatever else lies there (pickles,
    second precisions, checkpoints, a safety checker) stays there, and what is a link there is content here.
    """
    stored = StoredModel.find(networks.teacher_spec, networks.registry)
    parts = replace(
        networks.student_components(),
        vae=stored.vae(torch.float32),
        text_encoder=stored.text_encoder(torch.float32),
        tokenizer=stored.tokenizer(),  # one that was asked writes how it was asked
    )
    pipeline = replace(parts, unet=_folded_unet(networks)).pipeline(OneStepSampler.of(spec, parts).scheduler())
    for network in (pipeline.unet, pipeline.vae):
        network.register_to_config(_name_or_path="")  # else the path on this machine is written
    with networks.averaged(), quiet():
        pipeline.save_pretrained(folder)
        if networks.recipe.student.lora is not None:  # for whoever has the base already
            config = {f"unet.{key}": value for key, value in _in_order(networks.student.peft_config[STUDENT].to_dict()).items()}
            # One entry of metadata alone: safetensors writes several in an order that is another every time.
            metadata = {"lora_adapter_metadata": json.dumps(config, default=str)}
            StableDiffusionPipeline.save_lora_weights(
                folder,
                unet_lora_layers=get_peft_model_state_dict(networks.student, adapter_name=STUDENT),
                save_function=partial(save_file, metadata=metadata),
            )


def _folded_unet(networks: Networks) -> object:
    """The UNet that diffusers is to load: the student's own, or a copy of its start with the adapter folded in."""
    if networks.recipe.student.lora is None:
        return networks.student
    unet = load_unet(networks.start_spec, torch.float32, networks.registry)
    with networks.averaged():
        tensors, config = _adapter(networks)
    unet.load_state_dict(fold_lora(unet.state_dict(), tensors, lora_settings(config, Path(ADAPTER))))
    return unet
